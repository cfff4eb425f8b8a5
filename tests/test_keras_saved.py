"""`.keras` files read without Keras, held against the same files loaded by Keras, traced and lowered."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import octavo
from octavo import tflite
from octavo.errors import ModelFileError
from octavo.frontends import jax as jax_frontend
from octavo.frontends import keras as keras_frontend
from octavo.frontends import keras_files, keras_layers, keras_saved
from octavo.graph import Op, Program
from octavo.graph.verify import verify
from octavo.passes.pipeline import normalise

L: Any = keras.layers
applications: Any = keras.applications


def saved(model: Any, folder: Path, seed: int = 0) -> str:
    """The path of the model with weights that are nowhere zero or one."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.uniform(0.3, 1.5, w.shape) * (1 if w.ndim < 2 else rng.choice([-1, 1], w.shape) / np.sqrt(w.size))
            for w in model.get_weights()
        ]
    )
    path = str(folder / "model.keras")
    model.save(path)
    return path


def read(path: str, batch: int = 1) -> Program:
    program = keras_saved.read(path, batch=batch, where=path)
    assert program is not None, "left to Keras"
    verify(program)
    return program


def through_keras(path: str, batch: int = 1) -> Program:
    model = keras.models.load_model(path)
    return jax_frontend.lower(keras_frontend.trace(model, inputs=None, batch=batch, where=path), path)


def form(op: Op) -> str:
    """What an op does; shapes only where a layer's arguments make them, as the converter swaps others with reshapes."""
    options = {key: value for key, value in (op.options or {}).items() if value and key != "potScaleInt16"}
    for key in ("keepNumDims", "keepDims"):  # which the converter sets, or not and leaves a reshape
        options.pop(key, None)
    for key in ("dilationWFactor", "dilationHFactor"):
        options.setdefault(key, 1)
    windowed = "CONV" in op.code or "POOL" in op.code
    shapes = [tensor.shape for tensor in (*op.inputs, *op.outputs) if tensor is not None] if windowed else []
    return f"{op.code} {op.version} {shapes} {sorted(options.items())}"


def same_ops(ours: Program, traced: Program) -> None:
    """The same ops in any order, in normal form; the converter may leave more reshapes."""
    for one in (ours, traced):
        normalise(one)
    forms = [Counter(form(op) for op in one.ops() if op.code != "RESHAPE") for one in (ours, traced)]
    assert forms[0] == forms[1]
    reshapes = [sum(op.code == "RESHAPE" for op in one.ops()) for one in (ours, traced)]
    assert reshapes[0] <= reshapes[1]
    names = [
        [[name for name, _ in (*signature.inputs, *signature.outputs)] for signature in one.signatures]
        for one in (ours, traced)
    ]
    assert names[0] == names[1]


def layers_named(program: Program) -> set[str]:
    """The tensors that are called as a layer, which is what users name in rules."""
    return {op.outputs[0].name for op in program.ops() if "/" not in op.outputs[0].name}


def agrees(path: str, batch: int = 1) -> Program:
    """What LiteRT makes of the file is what Keras makes of the model."""
    program = read(path, batch)
    model: Any = keras.models.load_model(path)
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(batch, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    runner = octavo.Runner(octavo.Model(program))
    found = runner(arrays[0] if len(arrays) == 1 else arrays)
    expected = keras.tree.flatten(model(arrays[0] if len(arrays) == 1 else arrays, training=False))
    results = list(found.values()) if isinstance(found, dict) else [found]
    for actual, wanted in zip(results, map(np.asarray, expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
    return program


def one_layer(layer: Any, shape: tuple[int, ...] = (9, 8, 6)) -> Any:
    """The layer between two others, so that it is neither an input nor an output."""
    x = keras.Input(shape, name="x")
    return keras.Model(x, L.Activation("sigmoid", name="last")(layer(L.Activation("tanh", name="first")(x))))


def several(make: Callable[[list[Any]], Any], count: int = 2) -> Callable[[Any], Any]:
    others = (L.ReLU(), L.Activation("sigmoid"))
    return lambda x: make([x, *(other(x) for other in others[: count - 1])])


SINGLE: dict[str, Callable[[], Any]] = {
    "Conv2D": lambda: L.Conv2D(5, 3),
    "Conv2D same, strides, relu": lambda: L.Conv2D(5, (3, 2), strides=(2, 3), padding="same", activation="relu"),
    "Conv2D same over an even size": lambda: L.Conv2D(5, 4, strides=2, padding="same", use_bias=False),
    "Conv2D dilated": lambda: L.Conv2D(5, 3, dilation_rate=2, activation="silu"),
    "Conv2D dilated same": lambda: L.Conv2D(5, 3, dilation_rate=(2, 1), padding="same"),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(3, padding="same", activation="relu6"),
    "DepthwiseConv2D multiplied": lambda: L.DepthwiseConv2D((2, 3), depth_multiplier=2, strides=2, use_bias=False),
    "SeparableConv2D": lambda: L.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu"),
    "SeparableConv2D no bias": lambda: L.SeparableConv2D(4, 3, strides=2, padding="same", use_bias=False),
    "Dense of four dimensions": lambda: L.Dense(4, activation="tanh"),
    "Dense of three dimensions": lambda: L.Dense(4),
    "Dense": lambda: keras.Sequential([L.Flatten(), L.Dense(4, activation="softmax")]),
    "Dense no bias": lambda: keras.Sequential([L.Flatten(), L.Dense(4, use_bias=False, activation="relu")]),
    "BatchNormalization": lambda: L.BatchNormalization(),
    "BatchNormalization plain": lambda: L.BatchNormalization(scale=False, center=False, epsilon=0.1, axis=3),
    "BatchNormalization scale": lambda: L.BatchNormalization(center=False),
    "BatchNormalization center": lambda: L.BatchNormalization(scale=False),
    "Normalization": lambda: L.Normalization(mean=[0.5, 0, 1, -1, 2, 3], variance=[2.0, 1, 3, 4, 5, 6]),
    "Normalization of all": lambda: L.Normalization(mean=0.5, variance=2.0, axis=None),
    "Rescaling": lambda: L.Rescaling(0.5, offset=-1.0),
    "Rescaling no offset": lambda: L.Rescaling(1 / 255),
    "Rescaling nothing": lambda: L.Rescaling(1.0),
    "ReLU": lambda: L.ReLU(),
    "ReLU six": lambda: L.ReLU(6),
    "ReLU leaky": lambda: L.ReLU(negative_slope=0.3),
    "LeakyReLU": lambda: L.LeakyReLU(0.1),
    "Softmax": lambda: L.Softmax(),
    "MaxPooling2D": lambda: L.MaxPooling2D(),
    "MaxPooling2D same": lambda: L.MaxPooling2D(3, strides=2, padding="same"),
    "AveragePooling2D": lambda: L.AveragePooling2D((3, 2), strides=1),
    "AveragePooling2D same": lambda: L.AveragePooling2D(3, strides=2, padding="same"),
    "GlobalAveragePooling2D": lambda: L.GlobalAveragePooling2D(),
    "GlobalAveragePooling2D kept": lambda: L.GlobalAveragePooling2D(keepdims=True),
    "GlobalMaxPooling2D": lambda: L.GlobalMaxPooling2D(),
    "GlobalMaxPooling2D kept": lambda: L.GlobalMaxPooling2D(keepdims=True),
    "ZeroPadding2D": lambda: L.ZeroPadding2D(((1, 0), (2, 3))),
    "Conv2DTranspose": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu"),
    "Conv2DTranspose valid": lambda: L.Conv2DTranspose(4, (2, 3), strides=(2, 1)),
    "Conv2DTranspose larger": lambda: L.Conv2DTranspose(3, 5, strides=2, padding="same", use_bias=False),
    "Conv2DTranspose larger valid": lambda: L.Conv2DTranspose(3, 5, strides=(3, 2)),
    "PReLU": lambda: L.PReLU(),
    "PReLU shared": lambda: L.PReLU(shared_axes=[1, 2]),
    "UpSampling2D": lambda: L.UpSampling2D(),
    "UpSampling2D uneven": lambda: L.UpSampling2D((3, 2)),
    "UpSampling2D bilinear": lambda: L.UpSampling2D(2, interpolation="bilinear"),
    "Cropping2D": lambda: L.Cropping2D(((1, 0), (2, 3))),
    "Permute": lambda: L.Permute((3, 1, 2)),
    "Average": lambda: several(L.Average()),
    "Average of three": lambda: several(L.Average(), 3),
    "operation x + c": lambda: lambda x: x + 1.5,
    "operation c - x": lambda: lambda x: 1.5 - x,
    "operation x - c": lambda: lambda x: x - 2,
    "operation c * x": lambda: lambda x: 0.5 * x,
    "operation of two": lambda: lambda x: x * L.ReLU()(x) - L.Activation("sigmoid")(x),
    "operation of a gate": lambda: lambda x: x * (L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)),
    "Flatten": lambda: L.Flatten(),
    "Reshape": lambda: L.Reshape((-1, 4)),
    "Reshape to the same": lambda: L.Reshape((9, 8, 6)),
    "Dropout": lambda: L.Dropout(0.3),
    "SpatialDropout2D": lambda: L.SpatialDropout2D(0.3),
    "GaussianNoise": lambda: L.GaussianNoise(0.3),
    "GaussianDropout": lambda: L.GaussianDropout(0.3),
    "AlphaDropout": lambda: L.AlphaDropout(0.3),
    "ActivityRegularization": lambda: L.ActivityRegularization(0.1),
    "Add": lambda: several(L.Add()),
    "Add of three": lambda: several(L.Add(), 3),
    "Subtract": lambda: several(L.Subtract()),
    "Multiply": lambda: several(L.Multiply()),
    "Maximum": lambda: several(L.Maximum()),
    "Minimum": lambda: several(L.Minimum()),
    "Concatenate": lambda: several(L.Concatenate()),
    "Concatenate of three rows": lambda: several(L.Concatenate(axis=1), 3),
    **{f"Activation {name}": lambda name=name: L.Activation(name) for name in keras_layers._ACTIVATIONS},
}  # fmt: skip


ONE_CHANNEL = {
    "Conv2D of one channel": lambda: L.Conv2D(5, 3, strides=2, padding="same", activation="relu"),
    "Conv2D of one channel into one": lambda: L.Conv2D(1, 3),
    "Conv2D of one channel by one pixel": lambda: L.Conv2D(4, 1, strides=(1, 2)),
    "Conv2D of one channel dilated": lambda: L.Conv2D(4, 3, dilation_rate=(1, 2)),
    "SeparableConv2D of one channel": lambda: L.SeparableConv2D(4, 3),
    "DepthwiseConv2D of one channel": lambda: L.DepthwiseConv2D(3),
}
SINGLE |= ONE_CHANNEL
OTHER_SHAPES = {"Dense of three dimensions": (12, 6), **dict.fromkeys(ONE_CHANNEL, (9, 8, 1))}
TOGETHER = [case for case in SINGLE if case not in OTHER_SHAPES]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A model with a branch for each case, because tracing takes time; each branch reads other numbers."""
    x = keras.Input((9, 8, 6), name="x")
    made = [SINGLE[case]()(L.Activation("tanh")(L.Rescaling(1 + i / 100)(x))) for i, case in enumerate(TOGETHER)]
    model = keras.Model(x, [L.Activation("sigmoid", name=f"case_{i}")(y) for i, y in enumerate(made)])
    return saved(model, tmp_path_factory.mktemp("together")), model


@pytest.fixture(scope="module")
def both(together: tuple[str, Any]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """What LiteRT makes of the file, and Keras of the model."""
    x = np.random.default_rng(1).normal(size=(1, 9, 8, 6)).astype(np.float32)
    found = octavo.Runner(octavo.Model(read(together[0])))(x)
    assert isinstance(found, dict)
    return found, together[1].predict(x, verbose=0)


@pytest.mark.parametrize("case", TOGETHER)
def test_a_layer_computes_what_keras_does(case: str, both: Any) -> None:
    found, expected = both
    index = TOGETHER.index(case)
    np.testing.assert_allclose(found[f"case_{index}"], expected[index], rtol=1e-4, atol=1e-5)


def test_layers_are_the_ops_that_tracing_gives(together: tuple[str, Any]) -> None:
    """But for resizing: the converter spells it, and swaps a reshape with the sigmoid, so that no pass finds it."""
    ours, traced = read(together[0]), through_keras(together[0])
    for one in (ours, traced):
        resized = [case for case in TOGETHER if case.startswith("UpSampling2D")]
        names = {f"case_{TOGETHER.index(case)}" for case in resized}
        one.main.outputs = [tensor for tensor in one.main.outputs if tensor.name not in names]
        (signature,) = one.signatures
        signature.outputs = [(name, tensor) for name, tensor in signature.outputs if name not in names]
    same_ops(ours, traced)


@pytest.mark.parametrize("case", OTHER_SHAPES)
def test_a_layer_of_other_dimensions(case: str, tmp_path: Path) -> None:
    path = saved(one_layer(SINGLE[case](), OTHER_SHAPES[case]), tmp_path)
    same_ops(agrees(path), through_keras(path))


def test_every_layer_of_the_table_is_tried() -> None:
    assert {case.partition(" ")[0] for case in SINGLE} >= {*keras_layers.LAYERS, "operation"}


def test_batches(tmp_path: Path) -> None:
    path = saved(one_layer(keras.Sequential([L.Conv2D(3, 3), L.Flatten(), L.Dense(4)])), tmp_path)
    assert agrees(path, batch=3).main.inputs[0].shape == (3, 9, 8, 6)


def blocks() -> Any:
    """What networks are made of: batch normalization, residuals, squeeze and excitation, padding, several outputs."""
    x = keras.Input((17, 17, 3), name="image")
    z = keras.Input((4,), name="vector")
    y = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0], name="norm")(L.Rescaling(0.5, name="half")(x))
    y = L.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(L.ZeroPadding2D(((1, 1), (1, 1)), name="pad")(y))
    y = L.ReLU(6.0, name="stem_relu")(L.BatchNormalization(name="stem_bn")(y))
    gate = L.Reshape((1, 1, 8), name="se_shape")(L.GlobalAveragePooling2D(name="se_pool")(y))
    gate = L.Conv2D(2, 1, activation="silu", name="se_less")(gate)
    y = L.Multiply(name="se")([y, L.Conv2D(8, 1, activation="sigmoid", name="se_more")(gate)])
    d = L.BatchNormalization(name="deep_bn")(L.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(y))
    y = L.ReLU(name="join_relu")(L.Add(name="join")([L.Dropout(0.2, name="drop")(d), y]))
    f = L.Concatenate(name="both")([L.GlobalMaxPooling2D(name="top")(y), L.Dense(4, name="side")(z)])
    shared = L.Dense(12, activation="relu", name="shared")
    return keras.Model(
        [x, z], [L.Dense(3, activation="softmax", name="class")(shared(shared(f))), L.Flatten(name="map")(y)]
    )


def test_a_network_of_blocks(tmp_path: Path) -> None:
    path = saved(blocks(), tmp_path)
    program, traced = agrees(path), through_keras(path)
    same_ops(program, traced)
    assert layers_named(program) == layers_named(traced)
    assert {"stem/kernel", "stem/bias", "deep/kernel"} <= {tensor.name for tensor in program.tensors()}


def test_models_inside_models(tmp_path: Path) -> None:
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x))
    inner = keras.Model(x, L.ReLU(name="relu")(y), name="inner")
    tail = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(2, 3, name="conv"), L.Flatten()], name="tail")
    x = keras.Input((8, 8, 3), name="x")
    path = saved(keras.Model(x, L.Dense(2, name="out")(tail(inner(x, training=False)))), tmp_path)
    program, traced = agrees(path), through_keras(path)
    same_ops(program, traced)
    assert layers_named(program) == layers_named(traced)
    assert {"inner/conv/kernel", "tail/conv/kernel"} <= {tensor.name for tensor in program.tensors()}


NETWORKS = [
    pytest.param("MobileNetV2", {"alpha": 0.35}),
    *(
        pytest.param(name, {}, marks=pytest.mark.slow)
        for name in (
            "MobileNet",
            "EfficientNetB0",
            "EfficientNetV2B0",
            "ResNet50",
            "ResNet50V2",
            "DenseNet121",
            "VGG16",
            "Xception",
            "NASNetMobile",
            "MobileNetV3Small",
        )
    ),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_networks(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    shape = (71, 71, 3) if name == "Xception" else (64, 64, 3)  # its smallest
    model = getattr(applications, name)(weights=None, input_shape=shape, classes=10, **options)
    path = saved(model, tmp_path)
    program, traced = read(path), through_keras(path)
    same_ops(program, traced)
    # Where equal layers become one op, as activations after a fork in NASNet, another of them may give its name, and a
    # multiplication that is no layer is Keras's "multiply" in the file and StableHLO's "mul" in the trace.
    assert len(layers_named(program)) >= len(layers_named(traced))
    if name not in ("NASNetMobile", "MobileNetV3Small"):
        assert layers_named(program) >= layers_named(traced)
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    found, expected = (octavo.Runner(octavo.Model(one))(x) for one in (program, traced))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def random_network(seed: int) -> Any:
    """Layers with arguments drawn at random, one after the other and side by side."""
    rng = np.random.default_rng(seed)

    def one(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def plain() -> Any:
        padding, act = one("same", "valid"), one("linear", "relu", "silu", "tanh")
        size, strides, bias = int(rng.integers(1, 4)), int(rng.integers(1, 3)), bool(rng.integers(2))
        options = {"strides": strides, "padding": padding, "activation": act, "use_bias": bias}
        return one(
            lambda: L.Conv2D(int(rng.integers(1, 9)), size, **options),
            lambda: L.DepthwiseConv2D(size, depth_multiplier=int(rng.integers(1, 3)), **options),
            lambda: L.SeparableConv2D(int(rng.integers(1, 9)), size, **options),
            lambda: L.BatchNormalization(epsilon=one(1e-3, 1e-5), scale=bias),
            lambda: L.MaxPooling2D(size, strides=strides, padding=padding),
            lambda: L.AveragePooling2D(size, strides=strides, padding=padding),
            lambda: L.ZeroPadding2D(((1, 0), (0, 2))),
            lambda: L.Activation(one("relu", "relu6", "hard_sigmoid", "hard_silu", "sigmoid", "leaky_relu")),
            lambda: L.UpSampling2D(2),
            lambda: L.Dropout(0.5),
        )()

    x = y = keras.Input((12, 11, int(rng.integers(1, 5))), name="x")
    for _ in range(7):
        if min(y.shape[1:3]) < 4:
            break
        if rng.random() < 0.3:
            other = L.Conv2D(y.shape[3], 3, padding="same", activation=one("linear", "relu"))(y)
            merge = one(L.Add, L.Multiply, L.Subtract, L.Maximum, L.Concatenate)()
            y = merge([y, L.BatchNormalization()(other)])
        else:
            y = plain()(y)
    return keras.Model(x, L.Dense(3)(one(L.GlobalAveragePooling2D, L.GlobalMaxPooling2D, L.Flatten)()(y)))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100))])
def test_random_networks(seed: int, tmp_path: Path) -> None:
    agrees(saved(random_network(seed), tmp_path, seed))


class Doubled(L.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


LEFT_TO_KERAS: dict[str, Callable[[], Any]] = {
    "a layer that isn't in the table": lambda: one_layer(L.LayerNormalization()),
    "a layer of the user's": lambda: one_layer(Doubled()),
    "channels first": lambda: one_layer(L.AveragePooling2D(2, data_format="channels_first")),
    "groups": lambda: one_layer(L.Conv2D(4, 3, groups=2)),
    "another axis": lambda: one_layer(L.BatchNormalization(axis=1)),
    "a softmax over rows": lambda: one_layer(L.Softmax(axis=1)),
    "an inverse": lambda: one_layer(L.Normalization(mean=0.0, variance=2.0, axis=None, invert=True)),
    "a threshold": lambda: one_layer(L.ReLU(threshold=0.5)),
    "an output padding": lambda: one_layer(L.Conv2DTranspose(4, 3, strides=2, output_padding=1)),
    "a kernel shorter than its stride": lambda: one_layer(L.Conv2DTranspose(4, 2, strides=3)),
    "bicubic": lambda: one_layer(L.UpSampling2D(2, interpolation="bicubic")),
    "another maximum": lambda: one_layer(L.ReLU(max_value=3.0)),
    "an activation that isn't in the table": lambda: one_layer(L.Conv2D(4, 3, activation="softplus")),
    "a scale for each channel": lambda: one_layer(L.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
    "float16": lambda: one_layer(L.Conv2D(4, 3, dtype="mixed_float16")),
    "ranks that differ": lambda: one_layer(lambda x: L.Multiply()([x, L.GlobalMaxPooling2D()(x)])),
    "another operation": lambda: one_layer(lambda x: keras.ops.floor(x)),
    "an operation with several numbers": lambda: one_layer(lambda x: x + np.ones(6, np.float32)),
    "integers": lambda: keras.Sequential([keras.Input((4,), dtype="int32"), L.Embedding(3, 2)]),
    "an open size": lambda: keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3)]),
    "its input as output": lambda: keras.Sequential([keras.Input((4,)), L.Dropout(0.5)]),
    "in training": lambda: one_layer(lambda x: L.BatchNormalization()(x, training=True)),
    "not yet built": lambda: keras.Sequential([L.Dense(2)]),
}


@pytest.mark.parametrize("case", LEFT_TO_KERAS)
def test_what_is_left_to_keras(case: str, tmp_path: Path) -> None:
    path = str(tmp_path / "model.keras")
    LEFT_TO_KERAS[case]().save(path)
    assert keras_saved.read(path, where=path) is None


def changed(path: str, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> str:
    """The file with another configuration, or other parts."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config, parts)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def layer(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in config["config"]["layers"] if node["config"]["name"] == name)


def reordered(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    config["config"]["layers"].reverse()


def unknown_argument(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    layer(config, "conv")["config"]["of_the_future"] = True


def another_class(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    layer(config, "conv").update(module="elsewhere", registered_name="elsewhere>Conv2D")


def circle(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    layer(config, "conv")["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = "out"


def no_weights(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    del parts["model.weights.h5"]


def torn_weights(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    parts["model.weights.h5"] = parts["model.weights.h5"][:3000]


def other_filters(config: dict[str, Any], parts: dict[str, bytes]) -> None:
    layer(config, "conv")["config"]["filters"] = 5


def network() -> Any:
    x = keras.Input((8, 8, 3), name="x")
    return keras.Model(x, L.Dense(2, name="out")(L.Flatten(name="flat")(L.Conv2D(4, 3, name="conv")(x))))


@pytest.mark.parametrize(
    "change",
    [unknown_argument, another_class, circle, no_weights, torn_weights, other_filters],
    ids=lambda change: change.__name__,
)
def test_a_file_that_is_changed_is_left_to_keras(change: Any, tmp_path: Path) -> None:
    path = changed(saved(network(), tmp_path), change)
    assert keras_saved.read(path, where=path) is None
    with pytest.raises(ModelFileError, match="Keras can't load it"):
        keras_files.convert(path)


def test_weights_go_by_name(tmp_path: Path) -> None:
    """Files from before Keras named the groups can't be told from others: the order might be another."""
    path = saved(network(), tmp_path)

    def anonymous(config: dict[str, Any], parts: dict[str, bytes]) -> None:
        copy = tmp_path / "weights.h5"
        copy.write_bytes(parts["model.weights.h5"])
        with h5py.File(copy, "r+") as file:
            del file["layers/conv2d/vars"].attrs["name"]
        parts["model.weights.h5"] = copy.read_bytes()

    assert keras_saved.read(changed(path, anonymous), where=path) is None


def test_packed_files_are_left_to_keras(tmp_path: Path) -> None:
    """They may hold gigabytes."""
    path = saved(network(), tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert keras_saved.read(path, where=path) is None
    agrees_with_traced = keras_files.convert(path)
    assert [op.code for op in agrees_with_traced.ops()] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]


@pytest.mark.parametrize("options", [{}, {"batch": None}, {"inputs": [(2, 8, 8, 3)]}])
def test_models_in_memory_are_read_likewise(options: dict[str, Any], tmp_path: Path) -> None:
    model = network()
    path = saved(model, tmp_path)
    of_model = keras_saved.of_model(model, where=path, **options)
    assert (of_model is None) == bool(options)
    if of_model is not None:
        assert tflite.write(of_model) == tflite.write(read(path))


def test_layers_that_were_changed_are_taken_as_they_are(tmp_path: Path) -> None:
    """What counts is what a layer would save: other values in its attributes, other weights."""
    model = network()
    path = saved(model, tmp_path)
    model.get_layer("conv").activation = keras.activations.relu
    model.get_layer("out").set_weights([w * 2 for w in model.get_layer("out").get_weights()])
    changed_model = keras_saved.of_model(model, where=path)
    assert changed_model is not None and changed_model.main.ops[0].option("fusedActivationFunction") == 1
    model.get_layer("conv").activation = lambda x: x * 3
    assert keras_saved.of_model(model, where=path) is None


def test_the_order_of_layers_in_the_file_doesnt_matter(tmp_path: Path) -> None:
    path = saved(blocks(), tmp_path)
    before = [op.outputs[0].shape for op in read(path).ops()]
    assert sorted(op.outputs[0].shape for op in read(changed(path, reordered)).ops()) == sorted(before)


def test_other_inputs_batches_and_classes_are_keras_business(tmp_path: Path) -> None:
    path = saved(network(), tmp_path)
    assert keras_saved.read(path, where=path)
    for asked in ({"batch": None}, {"inputs": [(2, 8, 8, 3)]}, {"imports": ["json"]}):
        assert keras_saved.read(path, where=path, **asked) is None


def test_neither_keras_nor_jax_is_imported(tmp_path: Path) -> None:
    path = saved(network(), tmp_path)
    program = (
        "import sys, octavo; octavo.convert(sys.argv[1]).save(sys.argv[2]);"
        "print([name for name in ('keras', 'jax', 'litert_converter') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, path, str(tmp_path / "out.tflite")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
