"""Patterns that rewrites know, built op by op: what becomes of each, and what looks like it and stays."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import Builder
from octavo.errors import ModelFileError, RecipeError
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.queries import record_range, recorded_range
from octavo.graph.verify import verify
from octavo.passes.add_bias import add_bias
from octavo.passes.cancel_moves import cancel_moves
from octavo.passes.center_first import center_first
from octavo.passes.channels_last import channels_last
from octavo.passes.computed_weights import computed_weights
from octavo.passes.dequantize import dequantize
from octavo.passes.drop_dead import drop_dead
from octavo.passes.drop_nan_guards import drop_nan_guards
from octavo.passes.fix_shapes import fix_shapes, held_shapes
from octavo.passes.fold_constants import fold_constants
from octavo.passes.fold_pad import fold_pad
from octavo.passes.fold_scales import fold_scales
from octavo.passes.fold_scaling import fold_scaling
from octavo.passes.fold_transpose import fold_transpose
from octavo.passes.hoist_channelwise import hoist_channelwise
from octavo.passes.pin_arguments import pin_arguments
from octavo.passes.pipeline import normalise
from octavo.passes.recognise_embedding import recognise_embedding
from octavo.passes.recognise_pools import recognise_pools
from octavo.passes.recognise_prelu import recognise_prelu
from octavo.passes.recognise_relu import recognise_relu
from octavo.passes.recognise_softmax import recognise_softmax
from octavo.passes.scale_channels import scale_channels
from octavo.passes.spell_out import spell_out
from octavo.qtypes import QParams
from test_passes import IMAGE, SAME, VALID, binary, branching, codes, linear, looping, number, rewritten, run, transpose

ROWS = (2, 3, 5)
RELU = 1


def vector(b: Builder, size: int, name: str = "vector") -> Tensor:
    return b.const(name, b.rng.uniform(0.5, 2, size).astype(np.float32))


def reduction(b: Builder, code: str, x: Tensor, axes: list[int], name: str, keep: bool = False) -> Tensor:
    gone = {axis % len(x.shape) for axis in axes}
    kept = [1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone]
    operands = [x, b.const(f"{name}/axes", np.array(axes, np.int32))]
    return b.op(code, operands, name, tuple(kept), "ReducerOptions", keepDims=keep)


class TestChannelsLast:
    """More in test_layout.py."""

    def test_dynamic_sizes_change_places_too(self) -> None:
        b = Builder()
        x = b.input("x", (1, 4, 6, 8))
        x.shape_signature = (-1, 4, -1, 8)
        program = b.program(b.unary("ABS", x, "y"))
        channels_last(program)
        assert program.main.inputs[0].shape_signature == (-1, -1, 8, 4)

    def test_what_is_input_and_output_stays(self) -> None:
        b = Builder()
        x = b.input("x", (1, 4, 6, 8))
        program = b.program(x, reduction(b, "SUM", x, [1, 2, 3], "sum"))
        assert channels_last(program) == [] and program.main.inputs[0].shape == (1, 4, 6, 8)


def run_on(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    from octavo.runtime.session import Session
    from octavo.tflite import write

    return list(Session(write(program), kernels="builtin").run(arrays).values())


class TestHoistChannelwise:
    def program(self, piece: str, shape: tuple[int, ...] = (1, 48, 5)) -> Program:
        b = Builder()
        y = b.reshape(b.conv(b.input("x", IMAGE), "conv", 5), "flat", shape)
        if piece == "RELU":
            return b.program(b.unary("RELU", y, "out"))
        return b.program(binary(b, piece, y, vector(b, shape[-1]), "out"))

    @pytest.mark.parametrize("piece", ["ADD", "MUL", "SUB", "RELU"])
    def test_comes_next_to_the_convolution(self, piece: str) -> None:
        assert rewritten(self.program(piece), hoist_channelwise) == ["CONV_2D", piece, "RESHAPE"]

    def test_several_after_each_other(self) -> None:
        b = Builder()
        y = b.reshape(b.conv(b.input("x", IMAGE), "conv", 5), "flat", (1, 48, 5))
        y = b.unary("RELU", binary(b, "ADD", y, vector(b, 5), "biased"), "out")
        assert rewritten(b.program(y), hoist_channelwise) == ["CONV_2D", "ADD", "RELU", "RESHAPE"]

    def test_other_channels_stay(self) -> None:
        program = self.program("MUL", (1, 5, 48))
        assert rewritten(program, hoist_channelwise) == ["CONV_2D", "RESHAPE", "MUL"]

    def test_what_isnt_channelwise_stays(self) -> None:
        b = Builder()
        y = b.reshape(b.conv(b.input("x", IMAGE), "conv", 5), "flat", (1, 48, 5))
        y = binary(b, "MUL", y, b.weights("each", 48, 5), "out")
        assert rewritten(b.program(y), hoist_channelwise) == ["CONV_2D", "RESHAPE", "MUL"]

    @pytest.mark.parametrize("border", [True, False])
    def test_a_trained_range_comes_along(self, border: bool) -> None:
        b = Builder()
        y = b.reshape(b.conv(b.input("x", IMAGE), "conv", 5), "flat", (1, 48, 5))
        y = b.unary("RELU", y, "act")
        record_range(y, 0.0, 4.0)
        program = b.program(y if border else b.unary("TANH", y, "out"))
        assert rewritten(program, hoist_channelwise)[:3] == ["CONV_2D", "RELU", "RESHAPE"]
        made, reshaped = program.main.ops[1].outputs[0], program.main.ops[2].outputs[0]
        assert recorded_range(made) == recorded_range(reshaped) == (0.0, 4.0)
        # Should the reshape go, the name that users know stays; a public name stays where it is.
        assert (made.name == "act") == (not border) and (reshaped.name == "act") == border


class TestFoldTranspose:
    @pytest.mark.parametrize("code", ["MEAN", "SUM", "REDUCE_MAX"])
    @pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3], [1]])
    def test_reductions(self, code: str, axes: list[int]) -> None:
        b = Builder()
        turned = transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first")
        after = rewritten(b.program(reduction(b, code, turned, axes, "out")), fold_transpose)
        moves = axes == [3]  # what remains, channels and height, would change places
        assert after == (["TRANSPOSE", code] if moves else [code])

    def test_kept_dimensions_need_the_transpose(self) -> None:
        b = Builder()
        turned = transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first")
        program = b.program(reduction(b, "MEAN", turned, [2, 3], "out", keep=True))
        assert rewritten(program, fold_transpose) == ["TRANSPOSE", "MEAN"]

    def test_what_something_else_reads_stays(self) -> None:
        b = Builder()
        turned = transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first")
        program = b.program(reduction(b, "MEAN", turned, [2, 3], "out"), b.unary("ABS", turned, "abs"))
        assert rewritten(program, fold_transpose) == ["TRANSPOSE", "MEAN", "ABS"]

    def test_a_flattened_image_that_is_read_elsewhere_stays(self) -> None:
        b = Builder()
        flat = b.reshape(transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first"), "flat", (1, 192))
        program = b.program(b.dense(flat, "out", 5), b.unary("ABS", flat, "abs"))
        assert rewritten(program, fold_transpose) == ["TRANSPOSE", "RESHAPE", "FULLY_CONNECTED", "ABS"]


class TestRecogniseSoftmax:
    """Of x - m, with m the largest element along the axis."""

    def pieces(self, axis: int, spoil: str = "") -> tuple[Builder, Tensor, Tensor, Tensor]:
        """x - m, its exponential, and their sum."""
        b = Builder()
        x = b.input("x", ROWS)
        along = 1 if spoil == "axis of m" else axis
        m = reduction(b, "REDUCE_MAX", x, [along], "largest", keep=True)
        z = binary(b, "SUB", x, m, "shifted")
        exp = b.unary("EXP", z, "exp")
        return b, z, exp, reduction(b, "SUM", exp, [axis], "sum", keep=True)

    @pytest.mark.parametrize(("axis", "after"), [(-1, ["SOFTMAX"]), (1, ["TRANSPOSE", "SOFTMAX", "TRANSPOSE"])])
    def test_in_pieces(self, axis: int, after: list[str]) -> None:
        b, _, exp, total = self.pieces(axis)
        assert rewritten(b.program(binary(b, "DIV", exp, total, "out")), recognise_softmax) == after

    def test_a_shift_that_varies_along_the_axis_stays(self) -> None:
        b, _, exp, total = self.pieces(2, "axis of m")
        after = rewritten(b.program(binary(b, "DIV", exp, total, "out")), recognise_softmax)
        assert after == ["REDUCE_MAX", "SUB", "SOFTMAX"]

    def test_an_axis_of_open_size_stays(self) -> None:
        b, _, exp, total = self.pieces(1)
        exp.shape_signature = (-1, 3, 5)
        b.graph.inputs[0].shape_signature = b.graph.ops[1].outputs[0].shape_signature = (-1, 3, 5)
        program = b.program(binary(b, "DIV", exp, total, "out"))
        recognise_softmax(program)
        assert codes(program) == ["REDUCE_MAX", "SUB", "EXP", "SUM", "DIV"]

    def test_pieces_that_are_read_elsewhere_stay(self) -> None:
        b, _, exp, total = self.pieces(2)
        program = b.program(binary(b, "DIV", exp, total, "out"), exp)
        assert "SOFTMAX" not in rewritten(program, recognise_softmax)

    def test_the_logarithm(self) -> None:
        b, z, _, total = self.pieces(2)
        out = binary(b, "SUB", z, b.unary("LOG", total, "log"), "out")
        assert rewritten(b.program(out), recognise_softmax) == ["LOG_SOFTMAX"]

    def test_the_logarithm_by_way_of_reshapes(self) -> None:
        b, z, exp, _ = self.pieces(2)
        total = b.reshape(reduction(b, "SUM", exp, [2], "total"), "column", (2, 3, 1))
        log = b.reshape(b.reshape(b.unary("LOG", total, "log"), "square", (2, 3)), "back", (2, 3, 1))
        program = b.program(binary(b, "SUB", z, log, "out"))
        drop_dead(program)  # the sum of `pieces`
        assert rewritten(program, recognise_softmax) == ["LOG_SOFTMAX"]

    def test_the_logarithm_along_another_axis_stays(self) -> None:
        b, z, _, total = self.pieces(1)
        out = binary(b, "SUB", z, b.unary("LOG", total, "log"), "out")
        assert rewritten(b.program(out), recognise_softmax) == ["REDUCE_MAX", "SUB", "EXP", "SUM", "LOG", "SUB"]

    def test_the_logarithm_of_something_else_stays(self) -> None:
        b, z, _, total = self.pieces(2)
        out = binary(b, "SUB", b.unary("ABS", z, "abs"), b.unary("LOG", total, "log"), "out")
        assert "LOG_SOFTMAX" not in rewritten(b.program(out), recognise_softmax)

    def test_sums_over_several_axes_stay(self) -> None:
        b, _, exp, _ = self.pieces(2)
        total = reduction(b, "SUM", exp, [1, 2], "both", keep=True)
        assert "SOFTMAX" not in rewritten(b.program(binary(b, "DIV", exp, total, "out")), recognise_softmax)

    def test_a_constant_minus_something_stays(self) -> None:
        """SOFTMAX(c - m) isn't SOFTMAX of a constant: the pass looks for a computed x."""
        b = Builder()
        z = binary(b, "SUB", b.weights("c", *ROWS), b.input("m", (2, 3, 1)), "shifted")
        assert rewritten(b.program(b.op("SOFTMAX", [z], "out", ROWS, "SoftmaxOptions", beta=1.0)), recognise_softmax) \
            == ["SUB", "SOFTMAX"]  # fmt: skip


def pooling(behind: str, body: str = "ADD", start: float = 0.0, shape: tuple[int, ...] = (1, 6, 8, 2)) -> Program:
    """STABLEHLO_REDUCE_WINDOW with windows of 2 along height and width, and what stands behind it."""
    b = Builder()
    x = b.input("x", shape)
    rank = len(shape)
    size = (1, *[2] * (rank - 2), 1)
    made = tuple(n // s for n, s in zip(shape, size, strict=True))
    options = {"windowDimensions": list(size), "windowStrides": list(size), "bodySubgraphIndex": 1}
    window = b.op("STABLEHLO_REDUCE_WINDOW", [x, number(b, start)], "sum", made,
                  "StablehloReduceWindowOptions", **options)  # fmt: skip
    count = float(np.prod(size))
    out = {
        "": lambda: window,
        "MUL": lambda: binary(b, "MUL", window, number(b, 1 / count), "out"),
        "DIV": lambda: binary(b, "DIV", window, number(b, count), "out"),
        "DIV by another": lambda: binary(b, "DIV", window, number(b, count + 1), "out"),
        "MUL by another": lambda: binary(b, "MUL", window, number(b, 0.3), "out"),
        "ABS": lambda: b.unary("ABS", window, "out"),
    }[behind]()
    inner = Builder()
    operands = [inner.input("a", ()), inner.input("b", ())]
    program = b.program(out)
    program.graphs.append(inner.program(inner.op(body, operands, "joined", ())).main)
    return program


class TestRecognisePools:
    """LiteRT's own kernel needs padding and dilations spelled out, so results are held against NumPy."""

    def pooled(self, program: Program) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The ops afterwards, windows of the input, the output."""
        x = np.random.default_rng(5).normal(size=program.main.inputs[0].shape).astype(np.float32)
        recognise_pools(program)
        verify(program)
        windows = x.reshape(1, 3, 2, 4, 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 3, 4, 2, 4)
        made = codes(program)
        return made, windows, run_on(program, [x])[0] if "STABLEHLO_REDUCE_WINDOW" not in made else np.zeros(0)

    @pytest.mark.parametrize("behind", ["MUL", "DIV"])
    def test_means_of_images(self, behind: str) -> None:
        made, windows, out = self.pooled(pooling(behind))
        assert made == ["AVERAGE_POOL_2D"]
        np.testing.assert_allclose(out, windows.mean(-1), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("behind", "rest"), [("", []), ("ABS", ["ABS"]), ("DIV by another", ["DIV"])])
    def test_sums_of_images(self, behind: str, rest: list[str]) -> None:
        made, windows, out = self.pooled(pooling(behind))
        assert made == ["AVERAGE_POOL_2D", "MUL", *rest]
        want = {"": windows.sum(-1), "ABS": np.abs(windows.sum(-1)), "DIV by another": windows.sum(-1) / 5}[behind]
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)

    def test_another_factor_is_kept(self) -> None:
        made, windows, out = self.pooled(pooling("MUL by another"))
        assert made == ["AVERAGE_POOL_2D", "MUL", "MUL"]
        np.testing.assert_allclose(out, windows.sum(-1) * np.float32(0.3), rtol=1e-5, atol=1e-6)

    def test_the_largest_of_images(self) -> None:
        made, windows, out = self.pooled(pooling("", "MAXIMUM", -np.inf))
        assert made == ["MAX_POOL_2D"]
        np.testing.assert_array_equal(out, windows.max(-1))

    @pytest.mark.parametrize(("body", "start"), [("MAXIMUM", 0.0), ("ADD", 1.0), ("MUL", 1.0)])
    def test_another_start_or_body_stays(self, body: str, start: float) -> None:
        program = pooling("", body, start)
        recognise_pools(program)
        assert codes(program) == ["STABLEHLO_REDUCE_WINDOW"]

    def test_a_body_that_doesnt_exist_stays(self) -> None:
        program = pooling("")
        program.main.ops[0].options = {**(program.main.ops[0].options or {}), "bodySubgraphIndex": 7}
        recognise_pools(program)
        assert codes(program) == ["STABLEHLO_REDUCE_WINDOW"]

    def test_a_divisor_that_is_computed_otherwise_stays(self) -> None:
        """The sum is pooled, and divided by what was there."""
        program = pooling("")
        graph = program.main
        other = graph.add_tensor(Tensor("other", DType.FLOAT32, (1, 3, 4, 2)))
        graph.inputs.append(other)
        out = graph.add_tensor(Tensor("out", DType.FLOAT32, (1, 3, 4, 2)))
        graph.ops.append(Op("DIV", [graph.outputs[0], other], [out], {}, "DivOptions"))
        graph.outputs = [out]
        program.signatures[0].inputs.append(("other", other))
        program.signatures[0].outputs = [("out", out)]
        recognise_pools(program)
        assert codes(program) == ["AVERAGE_POOL_2D", "MUL", "DIV"]


class TestScaleChannels:
    def scaled(self, act: int = 0, add: str = "", factors: int = 4, offsets: int = 4, add_act: int = 0) -> Program:
        b = Builder()
        y = binary(b, "MUL", b.input("x", IMAGE), vector(b, factors), "scaled", act)
        if add:
            y = binary(b, add, y, vector(b, offsets, "offsets"), "moved", add_act)
        return b.program(y)

    @pytest.mark.parametrize("offsets", [1, 4])
    @pytest.mark.parametrize("act", [0, RELU])
    def test_with_an_offset(self, offsets: int, act: int) -> None:
        program = self.scaled(add="ADD", offsets=offsets, add_act=act)
        assert rewritten(program, scale_channels) == ["DEPTHWISE_CONV_2D"]
        assert program.main.ops[0].option("fusedActivationFunction") == act

    def test_a_factor_with_an_activation_keeps_the_add(self) -> None:
        program = self.scaled(act=RELU, add="ADD")
        assert rewritten(program, scale_channels) == ["DEPTHWISE_CONV_2D", "ADD"]

    @pytest.mark.parametrize("offsets", [4, 1])
    def test_behind_another_op(self, offsets: int) -> None:
        program = self.scaled(add="SUB", offsets=offsets)
        assert rewritten(program, scale_channels) == ["DEPTHWISE_CONV_2D", "SUB"]

    def test_an_activation_that_a_convolution_hasnt_got_stays(self) -> None:
        program = self.scaled(act=5)
        scale_channels(program)
        assert codes(program) == ["MUL"]

    def test_one_number_stays(self) -> None:
        assert rewritten(self.scaled(factors=1), scale_channels) == ["MUL"]

    def test_a_factor_for_each_pixel_stays(self) -> None:
        b = Builder()
        program = b.program(binary(b, "MUL", b.input("x", IMAGE), b.weights("each", 6, 8, 4), "out"))
        assert rewritten(program, scale_channels) == ["MUL"]


class TestRecognisePrelu:
    def spelled(self, slopes: np.ndarray, spoil: str = "", swapped: bool = False) -> Program:
        b = Builder()
        x = b.input("x", IMAGE)
        upper = b.unary("RELU", x, "upper")
        negated = b.unary("NEG", b.unary("ABS", x, "abs") if spoil == "another x" else x, "negated")
        lower = b.unary("TANH" if spoil == "no relu" else "RELU", negated, "lower")
        scaled = binary(b, "MUL", lower, b.const("slopes", slopes.astype(np.float32)), "scaled")
        outs = [binary(b, "ADD", *((scaled, upper) if swapped else (upper, scaled)), "out")]
        outs += [lower] if spoil == "lower is given out" else []
        outs += [b.unary("TANH", negated, "tanh")] if spoil == "negated is read" else []
        return b.program(*outs)

    @pytest.mark.parametrize("swapped", [False, True])
    @pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (1, 1, 1, 4), (6, 8, 4), (1,)])
    def test_four_ops(self, shape: tuple[int, ...], swapped: bool) -> None:
        slopes = -np.random.default_rng(0).uniform(0, 0.5, shape)
        program = self.spelled(slopes, swapped=swapped)
        assert rewritten(program, recognise_prelu) == ["PRELU"]
        alpha = program.main.ops[0].inputs[1]
        assert alpha is not None and alpha.shape == (1,) * (3 - min(len(shape), 3)) + shape[-3:]

    def test_what_else_reads_the_negative_keeps_it(self) -> None:
        program = self.spelled(np.full(4, -0.2), "negated is read")
        assert sorted(rewritten(program, recognise_prelu)) == ["NEG", "PRELU", "TANH"]

    @pytest.mark.parametrize("spoil", ["another x", "no relu", "lower is given out"])
    def test_what_isnt_one_stays(self, spoil: str) -> None:
        assert "PRELU" not in rewritten(self.spelled(np.full(4, -0.2), spoil), recognise_prelu)

    def test_slopes_that_differ_within_a_batch_stay(self) -> None:
        b = Builder()
        x = b.input("x", (2, 4))
        lower = binary(b, "MUL", b.unary("RELU", b.unary("NEG", x, "n"), "l"), b.weights("slopes", 2, 4), "scaled")
        program = b.program(binary(b, "ADD", b.unary("RELU", x, "upper"), lower, "out"))
        assert "PRELU" not in rewritten(program, recognise_prelu)


class TestCancelMoves:
    def test_a_transpose_of_unknown_order_stays(self) -> None:
        b = Builder()
        order = b.input("order", (4,), DType.INT32)
        program = b.program(b.op("TRANSPOSE", [b.input("x", IMAGE), order], "out", IMAGE, "TransposeOptions"))
        cancel_moves(program)
        assert codes(program) == ["TRANSPOSE"]

    def test_one_that_moves_nothing_goes(self) -> None:
        b = Builder()
        y = transpose(b, b.unary("ABS", b.input("x", IMAGE), "abs"), [0, 1, 2, 3], "same")
        assert rewritten(b.program(b.unary("TANH", y, "out")), cancel_moves) == ["ABS", "TANH"]

    def test_transposes_that_cancel_between_input_and_output(self) -> None:
        """They can't both go: input and output are two tensors."""
        b = Builder()
        y = transpose(b, transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first"), [0, 2, 3, 1], "out")
        assert rewritten(b.program(y), cancel_moves) == ["TRANSPOSE", "TRANSPOSE"]

    def test_a_transpose_that_is_read_elsewhere_stays(self) -> None:
        b = Builder()
        first = transpose(b, b.input("x", IMAGE), [0, 3, 1, 2], "first")
        program = b.program(transpose(b, first, [0, 2, 1, 3], "out"), b.unary("ABS", first, "abs"))
        assert rewritten(program, cancel_moves).count("TRANSPOSE") == 2

    def test_a_view_of_another_type_stays(self) -> None:
        b = Builder()
        y = b.op("RESHAPE", [b.unary("ABS", b.input("x", (2, 3)), "abs"), b.const("s", np.array([6], np.int32))],
                 "out", (6,), "ReshapeOptions", dtype=DType.FLOAT16)  # fmt: skip
        program = b.program(b.reshape(y, "again", (3, 2)))
        cancel_moves(program)
        assert codes(program)[:2] == ["ABS", "RESHAPE"]

    def test_a_computed_shape_stays(self) -> None:
        b = Builder()
        flat = b.reshape(b.unary("ABS", b.input("x", (2, 3)), "abs"), "flat", (6,))
        shape = b.input("shape", (2,), DType.INT32)
        program = b.program(b.op("RESHAPE", [flat, shape], "out", (3, 2), "ReshapeOptions"))
        cancel_moves(program)
        assert codes(program) == ["ABS", "RESHAPE", "RESHAPE"]

    def test_a_view_that_is_read_elsewhere_stays_for_those(self) -> None:
        b = Builder()
        flat = b.reshape(b.unary("ABS", b.input("x", (2, 3)), "abs"), "flat", (6,))
        program = b.program(b.reshape(flat, "out", (3, 2)), b.unary("TANH", flat, "tanh"))
        assert rewritten(program, cancel_moves) == ["ABS", "RESHAPE", "RESHAPE", "TANH"]
        assert program.main.ops[2].inputs[0] is program.main.ops[0].outputs[0]


class TestOthers:
    def test_a_bias_of_four_dimensions_becomes_a_vector(self) -> None:
        b = Builder()
        y = linear(b, "TRANSPOSE_CONV", b.input("x", IMAGE))
        program = b.program(y)
        op = program.main.ops[-1]
        vector_ = op.inputs[3]
        assert vector_ is not None
        before = run(program)
        op.inputs[3] = program.main.add_tensor(vector_.copy(shape=(1, 1, 1, 5)))
        program.main.drop_unused_tensors()
        add_bias(program)
        verify(program)
        bias = op.inputs[3]
        assert bias is not None and bias.shape == (5,)
        np.testing.assert_array_equal(run(program)[0], before[0])

    def test_a_bias_of_the_wrong_length_is_refused(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        program = b.program(y)
        program.main.ops[0].inputs[2] = b.weights("wrong", 7)
        with pytest.raises(ModelFileError, match=r"CONV_2D 'linear' has 7 biases for 5 channels: it is damaged"):
            normalise(program)

    @pytest.mark.parametrize(("dtype", "after"), [(DType.FLOAT32, "BATCH_MATMUL"), (DType.INT8, "FULLY_CONNECTED")])
    def test_computed_weights_of_floats_only(self, dtype: DType, after: str) -> None:
        b = Builder()
        x, w = b.input("x", (2, 6)), b.input("w", (5, 6), dtype)
        program = b.program(b.op("FULLY_CONNECTED", [x, w, None], "out", (2, 5), "FullyConnectedOptions"))
        computed_weights(program)
        assert codes(program) == [after]

    def test_a_guard_between_input_and_output_stays(self) -> None:
        b = Builder()
        x = b.input("x", (2, 3))
        isnt = b.op("NOT_EQUAL", [x, x], "nan", (2, 3), "NotEqualOptions", dtype=DType.BOOL)
        program = b.program(b.op("SELECT_V2", [isnt, b.const("zero", np.zeros((2, 3), np.float32)), x], "out", (2, 3)))
        assert rewritten(program, drop_nan_guards) == ["NOT_EQUAL", "SELECT_V2"]

    @pytest.mark.parametrize(("code", "bound", "after"), [("MINIMUM", 6, "MINIMUM"), ("MAXIMUM", 0, "RELU")])
    def test_bounds_behind_other_activations(self, code: str, bound: float, after: str) -> None:
        b = Builder()
        y = b.op(code, [b.unary("TANH", b.input("x", IMAGE), "tanh"), number(b, bound)], "out", IMAGE)
        assert rewritten(b.program(y), recognise_relu) == ["TANH", after]

    def test_a_minimum_behind_a_fused_relu(self) -> None:
        b = Builder()
        y = b.op("MINIMUM", [b.conv(b.input("x", IMAGE), "conv", 4, act=RELU), number(b, 6)], "out", IMAGE)
        assert rewritten(b.program(y), recognise_relu) == ["CONV_2D", "RELU6"]

    def test_bounds_that_vary_stay(self) -> None:
        b = Builder()
        y = b.op("MAXIMUM", [b.input("x", IMAGE), b.const("c", np.array([0, 0, 0, 1], np.float32))], "out", IMAGE)
        assert rewritten(b.program(y), recognise_relu) == ["MAXIMUM"]

    @pytest.mark.parametrize("shape", [IMAGE, (4,)])
    def test_a_power_of_several_exponents_stays(self, shape: tuple[int, ...]) -> None:
        b = Builder()
        x = b.unary("ABS", b.input("x", IMAGE), "abs")
        y = b.op("POW", [x, b.const("e", np.full(shape, 2, np.float32))], "out", IMAGE)
        assert rewritten(b.program(y), spell_out) == ["ABS", "POW"]

    def test_a_sum_of_one_stays(self) -> None:
        b = Builder()
        program = b.program(b.op("ADD_N", [b.input("x", IMAGE)], "out", IMAGE, "AddNOptions"))
        spell_out(program)
        assert codes(program) == ["ADD_N"]

    @pytest.mark.parametrize("sizes", [(1, -1, 8, 4), None])
    def test_a_pool_of_an_image_of_open_size_stays(self, sizes: tuple[int, ...] | None) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        x.shape_signature = sizes
        options = {"padding": VALID, "strideW": 1, "strideH": 1, "filterWidth": 8, "filterHeight": 6}
        program = b.program(b.op("AVERAGE_POOL_2D", [x], "out", (1, 1, 1, 4), "Pool2DOptions", **options))
        spell_out(program)
        assert codes(program) == ["AVERAGE_POOL_2D" if sizes else "MEAN"]

    def test_padding_of_an_image_of_open_size_stays(self) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        x.shape_signature = (1, -1, 8, 4)
        padded = b.op("PAD", [x, b.const("p", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))],
                      "padded", (1, 8, 10, 4), "PadOptions")  # fmt: skip
        program = b.program(linear(b, "CONV_2D", padded, padding=VALID))
        fold_pad(program)
        assert codes(program) == ["PAD", "CONV_2D"]

    def test_padding_by_computed_amounts_stays(self) -> None:
        b = Builder()
        amounts = b.input("amounts", (4, 2), DType.INT32)
        padded = b.op("PAD", [b.input("x", IMAGE), amounts], "padded", (1, 8, 10, 4), "PadOptions")
        program = b.program(linear(b, "CONV_2D", padded, padding=VALID))
        fold_pad(program)
        assert codes(program) == ["PAD", "CONV_2D"]


class TestFoldScalesRefuses:
    def test_a_bias_of_another_length(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        b.graph.ops[0].inputs[2] = b.weights("one", 1)
        program = b.program(binary(b, "MUL", y, vector(b, 5), "out"))
        fold_scales(program)
        assert codes(program) == ["CONV_2D", "MUL"]

    def test_a_factor_in_front_of_grouped_channels(self) -> None:
        """A grouped convolution reads 2 of 4 channels: factors that differ have no one place in its weights."""
        b = Builder()
        x = binary(b, "MUL", b.input("x", IMAGE), vector(b, 4), "scaled")
        operands = [x, b.weights("kernel", 6, 3, 3, 2), b.weights("bias", 6)]
        options = {"padding": SAME, "strideW": 1, "strideH": 1, "fusedActivationFunction": 0}
        program = b.program(b.op("CONV_2D", operands, "out", (1, 6, 8, 6), "Conv2DOptions", **options))
        assert rewritten(program, fold_scales) == ["MUL", "CONV_2D"]

    def test_one_factor_in_front_of_grouped_channels_folds(self) -> None:
        b = Builder()
        x = binary(b, "MUL", b.input("x", IMAGE), b.const("c", np.full(4, 1.5, np.float32)), "scaled")
        operands = [x, b.weights("kernel", 6, 3, 3, 2), b.weights("bias", 6)]
        options = {"padding": SAME, "strideW": 1, "strideH": 1, "fusedActivationFunction": 0}
        program = b.program(b.op("CONV_2D", operands, "out", (1, 6, 8, 6), "Conv2DOptions", **options))
        assert rewritten(program, fold_scales) == ["CONV_2D"]

    def test_what_would_overflow_in_front(self) -> None:
        b = Builder()
        x = binary(b, "MUL", b.input("x", IMAGE), b.const("c", np.full(4, 3e38, np.float32)), "scaled")
        y = linear(b, "CONV_2D", x)
        kernel = b.graph.ops[1].inputs[1]
        assert kernel is not None
        kernel.set_values(kernel.values * 1e6)
        program = b.program(y)
        fold_scales(program)
        assert codes(program) == ["MUL", "CONV_2D"]

    def test_a_scale_of_computed_weights(self) -> None:
        """What a linear op reads as its weights isn't its data."""
        b = Builder()
        w = binary(b, "MUL", b.input("w", (5, 6)), vector(b, 6), "scaled")
        x = b.input("x", (2, 6))
        program = b.program(b.op("FULLY_CONNECTED", [x, w, None], "out", (2, 5), "FullyConnectedOptions"))
        fold_scales(program)
        assert codes(program) == ["MUL", "FULLY_CONNECTED"]


class TestFoldConstants:
    @pytest.mark.parametrize("code", ["PAD", "ONE_HOT"])
    def test_folds_what_is_small(self, code: str) -> None:
        b = Builder()
        if code == "PAD":
            operands = [b.const("c", np.ones((1, 2), np.float32)), b.const("p", np.array([[0, 0], [1, 0]], np.int32))]
            made = b.op("PAD", operands, "made", (1, 3), "PadOptions")
        else:
            operands = [b.const("i", np.array([2], np.int32)), b.const("n", np.array(3, np.int32)), number(b, 1),
                        number(b, 0)]  # fmt: skip
            made = b.op("ONE_HOT", operands, "made", (1, 3), "OneHotOptions", axis=-1)
        program = b.program(binary(b, "ADD", b.input("x", (1, 3)), made, "out"))
        assert rewritten(program, fold_constants) == ["ADD"]
        folded = program.main.ops[0].inputs[1]
        assert folded is not None and folded.values.tolist() == [[0, 1, 1] if code == "PAD" else [0, 0, 1]]

    @pytest.mark.parametrize("code", ["PAD", "ONE_HOT"])
    def test_nothing_grows_beyond_measure(self, code: str) -> None:
        """A file may declare a small result and ask for a huge one."""
        b = Builder()
        if code == "PAD":
            amounts = np.array([[0, 0], [0, 1 << 30]], np.int32)
            made = b.op("PAD", [b.const("c", np.ones((1, 2), np.float32)), b.const("p", amounts)], "made", (1, 3))
        else:
            operands = [b.const("i", np.array([2], np.int32)), b.const("n", np.array(1 << 30, np.int32)), number(b, 1),
                        number(b, 0)]  # fmt: skip
            made = b.op("ONE_HOT", operands, "made", (1, 3), "OneHotOptions", axis=-1)
        program = b.program(binary(b, "ADD", b.input("x", (1, 3)), made, "out"))
        fold_constants(program)
        assert codes(program) == [code, "ADD"]

    def test_variables_are_no_constants(self) -> None:
        b = Builder()
        made = b.op("ADD", [number(b, 1), number(b, 2)], "made", (), "AddOptions")
        made.is_variable = True
        program = b.program(binary(b, "ADD", b.input("x", (1, 3)), made, "out"))
        fold_constants(program)
        assert codes(program) == ["ADD", "ADD"]


class TestPinArguments:
    def test_bodies_that_take_another_number_stay(self) -> None:
        for program in (branching(), looping()):
            program.graphs[1].inputs = program.graphs[1].inputs[:-1]
            counts = [len(op.inputs) for op in program.main.ops]
            pin_arguments(program)
            assert [len(op.inputs) for op in program.main.ops] == counts

    def test_a_condition_that_gives_out_the_argument_keeps_it(self) -> None:
        program = looping()
        condition = program.graphs[1]
        condition.outputs = [condition.inputs[2]]
        pin_arguments(program)
        assert len(program.main.ops[0].inputs) == 3


class TestCenterFirst:
    """x * s + (b - m * s), with x - m there already, is (x - m) * s + b."""

    def program(self, form: str) -> Program:
        b = Builder()
        x, mean, factor = b.input("x", (3, 4)), b.input("mean", (3, 1)), b.input("factor", (3, 1))
        if form == "constant mean":
            mean = b.const("c", np.full((3, 1), 0.3, np.float32))
        centered = binary(b, "SUB", x, mean, "centered")
        other = {"constant gain": number(b, 2), "computed gain": b.input("other", (3, 1))}.get(form)
        gain = factor if other is None else binary(b, "MUL", factor, other, "gain")
        bias = b.const("bias", np.array([[0.5]], np.float32))
        if form == "negated":
            shift = binary(b, "ADD", binary(b, "MUL", b.unary("NEG", mean, "neg"), gain, "m"), bias, "shift")
        else:
            shift = b.op("SUB", [bias, binary(b, "MUL", mean, gain, "m")], "shift", (3, 1), "SubOptions")
        product = binary(b, "MUL", x, gain, "scaled")
        return b.program(binary(b, "ADD", product, shift, "out"), *([] if form == "not centered" else [centered]))

    @pytest.mark.parametrize(
        ("form", "after"),
        [
            ("plain", ["SUB", "MUL", "ADD"]),
            ("negated", ["SUB", "MUL", "ADD"]),
            ("constant gain", ["SUB", "MUL", "MUL", "ADD"]),  # by the computed factor first
            ("computed gain", ["SUB", "MUL", "MUL", "ADD"]),
        ],
    )
    def test_centers(self, form: str, after: list[str]) -> None:
        program = self.program(form)
        assert rewritten(program, center_first) == after
        first = next(op for op in program.main.ops if op.code == "MUL")
        made_first = {"constant gain": "centered", "computed gain": "factor"}.get(form, "centered")
        assert first.inputs[0] is not None and first.inputs[0].name == made_first

    @pytest.mark.parametrize("form", ["constant mean", "not centered"])
    def test_stays(self, form: str) -> None:
        program = self.program(form)
        drop_dead(program)
        before = codes(program)
        assert rewritten(program, center_first) == before


class TestFixShapes:
    def test_what_the_file_holds(self) -> None:
        b = Builder()
        x = b.input("x", (1, 3))
        x.shape_signature = (-1, 3)
        program = b.program(b.unary("ABS", x, "y"), b.unary("ABS", b.input("z", (2,)), "w"))
        assert held_shapes(program) == {"x": (1, 3)}

    def test_one_shape_for_two_inputs_is_refused(self) -> None:
        b = Builder()
        x = b.input("x", (1, 3))
        x.shape_signature = (-1, 3)
        program = b.program(b.unary("ABS", x, "y"), b.unary("ABS", b.input("z", (2,)), "w"))
        with pytest.raises(RecipeError, match=r"the model has 2 inputs \(x, z\): name each one's shape"):
            fix_shapes(program, (4, 3))

    def test_nothing_open(self) -> None:
        b = Builder()
        program = b.program(b.unary("ABS", b.input("x", (1, 3)), "y"))
        fix_shapes(program, (1, 3))
        assert program.main.inputs[0].shape == (1, 3) and codes(program) == ["ABS"]


def lookup(spoil: str = "") -> Program:
    """jax.numpy.take as the converter spells it: wrapped, guarded, NaN outside."""
    b = Builder()
    table, ids = b.weights("table", 7, 4), b.input("ids", (2, 3), DType.INT32)
    rows = 8 if spoil == "another number of rows" else 7

    def ints(name: str, value: object) -> Tensor:
        return b.const(name, np.array(value, np.int32))

    def compare(code: str, x: Tensor, bound: Tensor, name: str) -> Tensor:
        options = "".join(part.title() for part in code.split("_")) + "Options"
        return b.op(code, [x, bound], name, x.shape, options, dtype=DType.BOOL)

    if spoil == "not wrapped":
        wrapped = ids
    else:
        negative = compare("LESS", ids, ints("zero", 0), "negative")
        moved = b.op("ADD", [ids, ints("n", rows if spoil != "another wrap" else 5)], "moved", (2, 3), "AddOptions",
                     dtype=DType.INT32)  # fmt: skip
        plain = b.input("other", (2, 3), DType.INT32) if spoil == "another index" else ids
        wrapped = b.op("SELECT_V2", [negative, moved, plain], "wrapped", (2, 3), dtype=DType.INT32)
    index = b.op("RESHAPE", [wrapped, ints("column", (2, 3, 1))], "index", (2, 3, 1), "ReshapeOptions",
                 dtype=DType.INT32)  # fmt: skip
    looked_up = b.op("GATHER_ND", [table, index], "found", (2, 3, 4), "GatherNdOptions")
    low = compare("GREATER_EQUAL", index, ints("least", 0), "low")
    checked = b.input("elsewhere", (2, 3, 1), DType.INT32) if spoil == "another is checked" else index
    high = compare("LESS_EQUAL", checked, ints("most", rows - 1), "high")
    both = low
    if spoil != "one bound":
        both = b.op("LOGICAL_AND", [low, high], "both", (2, 3, 1), "LogicalAndOptions", dtype=DType.BOOL)
    inside = b.op("REDUCE_ALL", [both, ints("axis", [2])], "inside", (2, 3), "ReducerOptions", dtype=DType.BOOL)
    guard = b.op("RESHAPE", [inside, ints("wide", (2, 3, 1))], "guard", (2, 3, 1), "ReshapeOptions", dtype=DType.BOOL)
    filling = b.const("nan", np.full((2, 3, 4), np.nan if spoil != "another filling" else 0, np.float32))
    out = b.op("SELECT_V2", [guard, looked_up, filling], "out", (2, 3, 4))
    return b.program(out, *([looked_up] if spoil == "given out" else []))


class TestRecogniseEmbedding:
    @pytest.mark.parametrize("spoil", ["", "not wrapped"])
    def test_a_guarded_look_up(self, spoil: str) -> None:
        program = lookup(spoil)
        ids = np.array([[0, 6, 3], [1, 1, 5]], np.int32)
        before = run_on(program, [ids])
        notes = recognise_embedding(program)
        verify(program)
        assert codes(program) == ["GATHER"]
        assert notes == [
            "'out' looks up rows 0 to 6: other indices, which in Keras and JAX count from the end or give NaN, are an "
            "error here"
        ]
        np.testing.assert_array_equal(run_on(program, [ids])[0], before[0])

    @pytest.mark.parametrize(
        "spoil", ["another number of rows", "another filling", "another is checked", "one bound", "given out"]
    )
    def test_another_guard_stays(self, spoil: str) -> None:
        program = lookup(spoil)
        assert recognise_embedding(program) == []
        assert codes(program)[-1] == "SELECT_V2"

    @pytest.mark.parametrize("spoil", ["another wrap", "another index"])
    def test_another_wrap_stays_in_front(self, spoil: str) -> None:
        """The guard says that the index is inside: what made it is its own affair."""
        program = lookup(spoil)
        assert len(recognise_embedding(program)) == 1
        assert codes(program) == ["LESS", "ADD", "SELECT_V2", "GATHER"]

    @pytest.mark.parametrize("constant", [True, False])
    @pytest.mark.parametrize("last", [1, 2])
    def test_a_plain_look_up(self, constant: bool, last: int) -> None:
        b = Builder()
        places = np.array([[0, 1], [6, 3]], np.int32)[:, :last]
        if constant:
            index = b.const("index", places)
        else:
            flat = b.input("ids", (2 * last,), DType.INT32)
            index = b.op("RESHAPE", [flat, b.const("s", np.array([2, last], np.int32))], "index", (2, last),
                         "ReshapeOptions", dtype=DType.INT32)  # fmt: skip
        shape = (2, 4) if last == 1 else (2,)
        y = b.op("GATHER_ND", [b.weights("table", 7, 4), index], "y", shape, "GatherNdOptions")
        program = b.program(binary(b, "ADD", y, b.input("x", shape), "out"))
        ids = [] if constant else [places.reshape(-1)]
        arrays = [*ids, np.ones(shape, np.float32)]
        before = run_on(program, arrays)
        recognise_embedding(program)
        verify(program)
        assert ("GATHER" in codes(program)) == (last == 1)
        np.testing.assert_array_equal(run_on(program, arrays)[0], before[0])

    def test_indices_of_another_shape_stay(self) -> None:
        b = Builder()
        flat = b.input("ids", (6,), DType.INT32)
        index = b.op("RESHAPE", [flat, b.const("s", np.array([2, 3, 1], np.int32))], "index", (2, 3, 1),
                     "ReshapeOptions", dtype=DType.INT32)  # fmt: skip
        program = b.program(b.op("GATHER_ND", [b.weights("table", 7, 4), index], "y", (2, 3, 4), "GatherNdOptions"))
        recognise_embedding(program)
        assert codes(program) == ["RESHAPE", "GATHER_ND"]


class TestDequantizeRefuses:
    def test_shuffled_weights(self) -> None:
        b = Builder()
        program = b.program(b.dense(b.input("x", (1, 16)), "dense", 16))
        kernel = program.main.ops[0].inputs[1]
        assert kernel is not None
        kernel.dtype, kernel.qparams = DType.INT8, QParams.per_tensor(0.1)
        kernel.data = np.zeros(256, np.uint8)
        program.main.ops[0].options = {"weightsFormat": 1}
        with pytest.raises(RecipeError) as caught:
            dequantize(program)
        assert str(caught.value) == (
            "FULLY_CONNECTED 'dense' can't be brought back to float: its weights are shuffled for one kernel"
        )


class TestInputScaling:
    def test_an_input_of_integers_has_no_scale_to_choose(self) -> None:
        b = Builder()
        program = b.program(b.op("ABS", [b.input("ids", (2,), DType.INT32)], "y", (2,), dtype=DType.INT32))
        with pytest.raises(RecipeError) as caught:
            fold_scaling(program, 0.0, 255.0)
        assert str(caught.value) == "input 'ids' is int32: only a float32 input has a scale to choose"
