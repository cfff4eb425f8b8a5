"""Ops that could be integer and had better not: small inputs of LOG and RSQRT, and a fixed scale at the very end."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.graph import Program
from octavo.judgement import better_in_float
from octavo.model import Model

RNG = np.random.default_rng(0)


def spectrogram() -> Program:
    """log(dense(x)^2 + 1e-6), then a dense layer."""
    b = Builder()
    y = b.dense(b.input("x", (1, 16)), "filters", 16)
    y = b.op("MUL", [y, y], "power", (1, 16), "MulOptions")
    y = b.op("ADD", [y, b.const("tiny", np.array(1e-6, np.float32))], "floor", (1, 16), "AddOptions")
    return b.program(b.dense(b.unary("LOG", y, "log"), "head", 4))


def layer_norm() -> Program:
    b = Builder()
    x = b.input("x", (1, 16))
    y = b.dense(x, "dense", 16)
    axis = b.const("axis", np.array([1], np.int32))
    centred = b.op("SUB", [y, b.op("MEAN", [y, axis], "mean", (1, 1), "ReducerOptions", keepDims=True)], "centred",
                   (1, 16), "SubOptions")  # fmt: skip
    square = b.op("MUL", [centred, centred], "square", (1, 16), "MulOptions")
    variance = b.op("MEAN", [square, axis], "variance", (1, 1), "ReducerOptions", keepDims=True)
    inverse = b.unary("RSQRT", variance, "inverse")
    return b.program(b.dense(b.op("MUL", [centred, inverse], "normal", (1, 16), "MulOptions"), "head", 4))


def loud_and_quiet(count: int = 32) -> np.ndarray:
    return (RNG.normal(size=(count, 1, 16)) * np.geomspace(0.01, 10, count)[:, None, None]).astype(np.float32)


def quality(model: Model, small: Model, samples: np.ndarray) -> float:
    wanted, got = (np.stack([np.asarray(octavo.Runner(m)(x)) for x in samples]) for m in (model, small))
    return numerics.sqnr_db(wanted, got)


def kept(small: Model) -> set[str]:
    return {decision.op.split("'")[1] for decision in small.summary().in_float}


@pytest.mark.parametrize(
    ("program", "names"),
    [
        (spectrogram(), {"filters", "power", "floor", "log"}),
        (layer_norm(), {"square", "variance", "inverse", "normal"}),
    ],
    ids=["log", "rsqrt"],
)
def test_small_inputs_stay_in_float(program: Program, names: set[str]) -> None:
    model, samples = Model(program), loud_and_quiet()
    small = octavo.quantize(model, octavo.integer(), samples)
    assert kept(small) == names
    assert quality(model, small, samples) > 14, "8 bits of input, over a range of 1,000 to 1"
    only = octavo.quantize(model, octavo.integer(fallback=False), samples)
    assert only.integer_only and quality(model, only, samples) < quality(model, small, samples) - 5


def test_inputs_of_one_size_are_integers() -> None:
    b = Builder()
    x = b.unary("ABS", b.input("x", (1, 16)), "size")
    y = b.op("ADD", [x, b.const("one", np.array(1, np.float32))], "above", (1, 16), "AddOptions")
    model = Model(b.program(b.dense(b.unary("LOG", y, "log"), "head", 4)))
    small = octavo.quantize(model, octavo.integer(), RNG.normal(size=(32, 1, 16)).astype(np.float32))
    assert not kept(small)


def test_what_nobody_saw_is_not_judged() -> None:
    """A range that only follows from others says nothing about the smallest value."""
    b = Builder()
    x = b.input("x", (1, 16))
    program = b.program(b.unary("LOG", x, "log"))
    op = program.main.ops[0]
    assert better_in_float(program.main, {op: 8}, {}, False) == {}
    reason = "its smallest inputs are less than a step of 8 bits, and it magnifies them"
    assert better_in_float(program.main, {op: 8}, {x: (1e-6, 1.0)}, False) == {op: reason}
    # 1 / (2 * 256 * low) is a sixteenth for low = 1/32.
    assert better_in_float(program.main, {op: 8}, {x: (1 / 32, 1.0)}, False) == {}
    assert op in better_in_float(program.main, {op: 8}, {x: (0.9 / 32, 1.0)}, False)


def sigmoid_at_the_end(reader: bool = False) -> Program:
    b = Builder()
    y = b.unary("LOGISTIC", b.dense(b.input("x", (1, 16)), "dense", 4), "chance")
    return b.program(y, *([b.dense(y, "more", 3)] if reader else []))


def test_the_last_sigmoid_of_a_float_model_stays_in_float() -> None:
    small = octavo.quantize(Model(sigmoid_at_the_end()), octavo.integer(), loud_and_quiet())
    assert kept(small) == {"chance"}


@pytest.mark.parametrize("scheme", [octavo.integer(io="int8"), octavo.integer(fallback=False)])
def test_it_is_an_integer_where_that_is_what_leaves(scheme: octavo.Scheme) -> None:
    small = octavo.quantize(Model(sigmoid_at_the_end()), scheme, loud_and_quiet())
    assert small.integer_only


def test_it_is_an_integer_where_something_reads_on() -> None:
    small = octavo.quantize(Model(sigmoid_at_the_end(reader=True)), octavo.integer(), loud_and_quiet())
    assert not kept(small)


def detector(factor: float, read: bool = False) -> Program:
    """Two heads, of which one is `factor` times as wide, joined."""
    b = Builder()
    x = b.input("x", (1, 16))
    y, kernel = b.dense(x, "first", 8), b.weights("kernel", 8, 16)
    first = b.graph.ops[0].inputs[1]
    assert first is not None
    kernel.set_values(first.values * np.float32(factor))
    z = b.op("FULLY_CONNECTED", [x, kernel, None], "second", (1, 8), "FullyConnectedOptions")
    joined = b.op("CONCATENATION", [y, z], "joined", (1, 16), "ConcatenationOptions", axis=1)
    return b.program(b.dense(joined, "head", 4) if read else b.reshape(joined, "out", (2, 8)))


@pytest.mark.parametrize(
    ("program", "scheme", "names"),
    [
        (detector(20), octavo.integer(), {"joined", "out"}),
        (detector(1), octavo.integer(), set()),
        (detector(20, read=True), octavo.integer(), set()),
        (detector(20), octavo.integer(io="int8"), set()),
    ],
    ids=["unequal", "alike", "read on", "integers leave"],
)
def test_heads_of_unequal_width(program: Program, scheme: octavo.Scheme, names: set[str]) -> None:
    model, samples = Model(program), RNG.normal(size=(32, 1, 16)).astype(np.float32)
    small = octavo.quantize(model, scheme, samples)
    assert kept(small) == names
    if names:
        wanted, got = (np.stack([np.asarray(octavo.Runner(m)(x)) for x in samples]) for m in (model, small))
        assert numerics.sqnr_db(wanted[:, 0], got[:, 0]) > 30


def test_weights_of_float_ops_are_stored_small() -> None:
    b = Builder()
    y = b.op("CUSTOM", [b.dense(b.input("x", (1, 64)), "first", 64)], "secret", (1, 64))
    b.graph.ops[-1].custom_code = "NobodyKnows"
    program = b.program(b.dense(y, "second", 64))
    small = octavo.quantize(Model(program), octavo.integer(), RNG.normal(size=(8, 1, 64)).astype(np.float32))
    assert small.summary().counts == {"int8": 1, "float32": 1, "weight_only": 1}
    assert small.nbytes < 0.4 * Model(program).nbytes


def test_an_op_whose_int8_kernel_is_slow_stays_in_float_unless_nothing_may() -> None:
    b = Builder()
    y = b.conv(b.input("x", (1, 8, 8, 3)), "first", 4)
    slopes = b.const("slopes", np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(1, 1, 4))
    y = b.op("PRELU", [y, slopes], "bent", (1, 8, 8, 4))
    model, samples = Model(b.program(b.conv(y, "second", 4))), RNG.normal(size=(8, 1, 8, 8, 3)).astype(np.float32)
    small = octavo.quantize(model, octavo.integer(), samples)
    assert kept(small) == {"bent"}
    (decision,) = small.summary().in_float
    assert "int8 kernel is slower than the one for float" in decision.reason
    codes = [op.code for op in small.program.main.ops]
    assert codes == ["QUANTIZE", "CONV_2D", "DEQUANTIZE", "PRELU", "QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    only = octavo.quantize(model, octavo.integer(fallback=False, io="int8"), samples)
    assert only.integer_only and [op.code for op in only.program.main.ops] == ["CONV_2D", "PRELU", "CONV_2D"]
