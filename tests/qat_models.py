"""Small Keras models for the tests of quantization-aware training, one for each thing that can go wrong."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import octavo

L = keras.layers


def residual() -> Any:
    """Batch normalization behind each kind of layer, Add, Concatenate, an average pool, a split layer, softmax."""
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="c1")(image)
    x = L.ReLU(name="r1")(L.BatchNormalization(name="b1")(x))
    y = L.BatchNormalization(name="b2")(L.Conv2D(6, 3, padding="same", use_bias=False, name="c2")(x))
    x = L.ReLU(name="r2")(L.Add(name="add")([x, y]))
    d = L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="dw")(x)
    d = L.ReLU(6.0, name="r3")(L.BatchNormalization(name="b3")(d))
    e = L.Conv2D(6, 1, strides=2, name="c3")(x)
    x = L.AveragePooling2D(2, name="pool")(L.Concatenate(name="cat")([d, e]))
    x = L.SeparableConv2D(8, 3, padding="same", activation="relu", name="sep")(x)
    x = L.GlobalAveragePooling2D(name="gap")(x)
    x = L.ReLU(name="r4")(L.BatchNormalization(name="b4")(L.Dense(8, name="d1")(x)))
    return keras.Model(image, L.Dense(5, activation="softmax", name="probs")(L.Dropout(0.2)(x)), name="residual")


def activations() -> Any:
    """Activations that don't fuse, a transposed convolution, padding and upsampling."""
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(6, 3, activation="silu", name="c1")(image)
    x = L.Conv2D(6, 3, activation="hard_silu", name="c2")(x)
    x = L.LeakyReLU(name="lr")(L.Conv2D(6, 3, name="c3")(x))
    x = L.PReLU(shared_axes=[1, 2], alpha_initializer="ones", name="pr")(L.Conv2D(6, 3, name="c4")(x))
    x = L.BatchNormalization(name="tb")(L.Conv2DTranspose(4, 3, strides=2, name="t")(x))
    x = L.UpSampling2D(2, name="up")(L.ZeroPadding2D(1, name="zp")(L.ReLU(name="tr")(x)))
    x = L.Dense(6, activation="tanh", name="th")(L.Flatten(name="flat")(x))
    return keras.Model(image, L.Dense(1, activation="sigmoid", name="p")(x), name="activations")


def siamese() -> Any:
    """A nested model called twice, two inputs and two outputs by name, a tied Maximum."""
    base = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            L.Conv2D(6, 3, strides=2, use_bias=False, name="c1"),
            L.BatchNormalization(name="b1"),
            L.ReLU(name="r1"),
        ],
        name="base",
    )
    left, right = keras.Input((12, 12, 3), name="left"), keras.Input((12, 12, 3), name="right")
    a, b = base(left), base(right)
    x = L.Maximum(name="max")([L.Subtract(name="sub")([a, b]), L.Multiply(name="mul")([a, b])])
    x = L.GlobalAveragePooling2D(name="gap")(x)
    outputs = {"score": L.Dense(3, name="score")(x), "aux": L.Dense(2, name="aux")(x)}
    return keras.Model({"left": left, "right": right}, outputs, name="siamese")


def preactivation() -> Any:
    """Rescaled input, and batch normalization in front of convolutions, where it can't fold."""
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(6, 3, name="c1")(L.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(image))
    for k in range(2):
        y = L.ReLU(name=f"r{k}")(L.BatchNormalization(name=f"b{k}")(x))
        y = L.Conv2D(4, 3, padding="same", use_bias=False, name=f"k{k}")(y)
        x = L.Concatenate(name=f"cat{k}")([x, y])
    x = L.GlobalAveragePooling2D(name="gap")(L.ReLU(name="rl")(L.BatchNormalization(name="bl")(x)))
    return keras.Model(image, L.Dense(3, name="out")(x), name="preactivation")


def signal() -> Any:
    """1-D convolutions: on the device 2-D ones between reshapes."""
    x = signal_in = keras.Input((24, 4), name="signal")
    x = L.Conv1D(6, 3, activation="relu", name="c1")(x)
    x = L.SeparableConv1D(6, 3, name="s1")(x)
    x = L.ReLU(name="r")(L.BatchNormalization(name="b")(x))
    x = L.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(signal_in, L.Dense(3, name="out")(x), name="signal")


def inputs(model: Any, count: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Random inputs as `fit` takes them."""
    rng = np.random.default_rng(seed)
    made = {
        tensor._keras_history.operation.name: (rng.normal(size=(count, *tensor.shape[1:])) * scale).astype(np.float32)
        for tensor in model.inputs
    }
    return made if len(made) > 1 else next(iter(made.values()))


def fit(aware: Any, epochs: int = 3, scale: float = 1.0, seed: int = 0, **options: Any) -> Any:
    """Train towards random targets: enough for ranges and batch statistics to settle."""
    x = inputs(aware, 32, seed, scale)
    rng = np.random.default_rng(seed + 1)
    shapes = keras.tree.map_structure(lambda t: (32, *t.shape[1:]), aware._outputs_struct)
    y = keras.tree.map_shape_structure(lambda shape: rng.normal(size=shape).astype(np.float32) * 0.3, shapes)
    aware.compile(keras.optimizers.Adam(3e-3), "mse")
    return aware.fit(x, y, epochs=epochs, batch_size=8, verbose=0, **options)


def settle(aware: Any, scale: float = 1.0) -> Any:
    """What training leaves behind, without the time it takes: ranges, and weights and statistics off their start."""
    rng = np.random.default_rng(3)
    for variable in aware.variables:
        name = variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name in ("beta", "moving_mean", "bias", "alpha"):
            variable.assign(rng.normal(size=variable.shape) * 0.2)
    return octavo.qat.calibrate(aware, inputs(aware, 16, scale=scale))
