"""From a float graph to a quantized file: forms, borders, ties, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.graph import DType, Program
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.runtime.session import Session


def scheme_name(value: object) -> str | None:
    if not isinstance(value, octavo.Scheme):
        return None
    bits = f"{value.activations.bits}" if value.activations else ""
    strict = "" if value.fallback else f"-only-{value.io.input}"
    return f"{value.kind}{bits}{strict}" + ("" if value.per_channel else "-per-tensor")


RNG = np.random.default_rng(7)
IMAGES = RNG.uniform(-1, 1, (32, 8, 8, 3)).astype(np.float32)


def kinds(model: Model) -> list[str]:
    return [op.code for op in model.program.main.ops]


def small_cnn() -> Program:
    """conv - conv - reshape - dense - softmax."""
    b = Builder()
    x = b.conv(b.input("image", (1, 8, 8, 3)), "conv1", 4, act=1)
    x = b.reshape(b.conv(x, "conv2", 2), "flat", (1, 128))
    return b.program(b.op("SOFTMAX", [b.dense(x, "dense", 10)], "probs", (1, 10), "SoftmaxOptions", beta=1.0))


def with_sine(op: str = "SIN") -> Program:
    """conv - SIN (no integer kernel) - conv."""
    b = Builder()
    x = b.unary(op, b.conv(b.input("image", (1, 8, 8, 3)), "conv1", 4), "wave")
    return b.program(b.conv(x, "conv2", 2))


def check(model: Model, reference: Model, x: np.ndarray, decibels: float) -> None:
    """The file is sound, runs on both kernel sets, and stays close to the float model."""
    verify(model.program)
    want = octavo.Runner(reference)(x)
    for kernels in ("xnnpack", "builtin"):
        got = octavo.Runner(model, kernels=kernels)(x)
        assert numerics.sqnr_db(want, got) > decibels, kernels


@pytest.mark.parametrize(
    ("scheme", "decibels"),
    [
        (octavo.float16(min_elements=8), 55),
        (octavo.dynamic_range(min_elements=8), 30),
        (octavo.weight_only(min_elements=8), 30),
        (octavo.integer(), 25),
        (octavo.integer(fallback=False, io="uint8"), 25),
        (octavo.integer(fallback=False, io="int8"), 25),
        (octavo.integer(per_channel=False), 20),
        (octavo.integer(activations=16), 30),
        (octavo.integer(fallback=False, activations=16), 30),
    ],
    ids=scheme_name,
)
def test_every_scheme_runs_and_stays_close(scheme: octavo.Scheme, decibels: float) -> None:
    reference = Model(small_cnn())
    small = octavo.quantize(reference, scheme, calibration=IMAGES if scheme.kind == "integer" else None)
    check(small, reference, IMAGES, decibels)
    assert small.nbytes < reference.nbytes


def test_the_float_model_is_not_touched() -> None:
    reference = Model(small_cnn())
    before = bytes(Model(small_cnn()))
    octavo.quantize(reference, octavo.integer(fallback=False), calibration=IMAGES)
    assert bytes(reference) == before


@pytest.mark.parametrize(
    ("io", "first", "last", "dtypes"),
    [
        ("float32", "QUANTIZE", "DEQUANTIZE", ("float32", "float32")),
        ("uint8", "QUANTIZE", "QUANTIZE", ("uint8", "uint8")),
        ("int8", "CONV_2D", "SOFTMAX", ("int8", "int8")),
        ("input=uint8,output=float32", "QUANTIZE", "DEQUANTIZE", ("uint8", "float32")),
        ({"input": "int8", "output": "uint8"}, "CONV_2D", "QUANTIZE", ("int8", "uint8")),
    ],
)
def test_io_types(io: str, first: str, last: str, dtypes: tuple[str, str]) -> None:
    small = octavo.quantize(Model(small_cnn()), octavo.integer(fallback=False, io=io), calibration=IMAGES)
    session = Session(bytes(small))
    assert (session.inputs[0].dtype.name, session.outputs[0].dtype.name) == dtypes
    assert (session.inputs[0].name, session.outputs[0].name) == ("image", "probs")
    assert kinds(small)[0] == first
    assert kinds(small)[-1] == last
    assert small.integer_only == ("float32" not in dtypes)
    assert small.integer_only == all(not t.dtype.is_float for t in octavo.load(bytes(small)).program.tensors())


def test_uint8_input_is_the_int8_input_shifted() -> None:
    unsigned = octavo.quantize(Model(small_cnn()), octavo.integer(fallback=False, io="uint8"), calibration=IMAGES)
    signed = octavo.quantize(Model(small_cnn()), octavo.integer(fallback=False, io="int8"), calibration=IMAGES)
    codes = RNG.integers(0, 256, (1, 8, 8, 3), np.uint8)
    a = Session(bytes(unsigned)).run({"image": codes})["probs"].astype(int)
    b = Session(bytes(signed)).run({"image": (codes.astype(int) - 128).astype(np.int8)})["probs"].astype(int)
    np.testing.assert_array_equal(a, b + 128)


def test_fallback_leaves_the_op_in_float_and_says_why() -> None:
    reference = Model(with_sine())
    small = octavo.quantize(reference, octavo.integer(), calibration=IMAGES)
    assert kinds(small) == ["QUANTIZE", "CONV_2D", "DEQUANTIZE", "SIN", "QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    (left,) = small.summary().in_float
    assert left.kind == "SIN"
    assert "wave" in str(small.summary())
    assert "no integer kernel" in str(small.summary())
    check(small, reference, IMAGES, 25)


def test_integer_only_refuses_and_lists_every_op() -> None:
    b = Builder()
    x = b.unary("SIN", b.conv(b.input("image", (1, 8, 8, 3)), "conv1", 4), "wave")
    model = Model(b.program(b.unary("FLOOR", b.conv(x, "conv2", 2), "steps")))
    with pytest.raises(octavo.NotIntegerError, match=r"SIN 'wave'.*FLOOR 'steps'.*fallback=True") as caught:
        octavo.quantize(model, octavo.integer(fallback=False), calibration=IMAGES)
    assert len(caught.value.refusals) == 2


def test_moves_between_float_ops_stay_in_float() -> None:
    b = Builder()
    x = b.unary("SIN", b.conv(b.input("image", (1, 8, 8, 3)), "conv1", 4), "wave")
    order = b.const("order", np.array([1, 0], np.int32))
    x = b.op("TRANSPOSE", [b.reshape(x, "flat", (4, 64)), order], "turned", (64, 4), "TransposeOptions")
    small = octavo.quantize(Model(b.program(b.unary("COS", x, "out"))), octavo.integer(), calibration=IMAGES)
    assert kinds(small) == ["QUANTIZE", "CONV_2D", "DEQUANTIZE", "SIN", "RESHAPE", "TRANSPOSE", "COS"]


def test_one_conversion_serves_all_readers() -> None:
    b = Builder()
    wave = b.unary("SIN", b.input("image", (1, 8, 8, 3)), "wave")
    total = b.op("ADD", [b.conv(wave, "a", 2), b.conv(wave, "b", 2)], "sum", (1, 8, 8, 2), "AddOptions")
    small = octavo.quantize(Model(b.program(total, wave)), octavo.integer(), calibration=IMAGES)
    assert kinds(small) == ["SIN", "QUANTIZE", "CONV_2D", "CONV_2D", "ADD", "DEQUANTIZE"]
    check_outputs = Session(bytes(small)).run({"image": IMAGES[:1]})
    np.testing.assert_allclose(check_outputs["wave"], np.sin(IMAGES[:1]), atol=1e-6)


def test_concatenation_ties_scales_and_a_fixed_scale_is_never_clipped() -> None:
    """SOFTMAX gives [0, 1) at a fixed scale; concatenated with wider values it needs a conversion of its own."""
    b = Builder()
    x = b.reshape(b.input("image", (1, 8, 8, 3)), "flat", (1, 192))
    scores = b.op("SOFTMAX", [b.dense(x, "classes", 5)], "scores", (1, 5), "SoftmaxOptions", beta=1.0)
    boxes = b.dense(x, "boxes", 4)
    joined = b.op("CONCATENATION", [scores, boxes], "all", (1, 9), "ConcatenationOptions", axis=1)
    reference = Model(b.program(joined))
    small = octavo.quantize(reference, octavo.integer(fallback=False), calibration=IMAGES)
    concat = next(op for op in small.program.main.ops if op.code == "CONCATENATION")
    scales = {float(t.qparams.scale[0]) for t in [*concat.inputs, *concat.outputs] if t and t.qparams}
    assert len(scales) == 1
    assert kinds(small).count("QUANTIZE") == 1
    check(small, reference, IMAGES, 20)


def test_moves_after_a_fixed_scale_keep_it() -> None:
    b = Builder()
    x = b.reshape(b.input("image", (1, 8, 8, 3)), "flat", (1, 192))
    scores = b.unary("LOGISTIC", b.dense(x, "classes", 6), "scores")
    small = octavo.quantize(Model(b.program(b.reshape(scores, "out", (2, 3)))), octavo.integer(fallback=False), IMAGES)
    assert "QUANTIZE" not in kinds(small)
    assert float(small.program.main.outputs[0].qparams.scale[0]) == 1 / 256


def test_a_conv_without_bias_gets_zeros() -> None:
    """LiteRT itself refuses the float model, so octavo could neither calibrate nor run it as it is."""
    b = Builder()
    program = b.program(b.conv(b.input("image", (1, 8, 8, 3)), "conv", 4, bias=False))
    with pytest.raises(octavo.RunError, match="has_bias"):
        Session(bytes(Model(program)))
    small = octavo.quantize(Model(program), octavo.integer(fallback=False, effort="fast"), calibration=IMAGES)
    bias = small.program.main.ops[0].inputs[2]
    assert bias is not None
    assert bias.dtype is DType.INT32
    assert not bias.values.any()
    assert Session(bytes(small)).inputs[0].name == "image"


def test_bias_scale_is_the_product_and_large_biases_widen_the_weights() -> None:
    b = Builder()
    x = b.input("image", (1, 8, 8, 3))
    out = b.conv(x, "conv", 4)
    bias = next(t for t in b.graph.tensors if t.name == "conv/bias")
    bias.set_values(np.array([1e6, 0.5, -2e6, 0], np.float32))
    small = octavo.quantize(Model(b.program(out)), octavo.integer(fallback=False), calibration=IMAGES * 1e-3)
    data, kernel, offset = small.program.main.ops[0].inputs
    np.testing.assert_allclose(offset.qparams.scale, data.qparams.scale * kernel.qparams.scale, rtol=1e-6)
    restored = numerics.dequantize(offset.values, offset.qparams)
    np.testing.assert_allclose(restored, bias.values, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("op", ["CONV_2D", "FULLY_CONNECTED"])
def test_int16_uses_an_int32_bias_only_where_no_sum_overflows(op: str) -> None:
    def quantized(gain: float) -> tuple[Model, Model]:
        b = Builder()
        x = b.input("image", (1, 8, 8, 3))
        wide = b.reshape(x, "flat", (1, 192)) if op == "FULLY_CONNECTED" else x
        out = b.dense(wide, "fc", 4) if op == "FULLY_CONNECTED" else b.conv(wide, "conv", 4)
        kernel = b.graph.ops[-1].inputs[1]
        kernel.set_values((np.sign(kernel.values) * gain + (1 - gain) * kernel.values).astype(np.float32))
        reference = Model(b.program(out))
        return reference, octavo.quantize(reference, octavo.integer(activations=16), calibration=IMAGES)

    reference, small = quantized(0.0)
    weighted = next(o for o in small.program.main.ops if o.code == op)
    assert weighted.inputs[2].dtype is DType.INT32
    assert weighted.version == {"CONV_2D": 8, "FULLY_CONNECTED": 11}[op]
    check(small, reference, IMAGES, 30)


def test_int16_falls_back_to_int64_biases() -> None:
    """1,024 weights of full size times full-scale int16 inputs pass 2^31."""
    b = Builder()
    x = b.input("x", (1, 1024))
    out = b.dense(x, "fc", 2)
    b.graph.ops[0].inputs[1].set_values(np.ones((2, 1024), np.float32))
    samples = RNG.uniform(-1, 1, (8, 1024)).astype(np.float32)
    reference = Model(b.program(out))
    small = octavo.quantize(reference, octavo.integer(activations=16), calibration=samples)
    assert small.program.main.ops[1].inputs[2].dtype is DType.INT64
    ones = np.ones((1, 1024), np.float32) * samples.max()
    np.testing.assert_allclose(octavo.Runner(small)(samples), octavo.Runner(reference)(samples), atol=0.5)
    assert np.isfinite(octavo.Runner(small)(ones)).all()


def test_rules_choose_ops_by_kind_and_name() -> None:
    recipe = octavo.Recipe(octavo.integer(), (octavo.Rule(octavo.keep_float(), name="conv1"),))
    small = octavo.quantize(Model(with_sine("RELU")), recipe, calibration=IMAGES)
    assert kinds(small) == ["CONV_2D", "QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    mixed = octavo.Recipe(octavo.integer(), (octavo.Rule(octavo.integer(activations=16), kind="FULLY_CONNECTED"),))
    reference = Model(small_cnn())
    check(octavo.quantize(reference, mixed, calibration=IMAGES), reference, IMAGES, 25)


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    recipe = octavo.Recipe(octavo.float16(), (octavo.Rule(octavo.keep_float(), name="conv7*"),))
    with pytest.raises(octavo.RecipeError, match=r"conv7\*"):
        octavo.quantize(Model(small_cnn()), recipe)


def test_integer_without_samples_is_an_error() -> None:
    with pytest.raises(octavo.RecipeError, match="calibration="):
        octavo.quantize(Model(small_cnn()), octavo.integer())


def test_weights_with_nan_stay_in_float() -> None:
    b = Builder()
    out = b.dense(b.input("x", (1, 4)), "fc", 2)
    b.graph.ops[0].inputs[1].set_values(np.full((2, 4), np.nan, np.float32))
    small = octavo.quantize(Model(b.program(out)), octavo.dynamic_range(min_elements=0))
    (left,) = small.summary().in_float
    assert "NaN" in left.reason


def test_a_quantized_model_is_refused() -> None:
    small = octavo.quantize(Model(small_cnn()), octavo.integer(fallback=False), calibration=IMAGES)
    with pytest.raises(octavo.RecipeError, match="quantized already"):
        octavo.quantize(small, octavo.integer(), calibration=IMAGES)


@pytest.mark.parametrize("scheme", [octavo.float16(8), octavo.dynamic_range(8), octavo.weight_only(8)], ids=scheme_name)
def test_a_model_stored_small_can_be_quantized(scheme: octavo.Scheme) -> None:
    reference = Model(small_cnn())
    stored = octavo.load(bytes(octavo.quantize(reference, scheme)))
    small = octavo.quantize(stored, octavo.integer(fallback=False), calibration=IMAGES)
    assert "in the source" in str(small.summary())
    check(small, reference, IMAGES, 25)


def test_values_that_float16_cannot_hold_stay_float32() -> None:
    b = Builder()
    mask = b.const("mask", np.full((1, 8, 8, 3), -1e9, np.float32))
    out = b.op("ADD", [b.input("image", (1, 8, 8, 3)), mask], "masked", (1, 8, 8, 3), "AddOptions")
    small = octavo.quantize(Model(b.program(out)), octavo.float16(min_elements=8))
    np.testing.assert_array_equal(octavo.Runner(small)(IMAGES[:1]), IMAGES[:1] - np.float32(1e9))


def test_a_constant_with_infinity_keeps_its_op_in_float() -> None:
    b = Builder()
    mask = b.const("mask", np.array([0, -np.inf, 0], np.float32))
    out = b.op("ADD", [b.conv(b.input("image", (1, 8, 8, 3)), "conv", 3), mask], "masked", (1, 8, 8, 3), "AddOptions")
    small = octavo.quantize(Model(b.program(out)), octavo.integer(), calibration=IMAGES)
    (left,) = small.summary().in_float
    assert left.kind == "ADD"
    assert "infinity" in left.reason


def test_the_order_of_samples_makes_no_difference() -> None:
    forward = octavo.quantize(Model(small_cnn()), octavo.integer(), calibration=IMAGES)
    backward = octavo.quantize(Model(small_cnn()), octavo.integer(), calibration=IMAGES[::-1])
    assert bytes(forward) == bytes(backward)


def test_models_without_signatures_work() -> None:
    program = small_cnn()
    program.signatures.clear()
    small = octavo.quantize(Model(program), octavo.integer(fallback=False, io="uint8"), calibration=IMAGES)
    check(small, Model(program), IMAGES, 25)


@pytest.mark.parametrize("size", [1e-9, 1e-20, 0.0])
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_an_all_but_dead_layer_under_a_clamp_loads(size: float, kernels: str) -> None:
    """The kernels write the clamp of a RELU6 as a code, which must fit an int32."""
    b = Builder()
    x = b.conv(b.input("image", (1, 8, 8, 3)), "dying", 4, act=3)
    for tensor in b.graph.ops[0].inputs[1:]:
        tensor.set_values((tensor.values * size).astype(np.float32))
    reference = Model(b.program(b.conv(x, "conv2", 2)))
    small = octavo.quantize(reference, octavo.integer(fallback=False), calibration=IMAGES)
    want = octavo.Runner(reference)(IMAGES)
    np.testing.assert_allclose(octavo.Runner(small, kernels=kernels)(IMAGES), want, atol=0.05)


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_a_layer_whose_terms_cancel_loads(kernels: str) -> None:
    """Weights of 1e4 that cancel to outputs of 1e-2: XNNPACK refuses a requantization scale of 256."""
    b = Builder()
    out = b.dense(b.input("x", (1, 2)), "difference", 3)
    b.graph.ops[0].inputs[1].set_values(np.array([[1e4, -1e4], [2e4, -2e4], [1, 1]], np.float32))
    b.graph.ops[0].inputs[2].set_values(np.zeros(3, np.float32))
    samples = np.repeat(RNG.uniform(-1, 1, (32, 1)), 2, axis=1).astype(np.float32)
    small = octavo.quantize(Model(b.program(out)), octavo.integer(fallback=False), calibration=samples)
    step = float(small.program.main.outputs[0].qparams.scale[0])
    want = octavo.Runner(Model(b.program(out)))(samples)
    np.testing.assert_allclose(octavo.Runner(small, kernels=kernels)(samples), want, atol=step)


@pytest.mark.parametrize("code", ["ADD", "SUB"])
@pytest.mark.parametrize("activations", [8, 16])
@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_terms_that_cancel_to_almost_nothing_load(code: str, activations: int, kernels: str) -> None:
    """Terms of 1e7 whose sum is 1e-3: LiteRT's ADD ends the process over such a ratio, and its SUB gives nonsense."""
    b = Builder()
    x, y = b.input("x", (1, 4)), b.input("y", (1, 4))
    out = b.op(code, [x, y], "sum", (1, 4), f"{code.capitalize()}Options", fusedActivationFunction=0)
    reference = Model(b.program(out))
    big = RNG.uniform(-1e7, 1e7, (32, 4)).astype(np.float32)
    samples = {"x": big, "y": -big if code == "ADD" else big}
    samples["x"][0], samples["y"][0] = 1e-3, 0.0
    recipe = octavo.integer(fallback=False, activations=activations, io="float32", effort="fast")
    small = octavo.quantize(reference, recipe, calibration=samples)
    output = small.program.main.ops[-1].inputs[0].qparams
    top = float(output.scale[0]) * (2 ** (activations - 1) - 1 - int(output.zero_point[0]))
    one = {"x": np.full((1, 4), 1e7, np.float32), "y": np.zeros((1, 4), np.float32)}
    np.testing.assert_allclose(octavo.Runner(small, kernels=kernels)(one), np.full((1, 4), top), rtol=1e-6)


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_a_hard_swish_that_is_all_but_zero_loads(kernels: str) -> None:
    """Inputs far below -3 give zeros only, whose scale the reference kernel refuses to load."""
    b = Builder()
    out = b.op("HARD_SWISH", [b.input("x", (1, 4))], "zeros", (1, 4), "HardSwishOptions")
    samples = RNG.uniform(-400, -100, (16, 4)).astype(np.float32)
    small = octavo.quantize(Model(b.program(out)), octavo.integer(fallback=False), calibration=samples)
    np.testing.assert_array_equal(octavo.Runner(small, kernels=kernels)(samples), np.zeros((16, 4)))


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
@pytest.mark.parametrize("code", ["ADD", "SUB"])
def test_sixteen_bits_whose_scales_are_powers_of_two(code: str, kernels: str) -> None:
    """TANH's scale is 2^-15, and the result's is 2^-14: LiteRT's default is a kernel that doesn't load there."""
    b = Builder()
    x, y = (b.unary("TANH", b.input(name, (1, 16)), f"bent_{name}") for name in "xy")
    z = b.op(code, [x, y], "sum", (1, 16), f"{code.capitalize()}Options", fusedActivationFunction=0, potScaleInt16=True)
    model = Model(b.program(z))
    rng = np.random.default_rng(0)
    data = [{name: (rng.normal(size=(1, 16)) * 20).astype(np.float32) for name in "xy"} for _ in range(8)]
    small = octavo.quantize(model, octavo.integer(activations=16, fallback=False, effort="fast"), data)
    wanted, got = (np.stack([octavo.Runner(m, k)(s) for s in data]) for m, k in ((model, "builtin"), (small, kernels)))
    assert numerics.sqnr_db(wanted, got) > 80


def test_scales_that_would_grow_without_end_are_an_error() -> None:
    """A concatenation ties a layer's output to its own input; weights of 1e6 then ask for ever wider ranges."""
    b = Builder()
    x = b.input("x", (1, 4))
    y = b.dense(x, "explodes", 4)
    b.graph.ops[0].inputs[1].set_values(np.full((4, 4), 1e6, np.float32) * np.array([1, -1, 1, -1], np.float32))
    b.graph.ops[0].inputs[2].set_values(np.zeros(4, np.float32))
    joined = b.op("CONCATENATION", [x, y], "joined", (1, 8), "ConcatenationOptions", axis=1)
    samples = np.repeat(RNG.uniform(-1, 1, (16, 1)), 4, axis=1).astype(np.float32)
    with pytest.raises(octavo.RecipeError, match=r"FULLY_CONNECTED 'explodes'.*keep_float"):
        octavo.quantize(Model(b.program(joined)), octavo.integer(fallback=False), calibration=samples)
