"""The tutorials of TensorFlow on quantization, in their shape, on a thousandth of the data.

Each program is what the tutorial does, with its import lines changed: `tf` and `tfmot` come from `octavo.compat`.
They run as programs of their own, as a reader would run them, without KERAS_BACKEND and without TensorFlow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

SOURCE = str(Path(octavo.__file__).parent.parent)

IMPORTS = """
import logging
import pathlib
logging.getLogger("tensorflow").setLevel(logging.DEBUG)

from octavo.compat import tf
from octavo.compat import tfmot
from octavo.datasets import mnist as data
import numpy as np

class mnist:
    # The data set in the shape in which Keras loads it, without a download.
    @staticmethod
    def load_data():
        d = data.load()
        return (d.x_train[:1500], d.y_train[:1500]), (d.x_test[:200], d.y_test[:200])

"""

SETUP = (
    IMPORTS
    + """(train_images, train_labels), (test_images, test_labels) = mnist.load_data()
train_images = train_images.astype(np.float32) / 255.0
test_images = test_images.astype(np.float32) / 255.0
tf.keras.utils.set_random_seed(0)

model = tf.keras.Sequential([
    tf.keras.layers.InputLayer(input_shape=(28, 28)),
    tf.keras.layers.Reshape(target_shape=(28, 28, 1)),
    tf.keras.layers.Conv2D(filters=12, kernel_size=(3, 3), activation=tf.nn.relu),
    tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
    tf.keras.layers.Flatten(),
    tf.keras.layers.Dense(10),
])
model.compile(
    optimizer="adam",
    loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train_images, train_labels, epochs=2, verbose=0, validation_split=0.1)
_, baseline = model.evaluate(test_images, test_labels, verbose=0)

def evaluate_model(interpreter):
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]
    prediction_digits = []
    for test_image in test_images:
        test_image = np.expand_dims(test_image, axis=0).astype(np.float32)
        interpreter.set_tensor(input_index, test_image)
        interpreter.invoke()
        output = interpreter.tensor(output_index)
        prediction_digits.append(np.argmax(output()[0]))
    return (np.array(prediction_digits) == test_labels).mean()

def near(accuracy):
    assert baseline > 0.75, baseline
    assert abs(accuracy - baseline) <= 0.02, (accuracy, baseline)
"""
)

POST_TRAINING_QUANT = """
tflite_models_dir = pathlib.Path("mnist_tflite_models")
tflite_models_dir.mkdir(exist_ok=True, parents=True)
converter = tf.lite.TFLiteConverter.from_keras_model(model)
tflite_model = converter.convert()
tflite_model_file = tflite_models_dir / "mnist_model.tflite"
float_bytes = tflite_model_file.write_bytes(tflite_model)

converter.optimizations = [tf.lite.Optimize.DEFAULT]
tflite_quant_model = converter.convert()
tflite_model_quant_file = tflite_models_dir / "mnist_model_quant.tflite"
assert tflite_model_quant_file.write_bytes(tflite_quant_model) < float_bytes / 3

interpreter = tf.lite.Interpreter(model_path=str(tflite_model_quant_file))
interpreter.allocate_tensors()
assert interpreter.get_input_details()[0]["dtype"] == np.float32
near(evaluate_model(interpreter))
"""

POST_TRAINING_FLOAT16 = """
converter = tf.lite.TFLiteConverter.from_keras_model(model)
tflite_model = converter.convert()
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.target_spec.supported_types = [tf.float16]
tflite_fp16_model = converter.convert()
assert len(tflite_model) / 2.2 < len(tflite_fp16_model) < len(tflite_model) / 1.8

interpreter_fp16 = tf.lite.Interpreter(model_content=tflite_fp16_model)
interpreter_fp16.allocate_tensors()
assert interpreter_fp16.get_input_details()[0]["dtype"] == np.float32
near(evaluate_model(interpreter_fp16))
"""

POST_TRAINING_INTEGER = """
def representative_data_gen():
    for input_value in tf.data.Dataset.from_tensor_slices(train_images).batch(1).take(100):
        yield [input_value]

converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = representative_data_gen
tflite_model_quant = converter.convert()
interpreter = tf.lite.Interpreter(model_content=tflite_model_quant)
assert interpreter.get_input_details()[0]["dtype"] == np.float32
assert interpreter.get_output_details()[0]["dtype"] == np.float32

converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = representative_data_gen
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = tf.uint8
converter.inference_output_type = tf.uint8
tflite_model_quant = converter.convert()

interpreter = tf.lite.Interpreter(model_content=tflite_model_quant)
interpreter.allocate_tensors()
assert not any(t["dtype"] == np.float32 for t in interpreter.get_tensor_details())
input_details = interpreter.get_input_details()[0]
output_details = interpreter.get_output_details()[0]
assert input_details["dtype"] == output_details["dtype"] == np.uint8
right = 0
for test_image, test_label in zip(test_images, test_labels):
    input_scale, input_zero_point = input_details["quantization"]
    test_image = test_image / input_scale + input_zero_point
    test_image = np.expand_dims(test_image, axis=0).astype(input_details["dtype"])
    interpreter.set_tensor(input_details["index"], test_image)
    interpreter.invoke()
    right += interpreter.get_tensor(output_details["index"])[0].argmax() == test_label
near(right / len(test_images))
"""

POST_TRAINING_16X8 = """
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.target_spec.supported_ops = [
    tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
]
mnist_train, _ = mnist.load_data()
images = tf.cast(mnist_train[0], tf.float32) / 255.0
mnist_ds = tf.data.Dataset.from_tensor_slices((images)).batch(1)
def representative_data_gen():
    for input_value in mnist_ds.take(100):
        yield [input_value]
converter.representative_dataset = representative_data_gen
tflite_16x8_model = converter.convert()

interpreter_16x8 = tf.lite.Interpreter(model_content=tflite_16x8_model)
interpreter_16x8.allocate_tensors()
kinds = {t["dtype"] for t in interpreter_16x8.get_tensor_details()}
assert {np.int16, np.int8} <= kinds
near(evaluate_model(interpreter_16x8))
"""

TRAINING_EXAMPLE = """
quantize_model = tfmot.quantization.keras.quantize_model
q_aware_model = quantize_model(model)
q_aware_model.compile(
    optimizer="adam",
    loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
q_aware_model.summary()
q_aware_model.fit(
    train_images[0:1000], train_labels[0:1000], batch_size=500, epochs=1, verbose=0, validation_split=0.1
)
_, q_aware_model_accuracy = q_aware_model.evaluate(test_images, test_labels, verbose=0)

converter = tf.lite.TFLiteConverter.from_keras_model(q_aware_model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
quantized_tflite_model = converter.convert()
interpreter = tf.lite.Interpreter(model_content=quantized_tflite_model)
interpreter.allocate_tensors()
test_accuracy = evaluate_model(interpreter)
assert abs(test_accuracy - q_aware_model_accuracy) <= 0.01, (test_accuracy, q_aware_model_accuracy)
assert q_aware_model_accuracy > 0.75, q_aware_model_accuracy

float_converter = tf.lite.TFLiteConverter.from_keras_model(model)
assert len(quantized_tflite_model) < len(float_converter.convert()) / 3
assert np.int8 in {t["dtype"] for t in interpreter.get_tensor_details()}
"""

COMPREHENSIVE_GUIDE = """
import os
import tempfile
input_shape = [20]
x_train = np.random.randn(1, 20).astype(np.float32)
y_train = tf.keras.utils.to_categorical(np.abs(np.random.randn(1)), num_classes=20)

def setup_model():
    return tf.keras.Sequential([
        tf.keras.layers.Dense(20, input_shape=input_shape),
        tf.keras.layers.Flatten(),
    ])

def setup_pretrained_weights():
    model = setup_model()
    model.compile(loss=tf.keras.losses.categorical_crossentropy, optimizer="adam", metrics=["accuracy"])
    model.fit(x_train, y_train, verbose=0)
    _, pretrained_weights = tempfile.mkstemp(".weights.h5")  # Keras 3 wants this ending
    model.save_weights(pretrained_weights)
    return pretrained_weights

pretrained_weights = setup_pretrained_weights()
base_model = setup_model()
base_model.load_weights(pretrained_weights)
quant_aware_model = tfmot.quantization.keras.quantize_model(base_model)
quant_aware_model.summary()

# Some layers only
def apply_quantization_to_dense(layer):
    if isinstance(layer, tf.keras.layers.Dense):
        return tfmot.quantization.keras.quantize_annotate_layer(layer)
    return layer

annotated_model = tf.keras.models.clone_model(base_model, clone_function=apply_quantization_to_dense)
quant_aware_model = tfmot.quantization.keras.quantize_apply(annotated_model)
quant_aware_model.summary()
print(base_model.layers[0].name)

# The functional and the sequential example
i = tf.keras.Input(shape=(20,))
x = tfmot.quantization.keras.quantize_annotate_layer(tf.keras.layers.Dense(10))(i)
o = tf.keras.layers.Flatten()(x)
quant_aware_model = tfmot.quantization.keras.quantize_apply(tf.keras.Model(inputs=i, outputs=o))
annotated_model = tf.keras.Sequential([
    tfmot.quantization.keras.quantize_annotate_layer(tf.keras.layers.Dense(20, input_shape=input_shape)),
    tf.keras.layers.Flatten(),
])
quant_aware_model = tfmot.quantization.keras.quantize_apply(annotated_model)

# Checkpoint and deserialize
quant_aware_model = tfmot.quantization.keras.quantize_model(base_model)
_, keras_model_file = tempfile.mkstemp(".h5")
quant_aware_model.save(keras_model_file)
with tfmot.quantization.keras.quantize_scope():
    loaded_model = tf.keras.models.load_model(keras_model_file)
loaded_model.summary()

# Create and deploy. The tutorial leaves the training out here.
quant_aware_model = tfmot.quantization.keras.quantize_model(base_model)
converter = tf.lite.TFLiteConverter.from_keras_model(quant_aware_model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
quantized_tflite_model = converter.convert()

interpreter = tf.lite.Interpreter(model_content=quantized_tflite_model)
runner = interpreter.get_signature_runner()
(name,) = runner.get_input_details()
(result,) = runner(**{name: x_train}).values()
np.testing.assert_allclose(result, base_model.predict(x_train, verbose=0), atol=12 / 255 * 2)
assert np.int8 in {t["dtype"] for t in interpreter.get_tensor_details()}
"""

PROGRAMS = {
    # One after the other, on one trained model: training takes longer than all of them.
    "post_training": SETUP + POST_TRAINING_QUANT + POST_TRAINING_FLOAT16 + POST_TRAINING_INTEGER + POST_TRAINING_16X8,
    "training_example": SETUP + TRAINING_EXAMPLE,
    "training_comprehensive_guide": IMPORTS + COMPREHENSIVE_GUIDE,
}


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_runs_with_its_import_lines_changed(code: str, tmp_path: Path) -> None:
    program = tmp_path / "tutorial.py"
    program.write_text(code + 'import sys\nassert "tensorflow" not in sys.modules\nprint("done")\n')
    environment = {**os.environ, "PYTHONPATH": SOURCE, "KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND", None)
    run = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0 and run.stdout.endswith("done\n"), run.stdout + run.stderr


def test_what_tf_doesnt_hold_is_named() -> None:
    from octavo.compat import tf

    with pytest.raises(AttributeError, match=r"octavo\.compat\.tf has no 'io': it holds tf\.lite"):
        _ = tf.io
    with pytest.raises(octavo.DataError, match="takes one array"):
        tf.data.Dataset.from_tensor_slices(([1], [2]))
    batches = tf.data.Dataset.from_tensor_slices([1, 2, 3, 4, 5]).batch(2)
    assert [batch.tolist() for batch in batches] == [[1, 2], [3, 4], [5]]
    assert [batch.tolist() for batch in batches.take(1)] == [[1, 2]]
    assert len(list(batches.take(-1))) == len(list(batches.take(9))) == 3
    assert tf.cast([1.5], tf.uint8).dtype == tf.uint8
