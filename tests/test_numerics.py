"""Every rule of `octavo.numerics` against exact rational arithmetic."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from octavo import numerics
from octavo.qtypes import (
    INT4_WEIGHT,
    INT8,
    INT8_WEIGHT,
    INT16,
    INT32_BIAS,
    INT64_BIAS,
    UINT8,
    QParams,
    QType,
)

SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
FLOAT32_MAX = float(np.finfo(np.float32).max)
ACTIVATIONS = [INT8, UINT8, INT16]
WEIGHTS = [INT8_WEIGHT, INT4_WEIGHT, INT16]

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
scales32 = st.floats(min_value=SMALLEST_NORMAL, max_value=2.0**100, width=32)


def f32(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def exact_round(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    return int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x))


def exact_code(value: float, scale: float, zero_point: int, qtype: QType) -> int:
    return min(max(exact_round(Fraction(value) / Fraction(scale)) + zero_point, qtype.qmin), qtype.qmax)


def is_good_scale(scale: np.ndarray) -> bool:
    return scale.dtype == np.float32 and bool(np.all((scale >= SMALLEST_NORMAL) & np.isfinite(scale)))


# Rounding


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.float32(0.49999997), 0),
        (np.float64(0.49999999999999994), 0),
        (np.float32(0.5), 1),
        (np.float32(-0.5), -1),
        (np.float32(2.5), 3),
        (np.float32(-2.5), -3),
        (np.float32(8388609.0), 8388609),
        (np.float64(2.0**52 + 1), 2**52 + 1),
        (7, 7),
    ],
)
def test_round_half_away_at_the_edges(x: float, expected: int) -> None:
    assert numerics.round_half_away(x) == expected


@given(st.floats(allow_nan=False, allow_infinity=False) | floats32 | st.integers(-1000, 1000).map(lambda n: n / 2))
def test_round_half_away_is_exact(x: float) -> None:
    assert int(numerics.round_half_away(x)) == exact_round(Fraction(x))


@given(floats32)
def test_round_half_away_is_exact_in_float32(x: float) -> None:
    rounded = numerics.round_half_away(np.float32(x))
    assert rounded.dtype == np.float32
    assert int(rounded) == exact_round(Fraction(x))


def test_round_half_away_makes_float64_of_integers() -> None:
    rounded = numerics.round_half_away(np.array([7, -8], np.int8))
    assert rounded.dtype == np.float64 and rounded.tolist() == [7, -8]


def test_round_half_away_keeps_infinity_and_nan() -> None:
    rounded = numerics.round_half_away([np.inf, -np.inf, np.nan])
    assert rounded[0] == np.inf
    assert rounded[1] == -np.inf
    assert np.isnan(rounded[2])


# Activation parameters


@pytest.mark.parametrize("qtype", ACTIVATIONS)
@given(a=floats32, b=floats32)
def test_activation_params_hold_zero_and_the_range(qtype: QType, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    params = numerics.activation_params(low, high, qtype)
    zero_point = int(params.zero_point[0])
    assert is_good_scale(params.scale)
    assert params.axis is None
    assert qtype.qmin <= zero_point <= qtype.qmax
    assert zero_point == 0 or not qtype.symmetric
    assert numerics.quantize(0.0, params, qtype) == zero_point
    assert numerics.dequantize(zero_point, params) == 0.0
    scale = Fraction(float(params.scale[0]))
    # Half a step, plus what rounding the scale to float32 moves the far end of the range.
    allowed = scale * (Fraction(1, 2) + Fraction(qtype.qmax - qtype.qmin, 2**23))
    for value in (low, high, 0.0, low / 3, high / 3):
        code = int(numerics.quantize(np.float64(value), params, qtype))
        assert abs(scale * (code - zero_point) - Fraction(value)) <= allowed


@given(low=st.floats(-(2.0**100), 0, width=32), high=st.floats(0, 2.0**100, width=32))
def test_asymmetric_params_are_the_formula(low: float, high: float) -> None:
    assume(high - low > 1e-30)
    params = numerics.activation_params(low, high, INT8)
    step = (Fraction(high) - Fraction(low)) / 255
    assert abs(Fraction(float(params.scale[0])) - step) <= step / 2**24
    exact = -128 - Fraction(low) / step
    assert abs(int(params.zero_point[0]) - exact) <= Fraction(1, 2) + Fraction(1, 2**40)


@pytest.mark.parametrize(
    ("low", "high", "qtype", "scale", "zero_point"),
    [
        (-1, 1, INT8, 2 / 255, -1),  # as TensorFlow's converter: the tie -0.5 goes to -1
        (-1, 1, UINT8, 2 / 255, 128),
        (0, 255, UINT8, 1, 0),
        (0, 1, INT8, 1 / 255, -128),
        (-1, 0, INT8, 1 / 255, 127),
        (2, 4, INT8, 4 / 255, -128),  # widened to hold 0
        (-4, -2, INT8, 4 / 255, 127),
        (-2, 1, INT16, 2 / 32767, 0),
        (0, 0, INT8, 1 / 255, -128),
        (0, 0, INT16, 1 / 32767, 0),
        (0, 1e-42, INT8, 1 / 255, -128),
        (-1e-42, 0, INT8, 1 / 255, -128),  # counts as [0, 1]
        (-1e-42, 0, INT16, 1 / 32767, 0),
        (-1e-37, 0, INT8, 1 / 255, -128),  # of the span a normal number, of the scale none
        (-255 * SMALLEST_NORMAL, 0, INT8, SMALLEST_NORMAL, 127),  # just large enough
    ],
)
def test_known_activation_params(low: float, high: float, qtype: QType, scale: float, zero_point: int) -> None:
    assert numerics.activation_params(low, high, qtype) == QParams.per_tensor(scale, zero_point)


@pytest.mark.parametrize("qtype", ACTIVATIONS)
@pytest.mark.parametrize("bound", [FLOAT32_MAX, 1e30, 1e-30, 1e-36, 1e-42])
def test_extreme_ranges_give_normal_scales_and_finite_values(qtype: QType, bound: float) -> None:
    for low, high in ((-bound, bound), (0.0, bound), (-bound, 0.0)):
        params = numerics.activation_params(low, high, qtype)
        assert is_good_scale(params.scale)
        assert np.isfinite(numerics.dequantize([qtype.qmin, qtype.qmax], params)).all()


@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1), (0, math.nan), (-math.inf, 1), (0, math.inf), (1, 0), (0, 1e39)]
)
@pytest.mark.parametrize("qtype", ACTIVATIONS)
def test_senseless_ranges_are_refused(qtype: QType, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="range"):
        numerics.activation_params(low, high, qtype)


# Weight parameters


@pytest.mark.parametrize("qtype", WEIGHTS)
@given(data=st.data())
def test_weight_scales_are_the_largest_magnitude(qtype: QType, data: st.DataObject) -> None:
    weights = data.draw(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=floats32))
    axis = data.draw(st.none() | st.integers(-weights.ndim, weights.ndim - 1))
    params = numerics.weight_params(weights, qtype, axis)
    assert is_good_scale(params.scale)
    assert not params.zero_point.any()
    assert params.axis == (None if axis is None else axis % weights.ndim)
    channels = [weights] if axis is None else list(np.moveaxis(weights, axis, 0))
    assert params.scale.shape == params.zero_point.shape == (len(channels),)
    for channel, scale in zip(channels, params.scale, strict=True):
        exact = max(abs(Fraction(float(w))) for w in channel.reshape(-1)) / qtype.qmax
        if exact < Fraction(SMALLEST_NORMAL):
            assert scale == np.float32(1 / qtype.qmax)
        else:
            assert abs(Fraction(float(scale)) - exact) <= exact / 2**24
    codes = numerics.quantize(weights, params, qtype)
    assert np.abs(codes.astype(np.int64)).max(initial=0) <= qtype.qmax


def test_dead_and_empty_channels_have_valid_scales() -> None:
    weights = np.array([[0, 0], [1, -2], [1e-42, 0]], np.float32)
    params = numerics.weight_params(weights, INT8_WEIGHT, 0)
    np.testing.assert_array_equal(params.scale, f32([1 / 127, 2 / 127, 1 / 127]))
    np.testing.assert_array_equal(numerics.quantize(weights, params, INT8_WEIGHT), [[0, 0], [64, -127], [0, 0]])
    assert numerics.weight_params(np.zeros((0, 3), np.float32), INT8_WEIGHT, None).scale == np.float32(1 / 127)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_weights_must_be_finite_float32(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^weights hold NaN, infinity or values beyond float32$"):
        numerics.weight_params(np.array([1.0, bad]), INT8_WEIGHT, None)


def test_weight_axis_must_exist() -> None:
    with pytest.raises(ValueError, match="axis 2 of a tensor with 2 dimensions"):
        numerics.weight_params(np.ones((2, 2), np.float32), INT8_WEIGHT, 2)


@given(st.lists(st.tuples(floats32, floats32), min_size=1))
def test_merged_range_is_the_smallest_that_holds_all(ranges: list[tuple[float, float]]) -> None:
    low, high = numerics.merge_ranges(ranges)
    assert all(low <= a and b <= high for a, b in ranges)
    assert low in [a for a, _ in ranges]
    assert high in [b for _, b in ranges]


@pytest.mark.parametrize("ranges", [[], [(0.0, math.nan)]])
def test_nothing_to_merge(ranges: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="merge"):
        numerics.merge_ranges(ranges)


# Codes


@pytest.mark.parametrize("qtype", [INT8, UINT8, INT16, INT8_WEIGHT, INT4_WEIGHT])
@given(value=floats32, scale=scales32, offset=st.integers(0, 255))
def test_codes_are_exactly_rounded(qtype: QType, value: float, scale: float, offset: int) -> None:
    zero_point = 0 if qtype.symmetric else qtype.qmin + offset
    code = numerics.quantize(np.float32(value), QParams.per_tensor(scale, zero_point), qtype)
    assert int(code) == exact_code(value, scale, zero_point, qtype)


@pytest.mark.parametrize("qtype", [INT8, INT16])
@given(scale=scales32, code=st.integers(-32768, 32766), nudge=st.integers(-2, 2))
def test_codes_next_to_ties_are_exactly_rounded(qtype: QType, scale: float, code: int, nudge: int) -> None:
    """The neighbourhood of (code + 1/2) * scale, which random values never hit."""
    assume(scale < 2.0**90)
    value = np.float32((code + 0.5) * scale)
    for _ in range(abs(nudge)):
        value = np.nextafter(value, np.float32(math.copysign(math.inf, nudge)))
    params = QParams.per_tensor(scale)
    assert int(numerics.quantize(value, params, qtype)) == exact_code(float(value), scale, 0, qtype)


@given(data=st.data())
def test_per_channel_codes_and_values_use_their_channels_scale(data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=3), elements=floats32))
    axis = data.draw(st.integers(0, values.ndim - 1))
    channels = values.shape[axis]
    scale = data.draw(hnp.arrays(np.float32, channels, elements=scales32))
    zero_point = data.draw(hnp.arrays(np.int64, channels, elements=st.integers(-128, 127)))
    params = QParams(scale, zero_point, axis)
    codes = numerics.quantize(values, params, INT8)
    real = numerics.dequantize(codes, params)
    assert codes.dtype == np.int8
    assert real.dtype == np.float32
    assert codes.shape == real.shape == values.shape
    for channel in range(channels):
        single = QParams.per_tensor(scale[channel], zero_point[channel])
        part = np.take(codes, channel, axis)
        np.testing.assert_array_equal(part, numerics.quantize(np.take(values, channel, axis), single, INT8))
        np.testing.assert_array_equal(np.take(real, channel, axis), numerics.dequantize(part, single))


@pytest.mark.parametrize("qtype", [INT8, UINT8, INT16])
@given(data=st.data(), scale=scales32)
def test_dequantized_values_are_the_exact_product_rounded_once(qtype: QType, data: st.DataObject, scale: float) -> None:
    code = data.draw(st.integers(qtype.qmin, qtype.qmax))
    zero_point = data.draw(st.integers(qtype.qmin, qtype.qmax))
    params = QParams.per_tensor(scale, zero_point)
    real = numerics.dequantize(np.array(code, numerics.quantize(0.0, params, qtype).dtype), params)
    # The product of a 24-bit and a 17-bit number is exact in float64.
    assert real == np.float32(float(Fraction(scale) * (code - zero_point)))


@given(scale=st.floats(2.0**-60, 2.0**60, width=32), code=st.integers(-128, 127), zero_point=st.integers(-128, 127))
def test_codes_survive_the_round_trip(scale: float, code: int, zero_point: int) -> None:
    params = QParams.per_tensor(scale, zero_point)
    assert numerics.quantize(numerics.dequantize(np.int8(code), params), params, INT8) == code


@pytest.mark.parametrize(
    ("qtype", "dtype"),
    [
        (INT8, "int8"),
        (UINT8, "uint8"),
        (INT4_WEIGHT, "int8"),
        (QType(9), "int16"),
        (INT16, "int16"),
        (INT32_BIAS, "int32"),
        (INT64_BIAS, "int64"),
    ],
)
def test_codes_saturate_in_the_type_that_stores_them(qtype: QType, dtype: str) -> None:
    codes = numerics.quantize([-math.inf, -3e38, 3e38, math.inf], QParams.per_tensor(1e-30), qtype)
    assert codes.dtype == dtype
    top = 2**63 - 1024 if qtype is INT64_BIAS else qtype.qmax  # the largest float64 below 2^63
    assert codes.tolist() == [qtype.qmin, qtype.qmin, top, top]


def test_large_tensors_are_quantized_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
    params = numerics.weight_params(values, INT8_WEIGHT, 0)
    whole = numerics.quantize(values, params, INT8_WEIGHT)
    real = numerics.dequantize(whole, params)
    monkeypatch.setattr(numerics, "_SLAB", 30)
    np.testing.assert_array_equal(numerics.quantize(values, params, INT8_WEIGHT), whole)
    np.testing.assert_array_equal(numerics.dequantize(whole, params), real)


def test_slabs_bound_the_memory_in_float64() -> None:
    values = np.ones((1 << 11, 1 << 10), np.float32)
    params = QParams.per_tensor(0.5, 1)
    tracemalloc.start()
    try:
        codes = numerics.quantize(values, params, INT8)
        most = tracemalloc.get_traced_memory()[1] - codes.nbytes
        tracemalloc.reset_peak()
        real = numerics.dequantize(codes, params)
        most_back = tracemalloc.get_traced_memory()[1] - codes.nbytes - real.nbytes
    finally:
        tracemalloc.stop()
    # In one piece, each copy in float64 would be 8 bytes for each value.
    assert most < values.size and most_back < values.size


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(0), np.float32(1)])
def test_empty_arrays_and_scalars(values: np.ndarray) -> None:
    codes = numerics.quantize(values, QParams.per_tensor(0.5), INT8)
    assert codes.shape == values.shape
    assert numerics.dequantize(codes, QParams.per_tensor(0.5)).shape == values.shape


def test_nan_has_no_code() -> None:
    with pytest.raises(ValueError, match=r"^NaN has no code$"):
        numerics.quantize([0.0, math.nan], QParams.per_tensor(1.0), INT8)


def test_scales_must_fit_the_shape() -> None:
    params = QParams(np.ones(3), np.zeros(3), 1)
    with pytest.raises(ValueError, match=r"3 scales along axis 1 don't fit the shape \(3, 4\)"):
        numerics.quantize(np.ones((3, 4)), params, INT8)
    with pytest.raises(ValueError, match="don't fit"):
        numerics.dequantize(np.ones(3, np.int8), params)


# Bias


@given(input_scale=scales32, weight_scales=st.lists(scales32, min_size=1, max_size=4))
def test_bias_scale_is_the_product_in_float32(input_scale: float, weight_scales: list[float]) -> None:
    products = [Fraction(input_scale) * Fraction(w) for w in weight_scales]
    assume(all(SMALLEST_NORMAL <= p < 2**127 for p in products))
    params = numerics.bias_params(input_scale, f32(weight_scales))
    assert params.axis == (0 if len(products) > 1 else None)
    assert not params.zero_point.any()
    for scale, product in zip(params.scale, products, strict=True):
        assert abs(Fraction(float(scale)) - product) <= product / 2**24
    kernel_product = np.float32(input_scale) * f32(weight_scales)
    np.testing.assert_array_equal(params.scale, kernel_product)


@pytest.mark.parametrize(("a", "b"), [(1e-30, 1e-30), (1e-20, 1e-19), (1e30, 1e30)])
def test_bias_scale_must_be_normal(a: float, b: float) -> None:
    with pytest.raises(ValueError, match="normal float32"):
        numerics.bias_params(a, f32([b]))


def test_bias_scales_reach_the_ends_of_the_normal_numbers() -> None:
    ends = f32([SMALLEST_NORMAL, FLOAT32_MAX])
    np.testing.assert_array_equal(numerics.bias_params(1.0, ends).scale, ends)


@pytest.mark.parametrize("qtype", [INT32_BIAS, INT64_BIAS])
@given(bias=st.floats(-1e3, 1e3, width=32), scale=st.floats(2.0**-17, 2.0**17, width=32))
def test_bias_codes_are_exactly_rounded(qtype: QType, bias: float, scale: float) -> None:
    codes = numerics.quantize_bias([bias], QParams.per_tensor(scale), qtype)
    assert codes.dtype == f"int{qtype.bits}"
    assert int(codes[0]) == exact_round(Fraction(bias) / Fraction(scale))


@pytest.mark.parametrize("bad", [3e9, -3e9, math.nan, math.inf])
def test_bias_is_never_clipped(bad: float) -> None:
    with pytest.raises(ValueError, match="no 32-bit code"):
        numerics.quantize_bias([1.0, bad], QParams.per_tensor(1.0), INT32_BIAS)


def test_bias_codes_reach_the_ends_of_the_type() -> None:
    codes = numerics.quantize_bias([-(2**31), 2**31 - 1], QParams.per_tensor(1.0), INT32_BIAS)
    assert codes.tolist() == [-(2**31), 2**31 - 1]
    with pytest.raises(ValueError, match=r"^bias 2147483648\.0 has no 32-bit code at scale 1\.0$"):
        numerics.quantize_bias([0, 2**31], QParams.per_tensor(1.0), INT32_BIAS)


@given(
    input_scale=st.floats(2.0**-100, 2.0**20, width=32),
    weight_scales=st.lists(st.floats(2.0**-100, 2.0**20, width=32), min_size=3, max_size=3),
    bias=st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=3, max_size=3),
    per_channel=st.booleans(),
    qtype=st.sampled_from([INT32_BIAS, INT64_BIAS]),
)
def test_widened_scales_hold_the_bias_and_no_more(
    input_scale: float, weight_scales: list[float], bias: list[float], per_channel: bool, qtype: QType
) -> None:
    scale = f32(weight_scales if per_channel else weight_scales[:1])
    before = QParams(scale, np.zeros(scale.size), 0 if per_channel else None)
    try:
        after = numerics.widen_for_bias(before, input_scale, bias, qtype)
    except ValueError:
        assert max(map(abs, bias)) / (input_scale * qtype.qmax / 2) > FLOAT32_MAX * (1 - 1e-6)
        return
    assert after.axis == before.axis
    assert numerics.widen_for_bias(after, input_scale, bias, qtype) is after
    product = numerics.bias_params(input_scale, after.scale)  # raises unless normal
    codes = numerics.quantize_bias(bias, product, qtype)
    assert max(abs(int(code)) for code in codes) <= Fraction(qtype.qmax, 2) * (1 + Fraction(1, 2**22))
    needs = [abs(Fraction(b)) for b in bias] if per_channel else [max(abs(Fraction(b)) for b in bias)]
    for old, new, need in zip(before.scale, after.scale, needs, strict=True):
        smallest = max(need / Fraction(qtype.qmax, 2), Fraction(SMALLEST_NORMAL)) / Fraction(input_scale)
        assert new >= old
        assert new == old or Fraction(float(new)) <= smallest * (1 + Fraction(1, 2**21))


def test_widening_keeps_good_scales_as_they_are() -> None:
    params = QParams(f32([0.1, 1e-12, 0.1]), np.zeros(3), 3)
    assert numerics.widen_for_bias(params, 0.1, [1.0, 0.0, -1.0]) is params
    assert numerics.widen_for_bias(params, 0.1, None) is params
    wider = numerics.widen_for_bias(params, 0.1, [1.0, 1.0, -1.0])
    assert wider.scale[0] == params.scale[0]
    assert wider.scale[2] == params.scale[2]
    assert wider.scale[1] == pytest.approx(1.0 / (0.1 * (2**31 - 1) / 2))


def test_widening_saves_products_that_underflow() -> None:
    params = numerics.widen_for_bias(QParams.per_tensor(1e-25), 1e-20, None)
    assert numerics.bias_params(1e-20, params.scale).scale[0] == pytest.approx(SMALLEST_NORMAL)


def test_widening_stops_where_it_may() -> None:
    # 2^-66 * 2^-60 is the smallest normal number: not an ulp more.
    assert numerics.widen_for_bias(QParams.per_tensor(2.0**-100), 2.0**-60, None).scale[0] == 2.0**-66
    # And up to the largest float32, here for codes of 16 bits, with which all is exact.
    qtype = QType(16, symmetric=True)
    needed = FLOAT32_MAX * 2.0**-20
    largest = numerics.widen_for_bias(QParams.per_tensor(1.0), 2.0**-20, [needed * (qtype.qmax / 2)], qtype)
    assert largest.scale[0] == np.float32(FLOAT32_MAX)


def test_widening_takes_biases_of_any_shape_and_type() -> None:
    params = QParams(f32([1e-12, 1e-12]), np.zeros(2), 0)
    expected = numerics.widen_for_bias(params, 0.1, [-128.0, 1.0])
    assert expected.scale[0] > 100 * expected.scale[1]
    assert numerics.widen_for_bias(params, 0.1, np.array([[-128], [1]], np.int8)) == expected


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ([1.0, math.nan], "^a bias is NaN or infinite$"),
        ([math.inf, 0.0], "^a bias is NaN or infinite$"),
        ([1.0], "^1 biases for 2 weight scales$"),
        ([1e38, 0.0], r"^a bias of 1e\+38 is beyond any weight scale for the input scale 1\.000000\S+e-30$"),
    ],
)
def test_biases_that_cannot_be_held(bias: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numerics.widen_for_bias(QParams(np.ones(2), np.zeros(2), 0), 1e-30, bias)


@given(data=st.data(), qtype=st.sampled_from(ACTIVATIONS))
def test_accumulator_bound_is_exact(data: st.DataObject, qtype: QType) -> None:
    codes = data.draw(hnp.arrays(np.int8, (2, 3, 2), elements=st.integers(-128, 127)))
    axis = data.draw(st.sampled_from([0, 1, 2, -1]))
    zero_point = 0 if qtype.symmetric else data.draw(st.integers(qtype.qmin, qtype.qmax))
    largest = max(abs(qtype.qmin - zero_point), abs(qtype.qmax - zero_point))
    sums = [sum(abs(int(w)) for w in channel.reshape(-1)) * largest for channel in np.moveaxis(codes, axis, 0)]
    room = np.array([2**31 - 1 - s for s in sums])
    sign = data.draw(st.sampled_from([1, -1]))
    assert numerics.accumulator_fits_int32(codes, axis, qtype, zero_point, sign * room)
    one_more = room.copy()
    one_more[data.draw(st.integers(0, room.size - 1))] += 1
    assert not numerics.accumulator_fits_int32(codes, axis, qtype, zero_point, sign * one_more)
    assert numerics.accumulator_fits_int32(codes, axis, qtype, zero_point, None)


def test_long_sums_and_huge_biases_overflow_the_accumulator() -> None:
    long = np.full((1, 70000), 127, np.int8)
    assert not numerics.accumulator_fits_int32(long, 0, INT8, 127, None)
    assert numerics.accumulator_fits_int32(long[:, :60000], 0, INT8, 127, None)
    assert not numerics.accumulator_fits_int32(np.ones((1, 1), np.int8), 0, INT8, 0, np.array([-(2**63)]))


# Storage


@given(hnp.arrays(np.int8, st.integers(0, 9), elements=st.integers(-8, 7)))
def test_int4_packing_round_trips_low_nibble_first(codes: np.ndarray) -> None:
    packed = numerics.pack_int4(codes)
    assert packed.dtype == np.uint8
    assert packed.size == (codes.size + 1) // 2
    for i, code in enumerate(codes):
        assert (int(packed[i // 2]) >> (4 * (i % 2))) & 0xF == int(code) % 16
    if codes.size % 2:
        assert packed[-1] >> 4 == 0
    unpacked = numerics.unpack_int4(packed, codes.size)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, codes)


def test_int4_packing_goes_row_by_row_whatever_the_integers() -> None:
    packed = numerics.pack_int4(np.array([[1, -2, 3], [-4, 5, -6]]))
    assert packed.tolist() == [0xE1, 0xC3, 0xA5]
    assert numerics.unpack_int4(np.array([[0xE1], [0xC3]]), 3).tolist() == [1, -2, 3]


def test_int4_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="4 bits"):
        numerics.pack_int4(np.array([8], np.int8))
    with pytest.raises(ValueError, match="4 bits"):
        numerics.pack_int4(np.array([-9], np.int8))
    with pytest.raises(ValueError, match="2 bytes can't hold 5 codes"):
        numerics.unpack_int4(np.zeros(2, np.uint8), 5)


def exact_float16(value: float) -> float:
    """Nearest float16, ties to even; the exponent of the last bit is at least -24 (subnormals), 10 below the first."""
    exact = Fraction(value)
    if exact == 0:
        return value
    last = max(math.frexp(value)[1] - 11, -24)
    rounded = float(round(exact / Fraction(2) ** last) * Fraction(2) ** last)
    return min(max(rounded, -65504.0), 65504.0)


@given(floats32 | st.floats(-70000, 70000, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32))
def test_float16_is_the_nearest_and_saturates(value: float) -> None:
    half = numerics.to_float16(np.float32(value))
    assert half.dtype == np.float16
    assert float(half) == exact_float16(value)


def test_float16_keeps_nan_infinity_and_signed_zero() -> None:
    half = numerics.to_float16(f32([np.inf, -np.inf, np.nan, -0.0, 65520, -1e30, -1.5]))
    assert half[0] == np.inf
    assert half[1] == -np.inf
    assert np.isnan(half[2])
    assert half[3] == 0
    assert np.signbit(half[3])
    assert half[4] == 65504
    assert half[5] == -65504
    assert half[6] == -1.5


# Differences

pairs = hnp.array_shapes(max_dims=2, max_side=5).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32))] * 2)
)


@given(pairs)
def test_sqnr_is_the_ratio_of_exact_sums(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, other = ([Fraction(float(v)) for v in array.reshape(-1)] for array in pair)
    signal = sum(r * r for r in reference)
    noise = sum((r - o) ** 2 for r, o in zip(reference, other, strict=True))
    measured = numerics.sqnr_db(*pair)
    if noise == 0:
        assert measured == math.inf
    elif signal == 0:
        assert measured == -math.inf
    else:
        expected = 10 * (math.log10(signal.numerator) - math.log10(signal.denominator))
        expected -= 10 * (math.log10(noise.numerator) - math.log10(noise.denominator))
        assert measured == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(pairs)
def test_cosine_squared_is_the_exact_ratio(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = ([Fraction(float(v)) for v in array.reshape(-1)] for array in pair)
    measured = numerics.cosine(*pair)
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    if norms == 0:
        assert measured == float(not any(a) and not any(b))
    else:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        assert measured == pytest.approx(math.copysign(math.sqrt(dot * dot / norms), dot), abs=1e-7)
        assert -1 <= measured <= 1


def test_differences_of_special_arrays() -> None:
    assert numerics.sqnr_db([1.0, 0.0], [0.9, 0.0]) == pytest.approx(20.0)
    assert numerics.sqnr_db([0.0], [0.0]) == math.inf
    assert numerics.sqnr_db([0.0], [1.0]) == -math.inf
    assert math.isnan(numerics.sqnr_db([math.nan], [1.0]))
    assert math.isnan(numerics.sqnr_db([0.0], [math.nan]))
    assert math.isnan(numerics.cosine([math.inf], [1.0]))
    assert numerics.cosine([0.0, 0.0], [0.0, 0.0]) == 1.0
    for measure in (numerics.sqnr_db, numerics.cosine):
        with pytest.raises(ValueError, match="shapes"):
            measure([1.0], [1.0, 2.0])


def test_no_cosine_leaves_its_bounds() -> None:
    """Of 50 vectors with themselves, and with their opposites, rounding takes some beyond 1."""
    vectors = [np.random.default_rng(seed).normal(size=7) for seed in range(50)]
    unclipped = [float(v @ v) / float(np.linalg.norm(v) * np.linalg.norm(v)) for v in vectors]
    assert max(unclipped) > 1
    assert max(numerics.cosine(v, v) for v in vectors) == 1
    assert min(numerics.cosine(v, -v) for v in vectors) == -1


@pytest.mark.filterwarnings("error")
def test_extreme_numbers_come_without_warnings() -> None:
    with np.errstate(all="warn"):
        assert numerics.round_half_away([np.inf])[0] == np.inf
        assert numerics.to_float16(f32([1e30, 1e-30])).tolist() == [65504, 0]
        with pytest.raises(ValueError, match="normal float32"):
            numerics.bias_params(1e30, f32([1e30]))
        with pytest.raises(ValueError, match="beyond any weight scale"):
            numerics.widen_for_bias(QParams.per_tensor(1.0), 1e-30, [1e38])
        needed = FLOAT32_MAX * 2.0**-20 * (2**31 - 1) / 2
        assert numerics.widen_for_bias(QParams.per_tensor(1.0), 2.0**-20, [needed]).scale[0] == np.float32(FLOAT32_MAX)
        assert math.isnan(numerics.sqnr_db([math.inf], [math.inf]))
        assert math.isnan(numerics.cosine([math.inf, 1.0], [0.0, 1.0]))


# ---------------------------------------------------------------- blocks


@given(st.floats(2.0**-14, 2.0**15, width=32))
def test_scales_of_blocks_are_exact_in_both_small_formats(scale: float) -> None:
    """The nearest number of eight significant bits: float16 keeps it, and bfloat16 does too."""
    kept = numerics.block_scales(np.array([scale], np.float32))
    assert kept.dtype == np.float32
    assert kept.astype(np.float16).astype(np.float32) == kept
    assert kept.view(np.uint32)[0] & 0xFFFF == 0
    assert abs(float(kept[0]) - scale) <= scale * 2.0**-8


def test_scales_of_blocks_beyond_the_small_formats() -> None:
    np.testing.assert_array_equal(numerics.block_scales(np.array([0, 1e-9, 1e9])), [2.0**-14, 2.0**-14, 2.0**15])


def test_each_block_has_the_scale_of_its_own_largest_weight() -> None:
    weights = np.array([[0.5, -7, 1, 14], [3.5, 0, -28, 2]], np.float32)
    params = numerics.block_params(weights, INT4_WEIGHT, 2)
    np.testing.assert_array_equal(params.scale, [1, 2, 0.5, 4])
    np.testing.assert_array_equal(params.zero_point, [0, 0, 0, 0])
    assert params.axis == 0
