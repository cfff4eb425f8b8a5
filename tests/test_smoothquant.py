"""SmoothQuant: outlier channels move into the weights, and the function stays the same."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.algorithms.refine import needs
from octavo.algorithms.smoothquant import groups, smooth
from octavo.calibrate.run import collect
from octavo.graph import Program, Tensor
from octavo.model import Model
from octavo.qtypes import INT8_WEIGHT
from octavo.recipe import Recipe

WIDTH = 32
RNG = np.random.default_rng(12)
ROWS = RNG.normal(size=(96, 8, WIDTH)).astype(np.float32)


def normalized(outliers: float, spelled: str = "plain", case: str = "") -> Program:
    """A layer normalization (of sorts), then two dense layers; three channels are `outliers` times larger.

    `spelled`: x * r * gamma + beta, or as Keras's converter does: x * (r * gamma) + (beta - m * (r * gamma)).
    """
    b = Builder(9)
    sizes = np.ones(WIDTH)
    sizes[[3, 11, 20]] = outliers
    x = b.input("x", (1, 8, WIDTH))

    def op(code: str, first: Tensor, second: Tensor, name: str, shape: tuple[int, ...] = (1, 8, WIDTH)) -> Tensor:
        kind = {"MUL": "MulOptions", "ADD": "AddOptions", "SUB": "SubOptions"}[code]
        return b.op(code, [first, second], name, shape, kind)

    gamma = b.const("gamma", ((1 + 0.2 * b.rng.normal(size=WIDTH)) * sizes).astype(np.float32))
    beta = b.const("beta", (0.2 * b.rng.normal(size=WIDTH) * sizes).astype(np.float32))
    axes = b.const("axes", np.array([2], np.int32))
    mean = b.op("MEAN", [x, axes], "mean", (1, 8, 1), "ReducerOptions", keepDims=True)
    squares = b.op("MEAN", [op("MUL", x, x, "square"), axes], "power", (1, 8, 1), "ReducerOptions", keepDims=True)
    root = b.unary("RSQRT", squares, "root")
    if spelled == "plain":
        made = op("ADD", op("MUL", op("MUL", x, root, "scaled"), gamma, "times"), beta, "made")
    else:
        both = op("MUL", root, gamma, "both")
        offset = op("SUB", beta, op("MUL", mean, both, "shift"), "offset")
        made = op("ADD", op("MUL", x, both, "scaled"), offset, "made")
    flat = b.reshape(made, "rows", (8, WIDTH))
    layers = []
    for name in ("query", "key"):
        kernel = b.const(f"{name}/kernel", (b.rng.normal(size=(16, WIDTH)) * 0.2 / sizes).astype(np.float32))
        inputs = [flat, kernel, b.weights(f"{name}/bias", 16)]
        layers.append(b.op("FULLY_CONNECTED", inputs, name, (8, 16), "FullyConnectedOptions"))
    out = b.op("CONCATENATION", layers, "out", (8, 32), "ConcatenationOptions", axis=1)
    if case == "also read elsewhere":
        return b.program(out, op("ADD", made, x, "residual"))
    return b.program(out, made) if case == "given out" else b.program(out)


def decibels(reference: Model, small: Model) -> float:
    want, got = (np.stack([octavo.Runner(model)(row[None]) for row in ROWS[48:]]) for model in (reference, small))
    return numerics.sqnr_db(want, got)


@pytest.mark.parametrize("spelled", ["plain", "keras"])
def test_outliers_cost_next_to_nothing(spelled: str) -> None:
    decibel = {}
    for outliers in (1.0, 40.0):
        reference = Model(normalized(outliers, spelled))
        for effort in ("fast", "balanced"):
            small = octavo.quantize(reference, octavo.integer(effort=effort), ROWS[:48])
            decibel[outliers, effort] = decibels(reference, small)
    assert decibel[40.0, "fast"] < decibel[1.0, "fast"] - 10
    assert decibel[40.0, "balanced"] > decibel[1.0, "balanced"] - 3


@pytest.mark.parametrize("spelled", ["plain", "keras"])
def test_the_function_stays_the_same(spelled: str) -> None:
    program = normalized(40.0, spelled)
    copy = program.clone()
    recipe = Recipe(octavo.integer())
    seen = collect(copy, ROWS[:48], needs=needs(copy, recipe, 48))
    changed = smooth(copy, lambda op: INT8_WEIGHT, dict(seen.moments), seen.channels, seen.ranges)
    assert {"made", "rows"} <= {tensor.name for tensor in changed}
    assert decibels(Model(program), Model(copy)) > 100
    gamma = next(tensor for tensor in copy.tensors() if tensor.name == "gamma").values
    assert np.abs(gamma).max() < 8 * np.median(np.abs(gamma))


@pytest.mark.parametrize("case", ["also read elsewhere", "given out"])
def test_an_activation_that_others_see_is_left_alone(case: str) -> None:
    program = normalized(40.0, case=case)
    assert list(groups(program, program.main)) == []


@pytest.mark.parametrize("case", ["another width", "a reshape that something else reads"])
def test_layers_that_dont_read_channels_are_left_alone(case: str) -> None:
    b = Builder()
    made = b.op("ADD", [b.input("x", (2, 8)), b.const("beta", np.ones(8, np.float32))], "made", (2, 8), "AddOptions")
    if case == "another width":  # two rows at a time: a feature is no channel
        b.op("FULLY_CONNECTED", [made, b.weights("kernel", 4, 16), None], "out", (1, 4), "FullyConnectedOptions")
    else:
        rows = b.reshape(made, "rows", (1, 2, 8))
        b.unary("ABS", rows, "out")
    program = b.program(b.graph.ops[-1].outputs[0])
    assert list(groups(program, program.main)) == []


def test_nothing_moves_where_nothing_woke_or_no_layer_is_to_change() -> None:
    program = normalized(40.0)
    before = bytes(Model(program))
    seen = collect(program, ROWS[:8], needs=needs(program, Recipe(octavo.integer()), 8))
    assert smooth(program, lambda op: None, dict(seen.moments), seen.channels, dict(seen.ranges)) == []
    for group in groups(program, program.main):
        for tensor in group.made:
            seen.channels[tensor].low = seen.channels[tensor].high = np.zeros(WIDTH)
    assert smooth(program, lambda op: INT8_WEIGHT, dict(seen.moments), seen.channels, dict(seen.ranges)) == []
    assert bytes(Model(program)) == before


def test_channels_are_observed_only_where_something_can_be_smoothed() -> None:
    recipe = Recipe(octavo.integer())
    assert needs(normalized(1.0), recipe).channels
    assert not needs(normalized(1.0, case="given out"), recipe).channels
    assert not needs(normalized(1.0), Recipe(octavo.integer(effort="fast"))).channels
