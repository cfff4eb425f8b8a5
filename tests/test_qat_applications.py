"""Every kind of model in keras.applications builds, trains a step, exports and runs. Minutes each: `make test-slow`."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import octavo

SIZE = {"InceptionV3": 80, "Xception": 72, "InceptionResNetV2": 80, "NASNetMobile": 64}
# One of each family: the others differ in depth and width only.
FAMILIES = (
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "ResNet50", "ResNet50V2",
    "DenseNet121", "InceptionV3", "InceptionResNetV2", "Xception", "VGG16", "NASNetMobile", "ConvNeXtTiny",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    size = SIZE.get(name, 64)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation="softmax"
    )
    for layer in model.layers:  # without this nothing is left of a signal after twenty untrained layers
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    aware = octavo.qat.quantize_model(model)
    aware.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3)).astype(np.float32)
    aware.fit(x, np.arange(4), batch_size=4, verbose=0)
    small = octavo.quantize(octavo.convert(aware), octavo.integer())
    assert octavo.Runner(small)(x[:1]).shape == (1, 10)
    found = octavo.qat.parity(aware, small, x[:1])
    assert found.own <= 1, str(found)
