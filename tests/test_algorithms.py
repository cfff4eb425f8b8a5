"""Ranges, scales, rounding and biases: the maths on arrays, and what it wins on a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.algorithms import bias_correction, descent, gptq, mse_ranges, weight_scales
from octavo.calibrate.observers import Histogram, Moments
from octavo.graph import DType, Op, Program
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.ops import OPS
from octavo.qtypes import INT4_WEIGHT, INT8, INT8_WEIGHT, QType
from octavo.unfold import from_matrix, input_rows, scale_matrix, to_matrix
from one_op import build, feed
from products import PRODUCTS, smooth

RNG = np.random.default_rng(11)
IMAGES = RNG.uniform(-1, 1, (32, 8, 8, 4)).astype(np.float32)
EVERYTHING = 1 << 20  # more positions than any test has


# ---------------------------------------------------------------- statistics


def chunks(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(values, 7)


def test_a_histogram_depends_on_the_values_only() -> None:
    values = np.concatenate([RNG.normal(size=500) * 10.0**k for k in (-30, -3, 0, 4)] + [np.zeros(40)])
    whole, merged = Histogram(64), Histogram(64)
    whole.update(values)
    for part in chunks(RNG.permutation(values)):
        one = Histogram(64)
        one.update(part)
        merged = one.merge(merged)
    assert (whole.exponent, whole.first, whole.zeros) == (merged.exponent, merged.first, 40)
    np.testing.assert_array_equal(whole.counts, merged.counts)
    assert whole.counts.sum() == 2000
    assert whole.counts.size <= 2 * 64 + 2


def test_histogram_bins_hold_what_they_say() -> None:
    values = np.array([-1.0, -0.26, 0.0, 0.24, 0.26, 3.0, np.inf, np.nan])
    seen = Histogram(16)
    seen.update(values)
    points, counts = seen.points
    width = 2.0**seen.exponent
    assert counts.sum() == 6
    for value in values[:6]:
        assert np.abs(points - value).min() <= width / 2


def test_moments_do_not_depend_on_order_or_division() -> None:
    rows = [(RNG.normal(size=(9, 2, 5)) * 10.0 ** RNG.integers(-3, 3)).astype(np.float32) for _ in range(60)]
    results = []
    for order in (range(60), reversed(range(60)), RNG.permutation(60)):
        order = list(order)
        first, second = Moments(3), Moments(3)
        for index in order[:20]:
            first.update(rows[index])
        for index in order[20:]:
            second.update(rows[index])
        both = second.merge(first)
        results.append((both.mean().tobytes(), both.second().tobytes()))
    assert len(set(results)) == 1


def test_moments_are_close_to_exact() -> None:
    rows = [RNG.normal(1.0, 1.0, (40, 1, 6)).astype(np.float32) for _ in range(30)]
    seen = Moments(6)
    for part in rows:
        seen.update(part)
    together = np.concatenate(rows)[:, 0].astype(np.float64)
    np.testing.assert_allclose(seen.mean()[0], together.mean(0), atol=1e-4)
    np.testing.assert_allclose(seen.second()[0], together.T @ together / len(together), atol=2e-4)


def test_moments_of_zeros_and_of_nothing() -> None:
    seen = Moments(4)
    seen.update(np.zeros((5, 1, 4), np.float32))
    assert seen.mean() is None
    assert seen.second() is None
    seen.update(np.ones((5, 1, 4), np.float32))
    np.testing.assert_array_equal(seen.mean(), np.full((1, 4), 0.5))


# ---------------------------------------------------------------- ranges


def test_tails_are_clipped_and_uniform_values_are_not() -> None:
    """Four bits of a normal distribution: the best bounds are about 2.6 standard deviations (Banner et al.)."""
    normal = RNG.normal(size=20_000)
    low, high = mse_ranges.best_range(normal, np.ones(normal.size), normal.min(), normal.max(), QType(4))
    assert -3 < low < -2
    assert 2 < high < 3
    uniform = RNG.uniform(-1, 1, 20_000)
    assert mse_ranges.best_range(uniform, np.ones(uniform.size), -1.0, 1.0, INT8) == pytest.approx((-1, 1), abs=0.03)


def test_the_chosen_range_is_never_worse_than_the_observed_one() -> None:
    for values in (RNG.exponential(size=5000), RNG.standard_t(2, size=5000), -RNG.exponential(size=5000)):
        shares = np.full(values.size, 1 / values.size)
        bounds = float(values.min()), float(values.max())
        chosen = mse_ranges.best_range(values, shares, *bounds, INT8)
        lows, highs = np.array([chosen, bounds]).T
        errors = mse_ranges.squared_errors(values, shares, lows, highs, INT8)
        assert errors[0] <= errors[1]


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (3.0, 3.0), (-2.0, -2.0), (5.0, 6.0), (-6.0, -5.0), (-1e-40, 1e-40)])
def test_odd_ranges_stay_usable(bounds: tuple[float, float]) -> None:
    """Constants, ranges without zero, subnormal ones."""
    seen = Histogram()
    seen.update(np.array(bounds))
    low, high = mse_ranges.best_range(*seen.points, *bounds, INT8)
    params = numerics.activation_params(low, high, INT8)
    restored = numerics.dequantize(numerics.quantize(np.array(bounds), params, INT8), params)
    np.testing.assert_allclose(restored, bounds, atol=0.025)


# ---------------------------------------------------------------- weight scales and rounding


def output_error(weights: np.ndarray, codes: np.ndarray, scales: np.ndarray, gram: np.ndarray) -> np.ndarray:
    difference = weights - codes * scales
    return np.einsum("goi,gij,goj->go", difference, gram, difference)


def correlated(count: int, groups: int = 1) -> np.ndarray:
    mixing = RNG.normal(size=(groups, count, count)) @ np.diag(np.linspace(0.05, 2, count))
    return mixing @ mixing.transpose(0, 2, 1)


@pytest.mark.parametrize("qtype", [INT8_WEIGHT, INT4_WEIGHT])
@pytest.mark.parametrize(("groups", "count"), [(1, 150), (6, 9)])
def test_gptq_beats_rounding_to_nearest(qtype: QType, groups: int, count: int) -> None:
    gram = correlated(count, groups)
    weights = RNG.normal(size=(groups, 10, count))
    scales = np.abs(weights).max(axis=2, keepdims=True) / qtype.qmax
    codes, errors = gptq.round_weights(weights, scales, gptq.factor(gram), qtype)
    np.testing.assert_allclose(errors, output_error(weights, codes, scales, gram), rtol=1e-6)
    assert codes.min() >= qtype.qmin
    assert codes.max() <= qtype.qmax
    nearest = output_error(weights, np.rint(weights / scales), scales, gram).sum()
    assert output_error(weights, codes, scales, gram).sum() < 0.6 * nearest


def test_gptq_is_the_published_algorithm() -> None:
    """Against the textbook form: one column after another, errors spread by the inverse's Cholesky factor."""
    gram = correlated(20)
    weights = RNG.normal(size=(1, 4, 20))
    scales = np.full((1, 4, 1), 0.2)
    factors = gptq.factor(gram, damping=0.01)
    order = factors.order[0]
    damped = gram[0] + np.eye(20) * 0.01 * np.diagonal(gram[0]).mean()
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, expected = weights[0][:, order].copy(), np.zeros((4, 20))
    for j in range(20):
        expected[:, order[j]] = np.clip(np.rint(left[:, j] / 0.2), -127, 127)
        error = (left[:, j] - expected[:, order[j]] * 0.2) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    np.testing.assert_array_equal(gptq.round_weights(weights, scales, factors, INT8_WEIGHT)[0][0], expected)


@pytest.mark.parametrize(("groups", "count"), [(1, 40), (5, 9)])
def test_descent_never_makes_it_worse(groups: int, count: int) -> None:
    gram = correlated(count, groups) + 0.1 * np.eye(count)
    weights = RNG.normal(size=(groups, 10, count))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 7
    nearest = np.clip(np.rint(weights / scales), -7, 7)
    for codes in (nearest, gptq.round_weights(weights, scales, gptq.factor(gram), INT4_WEIGHT)[0]):
        better = descent.improve(weights, codes, scales, gram, INT4_WEIGHT)
        before, after = (output_error(weights, c, scales, gram) for c in (codes, better))
        assert (after <= before + 1e-9).all()
        assert after.sum() < before.sum()
        assert np.abs(better).max() <= 7


def test_descent_leaves_features_alone_that_are_always_zero() -> None:
    codes = RNG.integers(-7, 8, (1, 3, 4))
    np.testing.assert_array_equal(
        descent.improve(codes * 0.1, codes, np.full((1, 3, 1), 0.1), np.zeros((1, 4, 4)), INT4_WEIGHT), codes
    )


def test_gptq_rounds_to_nearest_where_inputs_say_nothing() -> None:
    weights = RNG.normal(size=(1, 3, 8))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 127
    nearest = np.rint(weights / scales)
    for gram in (
        np.zeros((1, 8, 8)),
        np.full((1, 8, 8), np.nan),
        np.eye(8)[None],
        np.diag([0.0] * 4 + [1.0] * 4)[None],
    ):
        np.testing.assert_array_equal(gptq.round_weights(weights, scales, gptq.factor(gram), INT8_WEIGHT)[0], nearest)


def test_gptq_survives_matrices_that_are_not_positive_definite() -> None:
    """Rank one from a single vector, and slightly negative eigenvalues, among healthy groups."""
    vector = RNG.normal(size=12)
    negative = np.eye(12) - 1.2 * np.outer(vector, vector) / (vector @ vector)
    gram = np.stack([np.outer(vector, vector), negative, correlated(12)[0]])
    weights = RNG.normal(size=(3, 5, 12))
    scales = np.abs(weights).max(axis=2, keepdims=True) / 127
    codes, _ = gptq.round_weights(weights, scales, gptq.factor(gram), INT8_WEIGHT)
    assert np.abs(weights - codes * scales).max() < 1.0
    alone = gptq.round_weights(weights[2:], scales[2:], gptq.factor(gram[2:]), INT8_WEIGHT)[0]
    np.testing.assert_array_equal(codes[2:], alone)


def test_scales_are_searched_for_four_bits() -> None:
    weights = RNG.standard_t(4, size=(1, 6, 400))
    largest = (np.abs(weights).max(axis=2, keepdims=True) / 7).astype(np.float32)
    for scales in (largest, largest.max(keepdims=True)):
        found = weight_scales.best_scales(weights, None, scales, INT4_WEIGHT)
        assert found.shape == scales.shape
        assert (found <= scales).all()

        def error(s: np.ndarray) -> float:
            return float(((weights - np.clip(np.rint(weights / s), -7, 7) * s) ** 2).sum())

        assert error(found) < 0.8 * error(scales)


def test_zero_weights_keep_their_scale() -> None:
    scales = np.full((1, 2, 1), 1 / 7, np.float32)
    np.testing.assert_array_equal(weight_scales.best_scales(np.zeros((1, 2, 5)), None, scales, INT4_WEIGHT), scales)


def test_bias_correction_keeps_the_mean() -> None:
    weights, restored = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
    inputs = RNG.normal(1, 1, (50, 2, 4))
    bias = RNG.normal(size=6)
    wanted = np.einsum("pgf,gof->pgo", inputs, weights).mean(0).reshape(-1) + bias
    fixed = bias_correction.corrected(bias, weights, restored, inputs.mean(0))
    got = np.einsum("pgf,gof->pgo", inputs, restored).mean(0).reshape(-1) + fixed
    np.testing.assert_allclose(got, wanted)


# ---------------------------------------------------------------- every weighted op as a matrix product


def op_of(program: Program) -> Op:
    return program.main.ops[-1]


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_matrix_view_gives_what_the_kernel_gives(name: str) -> None:
    """W[g] @ x[p, g] + bias over all positions is the op's output on LiteRT."""
    program = PRODUCTS[name]
    op = op_of(program)
    index, data = (1, 2) if op.code == "TRANSPOSE_CONV" else (1, 0)
    kernel = op.inputs[index].values
    shaped = IMAGES[:1].reshape(op.inputs[data].shape)
    matrix = to_matrix(op, kernel)
    np.testing.assert_array_equal(from_matrix(op, matrix, kernel.shape), kernel)
    rows = input_rows(op, shaped, EVERYTHING, np.random.default_rng(0))
    outputs = np.einsum("pgf,gof->pgo", rows, matrix)
    if len(op.inputs) > index + 1 and op.code != "BATCH_MATMUL":
        outputs = outputs + op.inputs[3 if data == 2 else 2].values.reshape(
            scale_matrix(op, np.ones(outputs[0].size)).shape[:2]
        )
    if name == "matmul batched":
        outputs = outputs.transpose(1, 0, 2)
    got = octavo.Runner(Model(program), kernels="builtin")(IMAGES[:1])
    np.testing.assert_allclose(outputs.reshape(got.shape), got, atol=1e-4)


def test_sampled_positions_are_some_of_all() -> None:
    op = op_of(PRODUCTS["conv strided"])
    every = {row.tobytes() for row in input_rows(op, IMAGES[:1], EVERYTHING, RNG)}
    some = input_rows(op, IMAGES[:1], 5, RNG)
    assert some.shape == (5, 1, 24)
    assert {row.tobytes() for row in some} <= every


# ---------------------------------------------------------------- on models


def skewed_cnn() -> Program:
    """Depthwise and pointwise layers whose channels differ widely, and inputs with outliers: hard to round."""
    b = Builder(3)
    x = b.conv(b.input("image", (1, 8, 8, 4)), "stem", 16, act=1)
    for index in range(3):
        kernel = b.weights(f"dw{index}/kernel", 1, 3, 3, 16)
        kernel.set_values(kernel.values * np.float32(10) ** b.rng.uniform(-1, 0.5, 16).astype(np.float32))
        options = {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": 1, "fusedActivationFunction": 1}
        inputs = [x, kernel, b.weights(f"dw{index}/bias", 16)]
        x = b.op("DEPTHWISE_CONV_2D", inputs, f"dw{index}", (1, 8, 8, 16), "DepthwiseConv2DOptions", **options)
        x = b.conv(x, f"pw{index}", 16, act=1)
    return b.program(b.dense(b.reshape(x, "flat", (1, 1024)), "logits", 10))


def decibels(reference: Model, small: Model) -> float:
    unseen = smooth(64, 99)
    return numerics.sqnr_db(octavo.Runner(reference)(unseen), octavo.Runner(small)(unseen))


def test_balanced_is_better_than_fast() -> None:
    """16-bit activations leave the weights' errors alone on the stage."""
    reference = Model(skewed_cnn())
    fast = octavo.quantize(reference, octavo.integer(activations=16, effort="fast"), smooth(32, 1))
    balanced = octavo.quantize(reference, octavo.integer(activations=16), smooth(32, 1))
    assert decibels(reference, balanced) > decibels(reference, fast) + 1
    assert balanced.nbytes == fast.nbytes


@pytest.mark.parametrize(
    "scheme", [octavo.integer(), octavo.integer(activations=16), octavo.integer(per_channel=False)]
)
def test_the_file_does_not_depend_on_the_order_of_samples(scheme: octavo.Scheme) -> None:
    reference = Model(skewed_cnn())
    files = {bytes(octavo.quantize(reference, scheme, IMAGES[order])) for order in (slice(None), slice(None, None, -1))}
    assert len(files) == 1


def test_an_unknown_effort_is_an_error() -> None:
    with pytest.raises(octavo.RecipeError, match=r"effort='fastest'.*fast, balanced, best"):
        octavo.integer(effort="fastest")


def degenerate(case: str) -> tuple[Program, np.ndarray]:
    """A model, or samples, with one thing wrong."""
    program, samples = skewed_cnn(), IMAGES.copy()
    ops = {op.outputs[0].name: op for op in program.main.ops}
    match case:
        case "a single sample":
            samples = samples[:1]
        case "constant samples":
            samples[:] = 0.25
        case "zero samples":
            samples[:] = 0
        case "a constant channel":
            samples[..., 1] = 0.5
        case "dead channels":
            ops["stem"].inputs[2].set_values(np.full(16, -100, np.float32))
        case "zero weights":
            ops["pw1"].inputs[1].set_values(np.zeros((16, 3, 3, 16), np.float32))
        case "a zero channel":
            kernel = ops["dw1"].inputs[1].values.copy()
            kernel[..., 3] = 0
            ops["dw1"].inputs[1].set_values(kernel)
        case "outliers":
            samples[3, 2, 2, 0] = 1e6
        case "ranges without zero":
            samples += 10
        case "tiny values":
            samples *= np.float32(1e-30)
    return program, samples


CASES = (
    "a single sample", "constant samples", "zero samples", "a constant channel", "dead channels", "zero weights",
    "a zero channel", "outliers", "ranges without zero", "tiny values",
)  # fmt: skip


@pytest.mark.parametrize("request_", [{}, {"per_channel": False}, {"weights": 4}])
@pytest.mark.parametrize("case", CASES)
def test_degenerate_models_and_samples(case: str, request_: dict[str, Any]) -> None:
    """The file loads, runs on both kernel sets, gives finite numbers, and isn't worse than rounding to nearest."""
    program, samples = degenerate(case)
    reference = Model(program)
    want = octavo.Runner(reference)(samples)
    errors = {}
    for effort in ("fast", "balanced"):
        small = octavo.quantize(
            reference, octavo.integer(fallback=False, io="float32", effort=effort, **request_), samples
        )
        for kernels in ("xnnpack", "builtin"):
            got = octavo.Runner(small, kernels=kernels)(samples)
            assert np.isfinite(got).all()
        errors[effort] = float(((got - want) ** 2).sum())
    span = float(want.max() - want.min()) or 1.0
    assert errors["balanced"] <= 1.1 * errors["fast"] + want.size * (span / 100) ** 2


# ---------------------------------------------------------------- four bits


@pytest.mark.parametrize(
    ("kind", "scheme", "kept", "dtype"),
    [
        ("CONV_2D", octavo.integer(weights=4), "int4", DType.INT4),
        ("DEPTHWISE_CONV_2D", octavo.integer(weights=4), "int4", DType.INT4),
        ("FULLY_CONNECTED", octavo.integer(weights=4), "int4", DType.INT4),
        ("TRANSPOSE_CONV", octavo.integer(weights=4), "4 bits in int8", DType.INT8),
        ("BATCH_MATMUL", octavo.integer(weights=4), "4 bits in int8", DType.INT8),
        ("CONV_2D", octavo.integer(weights=4, activations=16), "4 bits in int8", DType.INT8),
        ("DEPTHWISE_CONV_2D", octavo.integer(weights=4, activations=16), "4 bits in int8", DType.INT8),
        ("CONV_2D", octavo.dynamic_range(1, weights=4), "int4", DType.INT4),
        ("DEPTHWISE_CONV_2D", octavo.dynamic_range(1, weights=4), "4 bits in int8", DType.INT8),
        ("FULLY_CONNECTED", octavo.dynamic_range(1, weights=4), "int4", DType.INT4),
    ],
)
def test_four_bits_are_stored_as_int4_where_a_kernel_takes_it(
    kind: str, scheme: octavo.Scheme, kept: str, dtype: DType
) -> None:
    row = OPS[kind]
    reference = Model(build(row))
    samples = [feed(row, RNG) for _ in range(16)]
    small = octavo.quantize(reference, scheme, samples)
    weighted = next(op for op in small.program.main.ops if op.code == kind)
    kernel = weighted.inputs[row.weights.index]
    assert kernel.dtype is dtype
    codes = numerics.unpack_int4(kernel.data, kernel.size) if dtype is DType.INT4 else kernel.values
    assert np.abs(codes).max() <= 7
    assert kept in str(small.summary())
    reloaded = octavo.load(bytes(small))
    verify(reloaded.program)
    for kernels in ("xnnpack", "builtin"):
        want = np.concatenate([octavo.Runner(reference)(sample).ravel() for sample in samples])
        got = np.concatenate([octavo.Runner(reloaded, kernels=kernels)(sample).ravel() for sample in samples])
        assert numerics.sqnr_db(want, got) > 20


@pytest.mark.parametrize("calibrated", [False, True])
def test_four_bit_weights_for_storage_only(calibrated: bool) -> None:
    reference = Model(skewed_cnn())
    small = octavo.quantize(reference, octavo.weight_only(256, weights=4), smooth(32, 1) if calibrated else None)
    eight = octavo.quantize(reference, octavo.weight_only(256))
    assert small.nbytes < 0.7 * eight.nbytes
    assert decibels(reference, small) > (17 if calibrated else 10)


def test_other_widths_of_weights_are_refused() -> None:
    for make in (octavo.integer, octavo.dynamic_range, octavo.weight_only):
        with pytest.raises(octavo.RecipeError, match=r"weights=3: .*8 and 4 bits"):
            make(weights=3)
