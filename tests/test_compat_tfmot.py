"""`octavo.compat.tfmot`: annotate, apply, train, save, load, convert."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import octavo
from octavo.compat import lite, tfmot
from octavo.errors import ConversionError, RecipeError
from octavo.qat import FakeQuant, QuantizedWeights

L: Any = keras.layers
tfq = tfmot.quantization.keras
X = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)


def dense_model() -> Any:
    """The second layer has enough weights that octavo.quantize would store them small."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(40, activation="relu", name="first"), L.Dense(40, activation="softmax", name="second")]
    return keras.Sequential([keras.Input((8,), name="x"), *layers, L.Flatten(name="flat")])


def annotated(model: Any, *names: str) -> Any:
    """The tutorial's way to choose layers."""

    def choose(layer: Any) -> Any:
        return tfq.quantize_annotate_layer(layer) if layer.name in names else layer

    return keras.models.clone_model(model, clone_function=choose)


def trained(aware: Any) -> Any:
    aware.compile("sgd", keras.losses.MeanSquaredError())
    aware.fit(X, np.zeros((len(X), *aware.output_shape[1:])), verbose=0)
    return aware


def wrapped(aware: Any) -> set[str]:
    """The layers whose weights are rounded."""
    return {layer.name for layer in aware.layers if isinstance(layer, QuantizedWeights)}


def rounded(aware: Any) -> set[str]:
    """The layers that round activations."""
    return {layer.name for layer in aware.layers if isinstance(layer, FakeQuant)}


def to_bytes(model: Any, **settings: Any) -> bytes:
    converter = lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [lite.Optimize.DEFAULT]
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def dtypes(file: bytes) -> dict[str, str]:
    return {op.name: op.outputs[0].dtype.value for op in octavo.load(file).program.ops()}


def test_a_whole_model_needs_no_data_to_convert() -> None:
    base = dense_model()
    aware = trained(tfq.quantize_model(base))
    assert wrapped(aware) == {"first", "second_linear"}
    assert not any(isinstance(layer, FakeQuant) for layer in base.layers)
    file = to_bytes(aware, inference_input_type=np.uint8)
    model = octavo.load(file)
    assert model.program.main.inputs[0].dtype.value == "uint8"
    assert {op.outputs[0].dtype.value for op in model.program.ops() if op.code == "FULLY_CONNECTED"} == {"int8"}
    np.testing.assert_allclose(octavo.Runner(model)(X), aware.predict(X, verbose=0), atol=2 / 256)


def test_a_model_that_was_never_trained_converts_with_a_warning() -> None:
    aware = tfq.quantize_model(dense_model())
    with pytest.warns(UserWarning, match=r"never trained: x_quant, .* each range is -6 to 6") as caught:
        file = to_bytes(aware)
    assert caught[0].filename == __file__
    assert {op.outputs[0].dtype.value for op in octavo.load(file).program.ops() if op.code == "FULLY_CONNECTED"} == {
        "int8"
    }
    quants = [layer for layer in aware.layers if isinstance(layer, FakeQuant)]
    assert all(layer.bounds() is None for layer in quants), "training starts from what it sees, not from there"


def test_float16_contradicts_training_for_integers() -> None:
    aware = trained(tfq.quantize_model(dense_model()))
    converter = lite.TFLiteConverter.from_keras_model(aware)
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [np.float16]
    with pytest.raises(RecipeError, match=r"trained for integers, but .* asks for float16"):
        converter.convert()


@pytest.mark.parametrize(
    ("name", "ranges"), [("first", {"x_quant", "first_quant"}), ("second", {"first_quant", "second_linear_quant"})]
)
def test_layers_that_arent_annotated_stay_in_float(name: str, ranges: set[str]) -> None:
    base = dense_model()
    marked = annotated(base, name)
    np.testing.assert_array_equal(marked.predict(X, verbose=0), base.predict(X, verbose=0))
    aware = trained(tfq.quantize_apply(marked))
    assert {layer.removesuffix("_linear") for layer in wrapped(aware)} == {name}
    assert rounded(aware) == ranges
    program = octavo.load(to_bytes(aware)).program
    kept = {op.inputs[1].dtype.value for op in program.ops() if op.code == "FULLY_CONNECTED" and op.inputs[1]}
    assert kept == {"int8", "float32"}


def test_applying_changes_neither_the_annotated_model_nor_the_base() -> None:
    base = dense_model()
    before = base.get_weights()
    marked = annotated(base, "first")
    trained(tfq.quantize_apply(marked))
    for old, now in zip(before, marked.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_a_border_without_a_range_cant_be_uint8() -> None:
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, name="first"), L.Dense(4, name="last")])
    aware = trained(tfq.quantize_apply(annotated(model, "first")))
    with pytest.raises(RecipeError, match=r"inference_output_type is uint8, but output .* stays in float"):
        to_bytes(aware, inference_output_type=np.uint8)


def test_annotations_while_building() -> None:
    note = tfq.quantize_annotate_layer
    start = keras.Input((8,), name="x")
    functional = keras.Model(
        start, L.Flatten()(L.Add()([note(L.Dense(5, name="a"))(start), L.Dense(5, name="b")(start)]))
    )
    assert wrapped(tfq.quantize_apply(functional)) == {"a"}
    assert [tensor.name for tensor in tfq.quantize_apply(functional).inputs] == ["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras would have an Input layer instead
        sequential = keras.Sequential([note(L.Dense(5, input_shape=(8,), name="c")), L.Flatten()])
    assert wrapped(tfq.quantize_apply(sequential)) == {"c"}
    two = keras.Model(start, note(L.Add(name="sum"))([L.Dense(5)(start), L.Dense(5)(start)]))
    assert len(rounded(tfq.quantize_apply(two))) == 3


def test_names_with_pattern_characters_match_themselves_only() -> None:
    model = keras.Sequential([keras.Input((8,)), L.Dense(5, name="d[1]*"), L.Dense(5, name="d1x")])
    assert wrapped(tfq.quantize_apply(annotated(model, "d[1]*"))) == {"d[1]*"}


def test_all_layers_at_once() -> None:
    model = keras.Sequential([keras.Input((8,)), L.Dense(5, name="a"), L.Lambda(lambda x: x * 2), L.Dense(5, name="b")])
    with pytest.warns(UserWarning, match="Lambda layer .* stays in float"):
        marked = tfq.quantize_annotate_model(model)
    with pytest.warns(UserWarning, match="Lambda"):
        again = tfq.quantize_annotate_model(marked)
    assert wrapped(tfq.quantize_apply(again, scheme=tfq.default_8bit.Default8BitQuantizeScheme())) == {"a", "b"}


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_save_and_load(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"aware{ending}"
    aware = trained(tfq.quantize_model(dense_model()))
    aware.save(path)
    with tfq.quantize_scope():
        loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), aware.predict(X, verbose=0))
    assert dtypes(bytes(octavo.quantize(octavo.convert(path), octavo.integer()))) == dtypes(to_bytes(aware))


def test_an_annotated_model_saves_and_loads(tmp_path: Path) -> None:
    marked = annotated(dense_model(), "first")
    marked.save(tmp_path / "annotated.keras")
    again = keras.models.load_model(tmp_path / "annotated.keras")
    assert wrapped(tfq.quantize_apply(again)) == {"first"}


class Mine(keras.layers.Dense):
    """A layer of the user's own, which isn't registered with Keras; it computes what a Dense layer computes."""


class Squared(keras.layers.Layer):
    """A layer that isn't an op of LiteRT."""

    def call(self, x: Any) -> Any:
        return keras.ops.square(x)


def test_layers_of_ones_own(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8,)), Mine(4, name="mine"), Squared(name="squared")])
    aware = tfq.quantize_apply(annotated(model, "mine"))
    assert wrapped(aware) == {"mine"}
    aware.save(tmp_path / "own.keras")
    with tfq.quantize_scope({"Mine": Mine}, {"Squared": Squared}):
        assert wrapped(keras.models.load_model(tmp_path / "own.keras")) == {"mine"}
    with pytest.raises(RecipeError, match=r"layer 'squared' \(Squared\) is annotated, and LiteRT has no integer op"):
        tfq.quantize_apply(annotated(model, "squared"))


def test_what_cant_be_honoured_is_refused() -> None:
    model = dense_model()
    layer = model.layers[0]
    with pytest.raises(
        RecipeError, match=r"layer 'first': a QuantizeConfig \(object\) can't be honoured: .*octavo.Rule"
    ):
        tfq.quantize_annotate_layer(layer, quantize_config=object())
    with pytest.raises(ConversionError, match="takes a Keras 3 layer, not a Sequential; for a model"):
        tfq.quantize_annotate_layer(model)
    with pytest.raises(RecipeError, match="has no annotated layer"):
        tfq.quantize_apply(model)
    with pytest.raises(RecipeError, match="quantized_layer_name_prefix='q_'"):
        tfq.quantize_model(model, quantized_layer_name_prefix="q_")
    with pytest.raises(RecipeError, match="scheme str can't be honoured"):
        tfq.quantize_apply(annotated(model, "first"), scheme="n bit")
    with pytest.raises(ConversionError, match="isn't a functional or sequential"):
        tfq.quantize_annotate_model(layer)
    with pytest.raises(ConversionError, match="isn't built"):
        tfq.quantize_apply(keras.Sequential([tfq.quantize_annotate_layer(L.Dense(2))]))
    nested = keras.Sequential([keras.Input((8,)), model])
    with pytest.raises(ConversionError, match=r"holds the model .* quantize_model takes models with models inside"):
        tfq.quantize_annotate_model(nested)
    assert wrapped(tfq.quantize_model(nested)) == {"first", "second_linear"}


def test_names_that_arent_here_say_where_to_look() -> None:
    with pytest.raises(AttributeError, match="doesn't prune"):
        _ = tfmot.sparsity
    with pytest.raises(AttributeError, match="doesn't cluster"):
        _ = tfmot.clustering
    with pytest.raises(AttributeError, match=r"no 'QuantizeConfig': say what a layer is to become with octavo\.Recipe"):
        _ = tfq.QuantizeConfig
    with pytest.raises(AttributeError, match="no 'nothing'"):
        _ = tfmot.nothing
    with pytest.raises(AttributeError, match="it has keras"):
        _ = tfmot.quantization.torch
