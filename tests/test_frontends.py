"""Keras models, JAX functions and `.tflite` files -> Program, run on LiteRT and compared with the original."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from octavo import tflite
from octavo.errors import ConversionError, MissingDependencyError, ModelFileError
from octavo.frontends import keras as keras_frontend
from octavo.frontends import naming, stablehlo, to_program
from octavo.frontends.inputs import input_specs
from octavo.graph import Program

L: Any = keras.layers
applications: Any = keras.applications
SOURCE = Path(__file__).parents[1] / "src"


def run(program: Program, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs on LiteRT's builtin kernels; dynamic inputs are resized to the arrays."""
    interpreter = Interpreter(
        model_content=tflite.write(program),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        if tuple(detail["shape"]) != array.shape:
            assert -1 in detail["shape_signature"]
            interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def samples(model: Any, batch: int = 1, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(batch if t.shape[0] is None else t.shape[0], *t.shape[1:]) for t in model.inputs]
    return [
        rng.integers(0, 5, shape).astype(t.dtype) if "int" in t.dtype else rng.normal(size=shape).astype(np.float32)
        for shape, t in zip(shapes, model.inputs, strict=True)
    ]


def agrees(program: Program, model: Any, batch: int = 1) -> None:
    """LiteRT's outputs are within 1e-4 of Keras's, relative to the largest."""
    compiled = jax.jit(lambda x: model(x, training=False))  # op by op would compile each op by itself

    def predict(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        structure = getattr(model, "_inputs_struct", list(model.inputs))
        packed = keras.tree.pack_sequence_as(structure, list(arrays)) if len(arrays) > 1 else arrays[0]
        return [np.asarray(x) for x in keras.tree.flatten(compiled(packed))]

    arrays = samples(model, batch)
    expected = predict(arrays)
    actual = run(program, arrays)
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for got, want, moved in zip(actual, expected, predict(samples(model, batch, seed=2)), strict=True):
        # A random network may have forgotten its input by the end; comparing its outputs would say nothing.
        assert np.abs(moved - want).max() > 0.01 * np.abs(want).max(), "the output doesn't depend on the input"
        assert np.abs(got - want).max() <= 1e-4 * max(np.abs(want).max(), 1e-3)


def shaken(model: Any) -> Any:
    """Random weights everywhere: zero biases and unit variances would hide mistakes."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            low, high = (0.5, 1.5) if "variance" in weight.path else (-0.5, 0.5)
            weight.assign(rng.uniform(low, high, weight.shape))
    return model


def settled(model: Any) -> Any:
    """Batch normalization's averages as one batch gives them, so that a deep random network passes its signal on."""
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    state = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
    _, updated = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=True))(*state, samples(model, 8)[0])
    for variable, value in zip(model.non_trainable_variables, updated, strict=True):
        variable.assign(value)
    return model


def sequential(shape: tuple[int | None, ...], *layers: Any, dtype: str = "float32") -> Any:
    return shaken(keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), *layers], name="net"))


def codes(program: Program) -> list[str]:
    return [op.code for op in program.ops()]


def small_cnn() -> Any:
    return sequential(
        (8, 8),
        L.Reshape((8, 8, 1), name="reshape"),
        L.Conv2D(4, 3, activation="relu", name="conv"),
        L.MaxPooling2D(name="pool"),
        L.Dropout(0.5),
        L.Flatten(name="flatten"),
        L.Dense(3, name="logits"),
    )


# --- Keras ------------------------------------------------------------------------------------------------------------


def test_cnn_has_keras_names_and_no_leftovers() -> None:
    model = small_cnn()
    program = to_program(model)
    assert codes(program) == ["RESHAPE", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    (signature,) = program.signatures
    assert signature.key == "serving_default"
    assert [name for name, _ in signature.inputs] == ["x"] == [t.name for t in program.main.inputs]
    assert [name for name, _ in signature.outputs] == ["logits"] == [t.name for t in program.main.outputs]
    assert [op.outputs[0].name for op in program.main.ops[:4]] == ["reshape", "conv", "pool", "flatten"]
    constants = {tensor.name for tensor in program.main.tensors if tensor.is_constant}
    assert constants == {"reshape/shape", "conv/kernel", "conv/bias", "flatten/shape", "logits/kernel", "logits/bias"}
    assert program.source == "Keras model 'net'"
    agrees(program, model)


def test_keras_file_and_model_give_the_same(tmp_path: Path) -> None:
    model = small_cnn()
    path = tmp_path / "model.keras"
    model.save(path)
    for source in (path, str(path)):
        program = to_program(source)
        assert program.source == str(path)
        assert tflite.write(program) == tflite.write(to_program(model))


def test_mobilenet_folds_batch_normalization() -> None:
    model = settled(
        applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None)
    )
    program = to_program(model)
    kinds = Counter(codes(program))
    assert kinds == {"CONV_2D": 35, "DEPTHWISE_CONV_2D": 17, "ADD": 10, "MEAN": 1, "FULLY_CONNECTED": 1}
    names = [tensor.name for tensor in program.main.tensors]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "jit" in name or "arith" in name]
    agrees(program, model)


LAYERS: dict[str, Callable[[], Any]] = {
    "conv1d": lambda: sequential((9, 3), L.Conv1D(4, 3, strides=2, padding="same", activation="relu")),
    "conv2d strided": lambda: sequential((9, 8, 3), L.Conv2D(4, 3, strides=2, padding="same", activation="relu6")),
    "batch norm": lambda: sequential((6, 6, 2), L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU()),
    "separable": lambda: sequential((6, 6, 2), L.SeparableConv2D(4, 3, padding="same")),
    "transposed same 3/2": lambda: sequential((4, 5, 2), L.Conv2DTranspose(3, 3, strides=2, padding="same")),
    "transposed valid": lambda: sequential((4, 5, 2), L.Conv2DTranspose(3, 3, strides=2)),
    "dense over one": lambda: sequential((3, 1, 4), L.Dense(5)),
    "dense over ones": lambda: sequential((3, 1, 1, 4), L.Dense(5)),
    "transposed 1d": lambda: sequential((5, 2), L.Conv1DTranspose(3, 3, strides=2, padding="same")),
    "lstm": lambda: sequential((4, 3), L.LSTM(5)),
    "bidirectional gru": lambda: sequential((4, 3), L.Bidirectional(L.GRU(2, return_sequences=True))),
    "embedding": lambda: sequential((6,), L.Embedding(10, 4), L.GlobalAveragePooling1D(), dtype="int32"),
    "layer norm": lambda: sequential((4, 6), L.LayerNormalization()),
    "upsampling": lambda: sequential((3, 4, 2), L.UpSampling2D(2), L.UpSampling2D(2, interpolation="bilinear")),
    "pooling": lambda: sequential((9, 9, 2), L.AveragePooling2D(3, 2, padding="same"), L.GlobalMaxPooling2D()),
    "prelu": lambda: sequential((4, 4, 2), L.PReLU(shared_axes=[1, 2]), L.LeakyReLU(0.1), L.ELU()),
    "uint8 input": lambda: sequential((6, 6, 3), L.Rescaling(1 / 255), L.Conv2D(2, 3), dtype="uint8"),
    "augmentation": lambda: sequential((6, 6, 3), L.RandomFlip(), L.GaussianNoise(0.1), L.Conv2D(2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    model = LAYERS[name]()
    program = to_program(model)
    agrees(program, model)
    assert not any(op.code == "CUSTOM" for op in program.ops())


def test_attention_with_several_uses_of_one_input() -> None:
    x = keras.Input((4, 6), name="x")
    model = shaken(keras.Model(x, L.MultiHeadAttention(2, 3, name="attend")(x, x)))
    agrees(to_program(model), model)


def test_dict_inputs_and_outputs_keep_names_and_dtypes() -> None:
    a, b = keras.Input((4,), name="b_first"), keras.Input((3,), dtype="int32", name="a_second")
    joined = L.Concatenate()([a, L.Flatten()(L.Embedding(10, 2)(b))])
    outputs = {"u": L.Dense(2)(joined), "v": L.Dense(3)(joined)}
    model = shaken(keras.Model({"b_first": a, "a_second": b}, outputs))
    program = to_program(model)
    (signature,) = program.signatures
    dtypes = {name: tensor.dtype.value for name, tensor in signature.inputs}
    assert dtypes == {"b_first": "float32", "a_second": "int32"}
    assert {name: tensor.shape for name, tensor in signature.outputs} == {"u": (1, 2), "v": (1, 3)}
    assert [tensor for _, tensor in signature.inputs] == program.main.inputs
    agrees(program, model)


def test_list_outputs_are_named_after_their_layers() -> None:
    x = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.Input((4,)), L.Dense(2)], name="inner")
    model = shaken(keras.Model(x, [inner(x), L.Dense(3, name="head")(x), inner(x)]))
    program = to_program(model)
    assert [name for name, _ in program.signatures[0].outputs] == ["inner", "head", "inner_1"]
    agrees(program, model)


def test_subclassed_model() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.dense = L.Dense(2, name="dense")

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Net()
    with pytest.raises(ConversionError, match="isn't built"):
        to_program(model)
    x = np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32)
    expected = np.asarray(model(x))
    for inputs in (None, [(1, 3)], {"x": (None, 3)}):
        program = to_program(model, inputs=inputs)
        assert program.main.inputs[0].name == ("x" if isinstance(inputs, dict) else "input")
        assert np.allclose(run(program, [x])[0], expected, atol=1e-6)
    with pytest.raises(ConversionError, match=r"can't trace .* with input float32\[1, 4\]: ValueError: .*shape"):
        to_program(model, inputs=[(1, 4)])


# --- batch and shapes -------------------------------------------------------------------------------------------------


def test_batch_of_two() -> None:
    model = small_cnn()
    program = to_program(model, batch=2)
    assert program.main.inputs[0].shape == (2, 8, 8) and program.main.inputs[0].shape_signature is None
    agrees(program, model, batch=2)


@pytest.mark.parametrize("name", ["cnn", "batch norm", "pooling", "embedding", "layer norm", "separable"])
def test_dynamic_batch_has_the_same_ops(name: str) -> None:
    model = small_cnn() if name == "cnn" else LAYERS[name]()
    program = to_program(model, batch=None)
    assert Counter(codes(program)) == Counter(codes(to_program(model)))
    borders = [*program.main.inputs, *program.main.outputs]
    assert all(tensor.shape[0] == 1 and (tensor.shape_signature or (0,))[0] == -1 for tensor in borders)
    for batch in (1, 2, 5):
        agrees(program, model, batch)


def test_dynamic_batch_is_refused_where_it_is_baked_in() -> None:
    with pytest.raises(ConversionError, match=r"batch size is part of TRANSPOSE_CONV.*batch=1"):
        to_program(LAYERS["transposed valid"](), batch=None)
    with pytest.raises(ConversionError, match="batch size is part of"):
        to_program(lambda x: x / x.shape[0], inputs=[(None, 3)], batch=None)
    fixed = keras.Sequential([keras.Input(batch_shape=(4, 3)), L.Dense(2)])
    assert to_program(fixed).main.inputs[0].shape == (4, 3)
    with pytest.raises(ConversionError, match=r"batch=None needs .*\[4, 3\]"):
        to_program(fixed, batch=None)
    with pytest.raises(ConversionError, match="at least 1"):
        to_program(fixed, batch=0)


def test_open_sizes_must_be_said() -> None:
    model = sequential((None, None, 3), L.Conv2D(2, 3), L.GlobalAveragePooling2D())
    with pytest.raises(ConversionError, match=r"leaves more than the batch open.*\{'x': \(1, \?, \?, 3\)\}"):
        to_program(model)
    for inputs in ([(1, 9, 8, 3)], {"x": (1, 9, 8, 3)}, (None, 9, 8, 3)):
        assert to_program(model, inputs=inputs).main.inputs[0].shape == (1, 9, 8, 3)
    with pytest.raises(ConversionError, match="has no input 'y'"):
        to_program(model, inputs={"y": (1, 9, 8, 3)})
    with pytest.raises(ConversionError, match="doesn't fit"):
        to_program(model, inputs=[(1, 9, 8, 4)])
    with pytest.raises(ConversionError, match="has 1 inputs"):
        to_program(model, inputs=[(1, 9, 8, 3), (1, 2)])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_random_numbers_at_inference_are_refused() -> None:
    class Noise(L.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal((1, 4), seed=self.seeds)

    with pytest.raises(ConversionError, match=r"draws random numbers when it predicts.*make the noise an input"):
        to_program(sequential((4,), Noise()))


def test_state_between_calls_is_refused() -> None:
    model = keras.Sequential([keras.Input(batch_shape=(1, 4, 3)), L.LSTM(2, stateful=True, name="memory")])
    with pytest.raises(ConversionError, match=r"keeps state between calls \(memory\)"):
        to_program(model)
    assert not np.any(np.asarray(model.layers[0].states[0]))  # converting left the model as it was


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ConversionError, match="'half' computes in bfloat16"):
        to_program(sequential((4,), L.Dense(2, dtype="mixed_bfloat16", name="half")))
    quantized = sequential((4,), L.Dense(2, name="d"))
    quantized.quantize("int8")
    with pytest.raises(ConversionError, match="'d' was already quantized by Keras"):
        to_program(quantized)


def test_an_op_without_litert_form_is_named() -> None:
    with pytest.raises(ConversionError, match=r"no LiteRT op computes stablehlo\.sort \(net/order/sort\)"):
        to_program(sequential((4,), L.Lambda(lambda x: keras.ops.sort(x), name="order")))
    with pytest.raises(ConversionError, match=r"no LiteRT op computes tfl\.\w+ of \(tensor<.*ui"):
        to_program(lambda x: jax.random.normal(jax.random.key(0), (3,)) + x, inputs=[(3,)])
    with pytest.raises(ConversionError, match=r"^solve can't be lowered.*isn't plain StableHLO"):
        to_program(lambda x: jnp.linalg.svd(x)[0], inputs=[(3, 3)], name="solve")


def test_errors_are_one_line_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    to_program(lambda x: x + 1, inputs=[(3,)])  # the converter greets when it is first loaded
    capfd.readouterr()
    with pytest.raises(ConversionError) as caught:
        to_program(lambda x: jax.random.normal(jax.random.key(0), (3,)) + x, inputs=[(3,)])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", "build the module, load its weights"),
        ("model.pb", "a TensorFlow graph"),
        ("model.zip", "not a kind of file"),
    ],
)
def test_other_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ConversionError, match=message):
        to_program(tmp_path / name)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="SavedModel"):
        to_program(tmp_path)
    for name in ("no.keras", "no.tflite", "no.zip"):
        with pytest.raises(ModelFileError, match=f"{name}"):
            to_program(tmp_path / name)
    (tmp_path / "bad.keras").write_bytes(b"not a zip")
    with pytest.raises(ModelFileError, match=r"bad\.keras: Keras can't load it"):
        to_program(tmp_path / "bad.keras")


def test_a_lambda_in_a_keras_file_isnt_run(tmp_path: Path) -> None:
    sequential((4,), L.Lambda(lambda x: x + 1)).save(tmp_path / "code.keras")
    with pytest.raises(ModelFileError, match=r"(?s)code\.keras: .*Lambda.*load it with keras\.models\.load_model"):
        to_program(tmp_path / "code.keras")


def test_other_objects() -> None:
    thing = type("Thing", (), {"__module__": "tf_keras.src.models", "__call__": lambda self, x: x})()
    with pytest.raises(ConversionError, match="Keras 2"):
        to_program(thing)
    with pytest.raises(ConversionError, match="not a model that octavo converts"):
        to_program(42)
    with pytest.raises(ConversionError, match=r"not a keras.Model; wrap it"):
        to_program(L.Dense(2))


def test_pytorch_without_litert_torch_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as if it weren't installed
    module = type("Net", (), {"__module__": "torch.nn.modules.module", "__call__": lambda self, x: x})()
    (tmp_path / "model.pt2").write_bytes(b"something")
    for source in (module, tmp_path / "model.pt2"):
        with pytest.raises(MissingDependencyError, match=r"litert-torch is needed .*octavo\[torch\]"):
            to_program(source)


# --- the Keras backend ------------------------------------------------------------------------------------------------


def python(code: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("KERAS")}
    clean |= {"PYTHONPATH": str(SOURCE), "KERAS_HOME": str(home), **environ}
    return subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)


def test_jax_is_chosen_for_the_import_only(tmp_path: Path) -> None:
    small_cnn().save(tmp_path / "m.keras")
    # What Keras writes by itself names TensorFlow, which isn't installed: no choice of the user's.
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    code = f"""
import os, sys
from octavo.frontends import keras, to_program
assert not {{"keras", "jax", "litert_converter"}} & set(sys.modules)
print(to_program({str(tmp_path / "m.keras")!r}).main.outputs[0].name, os.environ.get("KERAS_BACKEND"))
assert not {{"keras", "jax"}} & set(sys.modules)  # a process of its own has done that
print(keras.import_keras().config.backend(), os.environ.get("KERAS_BACKEND"))
"""
    done = python(code, tmp_path)
    assert done.stdout.split() == ["logits", "None", "jax", "None"], done.stderr


def test_on_another_backend_the_file_is_the_same(tmp_path: Path) -> None:
    small_cnn().save(tmp_path / "m.keras")
    here = tflite.write(to_program(tmp_path / "m.keras"))
    reshaped = tflite.write(to_program(tmp_path / "m.keras", inputs=[(1, 8, 8)]))
    code = f"""
import sys, keras, octavo
path = {str(tmp_path / "m.keras")!r}
assert keras.config.backend() == "numpy"
octavo.convert(path).save(sys.argv[1] + "/file.tflite")
octavo.convert(keras.models.load_model(path), inputs=[(1, 8, 8)]).save(sys.argv[1] + "/model.tflite")
"""
    code = code.replace("sys.argv[1]", repr(str(tmp_path)))
    (tmp_path / "keras.json").write_text('{"backend": "numpy"}')
    for done in (python(code, tmp_path / "a", KERAS_BACKEND="numpy"), python(code, tmp_path)):
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "file.tflite").read_bytes() == here
        assert (tmp_path / "model.tflite").read_bytes() == reshaped


def test_missing_frameworks_say_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "litert_converter", None)
        with pytest.raises(MissingDependencyError, match=r'pip install "octavo\[keras\]"'):
            stablehlo.lower(b"", [], [], where="nothing")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "keras")
        patch.setitem(sys.modules, "keras", None)
        patch.delitem(sys.modules, "keras")
        patch.setattr(sys, "meta_path", [_Hide("keras"), *sys.meta_path])
        with pytest.raises(MissingDependencyError, match=r'pip install "octavo\[keras\]"'):
            keras_frontend.import_keras()


class _Hide:
    """An import hook that behaves as if a package weren't installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# --- JAX --------------------------------------------------------------------------------------------------------------


def test_function_with_parameters_and_named_arguments() -> None:
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))

    def head(features: jax.Array, gain: jax.Array) -> jax.Array:
        return jax.nn.relu(features @ weight) * gain

    program = to_program(head, inputs=[(2, 4), ((1,), "float32")])
    assert [t.name for t in program.main.inputs] == ["features", "gain"]
    assert [name for name, _ in program.signatures[0].outputs] == ["output_0"]
    assert program.source == "head"
    x, gain = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32), np.array([2.0], np.float32)
    assert np.allclose(run(program, [x, gain])[0], head(jnp.asarray(x), jnp.asarray(gain)), atol=1e-6)


def test_every_form_of_inputs() -> None:
    def add(x: Any, y: Any) -> Any:
        return x + y

    array = np.zeros((2, 3), np.float32)
    for inputs in (
        [(2, 3), (2, 3)],
        [[2, 3], ((2, 3), np.float32)],
        (jax.ShapeDtypeStruct((2, 3), "float32"), array),
        [jnp.asarray(array), (None, 3)],
        {"y": (2, 3), "x": array},
    ):
        program = to_program(add, inputs=inputs, batch=2)
        assert {t.name: t.shape for t in program.main.inputs} == {"x": (2, 3), "y": (2, 3)}
    assert to_program(lambda x: x + 1, inputs=(2, 3)).main.inputs[0].shape == (2, 3)
    assert to_program(lambda *xs: xs[0] + xs[1], inputs=[(2,), (2,)]).main.inputs[1].name == "xs_1"


def test_outputs_are_named_by_structure() -> None:
    def many(x: Any) -> Any:
        return {"b": x + 1, "a": (x * 2, {"c": x - 1})}

    program = to_program(many, inputs=[(3,)])
    x = np.arange(3, dtype=np.float32)
    values = dict(zip([name for name, _ in program.signatures[0].outputs], run(program, [x]), strict=True))
    assert {name: value.tolist() for name, value in values.items()} == {
        "a_0": [0, 2, 4],
        "a_1_c": [-1, 0, 1],
        "b": [1, 2, 3],
    }
    pair = to_program(lambda x: (x + 1, x + 2), inputs=[(3,)])
    assert [t.name for t in pair.main.outputs] == ["output_0", "output_1"]


def test_ignored_argument_stays_an_input() -> None:
    program = to_program(lambda x, unused: x * 2, inputs=[(3,), (2,)])
    assert [t.name for t in program.main.inputs] == ["x", "unused"]
    assert run(program, [np.ones(3, np.float32), np.ones(2, np.float32)])[0].tolist() == [2, 2, 2]


def test_loops_become_subgraphs() -> None:
    def scan(x: jax.Array, w: jax.Array) -> jax.Array:
        def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            inner = jax.lax.fori_loop(0, 3, lambda _, value: jnp.tanh(value @ w + row), state)
            return inner, inner * x.sum()

        return jax.lax.scan(step, jnp.zeros(3), x)[1]

    program = to_program(scan, inputs=[(4, 3), (3, 3)])
    assert codes(program).count("WHILE") == 2 and len(program.graphs) == 5
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    assert np.allclose(run(program, [x, w])[0], scan(jnp.asarray(x), jnp.asarray(w)), atol=1e-5)


def test_branches() -> None:
    program = to_program(lambda x: jax.lax.cond(x.sum() > 0, lambda a: a * 2, lambda a: a - 1, x), inputs=[(2,)])
    assert run(program, [np.array([1, 2], np.float32)])[0].tolist() == [2, 4]
    assert run(program, [np.array([-1, -2], np.float32)])[0].tolist() == [-2, -3]


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_every_padding_of_a_transposed_convolution(kernel: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    weight = jnp.asarray(rng.normal(size=(kernel, kernel, 2, 3)).astype(np.float32))
    x = rng.normal(size=(1, 3, 4, 2)).astype(np.float32)
    paddings = [(before, after) for before in range(kernel + 1) for after in range(kernel + 1)]

    def convolutions(x: jax.Array) -> list[jax.Array]:
        return [
            jax.lax.conv_general_dilated(
                x, weight, (1, 1), [p, p], (stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for p in paddings
        ]

    expected = convolutions(jnp.asarray(x))
    program = to_program(convolutions, inputs=[x.shape])
    for padding, got, want in zip(paddings, run(program, [x]), expected, strict=True):
        assert got.shape == want.shape, padding
        assert np.allclose(got, want, atol=1e-5), padding


def test_bad_inputs_of_a_function() -> None:
    def add(x: Any, y: Any) -> Any:
        return x + y

    for inputs, message in (
        (None, "give inputs="),
        ([], "inputs is empty"),
        ([(3,)], "doesn't take the inputs x"),
        ([(3,), "y"], "input 'y' must be a shape"),
        ([(3,), ((3,), "floaty")], "no usable dtype"),
        ({"x": (3,), "z": (3,)}, "doesn't take the inputs x, z"),
        ([(3,), (4,)], r"can't trace add with x float32\[3\], y float32\[4\]"),
    ):
        with pytest.raises(ConversionError, match=message):
            to_program(add, inputs=inputs)
    with pytest.raises(ConversionError, match="returns no array"):
        to_program(lambda x: (), inputs=[(3,)])


# --- .tflite and names ------------------------------------------------------------------------------------------------


def test_tflite_path_and_bytes(tmp_path: Path) -> None:
    data = tflite.write(to_program(small_cnn()))
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    for source in (data, bytearray(data), path, str(path)):
        assert tflite.write(to_program(source)) == data
    with pytest.raises(ConversionError, match=r"m\.tflite: .*leave inputs out"):
        to_program(path, inputs=[(1, 8, 8)])


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("jit(fn)/conv/conv_general_dilated", "conv/conv_general_dilated"),
        ("jit(<lambda>)/block/jit(relu)/max", "block/max"),
        ("jit(a/b)/jvp(c)/d", "d"),
        ("closed_call/x", "x"),
        ("jit(fn)", ""),
    ],
)
def test_clean_name(path: str, short: str) -> None:
    assert naming.clean(path) == short


def test_argument_names_of_a_wrapper() -> None:
    specs, by_keyword = input_specs(jnp.add, [(2,), (2,)], "add")
    assert [spec.name for spec in specs] == ["args_0", "args_1"] and not by_keyword
