"""Rewrites of what converters spell out: Keras layers become the ops that have integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo
from graphs import Builder
from octavo.frontends import to_program
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.queries import record_range
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.ops import OPS
from octavo.passes.center_first import center_first
from octavo.passes.computed_weights import computed_weights
from octavo.passes.drop_nan_guards import drop_nan_guards
from octavo.passes.pipeline import normalise
from octavo.passes.recognise_embedding import recognise_embedding
from octavo.passes.recognise_functions import function_of, recognise_functions
from octavo.passes.recognise_l2_norm import recognise_l2_norm
from octavo.passes.recognise_pools import recognise_pools
from octavo.passes.recognise_relu import recognise_relu
from octavo.passes.recognise_resize import recognise_resize
from octavo.passes.recognise_softmax import recognise_softmax
from octavo.passes.share_equal import share_equal
from octavo.passes.soften_masks import soften_masks
from octavo.passes.trial import run_alone
from octavo.runtime.runner import Runner
from octavo.runtime.session import Session
from octavo.tflite import write

L: Any = keras.layers
RELU = 1  # ActivationFunctionType in the schema


def codes(program: Program) -> list[str]:
    return [op.code for op in program.main.ops]


def run(program: Program, seed: int = 3) -> list[np.ndarray]:
    session = Session(write(program), kernels="builtin")
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(0, 5, p.shape).astype(p.dtype) if "int" in str(p.dtype) else rng.normal(size=p.shape).astype("f4")
        for p in session.inputs
    ]
    return list(session.run(arrays).values())


def predict(program: Program, x: np.ndarray) -> np.ndarray:
    result = Runner(Model(program)).predict(x)
    assert isinstance(result, np.ndarray)
    return result


def rewritten(program: Program, rewrite: Callable[[Program], list[str]]) -> list[str]:
    """The ops after `rewrite`, which must leave a sound graph with the same names and the same float outputs."""
    before, names = run(program), [tensor.name for tensor in program.main.outputs]
    rewrite(program)
    verify(program)
    assert [tensor.name for tensor in program.main.outputs] == names
    for want, got in zip(before, run(program), strict=True):
        assert np.abs(got - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3)
    return codes(program)


def binary(b: Builder, code: str, x: Tensor, y: Tensor, name: str, act: int = 0) -> Tensor:
    shape = np.broadcast_shapes(x.shape, y.shape)
    return b.op(code, [x, y], name, shape, f"{code.title()}Options", fusedActivationFunction=act)


def number(b: Builder, value: Any) -> Tensor:
    return b.const("number", np.array(value, np.float32))


# ---------------------------------------------------------------- Keras layers, from end to end


def net(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), *layers], name="net")


def after_conv(*layers: Any, size: int = 8) -> Any:
    return net((size, size, 3), L.Conv2D(4, 3), *layers)


def attention(build: Callable[[Any], Any], width: int = 8) -> Any:
    x = keras.Input((5, width), name="x")
    return keras.Model(x, build(x))


def before_dense(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    return net(shape, *layers, L.Dense(3), dtype=dtype)


def gelu_by_tanh(x: Any) -> Any:
    return keras.ops.gelu(x, approximate=True)


# name: (model, ops after normalising but for RESHAPE and the layers around, least dB of the int8 file)
FUNCTIONS: dict[str, tuple[Callable[[], Any], list[str], float]] = {
    "gelu": (lambda: after_conv(L.Activation("gelu")), ["GELU"], 30),
    "gelu by tanh": (lambda: after_conv(L.Lambda(gelu_by_tanh)), ["GELU"], 30),
    "elu": (lambda: after_conv(L.ELU()), ["ELU"], 30),
    "elu 0.5": (lambda: after_conv(L.ELU(0.5)), ["ELU", "LEAKY_RELU"], 30),
    "selu": (lambda: after_conv(L.Activation("selu")), ["ELU", "LEAKY_RELU", "MUL"], 28),
    "celu": (lambda: after_conv(L.Activation("celu")), ["ELU"], 30),
    "bounded leaky": (lambda: after_conv(L.ReLU(1.5, negative_slope=0.1)), ["LEAKY_RELU", "MINIMUM"], 30),
    "hard tanh": (lambda: after_conv(L.Activation("hard_tanh")), ["MAXIMUM", "MINIMUM"], 30),
    "softplus": (lambda: after_conv(L.Activation("softplus")), ["RELU", "ABS", "MUL", "EXP", "ADD", "LOG", "ADD"], 25),
}
BEFORE_DENSE: dict[str, tuple[Callable[[], Any], list[str], float]] = {
    "max pooling 1d": (lambda: before_dense((12, 3), L.MaxPooling1D(2)), ["MAX_POOL_2D"], 35),
    "max pooling 1d same": (lambda: before_dense((13, 3), L.MaxPooling1D(3, 2, "same")), ["MAX_POOL_2D"], 35),
    "mean pooling 1d": (lambda: before_dense((12, 3), L.AveragePooling1D(2)), ["AVERAGE_POOL_2D"], 30),
    "mean pooling 1d same": (
        lambda: before_dense((13, 3), L.AveragePooling1D(3, 2, "same")), ["AVERAGE_POOL_2D"], 30,
    ),
    "upsampling nearest": (
        lambda: before_dense((4, 6, 3), L.UpSampling2D((3, 2))), ["RESIZE_NEAREST_NEIGHBOR"], 35,
    ),
    "upsampling bilinear": (
        lambda: before_dense((4, 6, 3), L.UpSampling2D(2, interpolation="bilinear")), ["RESIZE_BILINEAR"], 30,
    ),
    "resizing nearest": (
        lambda: before_dense((6, 6, 3), L.Resizing(9, 12, interpolation="nearest")), ["RESIZE_NEAREST_NEIGHBOR"], 35,
    ),
    "embedding": (lambda: before_dense((6,), L.Embedding(50, 8), dtype="int32"), ["GATHER"], 30),
    "softmax along another axis": (
        lambda: before_dense((6, 4), L.Dense(4), L.Softmax(axis=1)),
        ["FULLY_CONNECTED", "TRANSPOSE", "SOFTMAX", "TRANSPOSE"], 25,
    ),
    "log softmax": (
        lambda: before_dense((6,), L.Dense(4), L.Activation("log_softmax")), ["FULLY_CONNECTED", "LOG_SOFTMAX"], 25,
    ),
    "attention": (
        lambda: attention(lambda x: L.Dense(3)(L.Attention()([L.Dense(4)(x), L.Dense(4)(x)]))),
        ["FULLY_CONNECTED", "FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "BATCH_MATMUL"], 25,
    ),
    "prelu after dense": (
        lambda: before_dense((6,), L.Dense(4), L.PReLU("random_normal")), ["FULLY_CONNECTED", "PRELU"], 30,
    ),
}  # fmt: skip
LAYERS = {
    **{name: (build, ["CONV_2D", *ops], least) for name, (build, ops, least) in FUNCTIONS.items()},
    **{name: (build, [*ops, "FULLY_CONNECTED"], least) for name, (build, ops, least) in BEFORE_DENSE.items()},
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, ops, least = LAYERS[name]
    keras.utils.set_random_seed(1)
    program = to_program(build())
    plain = program.clone()
    normalise(program)
    assert [code for code in codes(program) if code != "RESHAPE"] == ops
    rng = np.random.default_rng(0)
    (tensor,) = program.main.inputs
    shape = (32, *tensor.shape[1:])
    x = rng.integers(0, 50, shape).astype("i4") if tensor.dtype is DType.INT32 else rng.normal(size=shape).astype("f4")
    want, got = predict(plain, x), predict(program, x)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    small = octavo.quantize(Model(plain), octavo.integer(), calibration=x)
    in_float = [d.kind for d in small.decisions if d.precision not in ("int8", "as is")]
    assert in_float == [code for code in ops if OPS[code].slow_int8]
    error = predict(small.program, x) - want
    assert 10 * np.log10(np.square(want).sum() / max(np.square(error).sum(), 1e-20)) >= least


def test_transformer_block_keeps_no_piece() -> None:
    """No shift before the softmax, no erf, no guard; the mean is subtracted before anything is scaled."""

    def block(x: Any) -> Any:
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(2, 4)(y, y)
        y = L.Dense(16, activation="gelu")(L.LayerNormalization()(x))
        return x + L.Dense(8)(y)

    keras.utils.set_random_seed(1)
    model = attention(block)
    for weight in model.weights:
        if "gamma" in weight.path or "beta" in weight.path:
            weight.assign(np.random.default_rng(0).uniform(0.5, 1.5, weight.shape))
    program = to_program(model)
    before = len(program.main.ops)
    ops = rewritten(program, normalise)
    assert before > 100
    assert len(ops) <= 50
    assert not {"NEG", "REDUCE_MAX", "MAXIMUM", "SELECT", "SELECT_V2", "DIV", "EXP", "LESS"} & set(ops)
    assert ops.count("GELU") == 1
    assert ops.count("SUB") == 2  # x - mean, in each of the two normalizations


# ---------------------------------------------------------------- functions of one number


def gelu_pieces(b: Builder, x: Tensor, half: Tensor) -> Tensor:
    """half * x * (1 + tanh(0.79788456 * (x + 0.044715 x^3)))"""
    square = binary(b, "MUL", x, x, "square")
    cube = binary(b, "MUL", binary(b, "MUL", square, x, "cube"), number(b, 0.044715), "small")
    inner = binary(b, "MUL", binary(b, "ADD", x, cube, "sum"), number(b, 0.7978845608), "inner")
    one = binary(b, "ADD", b.unary("TANH", inner, "tanh"), number(b, 1), "one")
    return binary(b, "MUL", binary(b, "MUL", x, half, "half"), one, "gelu")


class TestFunctions:
    def test_gelu_by_tanh(self) -> None:
        b = Builder()
        program = b.program(gelu_pieces(b, b.input("x", (2, 6)), number(b, 0.5)))
        assert rewritten(program, recognise_functions) == ["GELU"]
        assert program.main.ops[0].option("approximate") is True

    def test_a_uniform_constant_is_one_number(self) -> None:
        b = Builder()
        half = b.const("half", np.full((1, 6), 0.5, np.float32))
        assert rewritten(b.program(gelu_pieces(b, b.input("x", (2, 6)), half)), recognise_functions) == ["GELU"]

    @pytest.mark.parametrize("half", [0.505, [0.5] * 5 + [0.6]])
    def test_refuses_almost_the_function_and_constants_that_vary(self, half: Any) -> None:
        b = Builder()
        ops = rewritten(b.program(gelu_pieces(b, b.input("x", (2, 6)), number(b, half))), recognise_functions)
        assert "GELU" not in ops
        assert len(ops) == 9

    def test_a_piece_that_is_read_elsewhere_stays(self) -> None:
        b = Builder()
        out = gelu_pieces(b, b.input("x", (2, 6)), number(b, 0.5))
        tanh = next(op for op in b.graph.ops if op.code == "TANH").outputs[0]
        ops = rewritten(b.program(out, tanh), recognise_functions)
        assert ops[-1] == "GELU"
        assert "TANH" in ops
        assert ops.count("MUL") == 4

    def test_refuses_what_training_rounded_on_the_way(self) -> None:
        b = Builder()
        out = gelu_pieces(b, b.input("x", (2, 6)), number(b, 0.5))
        record_range(next(op for op in b.graph.ops if op.code == "TANH").outputs[0], -1, 1)
        assert "GELU" not in rewritten(b.program(out), recognise_functions)

    def test_refuses_two_tensors(self) -> None:
        b = Builder()
        x, y = b.input("x", (2, 6)), b.input("y", (2, 6))
        gate = b.unary("LOGISTIC", binary(b, "MUL", y, number(b, 2), "twice"), "gate")
        assert rewritten(b.program(binary(b, "MUL", x, gate, "z")), recognise_functions) == ["MUL", "LOGISTIC", "MUL"]

    def test_two_alike_each_get_their_own(self) -> None:
        b = Builder()
        first = gelu_pieces(b, b.input("x", (2, 6)), number(b, 0.5))
        moved = b.op("MEAN", [first, b.const("axis", np.array([1], np.int32))], "mean", (2, 1), "ReducerOptions",
                     keepDims=True)  # fmt: skip
        program = b.program(gelu_pieces(b, moved, number(b, 0.5)))
        assert rewritten(program, recognise_functions) == ["GELU", "MEAN", "GELU"]

    @pytest.mark.parametrize("spare", [1e-10, 1e-7])
    def test_a_small_floor_is_no_zero(self, spare: float) -> None:
        """What keeps a logarithm from infinity stays."""
        b = Builder()
        x = b.input("x", (2, 6))
        bounded = b.op("MINIMUM", [x, number(b, np.inf)], "bounded", x.shape)
        floor = b.op("MAXIMUM", [bounded, number(b, spare)], "floor", x.shape)
        assert "RELU" not in rewritten(b.program(b.unary("LOG", floor, "y")), recognise_functions)
        b = Builder()
        x = b.input("x", (2, 6))
        above = b.op("MAXIMUM", [b.unary("LOGISTIC", x, "sigmoid"), number(b, spare)], "above", x.shape)
        ops = rewritten(b.program(b.unary("LOG", above, "y")), recognise_functions)
        assert ops == ["LOGISTIC", "MAXIMUM", "LOG"]

    def test_sigmoid_and_swish(self) -> None:
        b = Builder()
        x = b.input("x", (2, 6))
        below = binary(b, "ADD", b.unary("EXP", b.unary("NEG", x, "minus"), "exp"), number(b, 1), "below")
        program = b.program(binary(b, "DIV", x, below, "swish"))
        assert rewritten(program, recognise_functions) == ["LOGISTIC", "MUL"]

    @settings(max_examples=30, deadline=None)
    @given(st.floats(0.01, 8), st.floats(-4, -0.1), st.floats(0.1, 50))
    def test_parameters(self, slope: float, low: float, high: float) -> None:
        x = np.concatenate([np.linspace(-20, 20, 4001), [-1e6, -1e3, 1e6]]).astype(np.float32)
        leaky = function_of(x, np.where(x > 0, x, slope * x).astype(np.float32))
        assert leaky is not None
        if abs(slope - 1) > 1e-4:
            assert leaky[0][0] == "LEAKY_RELU"
            assert leaky[0][2]["alpha"] == pytest.approx(slope, rel=1e-5)
        clip = function_of(x, np.clip(x, low, high))
        assert clip is not None
        assert [step[0] for step in clip] == ["MAXIMUM", "MINIMUM"]
        assert [step[3] for step in clip] == pytest.approx([low, high], rel=1e-6)

    def test_a_constant_function_is_nothing(self) -> None:
        x = np.linspace(-8, 8, 1001).astype(np.float32)
        assert function_of(x, np.zeros_like(x)) is None
        assert function_of(x, 1e-9 * np.sin(x)) is None


class TestShare:
    def test_the_same_op_once(self) -> None:
        b = Builder()
        x = b.input("x", (2, 6))
        first, second = binary(b, "MUL", x, number(b, 2), "a"), binary(b, "MUL", x, number(b, 2), "b")
        third = binary(b, "MUL", x, number(b, 3), "c")
        total = binary(b, "ADD", binary(b, "SUB", first, third, "d"), second, "y")
        assert rewritten(b.program(total), share_equal) == ["MUL", "MUL", "SUB", "ADD"]

    @pytest.mark.parametrize("acts", [(0, RELU), (RELU, 0), (RELU, 3)])
    @pytest.mark.parametrize("shape", [(2, 3, 5), (6, 5)])
    def test_a_product_with_two_activations_and_shapes(self, acts: tuple[int, int], shape: tuple[int, ...]) -> None:
        b = Builder()
        x, kernel, bias = b.input("x", (2, 3, 4)), b.weights("kernel", 5, 4), b.weights("bias", 5)
        outs = [
            b.op("FULLY_CONNECTED", [x, kernel, bias], f"y{act}", size, "FullyConnectedOptions",
                 keepNumDims=len(size) == 3, fusedActivationFunction=act)
            for act, size in zip(acts, ((2, 3, 5), shape), strict=True)
        ]  # fmt: skip
        ops = rewritten(b.program(*outs), share_equal)
        assert ops.count("FULLY_CONNECTED") == 1
        assert ops.count("RESHAPE") == (len(shape) == 2)

    def test_refuses_what_training_rounded(self) -> None:
        b = Builder()
        x = b.input("x", (2, 6))
        first, second = b.unary("EXP", x, "a"), b.unary("EXP", x, "b")
        record_range(second, 0, 3)
        assert rewritten(b.program(binary(b, "ADD", first, second, "y")), share_equal) == ["EXP", "EXP", "ADD"]


@pytest.mark.parametrize(("code", "bound"), [("MAXIMUM", np.finfo("f4").min), ("MINIMUM", np.finfo("f4").max)])
def test_the_outermost_floats_bound_nothing(code: str, bound: float) -> None:
    b = Builder()
    x = b.unary("EXP", b.input("x", (2, 6)), "exp")
    assert rewritten(b.program(b.op(code, [x, number(b, bound)], "y", x.shape)), recognise_relu) == ["EXP"]


def test_nan_guards() -> None:
    b = Builder()
    x = b.input("x", (2, 6))
    guard = b.op("NOT_EQUAL", [x, x], "guard", x.shape, "NotEqualOptions", dtype=DType.BOOL)
    y = b.op("SELECT", [guard, binary(b, "ADD", x, number(b, 9), "a"), b.unary("EXP", x, "exp")], "y", x.shape)
    assert rewritten(b.program(b.unary("LOG", y, "z")), drop_nan_guards) == ["EXP", "LOG"]


# ---------------------------------------------------------------- pools


def windows(x: Any, size: int, stride: int, padding: Any, start: float = -np.inf, join: Any = jax.lax.max) -> Any:
    return jax.lax.reduce_window(x, start, join, (1, size, 1), (1, stride, 1), padding)


class TestPools:
    def test_sums_become_means_and_a_factor(self) -> None:
        program = to_program(lambda x: windows(x, 3, 2, "VALID", 0.0, jax.lax.add), inputs=[(1, 11, 2)])
        assert "STABLEHLO_REDUCE_WINDOW" in codes(program)
        ops = rewritten(program, recognise_pools)
        assert [op for op in ops if op != "RESHAPE"] == ["AVERAGE_POOL_2D", "MUL"]

    @pytest.mark.parametrize(
        "case",
        [
            lambda x: windows(x, 3, 1, ((0, 0), (2, 0), (0, 0))),  # causal
            lambda x: windows(x, 3, 1, "VALID", 0.5),  # starts above -infinity
            lambda x: windows(x, 3, 1, "SAME", 0.0, jax.lax.add),  # sums over the padding are no means
            lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2), (1, 1, 1), "VALID"),  # over channels
            lambda x: jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 1, 1), "VALID", window_dilation=(1, 2, 1)
            ),
            lambda x: windows(x, 2, 2, "VALID", np.inf, jax.lax.min),
        ],
    )
    def test_refuses(self, case: Callable[[Any], Any]) -> None:
        program = to_program(case, inputs=[(1, 11, 2)])
        before = codes(program)
        assert "STABLEHLO_REDUCE_WINDOW" in before
        assert rewritten(program, recognise_pools) == before


# ---------------------------------------------------------------- softmax, look-ups, resizes, matrices, normalization


class TestSoftmax:
    def shifted(self, shape: tuple[int, ...]) -> Program:
        b = Builder()
        x = b.input("x", (2, 6))
        soft = b.op("SOFTMAX", [binary(b, "SUB", x, b.weights("m", *shape), "z")], "soft", (2, 6), "SoftmaxOptions",
                    beta=1.0)  # fmt: skip
        return b.program(soft)

    @pytest.mark.parametrize("shape", [(2, 1), (1,), (1, 1)])
    def test_a_shift_goes(self, shape: tuple[int, ...]) -> None:
        assert rewritten(self.shifted(shape), recognise_softmax) == ["SOFTMAX"]

    @pytest.mark.parametrize("shape", [(6,), (2, 6)])
    def test_refuses_a_shift_that_varies(self, shape: tuple[int, ...]) -> None:
        assert rewritten(self.shifted(shape), recognise_softmax) == ["SUB", "SOFTMAX"]

    def test_refuses_a_quotient_over_two_axes(self) -> None:
        b = Builder()
        exp = b.unary("EXP", b.input("x", (2, 6)), "exp")
        axes = b.const("axes", np.array([0, 1], np.int32))
        total = b.op("SUM", [exp, axes], "total", (1, 1), "ReducerOptions", keepDims=True)
        program = b.program(binary(b, "DIV", exp, total, "y"))
        assert rewritten(program, recognise_softmax) == ["EXP", "SUM", "DIV"]

    def test_keeps_exponentials_that_are_an_output(self) -> None:
        b = Builder()
        exp = b.unary("EXP", b.input("x", (2, 6)), "exp")
        total = b.op("SUM", [exp, b.const("axes", np.array([1], np.int32))], "total", (2, 1), "ReducerOptions",
                     keepDims=True)  # fmt: skip
        program = b.program(binary(b, "DIV", exp, total, "y"), exp)
        assert rewritten(program, recognise_softmax) == ["EXP", "SUM", "DIV"]


TABLE = np.arange(20, dtype=np.float32).reshape(10, 2)


class TestEmbedding:
    def test_says_what_it_no_longer_takes(self) -> None:
        program = to_program(lambda i: jnp.take(jnp.asarray(TABLE), i, axis=0), inputs=[((1, 4), "int32")])
        (note,) = normalise(program)
        assert "rows 0 to 9" in note
        assert codes(program) == ["GATHER"]
        session = Session(write(program))
        (rows,) = session.run([np.array([[0, 9, 3, 3]], np.int32)]).values()
        np.testing.assert_array_equal(rows, TABLE[[[0, 9, 3, 3]]])
        for outside in (-1, 10):
            with pytest.raises(octavo.errors.RunError):
                session.run([np.array([[0, 9, outside, 3]], np.int32)])

    def test_refuses_another_filling(self) -> None:
        program = to_program(
            lambda i: jnp.take(jnp.asarray(TABLE), i, axis=0, mode="fill", fill_value=7.0), inputs=[((1, 4), "int32")]
        )
        assert "SELECT_V2" in rewritten(program, recognise_embedding)

    def test_unguarded_look_ups(self) -> None:
        b = Builder()
        b.const("table", TABLE)
        i = b.input("i", (1, 4), DType.INT32)
        table = b.graph.tensors[0]
        found = b.op("GATHER_ND", [table, b.op("RESHAPE", [i, b.const("s", np.array([1, 4, 1], np.int32))], "i1",
                     (1, 4, 1), "ReshapeOptions", dtype=DType.INT32)], "y", (1, 4, 2), "GatherNdOptions")  # fmt: skip
        assert rewritten(b.program(found), recognise_embedding) == ["GATHER"]

    def test_keeps_look_ups_by_two_indices(self) -> None:
        b = Builder()
        i = b.input("i", (1, 2), DType.INT32)
        found = b.op("GATHER_ND", [b.weights("table", 9, 9, 2), i], "y", (1, 2), "GatherNdOptions")
        assert rewritten(b.program(found), recognise_embedding) == ["GATHER_ND"]


class TestResize:
    @pytest.mark.parametrize("method", ["cubic", "lanczos3"])
    def test_refuses_other_filters(self, method: str) -> None:
        program = to_program(lambda x: jax.image.resize(x, (1, 8, 10, 2), method), inputs=[(1, 4, 5, 2)])
        assert not any(code.startswith("RESIZE") for code in rewritten(program, recognise_resize))

    def test_refuses_antialiased_shrinking(self) -> None:
        program = to_program(lambda x: jax.image.resize(x, (1, 4, 5, 2), "bilinear"), inputs=[(1, 12, 15, 2)])
        assert not any(code.startswith("RESIZE") for code in rewritten(program, recognise_resize))

    def test_repeating_the_whole_image_is_no_resize(self) -> None:
        b = Builder()
        x = b.input("x", (1, 3, 4, 2))
        flat = b.reshape(x, "flat", (1, 12, 2))
        target = b.const("target", np.array([1, 2, 1, 1], np.int32))
        wide = b.reshape(flat, "wide", (1, 1, 12, 2))
        tiled = b.op("TILE", [wide, target], "tiled", (1, 2, 12, 2), "TileOptions")
        program = b.program(b.reshape(tiled, "y", (1, 6, 4, 2)))
        assert rewritten(program, recognise_resize) == ["RESHAPE", "RESHAPE", "TILE", "RESHAPE"]


class TestComputedWeights:
    def fully_connected(self, act: int = 0, bias: bool = False) -> Program:
        b = Builder()
        x, weights = b.input("x", (2, 3, 4)), b.input("weights", (5, 4))
        operands = [x, weights, b.weights("bias", 5) if bias else None]
        return b.program(b.op("FULLY_CONNECTED", operands, "y", (2, 3, 5), "FullyConnectedOptions", keepNumDims=True,
                              fusedActivationFunction=act))  # fmt: skip

    def test_become_a_matrix_product(self) -> None:
        assert rewritten(self.fully_connected(), computed_weights) == ["BATCH_MATMUL"]

    @pytest.mark.parametrize(("act", "bias"), [(RELU, False), (0, True)])
    def test_refuses_more_than_a_product(self, act: int, bias: bool) -> None:
        assert rewritten(self.fully_connected(act, bias), computed_weights) == ["FULLY_CONNECTED"]


class TestL2Norm:
    @pytest.mark.parametrize(
        "case",
        [
            lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
            lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6),
            lambda x: keras.layers.UnitNormalization()(x),
            lambda x: x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12),
        ],
    )
    def test_becomes_one_op(self, case: Callable[[Any], Any]) -> None:
        assert rewritten(to_program(case, inputs=[(3, 5, 8)]), recognise_l2_norm) == ["L2_NORMALIZATION"]

    @pytest.mark.parametrize(
        "case",
        [
            lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
            lambda x: x / jnp.sum(jnp.abs(x), axis=-1, keepdims=True),
            lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True)),
            lambda x: x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 0.1),
        ],
    )
    def test_refuses(self, case: Callable[[Any], Any]) -> None:
        assert "L2_NORMALIZATION" not in rewritten(to_program(case, inputs=[(3, 5, 8)]), recognise_l2_norm)


class TestCenterFirst:
    def norm(self, subtracted: bool = True, varies: bool = True) -> Program:
        """x * (r * g) + (b - m * (r * g)), with r made of x - m, or of x alone."""
        b = Builder()
        x = b.input("x", (2, 6))
        axis = b.const("axis", np.array([1], np.int32))
        mean = b.op("MEAN", [x, axis], "mean", (2, 1), "ReducerOptions", keepDims=True)
        base = binary(b, "SUB", x, mean, "centered") if subtracted else x
        square = binary(b, "MUL", base, base, "square")
        variance = b.op("MEAN", [square, axis], "variance", (2, 1), "ReducerOptions", keepDims=True)
        r = b.unary("RSQRT", binary(b, "ADD", variance, number(b, 1e-3), "safe"), "r")
        s = binary(b, "MUL", r, b.weights("g", 6), "s")
        shift = binary(b, "SUB", b.weights("b", 6), binary(b, "MUL", mean, s, "ms"), "shift")
        return b.program(binary(b, "ADD", binary(b, "MUL", x, s, "xs"), shift, "y"))

    def test_scales_what_is_centered(self) -> None:
        program = self.norm()
        assert rewritten(program, center_first) == ["MEAN", "SUB", "MUL", "MEAN", "ADD", "RSQRT", "MUL", "MUL", "ADD"]

    def test_refuses_a_mean_that_nothing_subtracts(self) -> None:
        program = self.norm(subtracted=False)
        before = codes(program)
        assert rewritten(program, center_first) == before


CAUSAL = np.tril(np.ones((5, 5), bool))


class TestMasks:
    @pytest.mark.parametrize("hidden", [-np.inf, -3.4e38, -1e9, -3e4])
    @pytest.mark.parametrize("kind", ["select", "add", "add slopes"])
    def test_hidden_positions_cost_no_resolution(self, kind: str, hidden: float) -> None:
        slopes = -0.5 * np.abs(np.arange(5)[:, None] - np.arange(5)) if kind == "add slopes" else np.zeros((5, 5))

        def attend(x: Any) -> Any:
            scores = x @ jnp.swapaxes(x, 1, 2)
            if kind == "select":
                scores = jnp.where(CAUSAL, scores, hidden)
            else:
                scores = scores + np.where(CAUSAL, slopes, hidden).astype(np.float32)
            return jax.nn.softmax(scores) @ x

        model = octavo.convert(attend, inputs=[(1, 5, 8)])
        x = np.random.default_rng(0).normal(size=(32, 5, 8)).astype(np.float32)
        want = predict(model.program, x)
        small = octavo.quantize(model, octavo.integer(), calibration=x)
        assert not [d for d in small.decisions if d.precision not in ("int8", "as is")]
        error = predict(small.program, x) - want
        assert 10 * np.log10(np.square(want).sum() / np.square(error).sum()) >= 28

    def masked(self, code: str, values: np.ndarray, shown: bool = False) -> tuple[Program, Tensor, Tensor]:
        b = Builder()
        x, mask = b.input("x", (5, 5)), b.const("mask", values.astype(np.float32))
        if code == "ADD":
            z = binary(b, "ADD", x, mask, "z")
        else:
            z = b.op(code, [b.const("shown", CAUSAL), x, mask], "z", (5, 5))
            b.graph.tensors[-2].dtype = DType.BOOL
        y = b.op("SOFTMAX", [z], "y", (5, 5), "SoftmaxOptions", beta=1.0)
        return b.program(y, *([z] if shown else [])), x, z

    @pytest.mark.parametrize(
        ("code", "values", "lowest"),
        [
            ("SELECT_V2", np.array(-1e9), -20),
            ("ADD", np.where(CAUSAL, 0, -1e9), -20),
            ("ADD", np.where(CAUSAL, -2.5, -1e9), -22.5),
            ("ADD", np.where(CAUSAL, 3.0, -1e9), -20),
        ],
    )
    def test_the_float_model_stays(self, code: str, values: np.ndarray, lowest: float) -> None:
        program, x, z = self.masked(code, values)
        ranges, observed = {x: (-4.0, 5.0), z: (-1e9, 1.0)}, {z: (-1e9, 7.0)}
        assert rewritten(program, lambda p: soften_masks(p, ranges, observed) or []) == [code, "SOFTMAX"]
        assert ranges == {x: (-4.0, 5.0), z: (lowest, 7.0)}
        assert observed == {z: (lowest, 7.0)}

    def test_refuses_what_is_no_mask_or_is_read_elsewhere(self) -> None:
        for program, x, z in (
            self.masked("ADD", np.full((5, 5), -3.0)),
            self.masked("SELECT_V2", np.array(-6.0)),
            self.masked("ADD", np.where(CAUSAL, 0, -1e9), shown=True),
        ):
            ranges = {x: (-4.0, 5.0), z: (-7.0, 2.0)}
            mask = next(tensor for tensor in program.main.tensors if tensor.name == "mask")
            soften_masks(program, ranges)
            assert ranges[z] == (-7.0, 2.0)
            assert mask in program.main.ops[0].inputs


def test_run_alone_gives_none_for_what_litert_refuses() -> None:
    x, y = Tensor("x", DType.FLOAT32, (2,)), Tensor("y", DType.FLOAT32, (2,))
    op = Op("CONV_2D", [x, x, x], [y], {}, "Conv2DOptions")
    assert run_alone([op], {x: np.zeros(2, np.float32)}, y) is None
