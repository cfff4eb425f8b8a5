"""Cross-layer equalization: the same function, and weights that one scale per tensor can hold."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.algorithms.equalize import equalize, factors, least_factors
from octavo.graph import Op, Program, Tensor
from octavo.making import observe
from octavo.model import Model
from octavo.qtypes import INT8_WEIGHT
from octavo.recipe import Recipe
from octavo.unfold import input_channels, input_rows, to_matrix
from products import PRODUCTS, smooth

RNG = np.random.default_rng(8)
PER_TENSOR = octavo.integer(per_channel=False)
CONV = {"padding": 0, "strideW": 1, "strideH": 1}


def inverted_bottleneck(skewed: bool, act: int = 1, last: str = "CONV_2D") -> Program:
    """Pointwise, depthwise, pointwise, as in MobileNetV2. `skewed`: the channels in between differ by up to 1,000."""
    b = Builder(2)
    sizes = 10.0 ** b.rng.uniform(-1.5, 1.5, 24) if skewed else np.ones(24)
    after = 10.0 ** b.rng.uniform(-1.5, 1.5, 24) if skewed else np.ones(24)
    x = b.input("image", (1, 8, 8, 4))

    def const(name: str, values: np.ndarray) -> Tensor:
        return b.const(name, values.astype(np.float32))

    kernel = const("up/kernel", b.rng.normal(size=(24, 1, 1, 4)) * sizes[:, None, None, None])
    bias = const("up/bias", b.rng.normal(size=24) * 0.2 * sizes)
    x = b.op("CONV_2D", [x, kernel, bias], "up", (1, 8, 8, 24), "Conv2DOptions", fusedActivationFunction=act, **CONV)
    kernel = const("dw/kernel", b.rng.normal(size=(1, 3, 3, 24)) * 0.4 * after / sizes)
    bias = const("dw/bias", b.rng.normal(size=24) * 0.2 * after)
    options = {**CONV, "depthMultiplier": 1, "fusedActivationFunction": act}
    x = b.op("DEPTHWISE_CONV_2D", [x, kernel, bias], "dw", (1, 8, 8, 24), "DepthwiseConv2DOptions", **options)
    if last == "FULLY_CONNECTED":
        kernel = const("down/kernel", b.rng.normal(size=(6, 24)) * 0.3 / after)
        inputs = [x, kernel, b.weights("down/bias", 6)]
        return b.program(b.op(last, inputs, "down", (1, 8, 8, 6), "FullyConnectedOptions", keepNumDims=True))
    kernel = const("down/kernel", b.rng.normal(size=(6, 1, 1, 24)) * 0.3 / after)
    return b.program(b.op(last, [x, kernel, b.weights("down/bias", 6)], "down", (1, 8, 8, 6), "Conv2DOptions", **CONV))


def changed(program: Program, samples: np.ndarray) -> tuple[Program, list[Tensor]]:
    """An equalized copy, and the tensors whose scale has changed."""
    copy = program.clone()
    seen = observe(Model(copy), Recipe(PER_TENSOR), samples, False)
    return copy, equalize(copy, lambda op: INT8_WEIGHT, dict(seen.moments), seen.ranges)


@pytest.mark.parametrize("last", ["CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize("act", [0, 1])
def test_the_function_stays_the_same(act: int, last: str) -> None:
    """Also on inputs beyond what the samples showed."""
    program = inverted_bottleneck(True, act, last)
    copy, tensors = changed(program, smooth(16, 1))
    assert [tensor.name for tensor in tensors] == ["up", "dw"]
    wild = 10 * smooth(16, 2)
    want, got = (octavo.Runner(Model(made)).predict(wild) for made in (program, copy))
    assert numerics.sqnr_db(want, got) > 100


def test_layers_without_a_bias() -> None:
    b = Builder(4)
    sizes = 10.0 ** b.rng.uniform(-1.5, 1.5, 32)
    x = b.reshape(b.input("image", (1, 8, 8, 4)), "flat", (1, 256))
    for name, kernel in (
        ("first", b.rng.normal(size=(32, 256)) * sizes[:, None]),
        ("second", b.rng.normal(size=(5, 32)) / sizes),
    ):
        operands = [x, b.const(f"{name}/kernel", kernel.astype(np.float32)), None]
        x = b.op("FULLY_CONNECTED", operands, name, (1, len(kernel)), "FullyConnectedOptions")
    program = b.program(x)
    copy, tensors = changed(program, smooth(16, 1))
    assert [tensor.name for tensor in tensors] == ["first"]
    assert [op.inputs[2:] for op in copy.main.ops[1:]] == [[None], [None]]
    want, got = (octavo.Runner(Model(made)).predict(smooth(16, 2)) for made in (program, copy))
    assert numerics.sqnr_db(want, got) > 100


def test_the_channels_are_alike_afterwards() -> None:
    program = inverted_bottleneck(True)

    def spread(made: Program) -> float:
        kernel = next(op for op in made.ops() if op.code == "DEPTHWISE_CONV_2D").inputs[1]
        assert kernel is not None
        largest = np.abs(kernel.values).max(axis=(0, 1, 2))
        return float(largest.max() / largest.min())

    assert spread(program) > 100
    assert spread(changed(program, smooth(16, 1))[0]) < 15


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("act", [0, 1, 3])
def test_one_scale_per_tensor_then_does(act: int, skewed: bool) -> None:
    reference = Model(inverted_bottleneck(skewed, act))
    unseen = smooth(32, 2)
    want = octavo.Runner(reference).predict(unseen)
    decibels = {}
    for effort in ("fast", "balanced"):
        small = octavo.quantize(reference, octavo.integer(per_channel=False, effort=effort), smooth(64, 1))
        decibels[effort] = numerics.sqnr_db(want, octavo.Runner(small).predict(unseen))
    assert decibels["balanced"] > decibels["fast"] + (10 if skewed and act != 3 else -0.5)
    if act != 3:
        assert decibels["balanced"] > 25


def test_relu6_is_no_relu() -> None:
    program = inverted_bottleneck(True, act=3)
    copy, tensors = changed(program, smooth(16, 1))
    assert tensors == []
    assert bytes(Model(copy)) == bytes(Model(program))


def test_a_model_with_one_scale_per_channel_is_left_alone() -> None:
    reference = Model(inverted_bottleneck(True))
    small = octavo.quantize(reference, octavo.integer(weights=8), smooth(16, 1))
    bounds = {t.name: t.qparams.scale[0] for t in small.program.tensors() if t.name in ("up", "dw")}
    seen = observe(Model(reference.program.clone()), Recipe(octavo.integer()), smooth(16, 1), False)
    for tensor, (low, high) in seen.ranges.items():
        if tensor.name in bounds:
            assert bounds[tensor.name] * 255 > 0.5 * (high - min(low, 0.0))


def keeps(case: str) -> Program:
    """Two dense layers between which no scale may move."""
    b = Builder(6)
    x = b.reshape(b.input("image", (1, 8, 8, 4)), "flat", (1, 256))
    first = b.dense(x, "first", 32)
    if case == "two readers":
        second = b.dense(first, "second", 5)
        return b.program(b.op("CONCATENATION", [second, first], "both", (1, 37), "ConcatenationOptions", axis=1))
    if case == "an output":
        return b.program(b.dense(first, "second", 5), first)
    if case == "clipped to one":
        b.graph.ops[-1].options = {"fusedActivationFunction": 2}
        return b.program(b.dense(first, "second", 5))
    if case == "shared weights":
        again = b.op("FULLY_CONNECTED", [x, *b.graph.ops[-1].inputs[1:]], "again", (1, 32), "FullyConnectedOptions")
        second = b.dense(first, "second", 5)
        return b.program(b.op("CONCATENATION", [second, again], "both", (1, 37), "ConcatenationOptions", axis=1))
    raise AssertionError(case)


@pytest.mark.parametrize("case", ["two readers", "an output", "clipped to one", "shared weights"])
def test_where_no_scale_may_move_nothing_does(case: str) -> None:
    program = keeps(case)
    copy, tensors = changed(program, smooth(8, 1))
    assert tensors == []
    assert bytes(Model(copy)) == bytes(Model(program))


def test_dead_channels_keep_their_scale() -> None:
    np.testing.assert_array_equal(factors(np.array([0.0, 4.0, 2.0]), np.array([1.0, 1.0, 0.0])), [1, 2, 1])
    assert np.isfinite(least_factors(np.zeros(3))).all()
    assert least_factors(np.array([1.0, 4.0]), np.array([3.0, 6.0])).tolist() == [0.5, 1.0]


def test_channels_that_never_woke_keep_their_scale() -> None:
    """Weights next to nothing and a bias below zero: made alike, that bias would be in the millions."""
    program = inverted_bottleneck(False)
    first = program.main.ops[0]
    kernel, bias = first.inputs[1].values.copy(), first.inputs[2].values.copy()
    kernel[3], bias[3] = 1e-12, -0.5
    first.inputs[1].set_values(kernel)
    first.inputs[2].set_values(bias)
    copy, tensors = changed(program, smooth(16, 1))
    assert tensors
    assert copy.main.ops[0].inputs[2].values[3] == np.float32(-0.5)
    assert np.abs(copy.main.ops[0].inputs[2].values).max() <= 1.01 * np.abs(bias).max()


@pytest.mark.parametrize("name", PRODUCTS)
def test_features_know_their_channel(name: str) -> None:
    """An input that is 0 but for one channel has features other than 0 for that channel only."""
    op: Op = PRODUCTS[name].main.ops[-1]
    data = op.inputs[2 if op.code == "TRANSPOSE_CONV" else 0]
    assert data is not None
    channels = input_channels(op)
    assert channels.shape == to_matrix(op, op.inputs[1].values)[:, 0].shape
    for channel in range(data.shape[-1]):
        x = np.zeros(data.shape, np.float32)
        x[..., channel] = 1
        rows = input_rows(op, x, 1 << 20, RNG)
        assert (channels[(rows != 0).any(axis=0)] == channel).all()
        assert (rows != 0).any()
