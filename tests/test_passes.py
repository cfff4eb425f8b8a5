"""Each rewrite of `octavo.passes`: what it makes, what it refuses, and that no float output changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import Builder
from octavo.errors import ModelFileError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.graph.verify import verify
from octavo.passes.cancel_moves import cancel_moves
from octavo.passes.densify import dense_values, densify
from octavo.passes.drop_dead import drop_dead
from octavo.passes.drop_identities import drop_identities
from octavo.passes.fold_constants import fold_constants
from octavo.passes.fold_pad import fold_pad, same_padding
from octavo.passes.fold_scales import fold_scales
from octavo.passes.fuse_activations import fuse_activations
from octavo.passes.keep_dims import keep_dims
from octavo.passes.pin_arguments import pin_arguments
from octavo.passes.pipeline import PASSES, normalise
from octavo.passes.recognise_hard_swish import recognise_hard_swish
from octavo.passes.recognise_relu import recognise_relu
from octavo.passes.spell_out import spell_out
from octavo.passes.transpose_conv_bias import transpose_conv_bias
from octavo.runtime.session import Session
from octavo.tflite import write

IMAGE = (1, 6, 8, 4)
RELU, RELU6 = 1, 3
SAME, VALID = 0, 1


def run(program: Program, kernels: str = "builtin", seed: int = 3) -> list[np.ndarray]:
    session = Session(write(program), kernels=kernels)
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=p.shape).astype(p.dtype) for p in session.inputs]
    return list(session.run(arrays).values())


def codes(program: Program) -> list[str]:
    return [op.code for op in program.main.ops]


def rewritten(program: Program, rewrite: Any, kernels: str = "builtin") -> list[str]:
    """The ops after `rewrite`, which must leave a sound graph with the same names and the same float outputs."""
    before, names = run(program, kernels), [t.name for t in program.main.outputs]
    rewrite(program)
    verify(program)
    assert [t.name for t in program.main.outputs] == names
    assert [t for _, t in program.signatures[0].outputs] == program.main.outputs
    for want, got in zip(before, run(program, kernels), strict=True):
        assert np.abs(got - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3)
    return codes(program)


def number(b: Builder, value: Any) -> Tensor:
    return b.const("number", np.array(value, np.float32))


def binary(b: Builder, code: str, x: Tensor, y: Tensor, name: str, act: int = 0) -> Tensor:
    return b.op(code, [x, y], name, x.shape, f"{code.title()}Options", fusedActivationFunction=act)


def linear(b: Builder, kind: str, x: Tensor, name: str = "linear", act: int = 0, padding: int = SAME) -> Tensor:
    """A linear op with 5 output channels (a depthwise one with 8)."""
    height, width, depth = x.shape[1:]
    less = 2 if padding == VALID else 0
    options: dict[str, Any] = {"padding": padding, "strideW": 1, "strideH": 1, "fusedActivationFunction": act}
    if kind == "CONV_2D":
        operands = [x, b.weights("kernel", 5, 3, 3, depth), b.weights("bias", 5)]
        return b.op(kind, operands, name, (1, height - less, width - less, 5), "Conv2DOptions", **options)
    if kind == "DEPTHWISE_CONV_2D":
        operands = [x, b.weights("kernel", 1, 3, 3, 2 * depth), b.weights("bias", 2 * depth)]
        shape = (1, height - less, width - less, 2 * depth)
        return b.op(kind, operands, name, shape, "DepthwiseConv2DOptions", depthMultiplier=2, **options)
    if kind == "FULLY_CONNECTED":
        operands = [x, b.weights("kernel", 5, depth), b.weights("bias", 5)]
        options = {"keepNumDims": True, "fusedActivationFunction": act}
        return b.op(kind, operands, name, (1, height, width, 5), "FullyConnectedOptions", **options)
    shape = (1, 2 * height, 2 * width, 5)
    target = b.const("target", np.array(shape, np.int32))
    options.update(strideW=2, strideH=2)
    out = b.op(kind, [target, b.weights("kernel", 5, 3, 3, depth), x, b.weights("bias", 5)], name, shape,
               "TransposeConvOptions", **options)  # fmt: skip
    b.graph.ops[-1].version = 3
    return out


LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


class TestFoldScales:
    @pytest.mark.parametrize("kind", LINEAR)
    @pytest.mark.parametrize("code", ["MUL", "ADD", "SUB"])
    @pytest.mark.parametrize("first", [False, True])
    def test_after(self, kind: str, code: str, first: bool) -> None:
        b = Builder()
        y = linear(b, kind, b.input("x", IMAGE))
        c = b.const("c", b.rng.normal(size=y.shape[-1]).astype(np.float32))
        z = binary(b, code, *((c, y) if first else (y, c)), "z") if not first else b.op(
            code, [c, y], "z", y.shape, f"{code.title()}Options"
        )  # fmt: skip
        assert rewritten(b.program(z), fold_scales) == [kind]

    @pytest.mark.parametrize("kind", LINEAR)
    @pytest.mark.parametrize("size", [1, 4])
    def test_a_factor_before(self, kind: str, size: int) -> None:
        b = Builder()
        c = b.const("c", b.rng.normal(size=size).astype(np.float32))
        x = binary(b, "MUL", b.input("x", IMAGE), c, "scaled")
        assert rewritten(b.program(linear(b, kind, x)), fold_scales) == [kind]

    @pytest.mark.parametrize("kind", LINEAR)
    @pytest.mark.parametrize("padding", [SAME, VALID])
    @pytest.mark.parametrize("code", ["ADD", "SUB"])
    def test_an_offset_before(self, kind: str, padding: int, code: str) -> None:
        if kind == "TRANSPOSE_CONV" and padding == VALID:
            padding = SAME  # its output has another shape; it refuses either way
        b = Builder()
        x = binary(b, code, b.input("x", IMAGE), b.const("c", b.rng.normal(size=4).astype(np.float32)), "moved")
        folds = kind == "FULLY_CONNECTED" or (padding == VALID and kind != "TRANSPOSE_CONV")
        after = rewritten(b.program(linear(b, kind, x, padding=padding)), fold_scales)
        assert after == ([kind] if folds else [code, kind])

    def test_constant_minus_x_before(self) -> None:
        b = Builder()
        c = b.const("c", b.rng.normal(size=4).astype(np.float32))
        x = b.op("SUB", [c, b.input("x", IMAGE)], "moved", IMAGE, "SubOptions", fusedActivationFunction=0)
        assert rewritten(b.program(linear(b, "CONV_2D", x, padding=VALID)), fold_scales) == ["CONV_2D"]

    def test_batch_norm_before_relu(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        y = binary(b, "MUL", y, b.const("scale", b.rng.normal(size=5).astype(np.float32)), "scaled")
        y = binary(b, "ADD", y, b.const("shift", b.rng.normal(size=5).astype(np.float32)), "out", RELU)
        program = b.program(y)
        assert rewritten(program, fold_scales) == ["CONV_2D"]
        assert program.main.ops[0].option("fusedActivationFunction") == RELU

    @pytest.mark.parametrize(("act", "factor", "folds"), [(RELU, 0.5, True), (RELU, -0.5, False), (RELU6, 0.5, False)])
    def test_a_factor_after_clipping(self, act: int, factor: float, folds: bool) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE), act=act)
        after = rewritten(b.program(binary(b, "MUL", y, number(b, factor), "z")), fold_scales)
        assert after == (["CONV_2D"] if folds else ["CONV_2D", "MUL"])

    def test_refuses_what_something_else_reads(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        program = b.program(binary(b, "MUL", y, number(b, 2), "z"), y)
        assert rewritten(program, fold_scales) == ["CONV_2D", "MUL"]

    def test_refuses_shared_weights(self) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        first = linear(b, "CONV_2D", x)
        second = b.op("CONV_2D", list(b.graph.ops[0].inputs), "other", first.shape, "Conv2DOptions",
                      padding=SAME, strideW=1, strideH=1)  # fmt: skip
        program = b.program(binary(b, "MUL", first, number(b, 2), "z"), second)
        assert rewritten(program, fold_scales) == ["CONV_2D", "CONV_2D", "MUL"]

    def test_refuses_a_constant_that_varies_over_pixels(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        c = b.const("c", b.rng.normal(size=(1, 6, 8, 1)).astype(np.float32))
        assert rewritten(b.program(binary(b, "MUL", y, c, "z")), fold_scales) == ["CONV_2D", "MUL"]

    def test_refuses_a_constant_that_stretches_the_result(self) -> None:
        b = Builder()
        y = b.dense(b.input("x", (1, 7)), "dense", 5)
        c = b.const("c", b.rng.normal(size=(3, 1)).astype(np.float32))
        z = b.op("MUL", [y, c], "z", (3, 5), "MulOptions", fusedActivationFunction=0)
        assert rewritten(b.program(z), fold_scales) == ["FULLY_CONNECTED", "MUL"]

    def test_refuses_weights_that_overflow(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        y = binary(b, "MUL", y, number(b, 3e38), "huge")
        program = b.program(binary(b, "MUL", y, number(b, 1e-38), "z"))
        fold_scales(program)
        verify(program)
        kernel = program.main.ops[0].inputs[1]
        assert kernel is not None and np.isfinite(kernel.values).all()


class TestFuseActivations:
    @pytest.mark.parametrize(("code", "fused"), [("RELU", 1), ("RELU_N1_TO_1", 2), ("RELU6", 3)])
    @pytest.mark.parametrize("kind", LINEAR[:3])
    def test_fuses(self, kind: str, code: str, fused: int) -> None:
        b = Builder()
        program = b.program(b.unary(code, linear(b, kind, b.input("x", IMAGE)), "out"))
        assert rewritten(program, fuse_activations) == [kind]
        assert program.main.ops[0].option("fusedActivationFunction") == fused

    @pytest.mark.parametrize(
        ("inner", "outer", "fused"), [(RELU, "RELU6", 3), (RELU6, "RELU", 3), (RELU, "RELU", 1), (2, "RELU", None)]
    )
    def test_over_a_fused_one(self, inner: int, outer: str, fused: int | None) -> None:
        b = Builder()
        program = b.program(b.unary(outer, linear(b, "CONV_2D", b.input("x", IMAGE), act=inner), "out"))
        after = rewritten(program, fuse_activations)
        assert after == (["CONV_2D", outer] if fused is None else ["CONV_2D"])
        assert program.main.ops[0].option("fusedActivationFunction") == (inner if fused is None else fused)

    def test_an_op_without_options(self) -> None:
        b = Builder()
        x = b.input("x", (2, 3))
        program = b.program(b.unary("RELU", b.op("ADD", [x, x], "sum", (2, 3)), "out"))
        assert rewritten(program, fuse_activations) == ["ADD"]

    @pytest.mark.parametrize("kind", ["TRANSPOSE_CONV", "TANH"])
    def test_refuses_ops_that_take_none(self, kind: str) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        y = linear(b, kind, x) if kind in LINEAR else b.unary(kind, x, "y")
        assert rewritten(b.program(b.unary("RELU", y, "out")), fuse_activations) == [kind, "RELU"]

    def test_refuses_what_something_else_reads(self) -> None:
        b = Builder()
        y = linear(b, "CONV_2D", b.input("x", IMAGE))
        program = b.program(b.unary("RELU", y, "a"), b.unary("TANH", y, "b"))
        assert rewritten(program, fuse_activations) == ["CONV_2D", "RELU", "TANH"]


class TestFoldPad:
    @staticmethod
    def padded(b: Builder, amounts: list[list[int]], stride: int, code: str = "PAD", value: float = 0) -> Program:
        x = b.input("x", (1, 9, 8, 4))
        shape = tuple(n + sum(pair) for n, pair in zip(x.shape, amounts, strict=True))
        operands = [x, b.const("amounts", np.array(amounts, np.int32))]
        operands += [number(b, value)] if code == "PADV2" else []
        wide = b.op(code, operands, "wide", shape, "PadOptions" if code == "PAD" else "PadV2Options")
        out = (1, (shape[1] - 3) // stride + 1, (shape[2] - 3) // stride + 1, 5)
        weights = [b.weights("kernel", 5, 3, 3, 4), b.weights("bias", 5)]
        options: dict[str, Any] = {"padding": VALID, "strideW": stride, "strideH": stride}
        return b.program(b.op("CONV_2D", [wide, *weights], "out", out, "Conv2DOptions", **options))

    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("code", ["PAD", "PADV2"])
    def test_folds_what_same_padding_adds(self, stride: int, code: str) -> None:
        amounts = [[0, 0], same_padding(9, 3, stride), same_padding(8, 3, stride), [0, 0]]
        program = self.padded(Builder(), amounts, stride, code)
        assert rewritten(program, fold_pad) == ["CONV_2D"]

    def test_refuses_the_symmetric_padding_of_other_frameworks(self) -> None:
        program = self.padded(Builder(), [[0, 0], [1, 1], [1, 1], [0, 0]], 2)
        assert rewritten(program, fold_pad) == ["PAD", "CONV_2D"]

    def test_refuses_other_values(self) -> None:
        amounts = [[0, 0], same_padding(9, 3, 1), same_padding(8, 3, 1), [0, 0]]
        assert rewritten(self.padded(Builder(), amounts, 1, "PADV2", 0.5), fold_pad) == ["PADV2", "CONV_2D"]

    @given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
    def test_same_padding_gives_ceil_of_size_over_stride(self, size: int, kernel: int, stride: int) -> None:
        padded = size + sum(same_padding(size, kernel, stride))
        assert padded < kernel or (padded - kernel) // stride + 1 == -(-size // stride)


class TestSpellOut:
    def test_division(self) -> None:
        b = Builder()
        c = b.const("c", b.rng.uniform(0.5, 3, 4).astype(np.float32))
        assert rewritten(b.program(binary(b, "DIV", b.input("x", IMAGE), c, "out", RELU)), spell_out) == ["MUL"]

    @pytest.mark.parametrize("divisor", [0.0, 1e-40, np.inf, np.nan, 3e38])
    def test_refuses_divisors_without_a_reciprocal(self, divisor: float) -> None:
        b = Builder()
        program = b.program(binary(b, "DIV", b.input("x", IMAGE), number(b, divisor), "out"))
        spell_out(program)
        assert codes(program) == ["DIV"]

    def test_refuses_a_constant_over_x(self) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        program = b.program(b.op("DIV", [number(b, 2), x], "out", IMAGE, "DivOptions"))
        assert rewritten(program, spell_out) == ["DIV"]

    @pytest.mark.parametrize("code", ["NEG", "SQUARE"])
    def test_unary(self, code: str) -> None:
        b = Builder()
        assert rewritten(b.program(b.unary(code, b.input("x", IMAGE), "out")), spell_out) == ["MUL"]

    @pytest.mark.parametrize(("exponent", "after"), [(2, ["MUL"]), (0.5, ["SQRT"]), (1, []), (3, ["POW"])])
    def test_powers(self, exponent: float, after: list[str]) -> None:
        b = Builder()
        x = b.unary("ABS", b.input("x", IMAGE), "positive")
        program = b.program(b.op("POW", [x, number(b, exponent)], "out", IMAGE, "PowOptions"))
        assert rewritten(program, spell_out) == ["ABS", *after]

    @pytest.mark.parametrize(("window", "after"), [((6, 8), ["MEAN"]), ((6, 4), ["AVERAGE_POOL_2D"])])
    @pytest.mark.parametrize("padding", [SAME, VALID])
    def test_pooling_of_the_whole_image(self, window: tuple[int, int], after: list[str], padding: int) -> None:
        b = Builder()
        options: dict[str, Any] = {
            "filterHeight": window[0],
            "filterWidth": window[1],
            "strideH": 6,
            "strideW": window[1],
        }
        shape = (1, 1, 8 // window[1], 4)
        pooled = b.op(
            "AVERAGE_POOL_2D", [b.input("x", IMAGE)], "out", shape, "Pool2DOptions", padding=padding, **options
        )
        assert rewritten(b.program(pooled), spell_out) == after

    @pytest.mark.parametrize("terms", [2, 3, 4])
    def test_sums(self, terms: int) -> None:
        b = Builder()
        xs = [b.input(f"x{i}", IMAGE) for i in range(terms)]
        program = b.program(b.op("ADD_N", list(xs), "out", IMAGE, "AddNOptions"))
        assert rewritten(program, spell_out) == ["ADD"] * (terms - 1)


class TestRecognise:
    @pytest.mark.parametrize(
        ("pieces", "after"),
        [
            ([("MAXIMUM", 0)], ["RELU"]),
            ([("MAXIMUM", 0), ("MINIMUM", 6)], ["RELU6"]),
            ([("MINIMUM", 6), ("MAXIMUM", 0)], ["RELU6"]),
            ([("MINIMUM", np.inf), ("TANH", None)], ["TANH"]),
            ([("MAXIMUM", -np.inf), ("TANH", None)], ["TANH"]),
            ([("MAXIMUM", 0.5)], ["MAXIMUM"]),
            ([("MINIMUM", 0)], ["MINIMUM"]),
            ([("MAXIMUM", -1), ("MINIMUM", 6)], ["MAXIMUM", "MINIMUM"]),
        ],
    )
    @pytest.mark.parametrize("swapped", [False, True])
    def test_relu(self, pieces: list[tuple[str, float | None]], after: list[str], swapped: bool) -> None:
        b = Builder()
        x = binary(b, "MUL", b.input("x", IMAGE), number(b, 5), "wide")
        for i, (code, bound) in enumerate(pieces):
            operands = [x] if bound is None else [x, number(b, bound)]
            x = b.op(code, operands[::-1] if swapped else operands, f"piece{i}", IMAGE)
        program = b.program(x)
        want = rewritten(program, lambda p: (recognise_relu(p), drop_dead(p)))
        assert want == ["MUL", *after]

    def test_relu_of_another_shape_stays(self) -> None:
        b = Builder()
        zeros = b.const("zeros", np.zeros((3, 4), np.float32))
        program = b.program(b.op("MAXIMUM", [b.input("x", (1, 4)), zeros], "out", (3, 4)))
        assert rewritten(program, recognise_relu) == ["MAXIMUM"]

    @pytest.mark.parametrize("late", [False, True], ids=["gate scaled", "product scaled"])
    @pytest.mark.parametrize("fused", [False, True])
    def test_hard_swish(self, late: bool, fused: bool) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        gate = binary(b, "ADD", x, number(b, 3), "shifted", RELU6 if fused else 0)
        gate = gate if fused else b.unary("RELU6", gate, "gate")
        sixth = number(b, 1 / 6)
        if late:
            out = binary(b, "MUL", binary(b, "MUL", x, gate, "product"), sixth, "out")
        else:
            out = binary(b, "MUL", x, binary(b, "MUL", gate, sixth, "scaled"), "out")
        after = rewritten(b.program(out), lambda p: (recognise_hard_swish(p), drop_dead(p)))
        assert after == ["HARD_SWISH"]

    @pytest.mark.parametrize(("shift", "factor"), [(3, 0.2), (2, 1 / 6)])
    def test_other_numbers_are_no_hard_swish(self, shift: float, factor: float) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        gate = b.unary("RELU6", binary(b, "ADD", x, number(b, shift), "shifted"), "gate")
        out = binary(b, "MUL", binary(b, "MUL", x, gate, "product"), number(b, factor), "out")
        assert "HARD_SWISH" not in rewritten(b.program(out), recognise_hard_swish)

    def test_another_x_is_no_hard_swish(self) -> None:
        b = Builder()
        gate = b.unary("RELU6", binary(b, "ADD", b.input("x", IMAGE), number(b, 3), "shifted"), "gate")
        out = binary(b, "MUL", binary(b, "MUL", b.input("y", IMAGE), gate, "product"), number(b, 1 / 6), "out")
        assert "HARD_SWISH" not in rewritten(b.program(out), recognise_hard_swish)


def transpose(b: Builder, x: Tensor, order: list[int], name: str) -> Tensor:
    shape = tuple(x.shape[i] for i in order)
    return b.op("TRANSPOSE", [x, b.const(f"{name}/order", np.array(order, np.int32))], name, shape, "TransposeOptions")


class TestCancelMoves:
    def test_transposes_that_cancel(self) -> None:
        b = Builder()
        x = b.unary("TANH", b.input("x", IMAGE), "y")
        x = transpose(b, transpose(b, x, [0, 3, 1, 2], "there"), [0, 2, 3, 1], "back")
        program = b.program(b.unary("TANH", x, "out"))
        assert rewritten(program, lambda p: (cancel_moves(p), drop_dead(p))) == ["TANH", "TANH"]

    def test_the_output_keeps_its_name(self) -> None:
        b = Builder()
        x = b.unary("TANH", b.input("x", IMAGE), "y")
        program = b.program(transpose(b, transpose(b, x, [0, 3, 1, 2], "there"), [0, 2, 3, 1], "back"))
        assert rewritten(program, lambda p: (cancel_moves(p), drop_dead(p))) == ["TANH"]

    def test_transposes_that_merge(self) -> None:
        b = Builder()
        x = transpose(b, transpose(b, b.input("x", (2, 3, 4, 5)), [0, 3, 1, 2], "a"), [1, 2, 0, 3], "out")
        assert rewritten(b.program(x), cancel_moves) == ["TRANSPOSE"]

    def test_a_transpose_that_moves_only_ones(self) -> None:
        b = Builder()
        program = b.program(b.unary("TANH", transpose(b, b.input("x", (1, 5, 1, 3)), [0, 1, 3, 2], "y"), "out"))
        assert rewritten(program, cancel_moves) == ["RESHAPE", "TANH"]

    def test_a_transpose_between_input_and_output_stays(self) -> None:
        b = Builder()
        program = b.program(transpose(b, b.input("x", (2, 3)), [0, 1], "out"))
        assert len(rewritten(program, cancel_moves)) == 1

    def test_reshape_chains(self) -> None:
        b = Builder()
        x = b.reshape(b.input("x", IMAGE), "a", (1, 192))
        x = b.op("EXPAND_DIMS", [x, b.const("axis", np.array(0, np.int32))], "b", (1, 1, 192), "ExpandDimsOptions")
        x = b.reshape(b.op("SQUEEZE", [x], "c", (192,), "SqueezeOptions", squeezeDims=[0, 1]), "out", (8, 24))
        assert rewritten(b.program(x), cancel_moves) == ["RESHAPE"]

    def test_reshapes_to_the_same_shape_go(self) -> None:
        b = Builder()
        x = b.unary("TANH", b.input("x", (2, 6)), "y")
        x = b.reshape(b.reshape(x, "a", (3, 4)), "b", (2, 6))
        assert rewritten(b.program(b.unary("TANH", x, "out")), cancel_moves) == ["TANH", "TANH"]

    def test_two_dynamic_dimensions_stay(self) -> None:
        b = Builder()
        x = b.input("x", (1, 1, 3))
        x.shape_signature = (-1, -1, 3)
        y = b.op("EXPAND_DIMS", [x, b.const("axis", np.array(3, np.int32))], "y", (1, 1, 3, 1), "ExpandDimsOptions")
        y.shape_signature = (-1, -1, 3, 1)
        program = b.program(transpose(b, y, [0, 3, 1, 2], "out"))
        program.main.outputs[0].shape_signature = (-1, 1, -1, 3)
        cancel_moves(program)
        assert codes(program) == ["EXPAND_DIMS", "TRANSPOSE"]


class TestDropIdentities:
    @pytest.mark.parametrize(("code", "value"), [("MUL", 1), ("ADD", 0), ("SUB", 0)])
    def test_neutral_constants(self, code: str, value: float) -> None:
        b = Builder()
        x = binary(b, code, b.input("x", IMAGE), number(b, value), "y")
        assert rewritten(b.program(b.unary("TANH", x, "out")), drop_identities) == ["TANH"]

    @pytest.mark.parametrize(("code", "value", "act"), [("MUL", 0, 0), ("ADD", 1, 0), ("ADD", 0, RELU)])
    def test_others_stay(self, code: str, value: float, act: int) -> None:
        b = Builder()
        x = binary(b, code, b.input("x", IMAGE), number(b, value), "y", act)
        assert rewritten(b.program(b.unary("TANH", x, "out")), drop_identities) == [code, "TANH"]

    def test_zero_minus_x_stays(self) -> None:
        b = Builder()
        program = b.program(b.op("SUB", [number(b, 0), b.input("x", IMAGE)], "out", IMAGE, "SubOptions"))
        assert rewritten(program, drop_identities) == ["SUB"]

    @pytest.mark.parametrize(("step", "after"), [(1, ["TANH"]), (-1, ["STRIDED_SLICE", "TANH"])])
    def test_a_slice_of_everything(self, step: int, after: list[str]) -> None:
        b = Builder()
        begin, end = ([0, 0], [2, 3]) if step > 0 else ([0, -1], [2, -4])
        bounds = [b.const("c", np.array(v, np.int32)) for v in (begin, end, [1, step])]
        x = b.op("STRIDED_SLICE", [b.input("x", (2, 3)), *bounds], "y", (2, 3), "StridedSliceOptions")
        assert rewritten(b.program(b.unary("TANH", x, "out")), drop_identities) == after

    @pytest.mark.parametrize("code", ["SELECT", "SELECT_V2"])
    @pytest.mark.parametrize(("rows", "kept"), [([True] * 3, "yes"), ([False] * 3, "no"), ([True, False, True], None)])
    def test_a_choice_that_is_made(self, code: str, rows: list[bool], kept: str | None) -> None:
        b = Builder()
        yes, no = b.input("yes", (3, 4)), b.input("no", (3, 4))
        condition = b.const("condition", np.repeat(np.array(rows)[:, None], 4, axis=1))
        y = b.op(code, [condition, yes, no], "chosen", (3, 4), f"{code.title().replace('_', '')}Options")
        program = b.program(b.unary("TANH", y, "out"))
        assert rewritten(program, drop_identities) == (["TANH"] if kept else [code, "TANH"])

    def test_a_choice_that_stretches_stays(self) -> None:
        b = Builder()
        y = b.op("SELECT_V2", [b.const("condition", np.array(True)), b.input("row", (1, 4)), b.input("all", (3, 4))],
                 "chosen", (3, 4), "SelectV2Options")  # fmt: skip
        assert rewritten(b.program(b.unary("TANH", y, "out")), drop_identities) == ["SELECT_V2", "TANH"]


class TestKeepDims:
    @staticmethod
    def pooled(
        b: Builder, shape: tuple[int, ...], keeps: bool = False, code: str = "MEAN", axes: Any = (1, 2)
    ) -> Tensor:
        """A reduction over height and width, reshaped."""
        made = (1, 1, 1, 4) if keeps else (1, 4)
        operands = [b.input("x", IMAGE), b.const("axes", np.array(axes, np.int32))]
        return b.reshape(b.op(code, operands, "pool", made, "ReducerOptions", keepDims=keeps), "shaped", shape)

    @pytest.mark.parametrize("code", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
    @pytest.mark.parametrize(("keeps", "shape"), [(False, (1, 1, 1, 4)), (True, (1, 4)), (True, (1, 1, 1, 4))])
    def test_a_reshape_becomes_an_option(self, code: str, keeps: bool, shape: tuple[int, ...]) -> None:
        b = Builder()
        program = b.program(b.unary("TANH", self.pooled(b, shape, keeps, code, (-2, 1)), "out"))
        assert rewritten(program, keep_dims) == [code, "TANH"]
        assert program.main.ops[0].option("keepDims") is (len(shape) == 4)
        assert program.main.ops[0].outputs[0].name == "shaped"

    @pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (2, 2), (1, 1, 4, 1)])
    def test_other_shapes_stay(self, shape: tuple[int, ...]) -> None:
        b = Builder()
        assert rewritten(b.program(self.pooled(b, shape)), keep_dims) == ["MEAN", "RESHAPE"]

    def test_what_something_else_reads_stays(self) -> None:
        b = Builder()
        shaped = self.pooled(b, (1, 1, 1, 4))
        pool = b.graph.ops[0].outputs[0]
        assert rewritten(b.program(shaped, b.unary("TANH", pool, "out")), keep_dims) == ["MEAN", "RESHAPE", "TANH"]

    def test_open_sizes_stay(self) -> None:
        b = Builder()
        program = b.program(self.pooled(b, (1, 1, 1, 4)))
        program.main.inputs[0].shape_signature = (-1, 6, 8, 4)
        assert rewritten(program, keep_dims) == ["MEAN", "RESHAPE"]


class TestFoldConstants:
    def test_a_chain_of_shapes(self) -> None:
        b = Builder()
        x = b.unary("TANH", b.input("x", IMAGE), "y")
        shape = b.op("SHAPE", [x], "shape", (4,), "ShapeOptions", dtype=DType.INT32, outType=2)
        bounds = [b.const("c", np.array(v, np.int32)) for v in ([0], [1], [1])]
        batch = b.op("STRIDED_SLICE", [shape, *bounds], "batch", (), "StridedSliceOptions", dtype=DType.INT32,
                     shrinkAxisMask=1)  # fmt: skip
        rest = b.const("rest", np.array(-1, np.int32))
        target = b.op("PACK", [batch, rest], "target", (2,), "PackOptions", dtype=DType.INT32, valuesCount=2, axis=0)
        program = b.program(b.op("RESHAPE", [x, target], "out", (1, 192), "ReshapeOptions"))
        assert rewritten(program, fold_constants) == ["TANH", "RESHAPE"]
        folded = program.main.ops[1].inputs[1]
        assert folded is not None and folded.values.tolist() == [1, -1]

    def test_the_shape_of_a_dynamic_tensor_stays(self) -> None:
        b = Builder()
        x = b.input("x", (1, 3))
        x.shape_signature = (-1, 3)
        program = b.program(b.op("SHAPE", [x], "out", (2,), "ShapeOptions", dtype=DType.INT32, outType=2))
        fold_constants(program)
        assert codes(program) == ["SHAPE"]

    def test_transposed_weights(self) -> None:
        b = Builder()
        kernel = transpose(b, b.weights("kernel", 7, 5), [1, 0], "turned")
        out = b.op("FULLY_CONNECTED", [b.input("x", (2, 7)), kernel, None], "out", (2, 5), "FullyConnectedOptions")
        program = b.program(out)
        assert rewritten(program, fold_constants) == ["FULLY_CONNECTED"]

    @pytest.mark.parametrize("code", ["FILL", "BROADCAST_TO", "TILE", "RANGE"])
    def test_nothing_grows_beyond_measure(self, code: str) -> None:
        b = Builder()
        many = b.const("many", np.array([1 << 30], np.int32))
        one = b.const("one", np.ones(1, np.float32))
        bounds = [b.const("c", np.array(v, np.float32)) for v in (0, 1e9, 1)]
        operands = {"FILL": [many, number(b, 1)], "RANGE": bounds}.get(code, [one, many])
        y = b.op(code, operands, "y", (1,), f"{code.title()}Options" if code != "BROADCAST_TO" else None)
        program = b.program(binary(b, "ADD", b.input("x", (1,)), y, "out"))
        fold_constants(program)
        assert codes(program) == [code, "ADD"]

    def test_what_litert_refuses_stays(self) -> None:
        b = Builder()
        y = b.op("ADD", [b.weights("a", 3), b.weights("b", 4)], "y", (3,), "AddOptions")
        program = b.program(binary(b, "ADD", b.input("x", (3,)), y, "out"))
        fold_constants(program)
        assert codes(program) == ["ADD", "ADD"]


class TestDropDead:
    def test_ops_that_nobody_reads(self) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        b.unary("EXP", b.unary("TANH", x, "unread"), "unread too")
        program = b.program(b.unary("ABS", x, "out"))
        assert rewritten(program, drop_dead) == ["ABS"]
        assert [t.name for t in program.main.tensors] == ["x", "out"]

    def test_custom_ops_stay(self) -> None:
        b = Builder()
        x = b.input("x", IMAGE)
        b.op("CUSTOM", [x], "side", IMAGE)
        b.graph.ops[-1].custom_code = "Print"
        program = b.program(b.unary("ABS", x, "out"))
        drop_dead(program)
        assert codes(program) == ["CUSTOM", "ABS"]

    def test_subgraphs_that_nobody_calls(self) -> None:
        program = branching()
        program.graphs.insert(1, Graph("orphan"))
        for op in program.main.ops:
            if op.code == "IF":
                op.options = {"thenSubgraphIndex": 2, "elseSubgraphIndex": 3}
        before = run(program)
        drop_dead(program)
        verify(program)
        assert [graph.name for graph in program.graphs] == ["main", "then", "else"]
        np.testing.assert_array_equal(run(program)[0], before[0])


def branch(name: str, scale: float) -> Graph:
    """x, kernel -> a dense layer of x, or x times a number."""
    b = Builder(5)
    x, kernel = b.input("x", (1, 6)), b.input("kernel", (6, 6))
    if name == "then":
        out = b.op("FULLY_CONNECTED", [x, kernel, None], f"{name}/out", (1, 6), "FullyConnectedOptions")
    else:
        out = binary(b, "MUL", x, number(b, scale), f"{name}/out")
    graph = b.program(out).main
    graph.name = name
    return graph


def branching() -> Program:
    """if sum(x) >= 0: dense(x), else: 2 x."""
    b = Builder()
    x = b.input("x", (1, 6))
    axes = b.const("axes", np.array([0, 1], np.int32))
    total = b.op("SUM", [x, axes], "sum", (), "ReducerOptions", keepDims=False)
    positive = b.op("GREATER_EQUAL", [total, number(b, 0)], "positive", (), "GreaterEqualOptions", dtype=DType.BOOL)
    kernel = b.weights("kernel", 6, 6)
    out = b.op("IF", [positive, x, kernel], "out", (1, 6), "IfOptions", thenSubgraphIndex=1, elseSubgraphIndex=2)
    program = b.program(out)
    program.graphs += [branch("then", 1), branch("else", 2)]
    return program


class TestPinArguments:
    @pytest.mark.parametrize("seed", range(4))
    def test_weights_of_a_branch(self, seed: int) -> None:
        program = branching()
        before = run(program, seed=seed)
        pin_arguments(program)
        verify(program)
        then = program.graphs[1]
        kernel = then.ops[0].inputs[1]
        assert kernel is not None and kernel.is_constant and len(then.inputs) == len(program.graphs[2].inputs) == 1
        np.testing.assert_array_equal(run(program, seed=seed)[0], before[0])

    def test_a_loop_hands_its_weights_on(self) -> None:
        program = looping()
        before = run(program)
        pin_arguments(program)
        verify(program)
        body = program.graphs[2]
        assert len(body.inputs) == len(body.outputs) == len(program.main.ops[0].inputs) == 2
        np.testing.assert_array_equal(run(program)[0], before[0])

    def test_a_branch_that_gives_out_its_argument_keeps_it(self) -> None:
        program = branching()
        program.graphs[2].outputs = [program.graphs[2].inputs[1]]
        pin_arguments(program)
        assert len(program.graphs[1].inputs) == 2


def looping() -> Program:
    """Three times: x = tanh(dense(x))."""
    b = Builder()
    x, zero, kernel = b.input("x", (1, 6)), b.const("zero", np.array(0, np.int32)), b.weights("kernel", 6, 6)
    outs = [b.graph.add_tensor(Tensor(f"out{i}", t.dtype, t.shape)) for i, t in enumerate((x, zero, kernel))]
    options = {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}
    b.graph.ops.append(Op("WHILE", [x, zero, kernel], outs, options, "WhileOptions"))
    program = b.program(outs[0])
    cond, body = Builder(), Builder()
    for inner in (cond, body):
        for t in (x, zero, kernel):
            inner.input(t.name, t.shape, t.dtype)
    three, one = (inner.const("n", np.array(n, np.int32)) for inner, n in ((cond, 3), (body, 1)))
    more = cond.op("LESS", [cond.graph.inputs[1], three], "more", (), "LessOptions", dtype=DType.BOOL)
    y, count, weights = body.graph.inputs
    y = body.op("FULLY_CONNECTED", [y, weights, None], "dense", (1, 6), "FullyConnectedOptions")
    y = body.unary("TANH", y, "tanh")
    count = body.op("ADD", [count, one], "count", (), "AddOptions", dtype=DType.INT32)
    program.graphs += [cond.program(more).main, body.program(y, count, weights).main]
    return program


def sparsity(order: list[int], levels: list[Any], blocks: list[int] | None = None) -> SimpleNamespace:
    return SimpleNamespace(traversalOrder=order, blockMap=blocks, dimMetadata=levels)


def dense_level(size: int) -> SimpleNamespace:
    return SimpleNamespace(format=0, denseSize=size, arraySegments=None, arrayIndices=None)


def sparse_level(starts: list[int], indices: list[int]) -> SimpleNamespace:
    vector = lambda values: SimpleNamespace(values=values)  # noqa: E731
    return SimpleNamespace(format=1, denseSize=0, arraySegments=vector(starts), arrayIndices=vector(indices))


def compressed(dense: np.ndarray) -> tuple[SimpleNamespace, np.ndarray]:
    """A matrix as compressed sparse rows."""
    rows, columns = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    levels = [dense_level(len(dense)), sparse_level(starts.tolist(), columns.tolist())]
    return sparsity([0, 1], levels), dense[rows, columns]


def sparse_tensor(record: SimpleNamespace, stored: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    tensor = Tensor("sparse", DType(stored.dtype.name), shape, extra={"sparsity": record})
    tensor.data = np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
    return tensor


class TestDensify:
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
    def test_sparse_rows(self, rows: int, columns: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        dense = (rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.4)).astype(np.float32)
        record, stored = compressed(dense)
        got = dense_values(sparse_tensor(record, stored, dense.shape))
        assert got is not None
        np.testing.assert_array_equal(got, dense)

    def test_columns_first(self) -> None:
        dense = np.array([[0, 1, 2], [3, 0, 0]], np.float32)
        record, stored = compressed(dense.T)
        record.traversalOrder = [1, 0]
        got = dense_values(sparse_tensor(record, stored, (2, 3)))
        assert got is not None
        np.testing.assert_array_equal(got, dense)

    def test_blocks(self) -> None:
        """Rows of 2x2 blocks, as in the example of the schema's SparsityParameters."""
        levels = [dense_level(2), sparse_level([0, 1, 2], [1, 0]), dense_level(2), dense_level(2)]
        record = sparsity([0, 1, 2, 3], levels, [0, 1])
        got = dense_values(sparse_tensor(record, np.arange(1, 9, dtype=np.float16), (4, 4)))
        want = [[0, 0, 1, 2], [0, 0, 3, 4], [5, 6, 0, 0], [7, 8, 0, 0]]
        assert got is not None and got.tolist() == want

    def test_the_op_goes(self) -> None:
        b = Builder()
        dense = np.array([[0, 1, 2], [3, 0, 0]], np.float16)
        record, stored = compressed(dense)
        source = b.graph.add_tensor(sparse_tensor(record, stored, (2, 3)))
        y = b.op("DENSIFY", [source], "dense", (2, 3), dtype=DType.FLOAT16)
        program = b.program(b.op("DEQUANTIZE", [y], "out", (2, 3)), b.unary("ABS", b.input("x", (2,)), "abs"))
        notes = densify(program)
        verify(program)
        assert codes(program) == ["DEQUANTIZE", "ABS"] and "1 constants were sparse" in notes[0]
        kept = program.main.ops[0].inputs[0]
        assert kept is not None
        np.testing.assert_array_equal(kept.values, dense)

    @pytest.mark.parametrize(
        "record",
        [
            sparsity([0, 0], [dense_level(2), dense_level(3)]),
            sparsity([0, 1], [dense_level(2)]),
            sparsity([0, 1], [dense_level(2), sparse_level([0, 9, 9], [0])]),
            sparsity([0, 1], [dense_level(2), sparse_level([0, 1, 2], [0, 7])]),
            sparsity([0, 1], [dense_level(2), sparse_level([2, 1, 0], [0, 1])]),
            sparsity([0, 1], [dense_level(1 << 40), dense_level(3)]),
        ],
    )
    def test_records_that_contradict_themselves_stay(self, record: SimpleNamespace) -> None:
        b = Builder()
        tensor = b.graph.add_tensor(sparse_tensor(record, np.ones(2, np.float32), (2, 3)))
        program = b.program(b.op("DENSIFY", [tensor], "out", (2, 3)))
        assert "can't be made dense" in densify(program)[0]
        assert codes(program) == ["DENSIFY"]

    def test_an_absurd_shape_stays(self) -> None:
        record = sparsity([0, 1], [dense_level(1 << 20), sparse_level([0] * ((1 << 20) + 1), [])])
        assert dense_values(sparse_tensor(record, np.ones(0, np.float32), (1 << 20, 1 << 20))) is None


class TestTransposeConvBias:
    @staticmethod
    def custom(padding: int = 1, output: tuple[int, ...] = (1, 12, 16, 3)) -> Program:
        b = Builder()
        operands = [b.input("x", IMAGE), b.weights("kernel", 3, 2, 2, 4), b.weights("bias", 3)]
        out = b.op("CUSTOM", operands, "out", output)
        b.graph.ops[-1].custom_code = "Convolution2DTransposeBias"
        b.graph.ops[-1].custom_options = np.array([padding, 2, 2], "<i4").view(np.uint8)
        return b.program(out)

    @pytest.mark.parametrize("padding", [1, 2])
    def test_agrees_with_xnnpacks_own(self, padding: int) -> None:
        assert rewritten(self.custom(padding), transpose_conv_bias, kernels="xnnpack") == ["TRANSPOSE_CONV"]

    @pytest.mark.parametrize(("padding", "output"), [(0, (1, 12, 16, 3)), (1, (1, 99, 16, 3)), (1, (1, 12, 16, 7))])
    def test_refuses_what_it_does_not_know(self, padding: int, output: tuple[int, ...]) -> None:
        program = self.custom(padding, output)
        assert transpose_conv_bias(program) == [] and codes(program) == ["CUSTOM"]


UNARY = ("RELU", "RELU6", "TANH", "ABS", "SQUARE", "NEG", "LOGISTIC")
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**16)), min_size=1, max_size=12)


def grow(steps: list[tuple[int, int]]) -> Program:
    """A random model: each step applies one of ten things to one of the tensors so far."""
    b = Builder(1)
    tensors = [b.input("x", (1, 4, 6, 4))]
    for i, (choice, pick) in enumerate(steps):
        rng = np.random.default_rng(pick)
        x = tensors[pick % len(tensors)]
        channels = x.shape[-1]
        vector = b.const(f"c{i}", rng.uniform(-2, 2, (channels, 1)[pick % 2 : 1 + pick % 2]).astype(np.float32))
        if choice < 3:
            code = ("MUL", "ADD", "SUB")[choice]
            operands = [x, vector] if pick % 3 else [vector, x]
            tensors.append(b.op(code, operands, f"t{i}", x.shape, f"{code.title()}Options"))
        elif choice == 3:
            tensors.append(b.conv(x, f"t{i}", 4, act=(0, 0, 1, 3)[pick % 4], bias=True))
        elif choice == 4:
            bound = b.const(f"b{i}", np.array((0, 6, np.inf, 1)[pick % 4], np.float32))
            tensors.append(b.op(("MAXIMUM", "MINIMUM")[pick % 2], [x, bound], f"t{i}", x.shape))
        elif choice == 5:
            tensors.append(transpose(b, x, list(rng.permutation(4)), f"t{i}"))
        elif choice == 6:
            flat = b.reshape(x, f"r{i}", (1, x.size))
            tensors.append(b.reshape(flat, f"t{i}", x.shape))
        elif choice == 7:
            y = tensors[(pick // 7) % len(tensors)]
            same = y if y.shape == x.shape else x
            tensors.append(binary(b, "ADD", x, same, f"t{i}", (0, 1)[pick % 2]))
        elif choice == 8:
            tensors.append(binary(b, "DIV", x, b.const(f"d{i}", rng.uniform(0.5, 2, 1).astype(np.float32)), f"t{i}"))
        else:
            tensors.append(b.unary(UNARY[pick % len(UNARY)], x, f"t{i}"))
    return b.program(*dict.fromkeys([tensors[-1], tensors[len(tensors) // 2 or 1]]))


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_random_graphs_keep_their_outputs(steps: list[tuple[int, int]]) -> None:
    program = grow(steps)
    drop_dead(program)  # LiteRT's builtin kernels overwrite a tensor that a RESHAPE which nobody reads shares
    verify(program)
    with np.errstate(all="ignore"):
        before = run(program)
    names = [t.name for t in program.main.outputs]
    for rewrite in PASSES:
        rewrite(program)
        verify(program)
    assert [t.name for t in program.main.outputs] == names
    for want, got in zip(before, run(program), strict=True):
        scale = np.abs(want).max()
        if np.isfinite(scale) and scale < 1e6:
            assert np.abs(got - want).max() <= 1e-4 * max(scale, 1.0)


def test_normalising_twice_changes_nothing_more() -> None:
    program = grow([(3, 4), (0, 5), (9, 0), (4, 2), (6, 1), (5, 3), (5, 9), (8, 2)])
    normalise(program)
    once = write(program)
    normalise(program)
    assert write(program) == once


@pytest.mark.parametrize(
    ("code", "given"), [("DIV", 1), ("TRANSPOSE", 1), ("CONV_2D", 1), ("STRIDED_SLICE", 2), ("RELU", 0)]
)
def test_missing_operands_are_named(code: str, given: int) -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    program = b.program(b.op(code, [x] * given, "out", IMAGE))
    with pytest.raises(ModelFileError, match=rf"{code} 'out' has {given} of the \d operand"):
        normalise(program)


def test_an_operand_left_out_is_missing() -> None:
    b = Builder()
    program = b.program(b.op("ADD", [None, b.input("x", IMAGE)], "out", IMAGE))
    with pytest.raises(ModelFileError, match=r"ADD 'out' has 1 of the 2"):
        normalise(program)


def test_a_signature_of_hidden_tensors_is_refused() -> None:
    b = Builder()
    hidden = b.unary("ABS", b.input("x", IMAGE), "hidden")
    program = b.program(b.unary("TANH", hidden, "out"))
    program.signatures[0].outputs = [("out", hidden)]
    with pytest.raises(ModelFileError, match=r"'out' to a tensor that is neither"):
        normalise(program)


def test_rules_still_reach_what_was_merged() -> None:
    b = Builder()
    y = binary(b, "DIV", linear(b, "CONV_2D", b.input("x", IMAGE), "conv"), number(b, 2), "halved")
    program = b.program(b.unary("RELU", y, "out"))
    normalise(program)
    (op,) = program.main.ops
    assert op.keys[0] == ("CONV_2D", "out")
    assert {("CONV_2D", "conv"), ("DIV", "halved"), ("RELU", "out")} <= set(op.keys)


def test_signatures_follow_the_outputs() -> None:
    b = Builder()
    x = b.unary("TANH", b.input("x", (2, 6)), "y")
    program = b.program(b.reshape(x, "out", (2, 6)))
    first = program.signatures[0]
    program.signatures.append(Signature("again", list(first.inputs), list(first.outputs), program.main))
    normalise(program)
    verify(program)
    assert all(t is program.main.outputs[0] and t.name == "out" for s in program.signatures for _, t in s.outputs)
