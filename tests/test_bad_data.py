"""Samples and weights that nobody wants, under every scheme: a clear error, or a right result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.graph import Program
from octavo.model import Model
from octavo.tflite import read

SCHEMES = {
    "int8": octavo.integer(fallback=False, io="float32", effort="fast"),
    "int8 balanced": octavo.integer(io="float32"),
    "int4": octavo.integer(io="float32", weights=4),
    "int16": octavo.integer(fallback=False, io="float32", activations=16),
    "dynamic": octavo.dynamic_range(min_elements=1),
    "dynamic int4": octavo.dynamic_range(min_elements=1, weights=4),
    "weight only int4": octavo.weight_only(min_elements=1, weights=4),
    "weight only": octavo.weight_only(min_elements=1),
    "float16": octavo.float16(min_elements=1),
}
every_scheme = pytest.mark.parametrize("name", SCHEMES)
GOOD = np.random.default_rng(3).normal(size=(16, 4, 4, 2)).astype(np.float32)


def cnn(weight: Callable[[np.ndarray], np.ndarray] = np.copy, bias: float = 1.0) -> Program:
    """A convolution with RELU and a dense layer; `weight` changes the kernel of the convolution."""
    b = Builder(11)
    x = b.conv(b.input("image", (1, 4, 4, 2)), "conv", 8, act=1)
    kernel, offset = b.graph.ops[0].inputs[1:]
    assert kernel is not None and offset is not None
    kernel.set_values(weight(kernel.values.copy()).astype(np.float32))
    offset.set_values(offset.values * np.float32(bias))
    return b.program(b.dense(b.reshape(x, "flat", (1, 128)), "scores", 4))


def wrong(samples: np.ndarray, value: float) -> np.ndarray:
    changed = samples.copy()
    changed[5, 1, 2, 0] = value
    return changed


REFUSED = {
    "NaN": (wrong(GOOD, np.nan), "NaN"),
    "infinity": (wrong(GOOD, np.inf), "infinity"),
    "empty": (GOOD[:0], "no samples"),
    "rank": (GOOD[:, :, 0, 0], r"shape.*4, 4, 2\)"),
    "text": (np.full(GOOD.shape, "a"), "dtype <U1"),
    "whole numbers": (np.rint(GOOD).astype(np.int64), "dtype int64"),
}


@every_scheme
@pytest.mark.parametrize("case", REFUSED)
def test_samples_that_are_refused(name: str, case: str) -> None:
    """In one line that says what is wrong; even by a scheme that wouldn't need the samples."""
    samples, message = REFUSED[case]
    with pytest.raises(octavo.OctavoError, match=f"(?i){message}") as caught:
        octavo.quantize(Model(cnn()), SCHEMES[name], calibration=samples)
    assert "\n" not in str(caught.value)


ODD = {
    "one sample": GOOD[:1],
    "constant": np.full_like(GOOD, 0.25),
    "zeros": np.zeros_like(GOOD),
    "denormal": GOOD * np.float32(1e-41),
    "1e-30": GOOD * np.float32(1e-30),
    "1e30": GOOD * np.float32(1e30),
    "float64": GOOD.astype(np.float64),
}


def quantized(name: str, model: Model, samples: np.ndarray, beyond: bool) -> Model | None:
    """None if it is refused in words: integers go as far as 1e30, and integer-only has nothing else to offer."""
    if not (beyond and SCHEMES[name].kind == "integer" and not SCHEMES[name].fallback):
        return octavo.quantize(model, SCHEMES[name], calibration=samples)
    with pytest.raises(octavo.RecipeError, match=r"CONV_2D 'conv': (calibration saw|its constant).*beyond 1e\+30"):
        octavo.quantize(model, SCHEMES[name], calibration=samples)
    return None


def close(small: Model, float_model: Model, samples: np.ndarray, bits: int) -> None:
    want = np.asarray(octavo.Runner(float_model)(samples))
    for kernels in ("xnnpack", "builtin"):
        have = np.asarray(octavo.Runner(small, kernels=kernels)(samples))
        assert np.isfinite(have).all()
        largest = float(np.abs(want).max())
        # Terms are of order one; where they cancel, the error of four bits doesn't.
        np.testing.assert_allclose(have, want, rtol=0, atol=0.3 * max(largest, 1) if bits == 4 else 0.05 * largest)


@every_scheme
@pytest.mark.parametrize("case", ODD)
def test_samples_that_are_odd(name: str, case: str) -> None:
    model = Model(cnn(bias=1e30 if case == "1e30" else 1.0))
    small = quantized(name, model, ODD[case], beyond=case == "1e30")
    if small is not None:
        close(small, model, ODD[case].astype(np.float32), 4 if "int4" in name else 8)


def one(kernel: np.ndarray, value: float) -> np.ndarray:
    kernel[3, 1, 1, 0] = value
    return kernel


WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zeros": np.zeros_like,
    "denormal": lambda kernel: kernel * 1e-41,
    "1e-30": lambda kernel: kernel * 1e-30,
    "1e30": lambda kernel: kernel * 1e30,
    "constant": lambda kernel: np.full_like(kernel, 0.125),
    "one channel of 1e-30": lambda kernel: np.concatenate([kernel[:7], kernel[7:] * 1e-30]),
    "one of 1e30": lambda kernel: one(kernel, 1e30),
}


@every_scheme
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_odd(name: str, case: str) -> None:
    model = Model(cnn(WEIGHTS[case]))
    small = quantized(name, model, GOOD, beyond="1e30" in case)
    if small is not None:
        close(small, model, GOOD, 4 if "int4" in name else 8)


@every_scheme
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    """Refused in words that name op and tensor, or kept in float as they are: never turned into codes."""
    model = Model(cnn(lambda kernel: one(kernel, value)))
    small = quantized(name, model, GOOD, beyond=True)
    if small is None:
        return
    constants = [t for t in read(bytes(small)).main.tensors if t.is_constant and t.dtype.is_float]
    odd = np.concatenate([t.values[~np.isfinite(t.values)] for t in constants])
    np.testing.assert_array_equal(odd, [value])
