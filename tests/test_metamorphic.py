"""What must not change a quantized model doesn't, bit for bit; what must change it does so exactly.

Scaling is by powers of two: those are exact in float32, so scales change exactly and codes not at all. Weights and
samples are short binary fractions, so float sums are exact too, in any order: ranges don't depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.graph import Program
from octavo.model import Model
from octavo.runtime.session import Session
from octavo.tflite import read

SCHEMES = {
    "int8": octavo.integer(fallback=False, effort="fast"),
    "int8 balanced": octavo.integer(fallback=False),
    "int8 per tensor": octavo.integer(fallback=False, per_channel=False, effort="fast"),
    "int4": octavo.integer(fallback=False, weights=4, effort="fast"),
    "int16": octavo.integer(fallback=False, activations=16, effort="fast"),
    "dynamic": octavo.dynamic_range(min_elements=1),
    "weight only": octavo.weight_only(min_elements=1),
    "float16": octavo.float16(min_elements=1),
}
every_scheme = pytest.mark.parametrize("name", SCHEMES)
IMAGES = np.rint(np.random.default_rng(7).normal(size=(24, 1, 6, 6, 3)) * 4).astype(np.float32) / 4
ORDER = np.random.default_rng(8).permutation(8)


def cnn(change: Callable[[dict[str, np.ndarray]], None] | None = None) -> Program:
    """A convolution with RELU, a second one, and a dense layer; `change` edits the weights by name, in place."""
    b = Builder(5)
    x = b.conv(b.input("image", (1, 6, 6, 3)), "first", 8, act=1)
    x = b.conv(x, "second", 4)
    program = b.program(b.dense(b.reshape(x, "flat", (1, 144)), "scores", 5))
    constants = {t.name: t for t in program.main.tensors if t.is_constant and t.dtype.is_float}
    values = {name: np.rint(tensor.values * 16) / np.float32(16) for name, tensor in constants.items()}
    if change is not None:
        change(values)
    for name, tensor in constants.items():
        tensor.set_values(values[name])
    return program


def quantized(name: str, program: Program, data: np.ndarray = IMAGES) -> Model:
    calibration = list(data) if SCHEMES[name].kind == "integer" else None
    return octavo.quantize(Model(program), SCHEMES[name], calibration=calibration)


def codes(model: Model, data: np.ndarray = IMAGES, threads: int = 1, kernels: str = "xnnpack") -> np.ndarray:
    """Outputs in the file's own type, for real inputs."""
    session = Session(bytes(model), kernels=kernels, threads=threads)
    params = session.inputs[0].qparams
    if params is not None:
        limits = np.iinfo(session.inputs[0].dtype)
        steps = np.rint(data.astype(np.float64) / float(params.scale[0])) + int(params.zero_point[0])
        data = np.clip(steps, limits.min, limits.max).astype(session.inputs[0].dtype)
    return np.concatenate([session.invoke([sample])[0] for sample in data])


def assert_same(name: str, have: np.ndarray, want: np.ndarray) -> None:
    """Bit for bit where weights are rounded to nearest. Where samples decide, within a step.

    Which half of the statistics a sample counts for follows from its bytes, and how far they are trusted from their
    number (`calibrate.halves`, `algorithms.shrinkage`): other samples may tip a weight the other way.
    """
    if SCHEMES[name].kind == "integer" and SCHEMES[name].effort != "fast":
        np.testing.assert_allclose(have, want, rtol=0, atol=1)
    else:
        np.testing.assert_array_equal(have, want)


def scales(model: Model) -> list[float]:
    """Of the quantized activations, in the file's order."""
    main = read(bytes(model)).main
    return [float(t.qparams.scale[0]) for t in main.tensors if t.qparams is not None and not t.is_constant]


@every_scheme
def test_names_make_no_difference(name: str) -> None:
    renamed = cnn()
    for index, tensor in enumerate(renamed.main.tensors):
        tensor.name = f"{1000 - index}/\u00e4"
    before, after = quantized(name, cnn()), quantized(name, renamed)
    np.testing.assert_array_equal(codes(after), codes(before))
    assert scales(after) == scales(before)


@every_scheme
def test_samples_given_twice_make_no_difference(name: str) -> None:
    before, after = quantized(name, cnn()), quantized(name, cnn(), np.repeat(IMAGES, 2, axis=0))
    assert_same(name, codes(after), codes(before))
    assert scales(after) == scales(before)


@every_scheme
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_threads_make_no_difference(name: str, kernels: str) -> None:
    small = quantized(name, cnn())
    np.testing.assert_array_equal(codes(small, threads=3, kernels=kernels), codes(small, kernels=kernels))


@every_scheme
def test_channels_in_another_order_inside(name: str) -> None:
    """The first layer's outputs and the second's inputs, permuted alike: sums in another order, of whole numbers."""

    def permute(values: dict[str, np.ndarray]) -> None:
        values["first/kernel"] = values["first/kernel"][ORDER]
        values["first/bias"] = values["first/bias"][ORDER]
        values["second/kernel"] = values["second/kernel"][..., ORDER]

    have, want = codes(quantized(name, cnn(permute))), codes(quantized(name, cnn()))
    if have.dtype == np.float32:  # float sums do depend on the order
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(have, want)


@every_scheme
def test_outputs_in_another_order(name: str) -> None:
    def permute(values: dict[str, np.ndarray]) -> None:
        for part in ("kernel", "bias"):
            values[f"scores/{part}"] = values[f"scores/{part}"][ORDER[ORDER < 5]]

    have, want = codes(quantized(name, cnn(permute))), codes(quantized(name, cnn()))
    np.testing.assert_array_equal(have, want[:, ORDER[ORDER < 5]])


@every_scheme
@pytest.mark.parametrize("factor", [2.0**-6, 8.0])
def test_inputs_scaled_and_weights_scaled_back(name: str, factor: float) -> None:
    def shrink(values: dict[str, np.ndarray]) -> None:
        values["first/kernel"] /= np.float32(factor)

    before, after = quantized(name, cnn()), quantized(name, cnn(shrink), IMAGES * np.float32(factor))
    assert_same(name, codes(after, IMAGES * np.float32(factor)), codes(before))
    if SCHEMES[name].kind == "integer":
        assert scales(after) == [scales(before)[0] * factor, *scales(before)[1:]]


@every_scheme
@pytest.mark.parametrize("factor", [2.0**-5, 16.0])
def test_a_layer_scaled_and_the_next_scaled_back(name: str, factor: float) -> None:
    """RELU lets a positive factor through."""

    def move(values: dict[str, np.ndarray]) -> None:
        values["first/kernel"] *= np.float32(factor)
        values["first/bias"] *= np.float32(factor)
        values["second/kernel"] /= np.float32(factor)

    np.testing.assert_array_equal(codes(quantized(name, cnn(move))), codes(quantized(name, cnn())))


@every_scheme
def test_outputs_scaled(name: str) -> None:
    def grow(values: dict[str, np.ndarray]) -> None:
        values["scores/kernel"] *= np.float32(4)
        values["scores/bias"] *= np.float32(4)

    before, after = quantized(name, cnn()), quantized(name, cnn(grow))
    factor = 4 if codes(before).dtype == np.float32 else 1
    np.testing.assert_array_equal(codes(after), codes(before) * factor)
    if SCHEMES[name].kind == "integer":
        assert scales(after)[-1] == 4 * scales(before)[-1]
