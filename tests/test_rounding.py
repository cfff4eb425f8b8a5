"""Weights are never rounded worse than to nearest: by arrays, and in every op that has weights."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.algorithms import adaround, gptq, shrinkage
from octavo.algorithms.rounding import Rounding, output_errors
from octavo.calibrate.halves import Halves
from octavo.graph import DType, Program
from octavo.model import Model
from octavo.qtypes import INT4_WEIGHT, INT8_WEIGHT, QType
from products import PRODUCTS, smooth

RNG = np.random.default_rng(21)
COUNT = 64


def halves_of(rows: np.ndarray, block: int = COUNT) -> Halves:
    """As calibration would see them, each row a sample."""
    seen = Halves.empty(block, gram=True)
    for number, row in enumerate(rows.astype(np.float32)):
        seen.update(row.reshape(1, 1, -1), number % 2)
    return seen


def covariance_of(rows: np.ndarray) -> np.ndarray:
    """The shrunk one."""
    return shrinkage.shrunk(halves_of(rows).covariances(), len(rows))


def drawn(kind: str, count: int, mixing: np.ndarray) -> np.ndarray:
    if kind == "white":
        return RNG.normal(size=(count, COUNT))
    mixed = RNG.normal(size=(count, len(mixing))) @ mixing
    return np.maximum(mixed, 0) if kind == "relu" else mixed + 0.3 * RNG.normal(size=mixed.shape)


def test_the_halves_together_are_the_whole() -> None:
    rows = RNG.normal(1, 1, (31, COUNT))
    seen = halves_of(rows)
    assert seen.count == 31
    np.testing.assert_allclose(seen.mean()[0], rows.mean(0), atol=1e-3)
    np.testing.assert_allclose(seen.second()[0], rows.T @ rows / 31, atol=1e-3)
    twice = seen.merge(halves_of(rows))
    assert twice.count == 62
    np.testing.assert_allclose(twice.second(), seen.second())


def test_chance_is_told_from_fact() -> None:
    mixing = RNG.normal(size=(4, COUNT))
    white = covariance_of(drawn("white", 48, mixing))[0]
    assert np.abs(white - np.diag(np.diag(white))).max() < 0.1
    rows = drawn("mixed", 480, mixing)
    np.testing.assert_allclose(covariance_of(rows)[0], np.cov(rows.T, bias=True), rtol=0.05, atol=0.2)


def test_one_half_tells_nothing() -> None:
    seen = Halves.empty(3, gram=True)
    seen.update(RNG.normal(size=(40, 1, 3)).astype(np.float32), 0)
    whole = seen.covariances()[0][1]
    np.testing.assert_array_equal(shrinkage.shrunk(seen.covariances(), 40), whole * np.eye(3))


@pytest.mark.parametrize("qtype", [INT8_WEIGHT, INT4_WEIGHT])
@pytest.mark.parametrize("kind", ["white", "relu", "mixed"])
@pytest.mark.parametrize("count", [4, 32, 64, 400])
def test_rounding_is_not_worse_than_nearest_on_inputs_to_come(qtype: QType, kind: str, count: int) -> None:
    """Measured on other inputs than those that it was fitted to, even if these are fewer than the features."""
    mixing = RNG.normal(size=(8, COUNT))
    weights = RNG.normal(size=(1, 24, COUNT))
    scales = np.abs(weights).max(axis=2, keepdims=True) / qtype.qmax
    true = np.cov(drawn(kind, 20_000, mixing).T, bias=True)[None]
    codes = Rounding(weights, covariance_of(drawn(kind, count, mixing)), qtype).codes(scales)
    nearest = np.clip(np.rint(weights / scales), qtype.qmin, qtype.qmax)
    chosen, plain = (output_errors(weights, made, scales, true).sum() for made in (codes, nearest))
    assert chosen <= (1.1 if count == 4 else 1.05) * plain
    if kind != "white" and count >= 64:
        assert chosen < 0.7 * plain


def test_blocks_are_rounded_apart_and_put_together_again() -> None:
    weights = RNG.normal(size=(2, 3, 10))
    gram = np.stack([np.eye(4)] * 6)
    scales = np.full((2, 3, 1), 0.1)
    codes = Rounding(weights, gram, INT8_WEIGHT).codes(scales)
    np.testing.assert_array_equal(codes, np.rint(weights / 0.1))


@pytest.mark.parametrize("shared", [False, True])
def test_scales_are_chosen_by_the_error_that_rounding_leaves(shared: bool) -> None:
    mixing = RNG.normal(size=(8, COUNT))
    gram = covariance_of(drawn("mixed", 300, mixing))
    weights = RNG.standard_t(3, size=(1, 12, COUNT))
    largest = np.abs(weights).max(axis=2, keepdims=True) / 7
    largest = largest.max(keepdims=True) if shared else largest
    rounding = Rounding(weights, gram, INT4_WEIGHT)
    found = rounding.best_scales(largest)
    assert found.shape == largest.shape
    errors = [output_errors(weights, rounding.codes(s), s, gram).sum() for s in (found, largest)]
    assert errors[0] <= errors[1]
    np.testing.assert_array_equal(rounding.codes(found), Rounding(weights, gram, INT4_WEIGHT).codes(found))
    wider = found * np.float32(1.01)
    np.testing.assert_array_equal(rounding.codes(wider), Rounding(weights, gram, INT4_WEIGHT).codes(wider))


def test_going_over_it_again_helps() -> None:
    mixing = RNG.normal(size=(8, COUNT))
    gram = covariance_of(drawn("relu", 300, mixing))
    weights = RNG.normal(size=(1, 12, COUNT))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 7
    once, twice = (Rounding(weights, gram, INT4_WEIGHT, thorough).codes(scales) for thorough in (False, True))
    assert output_errors(weights, twice, scales, gram).sum() < output_errors(weights, once, scales, gram).sum()


def test_learned_rounding_is_used_where_it_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdaRound alone isn't always better than GPTQ gone over again; the better of the two is, channel by channel."""
    gram = covariance_of(drawn("relu", 300, RNG.normal(size=(16, COUNT))))
    weights = RNG.normal(size=(1, 40, COUNT))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 7
    both = Rounding(weights, gram, INT4_WEIGHT, thorough=True).codes(scales)
    learned = adaround.learn(weights, scales, gram, INT4_WEIGHT)
    assert learned is not None
    assert np.abs(learned - weights / scales).max() <= 1 + 1e-6
    monkeypatch.setattr(adaround, "available", lambda: False)
    without = Rounding(weights, gram, INT4_WEIGHT, thorough=True).codes(scales)
    errors = {
        name: output_errors(weights, codes, scales, gram)[0]
        for name, codes in (("both", both), ("without", without), ("learned", learned))
    }
    nearest = output_errors(weights, np.rint(weights / scales), scales, gram)[0]
    assert errors["learned"].sum() < 0.8 * nearest.sum()
    assert (errors["both"] <= errors["without"] + 1e-9).all()
    assert errors["both"].sum() < 0.99 * errors["without"].sum()


def test_learned_rounding_leaves_large_layers_alone() -> None:
    weights = np.zeros((1, 4096, 2048), np.float32)
    assert adaround.learn(weights, np.ones((1, 1, 1)), np.eye(2048)[None], INT4_WEIGHT) is None


def test_rounding_survives_a_matrix_that_is_not_positive_definite() -> None:
    vector = RNG.normal(size=12)
    gram = (np.eye(12) - 1.2 * np.outer(vector, vector) / (vector @ vector))[None]
    weights = RNG.normal(size=(1, 5, 12))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 127
    codes = Rounding(weights, gram, INT8_WEIGHT, thorough=True).codes(scales)
    assert np.abs(weights - codes * scales).max() < 1.0
    assert gptq.factor(gram).upper.shape == (1, 12, 12)


# ---------------------------------------------------------------- on models


def noise(reference: Model, small: Model) -> float:
    unseen = smooth(48, 99)
    want, got = (octavo.Runner(model, kernels="builtin").predict(unseen) for model in (reference, small))
    return -numerics.sqnr_db(want, got)


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_op_with_weights_gains(name: str) -> None:
    """16-bit activations leave the error of the four-bit weights alone on the stage."""
    reference = Model(PRODUCTS[name])
    fast, balanced = (
        octavo.quantize(reference, octavo.integer(weights=4, activations=16, effort=effort), smooth(64, 1))
        for effort in ("fast", "balanced")
    )
    assert noise(reference, balanced) < noise(reference, fast) - 0.5


def twice(bias: bool = True) -> Program:
    """One dense layer, applied to two halves of the input."""
    b = Builder(4)
    flat = b.reshape(b.input("image", (1, 8, 8, 4)), "flat", (1, 256))
    kernel, offset = b.weights("kernel", 128, 128), [b.weights("bias", 128)] if bias else []
    outputs = []
    for number in (0, 1):
        begin, size = b.const(f"begin{number}", np.array([0, 128 * number], np.int32)), np.array([1, 128], np.int32)
        part = b.op("SLICE", [flat, begin, b.const(f"size{number}", size)], f"part{number}", (1, 128), "SliceOptions")
        outputs.append(
            b.op("FULLY_CONNECTED", [part, kernel, *offset], f"out{number}", (1, 128), "FullyConnectedOptions")
        )
    return b.program(b.op("CONCATENATION", outputs, "joined", (1, 256), "ConcatenationOptions", axis=1))


def test_shared_weights_are_rounded_once_for_all_who_read_them() -> None:
    reference = Model(twice())
    fast, balanced = (
        octavo.quantize(reference, octavo.weight_only(256, weights=4), samples) for samples in (None, smooth(64, 1))
    )
    assert balanced.nbytes == fast.nbytes
    assert noise(reference, balanced) < noise(reference, fast) - 0.5
    fast, balanced = (
        octavo.quantize(reference, octavo.integer(weights=4, effort=effort), smooth(64, 1))
        for effort in ("fast", "balanced")
    )
    assert balanced.nbytes < fast.nbytes + 128 * 4 + 100  # biases are corrected for each use
    kernels = {t for op in balanced.program.ops() for t in op.inputs if t is not None and t.dtype is DType.INT4}
    assert len(kernels) == 1
    assert noise(reference, balanced) < noise(reference, fast) - 0.5


def dense_without_bias() -> Program:
    b = Builder(5)
    flat = b.reshape(b.input("image", (1, 8, 8, 4)), "flat", (1, 256))
    return b.program(
        b.op("FULLY_CONNECTED", [flat, b.weights("kernel", 32, 256)], "out", (1, 32), "FullyConnectedOptions")
    )


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    "scheme", [octavo.integer(weights=4), octavo.dynamic_range(256, weights=4), octavo.weight_only(256, weights=4)]
)
def test_biases_take_back_the_mean_error(scheme: octavo.Scheme, biased: bool) -> None:
    """Inputs far from zero: four bits of weights shift every output, and its bias, added if need be, puts it right."""
    reference = Model(PRODUCTS["dense"] if biased else dense_without_bias())
    seen, unseen = smooth(64, 1) + np.float32(2), smooth(64, 99) + np.float32(2)
    small = octavo.quantize(reference, scheme, seen)
    assert len(small.program.main.ops[-1 if scheme.kind != "integer" else -2].inputs) == 3
    want, got = (octavo.Runner(model).predict(unseen) for model in (reference, small))
    error = (got - want).astype(np.float64)
    assert np.abs(error.mean(axis=0)).mean() < 0.25 * error.std(axis=0).mean()
