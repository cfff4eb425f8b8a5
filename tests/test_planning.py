"""`octavo.plan` by itself: what it decides for each op and why, and the form of every tensor. Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.errors import NotIntegerError, RecipeError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.ops import OPS
from octavo.passes.pin_arguments import pin_arguments
from octavo.plan import FLOAT, FLOAT16, Decision, Form, Plan, plan
from octavo.plan.decide import drop_islands
from octavo.plan.records import integer_bits
from octavo.qtypes import INT4_WEIGHT, INT8, INT8_WEIGHT, INT16, INT32_BIAS, INT64_BIAS, UINT8, QParams
from octavo.recipe import Recipe, Rule, Scheme
from octavo.sites import Range
from test_passes import branching, looping

IMAGE = (1, 4, 4, 8)
STAY = "replace it, or allow float for it with integer(fallback=True)"


def seen(program: Program, low: float = -1.0, high: float = 2.0) -> dict[Tensor, Range]:
    """The same range for every tensor that calibration can see."""
    return {t: (low, high) for t in program.tensors() if t.dtype is DType.FLOAT32 and not t.is_constant}


def decided(program: Program, scheme: Scheme | Recipe, ranges: Mapping[Tensor, Range] | None = None) -> list[Decision]:
    """One decision for each op of the main graph, in order."""
    made = plan(program, scheme, seen(program) if ranges is None else ranges).decisions
    return [made[op] for op in program.main.ops]


def activation(low: float = -1.0, high: float = 2.0, bits: int = 8) -> Form:
    qtype, dtype = (INT8, DType.INT8) if bits == 8 else (INT16, DType.INT16)
    return Form(dtype, numerics.activation_params(low, high, qtype), qtype)


def conv(b: Builder, x: Tensor, name: str = "conv", channels: int = 3, **options: Any) -> Tensor:
    made = b.conv(x, name, channels)
    b.graph.ops[-1].options = {**(b.graph.ops[-1].options or {}), **options}
    return made


def unary(code: str, shape: tuple[int, ...] = (2, 6)) -> Program:
    b = Builder()
    return b.program(b.unary(code, b.input("x", shape), "out"))


def inputs(program: Program, op: int = 0) -> list[Tensor]:
    return [tensor for tensor in program.main.ops[op].inputs if tensor is not None]


def transposed() -> Program:
    b = Builder()
    target = b.const("target", np.array([1, 8, 8, 3], np.int32))
    operands = [target, b.weights("kernel", 3, 2, 2, 8), b.input("x", IMAGE), b.weights("bias", 3)]
    options = {"padding": 0, "strideW": 2, "strideH": 2}
    return b.program(b.op("TRANSPOSE_CONV", operands, "up", (1, 8, 8, 3), "TransposeConvOptions", **options))


def svdf(b: Builder) -> Tensor:
    """48 weights of features, 40 over time."""
    operands = [b.input("x", (1, 6)), b.weights("features", 8, 6), b.weights("time", 8, 5), None, b.input("s", (1, 40))]
    return b.op("SVDF", operands, "out", (1, 8), "SVDFOptions", fusedActivationFunction=1)


# ---------------------------------------------------------------- decisions


class TestInteger:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_an_op_with_a_kernel(self, bits: int) -> None:
        assert decided(unary("ABS"), octavo.integer(activations=bits)) == [Decision("ABS 'out'", "ABS", f"int{bits}")]

    @pytest.mark.parametrize(
        ("code", "bits", "reason", "remedy"),
        [
            ("SIN", 8, "LiteRT has no integer kernel for it", "replace it by ops that have one"),
            ("GELU", 16, "LiteRT has no int16 kernel for it", "replace it by ops that have one"),
            ("LOG", 16, "LiteRT's int16 kernel is wrong", "replace it by ops that have one"),
            ("COMPLEX_ABS", 8, "not an op that octavo can make integer", STAY),
            ("CUSTOM", 8, "a custom op", STAY),
        ],
    )
    def test_an_op_without(self, code: str, bits: int, reason: str, remedy: str) -> None:
        program = unary(code)
        program.main.ops[0].custom_code = "Mine"
        name = "CUSTOM:Mine 'out'" if code == "CUSTOM" else f"{code} 'out'"
        want = [Decision(name, code, "float32", reason, remedy)]
        assert decided(program, octavo.integer(activations=bits)) == want

    @pytest.mark.parametrize(("fused", "precision"), [(0, "int8"), (3, "int8"), (4, "float32"), (5, "float32")])
    def test_a_fused_activation(self, fused: int, precision: str) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE), fusedActivationFunction=fused))
        (made,) = decided(program, octavo.integer())
        assert made.precision == precision
        if precision == "float32":
            assert made.reason == "its fused activation (tanh or sign) has no integer kernel"
            assert made.remedy == "apply the activation as its own op"

    @pytest.mark.parametrize(("index", "words"), [(1, "weights 'w' are"), (2, "bias 'w' is")])
    def test_computed_weights_or_bias(self, index: int, words: str) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        program = b.program(conv(b, x))
        op = program.main.ops[0]
        given = op.inputs[index]
        assert given is not None
        op.inputs[index] = b.input("w", given.shape)
        (made,) = decided(program, octavo.integer())
        assert (made.precision, made.reason, made.remedy) == ("float32", f"its {words} computed, not constant", "")

    def test_an_operand_of_another_type(self) -> None:
        b = Builder()
        x, y = b.input("x", (2, 6)), b.input("y", (2, 6), DType.FLOAT16)
        program = b.program(b.op("ADD", [x, y], "out", (2, 6), "AddOptions"))
        (made,) = decided(program, octavo.integer())
        assert (made.precision, made.reason) == ("float32", "its operand 'y' is float16, not float32")

    @pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e30, -1e31])
    def test_a_constant_that_no_scale_stands_for(self, bad: float) -> None:
        b = Builder()
        c = b.const("c", np.array([1, bad], np.float32))
        program = b.program(b.op("ADD", [b.input("x", (2, 2)), c], "out", (2, 2), "AddOptions"))
        (made,) = decided(program, octavo.integer())
        assert made.reason == "its constant 'c' holds infinity, NaN or values beyond 1e+30"

    @pytest.mark.parametrize("good", [9e29, -9e29])
    def test_a_constant_that_a_scale_stands_for(self, good: float) -> None:
        b = Builder()
        c = b.const("c", np.array([1, good], np.float32))
        program = b.program(b.op("ADD", [b.input("x", (2, 2)), c], "out", (2, 2), "AddOptions"))
        ranges = {t: (-2e30, 2e30) if t.name == "out" else (-1.0, 1.0) for t in seen(program)}
        assert "constant" not in decided(program, octavo.integer(), ranges)[0].reason

    @pytest.mark.parametrize("name", ["x", "out"])
    @pytest.mark.parametrize(
        ("found", "reason"),
        [
            (None, "no calibration data reached {name!r}"),
            ((-1.0, np.inf), "calibration saw infinity, NaN or values beyond 1e+30 in {name!r}"),
            ((-1.0, 1e30), "calibration saw infinity, NaN or values beyond 1e+30 in {name!r}"),
            ((-1e30, 1.0), "calibration saw infinity, NaN or values beyond 1e+30 in {name!r}"),
            ((np.nan, np.nan), "calibration saw infinity, NaN or values beyond 1e+30 in {name!r}"),
            ((-9e29, 9e29), ""),
            ((0.0, 0.0), ""),
        ],
    )
    def test_ranges(self, name: str, found: Range | None, reason: str) -> None:
        program = unary("RELU")
        ranges = {t: found or (0.0, 1.0) for t in seen(program) if t.name != name or found is not None}
        if found is not None:
            ranges = {t: found if t.name == name else (0.0, 1.0) for t in ranges}
        (made,) = decided(program, octavo.integer(), ranges)
        assert (made.precision, made.reason) == ("float32" if reason else "int8", reason.format(name=name))

    def test_every_operand_is_looked_at(self) -> None:
        """The first operand of TRANSPOSE_CONV is a shape, of no interest."""
        program = transposed()
        target, kernel, x, _ = inputs(program)
        ranges = {t: r for t, r in seen(program).items() if t is not x}
        assert decided(program, octavo.integer(), ranges)[0].reason == "no calibration data reached 'x'"
        program.main.ops[0].inputs = [target, None, x, None]
        assert decided(program, octavo.integer(), ranges)[0].reason == "no calibration data reached 'x'"
        assert kernel.name == "kernel"

    def test_results_that_arent_activations_need_no_range(self) -> None:
        b = Builder()
        program = b.program(b.op("EQUAL", [b.input("x", (2,)), b.input("y", (2,))], "same", (2,), dtype=DType.BOOL))
        assert decided(program, octavo.integer())[0].precision == "int8"

    def test_ops_without_floats_are_left_as_they_are(self) -> None:
        b = Builder()
        x = b.input("x", (2,), DType.INT32)
        program = b.program(b.op("ADD", [x, None, x], "out", (2,), "AddOptions", dtype=DType.INT32))
        for scheme in (octavo.integer(), octavo.dynamic_range(), octavo.float16(), octavo.keep_float()):
            assert decided(program, scheme, {}) == [Decision("ADD 'out'", "ADD", "as is")]

    @pytest.mark.parametrize(("rows", "precision"), [(128, "weight_only"), (127, "float32")])
    @pytest.mark.parametrize("bad", [False, True])
    def test_weights_of_an_op_in_float_are_stored_small(self, rows: int, precision: str, bad: bool) -> None:
        """From 1,024 elements on: 128 rows of 8."""
        b = Builder()
        kernel = b.weights("kernel", rows, 8)
        if bad:
            kernel.values.flags.writeable = True
            values = kernel.values.copy()
            values[0, 0] = 1e31
            kernel.set_values(values)
        operands = [b.input("x", (1, 8)), kernel, b.weights("bias", rows)]
        out = b.op("FULLY_CONNECTED", operands, "out", (1, rows), "FullyConnectedOptions",
                   fusedActivationFunction=4)  # fmt: skip
        program = b.program(out)
        (made,) = decided(program, octavo.integer())
        assert made.precision == ("float32" if bad else precision)
        assert made.reason == "its fused activation (tanh or sign) has no integer kernel"
        stored = plan(program, octavo.integer(), seen(program)).stores
        if made.precision == "weight_only":
            assert stored == {
                kernel: Form(DType.INT8, numerics.weight_params(kernel.values, INT8_WEIGHT, 0), INT8_WEIGHT)
            }
        else:
            assert stored == {}

    def test_scales_of_wide_weights_move_the_whole_op(self) -> None:
        """Only what is a weight is stored small with an op that stays in float: not its other constants."""
        b = Builder()
        c = b.const("c", np.ones((40, 40), np.float32))
        program = b.program(b.op("POW", [b.input("x", (40, 40)), c], "out", (40, 40)))
        (made,) = decided(program, octavo.integer())
        assert made.precision == "float32"


class TestDynamic:
    def test_an_op_without_weights(self) -> None:
        assert decided(unary("ABS"), octavo.dynamic_range()) == [Decision("ABS 'out'", "ABS", "float32")]
        assert decided(unary("CUSTOM"), octavo.dynamic_range())[0].reason == ""

    @pytest.mark.parametrize(("least", "precision"), [(216, "dynamic"), (217, "float32")])
    def test_weights_under_a_size(self, least: int, precision: str) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE)))  # 3 * 3 * 3 * 8 weights
        reason = "" if precision == "dynamic" else "its weights have fewer than 217 elements"
        assert decided(program, octavo.dynamic_range(least)) == [
            Decision("CONV_2D 'conv'", "CONV_2D", precision, reason)
        ]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
    def test_weights_with_infinity(self, bad: float) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE)))
        kernel = inputs(program)[1]
        kernel.set_values(np.full(kernel.shape, bad, np.float32))
        (made,) = decided(program, octavo.dynamic_range(8))
        assert made == Decision(
            "CONV_2D 'conv'", "CONV_2D", "float32", "its weights 'conv/kernel' hold infinity or NaN"
        )

    def test_weights_without_a_kernel(self) -> None:
        reason = "only XNNPACK runs it with float activations and int8 weights"
        want = Decision("TRANSPOSE_CONV 'up'", "TRANSPOSE_CONV", "float32", reason, "weight_only() makes it small")
        assert decided(transposed(), octavo.dynamic_range(8)) == [want]

    def test_a_row_that_doesnt_say_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(OPS, "TRANSPOSE_CONV", replace(OPS["TRANSPOSE_CONV"], because={}))  # type: ignore[arg-type]
        (made,) = decided(transposed(), octavo.dynamic_range(8))
        assert made.reason == "LiteRT has no kernel for float activations with int8 weights"

    def test_the_largest_of_several_weights_counts(self) -> None:
        """An SVDF's 48 and 40, under a least number of 48."""
        b = Builder()
        program = b.program(svdf(b))
        assert [decided(program, octavo.dynamic_range(least))[0].precision for least in (48, 49)] == [
            "dynamic", "float32"
        ]  # fmt: skip

    @pytest.mark.parametrize("dtype", [None, DType.FLOAT16])
    def test_of_several_weights_all_have_to_be_float32_constants(self, dtype: DType | None) -> None:
        b = Builder()
        program = b.program(svdf(b))
        time = program.main.ops[0].inputs[2]
        assert time is not None
        if dtype is None:
            time.data = None
        else:
            time.set_values(time.values.astype(np.float16))
        assert decided(program, octavo.dynamic_range(8)) == [Decision("SVDF 'out'", "SVDF", "float32")]

    def test_weights_that_are_left_out_at_the_end(self) -> None:
        """An LSTM without a projection may end before its operand 16."""
        b = Builder()
        operands = [b.input("x", (1, 2, 6)), *(b.weights(f"w{i}", 6, 6) for i in range(15))]
        program = b.program(b.op("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, "out", (1, 2, 6)))
        assert decided(program, octavo.dynamic_range(8))[0].precision == "dynamic"


class TestSmallConstants:
    @pytest.mark.parametrize("scheme", [octavo.float16(12), octavo.weight_only(12)])
    @pytest.mark.parametrize("size", [11, 12])
    def test_size(self, scheme: Scheme, size: int) -> None:
        b = Builder()
        c = b.const("c", np.ones(size, np.float32))
        program = b.program(b.op("ADD", [b.input("x", (2, size)), c], "out", (2, size), "AddOptions"))
        (made,) = decided(program, scheme)
        assert made == Decision("ADD 'out'", "ADD", scheme.kind if size == 12 else "float32")
        assert set(plan(program, scheme).stores) == ({c} if size == 12 else set())

    @pytest.mark.parametrize(
        ("scheme", "limit", "beyond"),
        [(octavo.float16(1), 65504.0, 65504.5), (octavo.weight_only(1), 9e29, 2e30)],
    )
    @pytest.mark.parametrize("sign", [1, -1])
    def test_values_that_the_smaller_type_holds(self, scheme: Scheme, limit: float, beyond: float, sign: int) -> None:
        for value, small in ((limit, True), (beyond, False)):
            b = Builder()
            c = b.const("c", np.array([1, sign * value], np.float32))
            program = b.program(b.op("ADD", [b.input("x", (2, 2)), c], "out", (2, 2), "AddOptions"))
            assert decided(program, scheme)[0].precision == (scheme.kind if small else "float32")

    def test_sparse_constants_stay(self) -> None:
        b = Builder()
        c = b.const("c", np.ones(64, np.float32))
        c.extra["sparsity"] = SimpleNamespace()
        program = b.program(b.op("ADD", [b.input("x", (2, 64)), c], "out", (2, 64), "AddOptions"))
        assert decided(program, octavo.float16(1))[0].precision == "float32"

    def test_keeping_float_keeps_all(self) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE), channels=64))
        made = plan(program, octavo.keep_float())
        assert decided(program, octavo.keep_float()) == [Decision("CONV_2D 'conv'", "CONV_2D", "float32")]
        assert made.stores == {} and set(made.wants.values()) == {FLOAT}

    @pytest.mark.parametrize("weights", [8, 4])
    def test_forms(self, weights: int) -> None:
        """Kernels by channel and with the bits asked for; the rest in eight bits with one scale."""
        b = Builder()
        y = conv(b, b.input("x", IMAGE))
        program = b.program(b.op("ADD", [y, b.weights("c", 4, 4, 3)], "out", y.shape, "AddOptions"))
        _, kernel, bias = inputs(program)
        constant = inputs(program, 1)[1]
        made = plan(program, octavo.weight_only(1, weights=weights))
        dtype, qtype = (DType.INT8, INT8_WEIGHT) if weights == 8 else (DType.INT4, INT4_WEIGHT)
        assert made.stores == {
            kernel: Form(dtype, numerics.weight_params(kernel.values, qtype, 0), qtype),
            bias: Form(DType.INT8, numerics.weight_params(bias.values, INT8_WEIGHT, None), INT8_WEIGHT),
            constant: Form(DType.INT8, numerics.weight_params(constant.values, INT8_WEIGHT, None), INT8_WEIGHT),
        }
        assert made.wants == {(op, i): FLOAT for op in program.main.ops for i in range(len(op.inputs))}

    @pytest.mark.parametrize("weights", [8, 4])
    def test_constants_of_ops_without_an_axis_for_weights(self, weights: int) -> None:
        """A custom op's, and an SVDF's, of whose weights all have one scale."""
        b = Builder()
        c = b.weights("c", 8)
        program = b.program(b.op("CUSTOM", [svdf(b), c], "last", (1, 8)))
        made = plan(program, octavo.weight_only(1, weights=weights))
        kernels = [t for t in program.tensors() if t.is_constant]
        assert len(kernels) == 3
        assert made.stores == {
            t: Form(DType.INT8, numerics.weight_params(t.values, INT8_WEIGHT, None), INT8_WEIGHT) for t in kernels
        }

    def test_float16(self) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE)))
        assert plan(program, octavo.float16(1)).stores == dict.fromkeys(inputs(program)[1:], FLOAT16)


# ---------------------------------------------------------------- islands and borders


class TestIslands:
    """Ops that only move values stay in float between ops in float."""

    REASON = "it only moves values between float ops"

    def between(self, first: str, last: str, io: str = "float32") -> list[Decision]:
        """`first` - RESHAPE - TRANSPOSE - `last`."""
        b = Builder()
        x = b.input("x", (2, 6))
        x = b.unary(first, x, "first") if first else x
        x = b.reshape(x, "flat", (3, 4))
        x = b.op("TRANSPOSE", [x, b.const("order", np.array([1, 0], np.int32))], "turned", (4, 3), "TransposeOptions")
        x = b.unary(last, x, "last") if last else x
        return decided(b.program(x), octavo.integer(io=io))

    def test_between_ops_in_float(self) -> None:
        made = self.between("SIN", "COS")
        assert [d.precision for d in made] == ["float32"] * 4
        assert made[1] == Decision("RESHAPE 'flat'", "RESHAPE", "float32", self.REASON)
        assert made[2].reason == self.REASON

    @pytest.mark.parametrize(("first", "last"), [("ABS", "COS"), ("SIN", "ABS"), ("ABS", "ABS")])
    def test_beside_an_integer_op(self, first: str, last: str) -> None:
        assert [d.precision for d in self.between(first, last)[1:3]] == ["int8", "int8"]

    @pytest.mark.parametrize(
        ("first", "last", "io", "precision"),
        [
            ("", "COS", "float32", "float32"),
            ("SIN", "", "float32", "float32"),
            ("", "COS", "int8", "int8"),
            ("SIN", "", "int8", "int8"),
            ("", "COS", "input=float32,output=int8", "float32"),
            ("SIN", "", "input=uint8,output=float32", "float32"),
            ("", "COS", "input=uint8,output=float32", "int8"),
        ],
    )
    def test_at_a_border(self, first: str, last: str, io: str, precision: str) -> None:
        made = self.between(first, last, io)
        moves = [d for d in made if d.kind in ("RESHAPE", "TRANSPOSE")]
        assert [d.precision for d in moves] == [precision] * 2

    def test_each_island_by_itself(self) -> None:
        """One stands beside an integer op, the other doesn't."""
        b = Builder()
        x = b.unary("SIN", b.input("x", (2, 6)), "sine")
        first, second = b.reshape(x, "first", (3, 4)), b.reshape(x, "second", (4, 3))
        outs = [b.unary("COS", first, "cosine"), b.unary("ABS", second, "abs")]
        made = {d.op: d.precision for d in decided(b.program(*outs), octavo.integer())}
        assert made["RESHAPE 'first'"] == "float32" and made["RESHAPE 'second'"] == "int8"

    def test_ops_without_floats_are_no_neighbours(self) -> None:
        b = Builder()
        x = b.reshape(b.unary("SIN", b.input("x", (2, 6)), "sine"), "flat", (12,))
        shape = b.op("SHAPE", [b.input("n", (3,), DType.INT32)], "shape", (1,), "ShapeOptions", dtype=DType.INT32)
        b.graph.ops[-2].inputs[1] = shape
        b.graph.ops = [b.graph.ops[i] for i in (0, 2, 1)]
        made = {d.op: d for d in decided(b.program(b.unary("COS", x, "out")), octavo.integer())}
        assert made["SHAPE 'shape'"].precision == "as is" and made["RESHAPE 'flat'"].reason == self.REASON

    def test_16_bits(self) -> None:
        b = Builder()
        x = b.reshape(b.unary("ABS", b.input("x", (2, 6)), "abs"), "flat", (3, 4))
        program = b.program(b.unary("COS", x, "out"))
        made = decided(program, octavo.integer(activations=16))
        assert [d.precision for d in made] == ["int16", "int16", "float32"]
        program.main.ops[0].code = "SIN"
        made = decided(program, octavo.integer(activations=16))
        assert made[1] == Decision("RESHAPE 'flat'", "RESHAPE", "float32", self.REASON)

    def test_an_op_without_the_optional_operands(self) -> None:
        b = Builder()
        x = b.input("x", (2, 6))
        out = b.op("RESHAPE", [x, None], "out", (3, 4), "ReshapeOptions")
        graph = b.program(out).main
        decisions = {graph.ops[0]: Decision("RESHAPE 'out'", "RESHAPE", "int8")}
        drop_islands(graph, decisions, {x})
        assert decisions[graph.ops[0]].precision == "int8"
        drop_islands(graph, decisions, set())
        assert decisions[graph.ops[0]].precision == "float32"


# ---------------------------------------------------------------- forms


class TestForms:
    @pytest.mark.parametrize("per_channel", [True, False])
    @pytest.mark.parametrize("weights", [8, 4])
    def test_a_convolution(self, per_channel: bool, weights: int) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE)))
        x, kernel, bias = inputs(program)
        op, out = program.main.ops[0], program.main.outputs[0]
        ranges = {x: (-1.0, 2.0), out: (-3.0, 4.0)}
        made = plan(program, octavo.integer(per_channel=per_channel, weights=weights), ranges)
        data, qtype = activation(-1, 2), (INT8_WEIGHT if weights == 8 else INT4_WEIGHT)
        assert data.qparams is not None
        scales = numerics.weight_params(kernel.values, qtype, 0 if per_channel else None)
        bias_params = numerics.bias_params(float(data.qparams.scale[0]), scales.scale)
        stored = DType.INT8 if weights == 8 else DType.INT4
        assert made.wants == {
            (op, 0): data,
            (op, 1): Form(stored, scales, qtype),
            (op, 2): Form(DType.INT32, bias_params, INT32_BIAS),
        }
        assert made.stores == {out: activation(-3, 4)}
        assert made.outputs == {(program.main, out): FLOAT}
        assert made.decisions[op].weights == ("" if weights == 8 else "int4")
        assert made.options == {} and made.intermediates == {} and made.codes == {}
        assert bias.dtype is DType.FLOAT32  # planning edits nothing

    def test_a_large_bias_widens_its_channel(self) -> None:
        b = Builder()
        program = b.program(conv(b, b.input("x", IMAGE)))
        op, (x, kernel, bias) = program.main.ops[0], inputs(program)
        bias.set_values(np.array([1e6, 0, 0], np.float32))
        made = plan(program, octavo.integer(), {x: (-1e-3, 1e-3), program.main.outputs[0]: (-1.0, 1.0)})
        plain, wide = numerics.weight_params(kernel.values, INT8_WEIGHT, 0), made.wants[op, 1].qparams
        assert wide is not None
        assert wide.scale[0] > 10 * plain.scale[0] and wide.scale[1:].tolist() == plain.scale[1:].tolist()

    @pytest.mark.parametrize(("size", "bias_type"), [(8, DType.INT32), (40_000, DType.INT64)])
    def test_the_bias_with_16_bit_activations(self, size: int, bias_type: DType) -> None:
        """int32 where no sum can overflow it, which the op's options say; else int64."""
        b = Builder()
        x, kernel, bias = b.input("x", (1, size)), b.const("w", np.ones((2, size), np.float32)), b.weights("bias", 2)
        out = b.op("FULLY_CONNECTED", [x, kernel, bias], "out", (1, 2), "FullyConnectedOptions")
        program = b.program(out)
        op = program.main.ops[0]
        made = plan(program, octavo.integer(activations=16), {x: (-1.0, 1.0), out: (-9.0, 9.0)})
        data = activation(-1, 1, 16)
        assert data.qparams is not None and made.wants[op, 0] == data
        params = numerics.bias_params(
            float(data.qparams.scale[0]), numerics.weight_params(kernel.values, INT8_WEIGHT, 0).scale
        )
        short = bias_type is DType.INT32
        assert made.wants[op, 2] == Form(bias_type, params, INT32_BIAS if short else INT64_BIAS)
        assert made.options == ({op: {"quantizedBiasType": 2}} if short else {})

    @pytest.mark.parametrize(
        ("last", "code", "bias_type"),
        [(3, 0, DType.INT32), (3, 32767, DType.INT32), (3, 32768, DType.INT64), (3, -32767, DType.INT32),
         (4, 0, DType.INT64)],
    )  # fmt: skip
    def test_the_bound_of_a_bias_of_32_bits(self, last: int, code: int, bias_type: DType) -> None:
        """516 weights of code 127 and one of 3 leave room for 32,767: 65,535 * 32,768 + 32,767 is 2^31 - 1."""
        b = Builder()
        codes = np.append(np.full(516, 127), last)
        x, kernel = b.input("x", (1, 517)), b.const("w", (codes[None] / 128).astype(np.float32))
        bias = b.const("bias", np.array([code / 32767 / 128], np.float32))
        out = b.op("FULLY_CONNECTED", [x, kernel, bias], "out", (1, 1), "FullyConnectedOptions")
        program = b.program(out)
        op = program.main.ops[0]
        made = plan(program, octavo.integer(activations=16), {x: (-1.0, 1.0), out: (-9.0, 9.0)})
        params = made.wants[op, 2].qparams
        assert params is not None
        assert numerics.quantize_bias(bias.values, params, INT64_BIAS).tolist() == [code]
        assert made.wants[op, 2].dtype is bias_type

    def test_a_depthwise_bias_has_64_bits_with_16_bit_activations(self) -> None:
        b = Builder()
        options = {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": 1}
        operands = [b.input("x", IMAGE), b.weights("kernel", 1, 3, 3, 8), b.weights("bias", 8)]
        program = b.program(b.op("DEPTHWISE_CONV_2D", operands, "out", IMAGE, "DepthwiseConv2DOptions", **options))
        made = plan(program, octavo.integer(activations=16), seen(program))
        form = made.wants[program.main.ops[0], 2]
        assert (form.dtype, form.qtype, made.options) == (DType.INT64, INT64_BIAS, {})

    def test_a_dense_layer_that_ends_before_its_bias(self) -> None:
        b = Builder()
        operands = [b.input("x", (1, 6)), b.weights("kernel", 4, 6)]
        program = b.program(b.op("FULLY_CONNECTED", operands, "out", (1, 4), "FullyConnectedOptions"))
        made = plan(program, octavo.integer(), seen(program))
        assert {index for _, index in made.wants} == {0, 1}

    def test_chosen_codes_decide_over_the_bias(self) -> None:
        """Codes that an algorithm chose may overflow where rounding to nearest didn't, and the other way round."""
        from octavo.plan import rescale_weights

        b = Builder()
        x, kernel = b.input("x", (1, 9000)), b.const("w", np.ones((1, 9000), np.float32))
        kernel.set_values(np.where(np.arange(9000) < 100, 1.0, 0.01).astype(np.float32)[None])
        out = b.op("FULLY_CONNECTED", [x, kernel, b.weights("bias", 1)], "out", (1, 1), "FullyConnectedOptions")
        program = b.program(out)
        op, scheme = program.main.ops[0], octavo.integer(activations=16)
        made = plan(program, scheme, {x: (-1.0, 1.0), out: (-9.0, 9.0)})
        assert made.wants[op, 2].dtype is DType.INT32 and op in made.options
        scales = made.wants[op, 1].qparams
        assert scales is not None
        made.codes[op, 1] = np.full((1, 9000), 127, np.int8)
        rescale_weights(op, scheme, made, scales)
        assert made.wants[op, 2].dtype is DType.INT64 and op not in made.options

    @pytest.mark.parametrize("constant", [True, False])
    def test_a_matrix(self, constant: bool) -> None:
        b = Builder()
        x = b.input("x", (1, 4, 6))
        y = b.weights("y", 1, 6, 5) if constant else b.input("y", (1, 6, 5))
        out = b.op("BATCH_MATMUL", [x, y], "out", (1, 4, 5), "BatchMatMulOptions")
        program = b.program(out)
        made = plan(program, octavo.integer(), seen(program))
        op = program.main.ops[0]
        if constant:
            assert made.wants[op, 1] == Form(
                DType.INT8, numerics.weight_params(y.values, INT8_WEIGHT, None), INT8_WEIGHT
            )
        else:
            assert made.wants[op, 1] == activation()
        assert made.wants[op, 0] == activation()

    def test_an_op_in_float_behind_an_integer_one(self) -> None:
        b = Builder()
        y = b.unary("ABS", b.input("x", (2, 6)), "abs")
        program = b.program(b.unary("SIN", y, "out"))
        first, second = program.main.ops
        made = plan(program, octavo.integer(), seen(program))
        assert made.wants == {(first, 0): activation(), (second, 0): FLOAT} and made.stores == {y: activation()}

    def test_constants_beside_activations_are_stored_like_them(self) -> None:
        b = Builder()
        x, c = b.input("x", (2, 3)), b.const("c", np.array([-4, 0, 3], np.float32))
        program = b.program(b.op("ADD", [x, c], "out", (2, 3), "AddOptions"))
        op = program.main.ops[0]
        made = plan(program, octavo.integer(), seen(program))
        assert made.wants == {(op, 0): activation(), (op, 1): activation(-4, 3)}

    def test_only_float_operands_and_results_have_forms(self) -> None:
        b = Builder()
        x = b.unary("ABS", b.input("x", (2, 6)), "abs")
        values = b.op("TOPK_V2", [x, b.const("k", np.array(3, np.int32))], "best", (2, 3), "TopKV2Options")
        places = b.graph.add_tensor(Tensor("places", DType.INT32, (2, 3)))
        b.graph.ops[-1].outputs.append(places)
        program = b.program(values, places)
        first, op = program.main.ops
        made = plan(program, octavo.integer(), seen(program))
        assert set(made.wants) == {(first, 0), (op, 0)} and set(made.stores) == {x, values}
        assert made.outputs == {(program.main, values): FLOAT}


class TestRecurrent:
    def test_an_svdf(self) -> None:
        b = Builder()
        program = b.program(svdf(b))
        op, state = program.main.ops[0], program.main.inputs.pop()
        program.signatures[0].inputs.pop()
        state.is_variable = True
        x, features, time = inputs(program)[:3]
        ranges = {x: (-1.0, 2.0), state: (-6.0, 5.0), op.outputs[0]: (0.0, 3.0)}
        made = plan(program, octavo.integer(), ranges)
        assert made.decisions[op] == Decision("SVDF 'out'", "SVDF", "int8")
        ten_bits = replace(INT8_WEIGHT, bits=10)
        assert made.wants == {
            (op, 0): activation(),
            (op, 1): Form(DType.INT8, numerics.weight_params(features.values, INT8_WEIGHT, None), INT8_WEIGHT),
            (op, 2): Form(DType.INT16, numerics.weight_params(time.values, ten_bits, None), ten_bits),
        }
        assert made.stores == {op.outputs[0]: activation(0, 3), state: activation(-6, 5, 16)}
        assert made.intermediates == {op: []}

    def test_a_state_that_no_data_reached(self) -> None:
        b = Builder()
        program = b.program(svdf(b))
        state = program.main.inputs[-1]
        state.is_variable = True
        ranges = {t: r for t, r in seen(program).items() if t is not state}
        reason = "no calibration data reached the state of SVDF 'out'"
        assert decided(program, octavo.integer(), ranges) == [Decision("SVDF 'out'", "SVDF", "float32", reason)]

    def test_an_lstm(self) -> None:
        """Four gates, each with weights for the input and for the output before, and a bias."""
        b = Builder()
        x = b.input("x", (1, 2, 6))
        weights = [b.weights(f"w{i}", 4, 6 if i < 5 else 4) for i in range(1, 9)]
        biases = [b.weights(f"b{i}", 4) for i in range(4)]
        states = [b.graph.add_tensor(Tensor(name, DType.FLOAT32, (1, 4), is_variable=True)) for name in ("h", "c")]
        operands = [x, *weights, None, None, None, *biases, None, None, *states]
        out = b.op("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, "out", (1, 2, 4),
                   "UnidirectionalSequenceLSTMOptions", fusedActivationFunction=4)  # fmt: skip
        program = b.program(out)
        op = program.main.ops[0]
        made = plan(program, octavo.integer(), {x: (-1.0, 2.0), out: (-0.5, 0.75), states[1]: (-3.0, 2.0)})
        data, given = activation(), activation(-0.5, 0.75)
        assert data.qparams is not None
        for index, kernel in enumerate(weights, start=1):
            scale = numerics.weight_params(kernel.values, INT8_WEIGHT, None)
            assert made.wants[op, index] == Form(DType.INT8, scale, INT8_WEIGHT)
            if index < 5:
                bias = numerics.bias_params(float(data.qparams.scale[0]), scale.scale)
                assert made.wants[op, 11 + index] == Form(DType.INT32, bias, INT32_BIAS)
        assert made.stores == {
            out: given,
            states[0]: given,
            states[1]: Form(DType.INT16, QParams.per_tensor(2**-13), INT16),
        }
        inside = Form(DType.INT16, QParams.per_tensor(2**-12))
        assert made.intermediates == {op: [inside] * 4 + [Form(DType.INT8, given.qparams)]}


class TestFourBits:
    @pytest.mark.parametrize(
        ("code", "bits", "stored", "words"),
        [
            ("CONV_2D", 8, DType.INT4, "int4"),
            ("CONV_2D", 16, DType.INT8, "4 bits in int8"),
            ("BATCH_MATMUL", 8, DType.INT8, "4 bits in int8"),
        ],
    )
    def test_where_a_kernel_takes_them(self, code: str, bits: int, stored: DType, words: str) -> None:
        b = Builder()
        if code == "CONV_2D":
            program = b.program(conv(b, b.input("x", IMAGE)))
        else:
            operands = [b.input("x", (1, 4, 6)), b.weights("y", 1, 6, 5)]
            program = b.program(b.op(code, operands, "out", (1, 4, 5), "BatchMatMulOptions"))
        made = plan(program, octavo.integer(activations=bits, weights=4), seen(program))
        op = program.main.ops[0]
        form = made.wants[op, 1]
        assert (form.dtype, form.qtype) == (stored, INT4_WEIGHT)
        assert made.decisions[op].weights == words and made.decisions[op].precision == f"int{bits}"

    @pytest.mark.parametrize(
        ("width", "stored", "words"), [(32, DType.INT4, "int4"), (33, DType.INT8, "4 bits in int8")]
    )
    def test_rows_of_an_odd_width(self, width: int, stored: DType, words: str) -> None:
        """A row that begins in the middle of a byte is read wrongly."""
        b = Builder()
        table = b.weights("table", 20, width)
        ids = b.input("ids", (3,), DType.INT32)
        program = b.program(b.op("EMBEDDING_LOOKUP", [ids, table], "out", (3, width)))
        op = program.main.ops[0]
        for scheme in (octavo.dynamic_range(8, weights=4), octavo.weight_only(8, weights=4)):
            made = plan(program, scheme)
            assert made.wants[op, 1] == Form(stored, numerics.weight_params(table.values, INT4_WEIGHT, 0), INT4_WEIGHT)
            assert made.decisions[op].weights == words

    def test_an_odd_width_matters_for_rows_only(self) -> None:
        b = Builder()
        program = b.program(b.dense(b.input("x", (1, 33)), "dense", 20))
        made = plan(program, octavo.dynamic_range(8, weights=4))
        assert made.wants[program.main.ops[0], 1].dtype is DType.INT4

    @pytest.mark.parametrize(
        ("code", "width", "block", "words"),
        [
            ("FULLY_CONNECTED", 64, 32, "int4 in blocks of 32"),
            ("FULLY_CONNECTED", 40, 0, "int4, without blocks for an op whose width isn't a multiple of 32"),
            ("EMBEDDING_LOOKUP", 64, 32, "int4 in blocks of 32"),
            ("CONV_2D", 64, 0, "int4, without blocks for an op whose kernel takes none"),
        ],
    )
    def test_blocks(self, code: str, width: int, block: int, words: str) -> None:
        b = Builder()
        if code == "CONV_2D":
            program = b.program(conv(b, b.input("x", (1, 4, 4, width))))
        elif code == "FULLY_CONNECTED":
            program = b.program(b.dense(b.input("x", (1, width)), "dense", 6))
        else:
            ids = b.input("ids", (3,), DType.INT32)
            program = b.program(b.op(code, [ids, b.weights("table", 20, width)], "out", (3, width)))
        op = program.main.ops[0]
        kernel = op.inputs[1]
        assert kernel is not None
        made = plan(program, octavo.dynamic_range(8, weights=4, block=32))
        form = made.wants[op, 1]
        assert made.decisions[op] == Decision(op.name, op.code, "dynamic", weights=words)
        assert (form.dtype, form.block) == (DType.INT4, block)
        params = numerics.block_params(kernel.values, INT4_WEIGHT, 32) if block else numerics.weight_params(
            kernel.values, INT4_WEIGHT, 0
        )  # fmt: skip
        assert form.qparams == params

    def test_blocks_are_noted_once_where_several_weights_have_none(self) -> None:
        b = Builder()
        program = b.program(svdf(b))
        made = plan(program, octavo.dynamic_range(8, weights=4, block=32))
        words = "4 bits in int8, without blocks for an op whose kernel takes none"
        assert made.decisions[program.main.ops[0]].weights == words


class TestDynamicForms:
    def test_a_dense_layer(self) -> None:
        b = Builder()
        program = b.program(b.dense(b.input("x", (1, 40)), "dense", 6))
        op, (_, kernel, _) = program.main.ops[0], inputs(program)
        made = plan(program, octavo.dynamic_range(8))
        weights = Form(DType.INT8, numerics.weight_params(kernel.values, INT8_WEIGHT, 0), INT8_WEIGHT)
        assert made.wants == {(op, 0): FLOAT, (op, 1): weights, (op, 2): FLOAT}
        assert made.stores == {} and made.outputs == {}
        assert made.options == {op: {"asymmetricQuantizeInputs": True}}

    def test_a_matrix_has_one_scale(self) -> None:
        b = Builder()
        y = b.weights("y", 1, 6, 5)
        program = b.program(b.op("BATCH_MATMUL", [b.input("x", (1, 4, 6)), y], "out", (1, 4, 5), "BatchMatMulOptions"))
        op = program.main.ops[0]
        made = plan(program, octavo.dynamic_range(8))
        assert made.wants[op, 1] == Form(DType.INT8, numerics.weight_params(y.values, INT8_WEIGHT, None), INT8_WEIGHT)

    def test_an_op_without_options_gets_none(self) -> None:
        b = Builder()
        operands = [b.input("ids", (3,), DType.INT32), b.weights("table", 20, 32)]
        program = b.program(b.op("EMBEDDING_LOOKUP", operands, "out", (3, 32)))
        made = plan(program, octavo.dynamic_range(8))
        assert made.options == {} and set(made.wants) == {(program.main.ops[0], 1)}

    def test_several_weights_without_a_channel_axis(self) -> None:
        b = Builder()
        program = b.program(svdf(b))
        op = program.main.ops[0]
        made = plan(program, octavo.dynamic_range(8))
        for index in (1, 2):
            kernel = op.inputs[index]
            assert kernel is not None
            params = numerics.weight_params(kernel.values, INT8_WEIGHT, None)
            assert made.wants[op, index] == Form(DType.INT8, params, INT8_WEIGHT)
        assert made.options == {op: {"asymmetricQuantizeInputs": True}}

    def test_a_constant_that_is_data_and_weights_at_once(self) -> None:
        """Only where it is the weights is it an integer."""
        b = Builder()
        c = b.weights("c", 6, 6)
        operands = [b.input("x", (1, 6)), c, None]
        first = b.op("FULLY_CONNECTED", operands, "first", (1, 6), "FullyConnectedOptions")
        second = b.op("ADD", [c, first], "out", (6, 6), "AddOptions")
        program = b.program(second)
        made = plan(program, octavo.dynamic_range(8))
        dense, add = program.main.ops
        assert made.wants[dense, 1].dtype is DType.INT8 and made.wants[add, 0] == FLOAT
        dense.inputs[0] = c
        made = plan(program, octavo.dynamic_range(8))
        assert made.wants[dense, 1].dtype is DType.INT8 and made.wants[dense, 0] == FLOAT


class TestBorders:
    @pytest.mark.parametrize(
        ("io", "first", "last"),
        [
            ("float32", None, "float32"),
            ("int8", "int8", "int8"),
            ("uint8", "uint8", "uint8"),
            ("input=uint8,output=float32", "uint8", "float32"),
            ("input=float32,output=uint8", None, "uint8"),
        ],
    )
    def test_types(self, io: str, first: str | None, last: str) -> None:
        program = unary("ABS")
        x, out = program.main.inputs[0], program.main.outputs[0]
        made = plan(program, octavo.integer(io=io), {x: (-1.0, 2.0), out: (0.0, 3.0)})

        def border(dtype: str, low: float, high: float) -> Form:
            params = numerics.activation_params(low, high, INT8)
            if dtype == "uint8":
                return Form(DType.UINT8, QParams(params.scale, params.zero_point + 128), UINT8)
            return Form(DType.INT8, params)

        assert made.stores.get(x) == (None if first is None else border(first, -1, 2))
        assert made.outputs == {(program.main, out): FLOAT if last == "float32" else border(last, 0, 3)}

    def test_what_only_float_ops_touch_has_a_scale_too(self) -> None:
        program = unary("SIN")
        x, out = program.main.inputs[0], program.main.outputs[0]
        made = plan(program, octavo.integer(io="int8"), {x: (-1.0, 2.0), out: (-3.0, 3.0)})
        assert made.stores[x] == Form(DType.INT8, numerics.activation_params(-1, 2, INT8))
        assert made.outputs[program.main, out] == Form(DType.INT8, numerics.activation_params(-3, 3, INT8))

    def test_what_no_data_reached_stays_float(self) -> None:
        program = unary("SIN")
        made = plan(program, octavo.integer(io="int8"), {})
        assert made.stores == {} and made.outputs == {(program.main, program.main.outputs[0]): FLOAT}

    def test_integers_are_no_business_of_ours(self) -> None:
        b = Builder()
        x, ids = b.input("x", (4, 6)), b.input("ids", (2,), DType.INT32)
        out = b.op("GATHER", [x, ids], "out", (2, 6), "GatherOptions")
        program = b.program(ids, out)
        made = plan(program, octavo.integer(io="int8"), seen(program))
        assert set(made.stores) == {x, out} and set(made.outputs) == {(program.main, out)}

    @pytest.mark.parametrize("scheme", [octavo.float16(), octavo.dynamic_range(), octavo.weight_only()])
    def test_other_schemes_leave_them(self, scheme: Scheme) -> None:
        made = plan(unary("ABS"), scheme)
        assert made.stores == {} and made.outputs == {}


# ---------------------------------------------------------------- the request


class TestRequest:
    def test_a_rule_that_matches_nothing(self) -> None:
        recipe = Recipe(octavo.float16(), (Rule(octavo.keep_float(), "ABS"), Rule(octavo.keep_float(), "SIN", "no*")))
        with pytest.raises(RecipeError) as caught:
            plan(unary("ABS"), recipe)
        assert str(caught.value) == (
            "a rule matches no op: kind='SIN', name='no*'; octavo.load(...).describe() lists the kinds and names"
        )

    @pytest.mark.parametrize(
        "request_",
        [octavo.integer(), Recipe(octavo.float16(), (Rule(octavo.integer(), "ABS"),))],
    )
    def test_integers_need_ranges(self, request_: Scheme | Recipe) -> None:
        with pytest.raises(RecipeError) as caught:
            plan(unary("ABS"), request_)
        assert str(caught.value) == "integer quantization needs ranges: pass representative data as calibration="

    @pytest.mark.parametrize(("source", "called"), [("", "the model"), ("net.tflite", "net.tflite")])
    def test_integer_only_names_every_op_in_float(self, source: str, called: str) -> None:
        b = Builder()
        y = b.unary("SIN", b.unary("ABS", b.input("x", (2, 6)), "abs"), "sine")
        program = b.program(b.unary("COS", y, "out"))
        program.source = source
        with pytest.raises(NotIntegerError) as caught:
            plan(program, octavo.integer(fallback=False), seen(program))
        refused = [(r.op, r.reason, r.remedy) for r in caught.value.refusals]
        why = ("LiteRT has no integer kernel for it", "replace it by ops that have one")
        assert refused == [("SIN 'sine'", *why), ("COS 'out'", *why)] and caught.value.where == called

    @pytest.mark.parametrize("bits", [8, 16])
    def test_integer_only_takes_integers(self, bits: int) -> None:
        program = unary("ABS")
        made = plan(program, octavo.integer(fallback=False, activations=bits), seen(program))
        assert made.decisions[program.main.ops[0]].precision == f"int{bits}"

    def test_integer_only_takes_ops_without_floats(self) -> None:
        b = Builder()
        ids = b.input("ids", (2,), DType.INT32)
        twice = b.op("ADD", [ids, ids], "twice", (2,), "AddOptions", dtype=DType.INT32)
        program = b.program(b.unary("ABS", b.input("x", (2,)), "out"), twice)
        made = plan(program, octavo.integer(fallback=False), seen(program))
        assert {d.kind: d.precision for d in made.decisions.values()} == {"ABS": "int8", "ADD": "as is"}

    def test_other_schemes_refuse_nothing(self) -> None:
        scheme = replace(octavo.float16(), fallback=False)
        assert plan(unary("SIN"), scheme).decisions

    def test_a_rule_gives_one_op_its_own_scheme(self) -> None:
        b = Builder()
        y = b.unary("ABS", b.input("x", (2, 6)), "first")
        program = b.program(b.unary("ABS", y, "second"))
        recipe = Recipe(octavo.integer(), (Rule(octavo.integer(activations=16), name="second"),))
        made = plan(program, recipe, seen(program))
        first, second = program.main.ops
        assert [made.decisions[op].precision for op in (first, second)] == ["int8", "int16"]
        assert made.stores == {y: activation(), second.outputs[0]: activation(bits=16)}
        assert made.wants == {(first, 0): activation(), (second, 0): activation(bits=16)}

    def test_what_was_seen_decides_where_ranges_were_chosen(self) -> None:
        """LOG stays in float where its smallest input is less than a step of what was seen."""
        program = unary("LOG")
        x, out = program.main.inputs[0], program.main.outputs[0]
        chosen = {x: (0.5, 1.0), out: (-1.0, 0.0)}
        wide = {x: (1e-6, 1.0), out: (-14.0, 0.0)}
        assert decided(program, octavo.integer(), chosen)[0].precision == "int8"
        made = plan(program, octavo.integer(), chosen, wide).decisions[program.main.ops[0]]
        reason = "its smallest inputs are less than a step of 8 bits, and it magnifies them"
        assert made == Decision("LOG 'out'", "LOG", "float32", reason)

    def test_weights_of_what_had_better_stay_in_float_are_stored_small(self) -> None:
        """The 1,024 of a dense layer in front of a LOG."""
        b = Builder()
        y = b.dense(b.input("x", (1, 16)), "dense", 64)
        program = b.program(b.unary("LOG", y, "out"))
        ranges = dict.fromkeys(seen(program), (1e-06, 1.0))
        dense, log = decided(program, octavo.integer(), ranges)
        reason = "LOG 'out' needs its result unrounded"
        assert dense == Decision("FULLY_CONNECTED 'dense'", "FULLY_CONNECTED", "weight_only", reason)
        assert log.precision == "float32"

    @pytest.mark.parametrize(("io", "precision"), [("float32", "float32"), ("int8", "int8")])
    def test_probabilities_that_leave_in_float_stay_in_float(self, io: str, precision: str) -> None:
        program = unary("LOGISTIC")
        assert decided(program, octavo.integer(io=io))[0].precision == precision
        only = octavo.integer(fallback=False, io=io)
        assert decided(program, only)[0].precision == "int8"

    def test_what_follows_from_known_ranges(self) -> None:
        """A reshape's result, which no calibration names, has the range of what goes in."""
        b = Builder()
        x = b.unary("ABS", b.input("x", (2, 6)), "abs")
        out = b.reshape(x, "out", (12,))
        program = b.program(b.unary("ABS", out, "last"))
        ranges = {t: r for t, r in seen(program).items() if t is not out}
        made = plan(program, octavo.integer(), ranges)
        assert made.stores[out] == activation()


class TestVariables:
    """State by name: integer for all that read or write it, with one scale, or for none."""

    def program(self, spoil: str = "") -> Program:
        b = Builder()
        x = b.input("x", (1, 6))
        options = {"container": b"", "sharedName": b"state"}
        handle = b.op("VAR_HANDLE", [], "handle", (), "VarHandleOptions", dtype=DType.RESOURCE, **options)
        if spoil == "argument":
            handle = b.input("given", (), DType.RESOURCE)
        old = b.op("READ_VARIABLE", [handle], "old", (1, 6), "ReadVariableOptions")
        new = b.op("ADD", [old, x], "new", (1, 6), "AddOptions")
        b.graph.ops.append(Op("ASSIGN_VARIABLE", [handle, new], [], {}, "AssignVariableOptions"))
        return b.program(new)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_one_scale(self, bits: int) -> None:
        program = self.program()
        named = {t.name: t for t in program.tensors()}
        ranges = {named["x"]: (-1.0, 1.0), named["old"]: (-2.0, 5.0), named["new"]: (-6.0, 3.0)}
        made = plan(program, octavo.integer(activations=bits), ranges)
        assign = program.main.ops[-1]
        assert [d.precision for d in made.decisions.values() if d.kind != "VAR_HANDLE"] == [f"int{bits}"] * 3
        assert made.stores[named["old"]] == made.wants[assign, 1] == activation(-6, 5, bits)

    def test_each_variable_by_itself(self) -> None:
        """The first agrees, the second doesn't."""
        b = Builder()
        y = b.input("x", (1, 6))
        for name in ("first", "second"):
            handle = b.op(
                "VAR_HANDLE", [], name, (), "VarHandleOptions", dtype=DType.RESOURCE, sharedName=name.encode()
            )
            old = b.op("READ_VARIABLE", [handle], f"{name}/old", (1, 6), "ReadVariableOptions")
            y = b.op("ADD", [old, y], f"{name}/new", (1, 6), "AddOptions")
            b.graph.ops.append(Op("ASSIGN_VARIABLE", [handle, y], [], {}, "AssignVariableOptions"))
        program = b.program(y)
        recipe = Recipe(octavo.integer(), (Rule(octavo.keep_float(), "READ_VARIABLE", "second/*"),))
        made = plan(program, recipe, seen(program)).decisions
        uses = [made[op].precision for op in program.main.ops if op.code.endswith("_VARIABLE")]
        assert uses == ["int8", "int8", "float32", "float32"]

    def test_float_for_one_is_float_for_all(self) -> None:
        program = self.program()
        recipe = Recipe(octavo.integer(), (Rule(octavo.keep_float(), "READ_VARIABLE"),))
        made = plan(program, recipe, seen(program))
        reasons = {d.kind: (d.precision, d.reason) for d in made.decisions.values()}
        why = "its variable is kept in float: not all agree on its precision"
        assert reasons["READ_VARIABLE"] == ("float32", "")
        assert reasons["ASSIGN_VARIABLE"] == ("float32", why)
        assert reasons["ADD"] == ("int8", "")

    def test_the_reason_of_the_first_is_told(self) -> None:
        program = self.program()
        ranges = {t: r for t, r in seen(program).items() if t.name != "old"}
        made = plan(program, octavo.integer(), ranges)
        why = {d.kind: d.reason for d in made.decisions.values()}
        assert why["ASSIGN_VARIABLE"] == "its variable is kept in float: no calibration data reached 'old'"

    def test_an_argument_may_be_any_variable(self) -> None:
        program = self.program("argument")
        made = plan(program, octavo.integer(), seen(program))
        why = {d.kind: (d.precision, d.reason) for d in made.decisions.values()}
        kept = ("float32", "its variable is kept in float: it is handed over as an argument")
        assert why["READ_VARIABLE"] == why["ASSIGN_VARIABLE"] == kept

    def test_widths_that_differ(self) -> None:
        program = self.program()
        recipe = Recipe(octavo.integer(), (Rule(octavo.integer(activations=16), "READ_VARIABLE"),))
        made = plan(program, recipe, seen(program))
        why = "its variable is kept in float: not all agree on its precision"
        assert [d.reason for d in made.decisions.values() if d.kind.endswith("_VARIABLE")] == [why, why]


def with_constant_weights(program: Program) -> Program:
    """As normalising leaves it: weights that a subgraph is handed are constants there."""
    pin_arguments(program)
    return program


class TestCalls:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_a_loop_hands_integers_on(self, bits: int) -> None:
        program = with_constant_weights(looping())
        ranges = seen(program)
        body = program.graphs[2]
        next(op for op in body.ops if op.code == "TANH").code = "ABS"  # whose scale no kernel gives
        ranges[body.inputs[0]] = (-5.0, 1.0)
        made = plan(program, octavo.integer(activations=bits), ranges)
        loop = program.main.ops[0]
        form = activation(-5, 2, bits)  # the union of what both sides know
        assert made.decisions[loop] == Decision(loop.name, "WHILE", f"int{bits}")
        assert made.wants[loop, 0] == made.stores[loop.outputs[0]] == form
        assert made.stores[program.graphs[1].inputs[0]] == made.stores[body.inputs[0]] == form
        assert made.outputs[body, body.outputs[0]] == form
        assert made.wants[body.ops[0], 0] == form, "no conversion stands there"

    def test_both_sides_have_one_form_whatever_their_neighbours_want(self) -> None:
        """What goes into the loop is a reshape's result, what comes out is reshaped: both of wider values."""
        program = with_constant_weights(looping())
        loop = program.main.ops[0]
        next(op for op in program.graphs[2].ops if op.code == "TANH").code = "ABS"
        b = Builder()
        b.graph = program.main
        x = loop.inputs[0]
        assert x is not None
        wide = b.unary("ABS", x, "wide")
        loop.inputs[0] = b.reshape(wide, "flat", (1, 6))
        out = loop.outputs[0]
        b.graph.ops = [*b.graph.ops[1:], loop]
        b.graph.outputs = [b.unary("ABS", b.reshape(out, "row", (6,)), "last")]
        ranges = seen(program)
        ranges[wide] = ranges[b.graph.ops[-2].outputs[0]] = (-40.0, 40.0)
        made = plan(program, octavo.integer(), ranges)
        body = program.graphs[2]
        assert made.wants[loop, 0] == made.stores[out] == activation()
        assert made.stores[body.inputs[0]] == made.outputs[body, body.outputs[0]] == activation()
        assert made.stores[wide] == activation(-40, 40)

    def test_a_branch_hands_integers_on(self) -> None:
        program = with_constant_weights(branching())
        ranges = seen(program)
        made = plan(program, octavo.integer(), ranges)
        op = next(op for op in program.main.ops if op.code == "IF")
        assert made.decisions[op].precision == "int8"
        assert made.wants[op, 1] == activation() and made.stores[op.outputs[0]] == activation()
        for graph in program.graphs[1:]:
            assert made.stores[graph.inputs[0]] == activation()
            assert made.outputs[graph, graph.outputs[0]] == activation()

    def test_a_body_that_makes_floats_keeps_the_loop_in_float(self) -> None:
        program = with_constant_weights(looping())
        body = program.graphs[2]
        next(op for op in body.ops if op.code == "TANH").code = "SIN"
        made = plan(program, octavo.integer(), seen(program))
        loop = program.main.ops[0]
        reason = "it hands floats to its subgraphs: SIN 'tanh' makes floats there"
        assert (made.decisions[loop].precision, made.decisions[loop].reason) == ("float32", reason)

    def test_one_loop_in_float_is_no_matter_to_the_next(self) -> None:
        program = with_constant_weights(looping())
        other = with_constant_weights(looping())
        for graph, code in ((program.graphs[2], "SIN"), (other.graphs[2], "ABS")):
            next(op for op in graph.ops if op.code == "TANH").code = code
        first, second = program.main.ops[0], other.main.ops[0]
        second.options = {"condSubgraphIndex": 3, "bodySubgraphIndex": 4}
        second.inputs[0] = first.outputs[0]
        program.main.tensors += [t for t in other.main.tensors if t is not other.main.inputs[0]]
        program.main.ops.append(second)
        program.main.outputs = [second.outputs[0]]
        program.graphs += other.graphs[1:]
        made = plan(program, octavo.integer(), seen(program)).decisions
        assert [made[op].precision for op in (first, second)] == ["float32", "int8"]

    @pytest.mark.parametrize("first", ["", "SIN"])
    def test_what_only_moves_values_between_the_borders_of_a_branch_is_integer(self, first: str) -> None:
        """What comes out is handed over as integers, so the reshape in front of it had better be one too."""
        program = with_constant_weights(branching())
        for graph in program.graphs[1:]:
            b = Builder()
            x = b.input("x", (1, 6))
            y = b.unary(first, x, "wave") if first else x
            inner = b.program(b.reshape(b.reshape(y, "flat", (6,)), "out", (1, 6))).main
            graph.tensors, graph.inputs, graph.outputs, graph.ops = (
                inner.tensors,
                inner.inputs,
                inner.outputs,
                inner.ops,
            )
        made = plan(program, octavo.integer(), seen(program))
        moves = [op for graph in program.graphs[1:] for op in graph.ops if op.code == "RESHAPE"]
        assert [made.decisions[op].precision for op in moves] == ["int8"] * 4
        assert next(d for d in made.decisions.values() if d.kind == "IF").precision == "int8"

    def test_other_schemes_hand_floats_on(self) -> None:
        program = with_constant_weights(looping())
        made = plan(program, octavo.dynamic_range(8))
        loop, dense = program.main.ops[0], program.graphs[2].ops[0]
        assert made.decisions[loop] == Decision(loop.name, "WHILE", "float32")
        assert made.decisions[dense].precision == "dynamic"
        assert made.stores == {} and made.outputs == {}

    def test_a_float_rule_for_the_loop_alone(self) -> None:
        program = with_constant_weights(looping())
        recipe = Recipe(octavo.integer(), (Rule(octavo.keep_float(), "WHILE"),))
        made = plan(program, recipe, seen(program))
        assert made.decisions[program.main.ops[0]].precision == "float32"
        assert program.graphs[2].inputs[0] not in made.stores

    def test_integer_inputs_are_for_entry_points_only(self) -> None:
        """The branches of a model with int8 inputs are handed floats, where the IF itself stays in float."""
        program = with_constant_weights(branching())
        program.graphs[1].ops[0].code = "COMPLEX_ABS"
        made = plan(program, octavo.integer(io="int8"), seen(program))
        for graph in program.graphs[1:]:
            assert graph.inputs[0] not in made.stores
            assert made.outputs[graph, graph.outputs[0]] == FLOAT
        assert made.stores[program.main.inputs[0]].dtype is DType.INT8

    def test_every_signature_is_an_entry_point(self) -> None:
        program = unary("ABS")
        other = unary("ABS", (3, 4)).main
        program.graphs.append(other)
        program.signatures.append(Signature("other", [("x", other.inputs[0])], [("y", other.outputs[0])], other))
        made = plan(program, octavo.integer(io="int8"), seen(program))
        assert made.stores[other.inputs[0]].dtype is made.stores[program.main.inputs[0]].dtype is DType.INT8

    def test_loops_in_loops(self) -> None:
        """What the inner one hands over, the outer one may too."""
        program = nested()
        made = plan(program, octavo.integer(), seen(program))
        loops = [op for op in program.ops() if op.code == "WHILE"]
        assert [made.decisions[op].precision for op in loops] == ["int8", "int8"]


def nested() -> Program:
    """A WHILE whose body is a WHILE whose body is an ABS."""
    b = Builder()
    x = b.input("x", (1, 6))
    out = b.op("WHILE", [x], "out", (1, 6), "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    program = b.program(out)

    def condition() -> Graph:
        inner = Builder()
        y = inner.input("y", (1, 6))
        most = inner.const("most", np.array(3, np.float32))
        axes = inner.const("axes", np.array([0, 1], np.int32))
        largest = inner.op("REDUCE_MAX", [y, axes], "largest", (), "ReducerOptions")
        return inner.program(inner.op("LESS", [largest, most], "more", (), "LessOptions", dtype=DType.BOOL)).main

    outer = Builder()
    y = outer.input("y", (1, 6))
    made = outer.op("WHILE", [y], "again", (1, 6), "WhileOptions", condSubgraphIndex=3, bodySubgraphIndex=4)
    deep = Builder()
    z = deep.unary("ABS", deep.input("z", (1, 6)), "abs")
    program.graphs += [condition(), outer.program(made).main, condition(), deep.program(z).main]
    return program


# ---------------------------------------------------------------- records


def test_integer_ops_by_their_width() -> None:
    ops = [unary("ABS").main.ops[0] for _ in range(4)]
    precisions = ("int8", "int16", "dynamic", "float32")
    made = {op: Decision(op.name, op.code, precision) for op, precision in zip(ops, precisions, strict=True)}
    assert integer_bits(made) == {ops[0]: 8, ops[1]: 16}
    assert Plan().decisions == {} and Plan().codes == {}
