"""Channels of unequal width are scaled to use one int8 scale in full, and the float model's outputs don't change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.calibrate.run import Needs, collect
from octavo.channels import Channels
from octavo.errors import DataError
from octavo.graph import Program, Tensor
from octavo.making import carry_out, level, observe, prepare
from octavo.model import Model
from octavo.passes.level_channels import KEY, level_channels, restore_levels
from octavo.qtypes import INT8, INT8_WEIGHT
from octavo.recipe import Recipe

UNEQUAL = np.geomspace(0.02, 2, 8).astype(np.float32)


def samples(count: int = 16) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 1, 8, 8, 3)).astype(np.float32)


def unequal(b: Builder, x: Tensor, name: str, act: int = 1) -> Tensor:
    """A convolution whose eight channels differ in size a hundredfold."""
    y = b.conv(x, name, 8, act)
    kernel, bias = b.graph.ops[-1].inputs[1:3]
    assert kernel is not None and bias is not None
    kernel.set_values(kernel.values * UNEQUAL[:, None, None, None])
    bias.set_values(bias.values * UNEQUAL)
    return y


def evened(b: Builder, x: Tensor, name: str, channels: int = 4, tile: int = 1) -> Tensor:
    """A convolution to which each channel of `unequal` means the same."""
    y = b.conv(x, name, channels)
    kernel = b.graph.ops[-1].inputs[1]
    assert kernel is not None
    kernel.set_values(kernel.values / np.tile(UNEQUAL, tile))
    return y


def chain(act: int = 1) -> Program:
    b = Builder()
    return b.program(evened(b, unequal(b, b.input("x", (1, 8, 8, 3)), "wide", act), "head"))


def trunk() -> Program:
    """wide -> + conv(wide) -> + a constant -> pool -> head: one channel from end to end."""
    b = Builder()
    wide = unequal(b, b.input("x", (1, 8, 8, 3)), "wide")
    side = evened(b, wide, "side", 8)
    kernel = b.graph.ops[-1].inputs[1]
    assert kernel is not None
    kernel.set_values(kernel.values * UNEQUAL[:, None, None, None] / 8)
    added = b.op("ADD", [wide, side], "added", wide.shape, "AddOptions", fusedActivationFunction=1)
    moved = b.op("ADD", [added, b.const("offset", UNEQUAL)], "moved", wide.shape, "AddOptions")
    pooled = b.op("MAX_POOL_2D", [moved], "pooled", (1, 4, 4, 8), "Pool2DOptions", padding=1, strideW=2, strideH=2,
                  filterWidth=2, filterHeight=2)  # fmt: skip
    return b.program(evened(b, pooled, "head"))


def joined() -> Program:
    b = Builder()
    x = b.input("x", (1, 8, 8, 3))
    parts = [unequal(b, x, "left"), unequal(b, x, "right")]
    both = b.op("CONCATENATION", parts, "both", (1, 8, 8, 16), "ConcatenationOptions", axis=3)
    return b.program(evened(b, both, "head", tile=2))


def flattened() -> Program:
    b = Builder()
    wide = unequal(b, b.input("x", (1, 8, 8, 3)), "wide")
    y = b.dense(b.reshape(wide, "flat", (1, 512)), "head", 4)
    kernel = b.graph.ops[-1].inputs[1]
    assert kernel is not None
    kernel.set_values(kernel.values / np.tile(UNEQUAL, 64))
    return b.program(y)


def quantized(prepared: Model, data: np.ndarray) -> Model:
    recipe = Recipe(octavo.integer())
    return carry_out(prepared, recipe, observe(prepared, recipe, data, False))


def run(model: Model, data: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(octavo.Runner(model)(x)) for x in data])


def leveled(program: Program, data: np.ndarray) -> Model:
    return level(prepare(Model(program)), data, False)


@pytest.mark.parametrize("make", [chain, trunk, joined, flattened])
def test_outputs_stay_to_the_bit_and_eight_bits_gain(make: Callable[[], Program]) -> None:
    model, data = Model(make()), samples()
    made = leveled(make(), data)
    assert any("powers of two" in note for note in made.notes)
    wanted = run(model, data)
    np.testing.assert_array_equal(run(made, data), wanted)
    plain, small = quantized(prepare(model), data), quantized(made, data)
    gains = [numerics.sqnr_db(wanted, run(m, data)) for m in (plain, small)]
    assert gains[1] > gains[0] + 6, gains


def test_ranges_dont_grow() -> None:
    data, plain = samples(), prepare(Model(trunk()))
    before, after = (collect(model.program, data).ranges for model in (plain, leveled(trunk(), data)))
    widest = {tensor.name: bounds[1] for tensor, bounds in before.items()}
    assert {tensor.name for tensor in after} == set(widest)
    assert all(bounds[1] <= widest[tensor.name] for tensor, bounds in after.items())


def test_relu6_keeps_what_calibration_saw() -> None:
    b = Builder()
    wide = unequal(b, b.input("x", (1, 8, 8, 3)), "wide", act=3)
    program, data = b.program(evened(b, wide, "head")), samples()
    np.testing.assert_array_equal(run(leveled(program, data), data), run(Model(program), data))


def pinned(code: str) -> Program:
    b = Builder()
    wide = unequal(b, b.input("x", (1, 8, 8, 3)), "wide", act=0)
    if code == "OUTPUT":
        return b.program(wide, evened(b, wide, "head"))
    if code == "SHARED":
        y = evened(b, wide, "head")
        b.graph.ops.append(type(b.graph.ops[-1])("CONV_2D", list(b.graph.ops[-1].inputs),
                                                  [b.graph.add_tensor(y.copy(name="again"))],
                                                  b.graph.ops[-1].options, "Conv2DOptions"))  # fmt: skip
        return b.program(y, b.graph.tensors[-1])
    if code == "CHANNELS":
        axis = b.const("axis", np.array([3], np.int32))
        return b.program(b.op("MEAN", [wide, axis], "mean", (1, 8, 8, 1), "ReducerOptions", keepDims=True))
    return b.program(evened(b, b.unary(code, wide, "curved"), "head"))


@pytest.mark.parametrize("code", ["OUTPUT", "SHARED", "CHANNELS", "LOGISTIC", "HARD_SWISH"])
def test_what_does_not_commute_is_pinned(code: str) -> None:
    program = prepare(Model(pinned(code))).program
    wide = next(tensor for tensor in program.tensors() if tensor.name == "wide")
    channels = Channels(program, program.main)
    assert not set(channels.roots(wide)) & set(channels.free)


def test_inspect_scales_the_float_model_too() -> None:
    model, data = Model(trunk()), samples()
    small = quantized(leveled(trunk(), data), data)
    assert KEY in dict(small.program.metadata)
    for layer in octavo.inspect(model, bytes(small), data).layers:
        assert layer.total < 0.2, layer
    with pytest.raises(DataError, match="another float model"):
        restore_levels(prepare(Model(chain())).program, quantized(leveled(joined(), data), data).program)


def test_the_order_of_samples_makes_no_difference() -> None:
    data = samples()
    small = [bytes(quantized(leveled(trunk(), order), order)) for order in (data, data[::-1])]
    assert small[0] == small[1]


def test_back_in_float_its_channels_are_its_own() -> None:
    data = samples()
    back = octavo.dequantize(quantized(leveled(trunk(), data), data))
    assert KEY not in dict(back.program.metadata)
    again = octavo.quantize(back, octavo.integer(effort="fast"), data)
    assert max(layer.total for layer in octavo.inspect(back, again, data).layers) < 0.2


def test_bounds_of_another_number_of_channels_are_left_out() -> None:
    """The shape in a file may be none that the model takes on when it runs."""
    model, data = prepare(Model(trunk())), samples()
    program = model.program
    known = {t: s.known for t, s in collect(program, data, needs=Needs(channels=True)).channels.items()}
    bounds = {t: (ends[0][:1], ends[1][:1]) for t, ends in known.items() if ends is not None}
    wanted = run(model, data)
    level_channels(program, bounds, INT8, INT8_WEIGHT)
    np.testing.assert_array_equal(run(model, data), wanted)
