"""`octavo.compat.lite`: each setting means what TensorFlow 2.21 makes of it; the types were read off its files.

Where TensorFlow drops a request without a word, there is a warning or an error here.
"""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import octavo
from octavo.compat import lite
from octavo.compat.lite.dtypes import dtype_name
from octavo.errors import ConversionError, MissingDependencyError, NotIntegerError, RecipeError

L: Any = keras.layers
DEFAULT = [lite.Optimize.DEFAULT]
OPS = lite.OpsSet
INT16X8 = OPS.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
X = np.random.default_rng(0).uniform(0, 1, (20, 6, 6)).astype(np.float32)


class TensorFlowType:
    """As tf.DType: it knows its NumPy type, and NumPy doesn't know it."""

    def __init__(self, numpy_type: Any) -> None:
        self.as_numpy_dtype = numpy_type


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    layers = [L.Reshape((6, 6, 1)), L.Conv2D(8, 3, activation="relu"), L.Flatten(), L.Dense(10, name="logits")]
    return keras.Sequential([keras.Input((6, 6), name="image"), *layers])


def samples() -> Iterator[list[np.ndarray]]:
    for row in X:
        yield [row[np.newaxis]]


def named_samples() -> Iterator[dict[str, np.ndarray]]:
    for row in X:
        yield {"image": row[np.newaxis]}


def converter(model: Any, ops: Any = None, types: Any = None, **settings: Any) -> Any:
    made = lite.TFLiteConverter.from_keras_model(model)
    if ops is not None:
        made.target_spec.supported_ops = ops
    if types is not None:
        made.target_spec.supported_types = types
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def stored(file: bytes) -> tuple[str, str, str, str]:
    """Types of the input, of the convolution's result, of the Dense layer's weights, and of the output."""
    program = octavo.load(file).program
    conv = next(op for op in program.ops() if "CONV" in op.code)
    dense = next(op for op in program.ops() if op.code == "FULLY_CONNECTED")
    weights = dense.inputs[1]
    assert weights is not None
    makers = program.main.producers()
    if weights in makers:  # float16 weights pass through a DEQUANTIZE
        source = makers[weights].inputs[0]
        assert source is not None
        weights = source
    ends = program.main.inputs[0], conv.outputs[0], weights, program.main.outputs[0]
    first, inner, kept, last = (tensor.dtype.value for tensor in ends)
    return first, inner, kept, last


FLOAT = ("float32", "float32", "float32", "float32")
INT8 = ("float32", "int8", "int8", "float32")
DYNAMIC = ("float32", "float32", "int8", "float32")
CASES: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "nothing": ({}, FLOAT),
    "optimize": ({"optimizations": DEFAULT}, DYNAMIC),
    "optimize for size": ({"optimizations": {lite.Optimize.OPTIMIZE_FOR_SIZE}}, DYNAMIC),
    "float16": ({"optimizations": DEFAULT, "types": [np.float16]}, ("float32", "float32", "float16", "float32")),
    "float32": ({"optimizations": DEFAULT, "types": ["float32"]}, FLOAT),
    "float16 and int8": ({"optimizations": DEFAULT, "types": {np.float16, np.int8}}, DYNAMIC),
    "data": ({"optimizations": DEFAULT, "representative_dataset": samples}, INT8),
    "data by name": ({"optimizations": DEFAULT, "representative_dataset": named_samples}, INT8),
    "dataset object": (
        {"optimizations": DEFAULT, "representative_dataset": lite.RepresentativeDataset(samples)},
        INT8,
    ),
    "data and float16 and int8": (
        {"optimizations": DEFAULT, "representative_dataset": samples, "types": [np.float16, np.int8]},
        INT8,
    ),
    "integer only": (
        {"optimizations": DEFAULT, "representative_dataset": samples, "ops": [OPS.TFLITE_BUILTINS_INT8]},
        INT8,
    ),
    "int8 as the only type": ({"optimizations": DEFAULT, "representative_dataset": samples, "types": [np.int8]}, INT8),
    "uint8 borders": (
        {
            "optimizations": DEFAULT,
            "representative_dataset": samples,
            "ops": [OPS.TFLITE_BUILTINS_INT8],
            "inference_input_type": TensorFlowType(np.uint8),
            "inference_output_type": "uint8",
        },
        ("uint8", "int8", "int8", "uint8"),
    ),
    "uint8 in, float out, with fallback": (
        {"optimizations": DEFAULT, "representative_dataset": samples, "inference_input_type": np.uint8},
        ("uint8", "int8", "int8", "float32"),
    ),
    "16x8": (
        {"optimizations": DEFAULT, "representative_dataset": samples, "ops": [INT16X8]},
        ("float32", "int16", "int8", "float32"),
    ),
    "16x8 with fallback": (
        {"optimizations": DEFAULT, "representative_dataset": samples, "ops": [INT16X8, OPS.TFLITE_BUILTINS]},
        ("float32", "int16", "int8", "float32"),
    ),
    "16x8 with int16 borders": (
        {
            "optimizations": DEFAULT,
            "representative_dataset": samples,
            "ops": [INT16X8],
            "inference_input_type": np.int16,
            "inference_output_type": np.dtype("int16"),
        },
        ("int16", "int16", "int8", "int16"),
    ),
    "SELECT_TF_OPS allowed but not needed": ({"ops": [OPS.TFLITE_BUILTINS, OPS.SELECT_TF_OPS]}, FLOAT),
    "settings without effect here": (
        {"allow_custom_ops": True, "exclude_conversion_metadata": True, "experimental_new_quantizer": True},
        FLOAT,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "expected"), CASES.values(), ids=CASES.keys())
def test_settings_mean_what_they_mean_in_tensorflow(model: Any, settings: dict[str, Any], expected: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        file = converter(model, **settings).convert()
    assert isinstance(file, bytes)
    assert stored(file) == expected


WARNED: dict[str, tuple[dict[str, Any], str, tuple[str, str, str, str]]] = {
    "data without optimizations": ({"representative_dataset": samples}, "representative_dataset isn't used", FLOAT),
    "float16 without optimizations": ({"types": [np.float16]}, "supported_types isn't used", FLOAT),
    "data for float16": (
        {"optimizations": DEFAULT, "types": [np.float16], "representative_dataset": samples},
        "representative_dataset isn't used: target_spec.supported_types is {float16}",
        ("float32", "float32", "float16", "float32"),
    ),
}


@pytest.mark.parametrize(("settings", "message", "expected"), WARNED.values(), ids=WARNED.keys())
def test_what_tensorflow_drops_silently_is_warned_about(
    model: Any, settings: dict[str, Any], message: str, expected: Any
) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        assert stored(converter(model, **settings).convert()) == expected
    assert caught[0].filename == __file__


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "uint8 without data": (
        {"optimizations": DEFAULT, "inference_input_type": np.uint8},
        "inference_input_type is uint8, which needs integer quantization",
    ),
    "uint8 without optimizations": ({"inference_output_type": np.uint8}, "inference_output_type is uint8"),
    "integer only without data": (
        {"optimizations": DEFAULT, "ops": [OPS.TFLITE_BUILTINS_INT8]},
        "set converter.representative_dataset",
    ),
    "int8 type without data": ({"optimizations": DEFAULT, "types": [np.int8]}, "set converter.representative_dataset"),
    "16x8 without data": ({"optimizations": DEFAULT, "ops": [INT16X8]}, "set converter.representative_dataset"),
    "integer only without optimizations": ({"ops": [OPS.TFLITE_BUILTINS_INT8]}, "optimizations is empty"),
    "both integer sets": ({"ops": [OPS.TFLITE_BUILTINS_INT8, INT16X8]}, "choose one set"),
    "uint8 borders of 16x8": (
        {
            "optimizations": DEFAULT,
            "representative_dataset": samples,
            "ops": [INT16X8],
            "inference_input_type": np.uint8,
        },
        "input=uint8 with 16-bit activations",
    ),
    "float16 in an integer-only file": (
        {"optimizations": DEFAULT, "types": [np.float16], "ops": [OPS.TFLITE_BUILTINS_INT8]},
        r"supported_types must be empty or \{int8\}",
    ),
    "bfloat16": ({"optimizations": DEFAULT, "types": [TensorFlowType("bfloat16")]}, "bfloat16: choose among"),
    "sparsity": ({"optimizations": [lite.Optimize.EXPERIMENTAL_SPARSITY]}, "EXPERIMENTAL_SPARSITY"),
    "TensorFlow's ops only": ({"ops": [OPS.SELECT_TF_OPS]}, "SELECT_TF_OPS alone"),
    "StableHLO ops": ({"ops": [OPS.EXPERIMENTAL_STABLEHLO_OPS]}, "EXPERIMENTAL_STABLEHLO_OPS"),
    "no ops": ({"ops": []}, "supported_ops is empty"),
    "an optimization that isn't in a list": (
        {"optimizations": lite.Optimize.DEFAULT},
        r"optimizations must be a list or a set, such as \[Optimize.DEFAULT\]",
    ),
    "an unknown optimization": ({"optimizations": ["FASTER"]}, "'FASTER' is none of DEFAULT"),
    "no type": ({"inference_input_type": None}, "inference_input_type: None is no element type"),
    "one scale per tensor of dynamic-range weights": (
        {"optimizations": DEFAULT, "_experimental_disable_per_channel": True},
        "_experimental_disable_per_channel",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_contradictions_are_refused(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        converter(model, **settings).convert()


def test_unknown_settings_and_values_are_refused_at_once(model: Any) -> None:
    made = converter(model)
    with pytest.raises(AttributeError, match=r"optimization = .* did you mean optimizations\?"):
        made.optimization = DEFAULT
    with pytest.raises(RecipeError, match=r"experimental_new_quantizer = False can't be honoured"):
        made.experimental_new_quantizer = False
    with pytest.raises(RecipeError, match=r"_experimental_low_bit_qat = True"):
        made._experimental_low_bit_qat = True
    with pytest.raises(AttributeError, match="no such setting"):
        made.target_spec.supported_type = [np.float16]
    with pytest.raises(RecipeError, match="experimental_supported_backends"):
        lite.TargetSpec(experimental_supported_backends=["GPU"])


def test_one_converter_converts_again_with_other_settings(model: Any) -> None:
    made = converter(model)
    assert made.optimizations == set()
    plain = made.convert()
    made.optimizations.add(lite.Optimize.DEFAULT)
    assert len(made.convert()) < len(plain)
    made.target_spec = lite.TargetSpec(supported_types={np.float16})
    assert stored(made.convert())[2] == "float16"


def test_weights_with_one_scale(model: Any) -> None:
    settings = {"optimizations": DEFAULT, "representative_dataset": samples}
    for disabled, scales in ((False, 8), (True, 1)):
        file = converter(model, _experimental_disable_per_channel=disabled, **settings).convert()
        conv = next(op for op in octavo.load(file).program.ops() if "CONV" in op.code)
        assert conv.inputs[1] is not None and conv.inputs[1].qparams is not None
        assert conv.inputs[1].qparams.scale.size == scales


def test_the_batch_stays_open_as_in_tensorflow(model: Any) -> None:
    file = converter(model, optimizations=DEFAULT, representative_dataset=samples).convert()
    interpreter = lite.Interpreter(model_content=file)
    details = interpreter.get_input_details()[0]
    assert list(details["shape_signature"]) == [-1, 6, 6]
    interpreter.resize_tensor_input(details["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], X)
    interpreter.invoke()
    together = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    runner = lite.Interpreter(model_content=file).get_signature_runner("serving_default")
    alone = np.concatenate([runner(image=row[np.newaxis])["logits"] for row in X])
    np.testing.assert_array_equal(together, alone)


def test_a_batch_that_cant_stay_open_is_warned_about() -> None:
    recurrent = keras.Sequential([keras.Input((4, 3)), L.LSTM(2)])
    with pytest.warns(UserWarning, match="the file takes batches of 1 only: .*WHILE") as caught:
        file = lite.TFLiteConverter.from_keras_model(recurrent).convert()
    assert caught[0].filename == __file__
    assert lite.Interpreter(model_content=file).get_input_details()[0]["shape"].tolist() == [1, 4, 3]


@pytest.fixture(scope="module")
def with_cosine() -> Any:
    """A Dense layer, an op that LiteRT has in float only, and another Dense layer."""
    keras.utils.set_random_seed(0)
    wave = L.Activation(lambda x: keras.ops.cos(x), name="wave")
    return keras.Sequential([keras.Input((6,), name="x"), L.Dense(40), wave, L.Dense(40, name="last")])


def rows() -> Iterator[list[np.ndarray]]:
    for row in X[:, 0]:
        yield [row[np.newaxis]]


def test_fallback_leaves_ops_in_float_and_integer_only_refuses_them(with_cosine: Any) -> None:
    settings: dict[str, Any] = {"optimizations": DEFAULT, "representative_dataset": rows}
    program = octavo.load(converter(with_cosine, **settings).convert()).program
    assert {op.code: op.outputs[0].dtype.value for op in program.ops()}["COS"] == "float32"
    with pytest.raises(NotIntegerError, match=r"COS|cos") as caught:
        converter(with_cosine, ops=[OPS.TFLITE_BUILTINS_INT8], **settings).convert()
    assert "Add OpsSet.TFLITE_BUILTINS to target_spec.supported_ops" in str(caught.value)
    assert len(caught.value.refusals) == 1


def test_a_border_of_a_float_op_is_converted(with_cosine: Any) -> None:
    ends_in_float = keras.Sequential([keras.Input((6,), name="x"), *with_cosine.layers[:2]])
    settings: dict[str, Any] = {"optimizations": DEFAULT, "representative_dataset": rows}
    file = converter(ends_in_float, inference_output_type=np.uint8, **settings).convert()
    assert octavo.load(file).program.main.outputs[0].dtype.value == "uint8"


def test_dtypes() -> None:
    for value in (np.uint8, np.dtype("uint8"), "uint8", TensorFlowType(np.uint8)):
        assert dtype_name(value, "here") == "uint8"
    for value in (None, "no type", object()):
        with pytest.raises(RecipeError, match=r"here: .* is no element type"):
            dtype_name(value, "here")


def test_a_jax_function() -> None:
    made = lite.TFLiteConverter.experimental_from_jax([lambda a, b: a @ b], [[("a", X[0]), ("b", X[1])]])
    runner = lite.Interpreter(model_content=made.convert()).get_signature_runner()
    np.testing.assert_allclose(runner(a=X[0], b=X[1])["output_0"], X[0] @ X[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["from_frozen_graph", "from_session", "from_keras_model_file"])
def test_names_of_tensorflow_1_say_what_to_do(name: str) -> None:
    with pytest.raises(ConversionError, match=r"from_keras_model|octavo\.quantize"):
        getattr(lite.TFLiteConverter, name)("model")


def test_without_tensorflow_its_own_models_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependencyError, match=r"SavedModel folder.*pip install tensorflow, or load .* Keras"):
        lite.TFLiteConverter.from_saved_model("folder")
    with pytest.raises(MissingDependencyError, match=r"pip install tensorflow, or write it in JAX"):
        lite.TFLiteConverter.from_concrete_functions([lambda x: x])
    with pytest.raises(ConversionError, match="from_keras_model"):
        lite.TFLiteConverter([lambda x: x])  # type: ignore[arg-type]


class TheirConverter:
    """TensorFlow's converter, as far as octavo uses it; gives out a float file, or fails."""

    made: Any = None
    file = b""

    def __init__(self) -> None:
        self.target_spec = types.SimpleNamespace()
        TheirConverter.made = self

    @classmethod
    def from_saved_model(cls, *arguments: Any) -> TheirConverter:
        converter = cls()
        converter.arguments = arguments
        return converter

    def convert(self) -> bytes:
        if not self.file:
            raise ValueError(
                "failed:\n  error: 'tf.Svd' op is neither a custom op nor a flex op\n 'tf.Svd' op is neither"
            )
        return self.file


def test_a_saved_model_goes_through_tensorflow(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = types.ModuleType("tensorflow")
    theirs.lite = types.SimpleNamespace(TFLiteConverter=TheirConverter, OpsSet=OPS)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow", theirs)
    monkeypatch.setattr(TheirConverter, "file", bytes(octavo.convert(model)))
    made = lite.TFLiteConverter.from_saved_model("folder", ["serve"])
    made.optimizations, made.representative_dataset = DEFAULT, samples
    made.target_spec.supported_ops = [OPS.TFLITE_BUILTINS_INT8, OPS.SELECT_TF_OPS]
    made.allow_custom_ops = True
    assert stored(made.convert()) == INT8
    assert TheirConverter.made.arguments == ("folder", ["serve"], None)
    assert set(TheirConverter.made.target_spec.supported_ops) == {OPS.TFLITE_BUILTINS, OPS.SELECT_TF_OPS}
    assert TheirConverter.made.allow_custom_ops is True
    monkeypatch.setattr(TheirConverter, "file", b"")
    with pytest.raises(ConversionError, match=r"can't convert the SavedModel folder: LiteRT has no op for tf\.Svd$"):
        made.convert()


def test_analyzer_prints_the_ops(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = converter(model).convert()
    lite.experimental.Analyzer.analyze(model_content=file)
    assert "FULLY_CONNECTED" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="gpu_compatibility"):
        lite.experimental.Analyzer.analyze(model_content=file, gpu_compatibility=True)
    with pytest.raises(RecipeError, match="give model_path or model_content"):
        lite.experimental.Analyzer.analyze()


def test_names_that_arent_here_say_where_to_look() -> None:
    with pytest.raises(AttributeError, match=r"octavo\.inspect"):
        _ = lite.experimental.QuantizationDebugger
    with pytest.raises(AttributeError, match="TFLiteConverter"):
        _ = lite.toco_convert
    assert OPS.get_options()[0] == str(OPS.TFLITE_BUILTINS) == "TFLITE_BUILTINS"
    assert {"Interpreter", "experimental"} <= set(dir(lite))


def test_every_way_of_importing_works_and_is_light() -> None:
    program = """
import sys
import octavo.compat
import octavo.compat.lite as tflite
from octavo.compat import lite, tf, tfmot
from octavo.compat.lite import Interpreter, Optimize
from octavo.compat.lite.experimental import load_delegate
assert octavo.compat.lite is tflite is lite is tf.lite
assert octavo.compat.tfmot is tfmot
import ai_edge_litert.interpreter
assert lite.Interpreter is ai_edge_litert.interpreter.Interpreter
print(*{name.partition(".")[0] for name in sys.modules} & {"keras", "jax", "tensorflow", "torch"})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
