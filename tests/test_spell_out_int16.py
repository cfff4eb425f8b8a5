"""Ops without an int16 kernel are spelled in ops that have one, right on both kernel sets."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.errors import NotIntegerError
from octavo.graph import Program
from octavo.model import Model
from octavo.ops import OPS
from octavo.passes.spell_out_int16 import _SPELLED, PIECES, spell_out_int16
from octavo.recipe import Recipe

SHAPE = (1, 4, 4, 8)
SIXTEEN = octavo.integer(fallback=False, activations=16)
OPTIONS = {"GELU": {"approximate": True}, "DEPTH_TO_SPACE": {"blockSize": 2}, "SPACE_TO_DEPTH": {"blockSize": 2}}
RESULTS = {"DEPTH_TO_SPACE": (1, 8, 8, 2), "SPACE_TO_DEPTH": (1, 2, 2, 32), "TILE": (1, 8, 4, 24)}
NAMED = {"REVERSE_V2": [1, -2], "TILE": [1, 2, 1, 3]}  # the second operand


def alone(code: str, slope: float = 0.0, exact: bool = False) -> Program:
    """One op of that kind on an image; `slope` is PRELU's steepest, `exact` asks for GELU by erf."""
    b = Builder()
    operands = [b.input("x", SHAPE)]
    if code == "PRELU":
        operands.append(b.const("slopes", np.linspace(0.1, slope, 8, dtype=np.float32).reshape(1, 1, 8)))
    if code == "SQUARED_DIFFERENCE":
        operands.append(b.const("other", np.linspace(-1, 1, 8, dtype=np.float32)))
    if code in NAMED:
        operands.append(b.const("named", np.array(NAMED[code], np.int32)))
    made = b.op(code, operands, "out", RESULTS.get(code, SHAPE), OPS[code].options_type, **OPTIONS.get(code, {}))
    if exact:
        b.graph.ops[-1].options = {"approximate": False}
    return b.program(made)


def samples(spread: float = 3.0) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32) * np.float32(spread))


def quality(wanted: Model, got: Model, kernels: str, data: list[np.ndarray]) -> float:
    runners = octavo.Runner(wanted, kernels="builtin"), octavo.Runner(got, kernels=kernels)
    return numerics.sqnr_db(*(np.stack([np.asarray(runner(x)) for x in data]) for runner in runners))


CASES = [
    *((code, 0.0, False) for code in sorted(_SPELLED) if code not in ("PRELU", "GELU")),
    ("PRELU", 0.9, False), ("PRELU", 1.5, False), ("GELU", 0.0, False), ("GELU", 0.0, True),
]  # fmt: skip


@pytest.mark.parametrize(("code", "slope", "exact"), CASES)
def test_every_piece_is_right(code: str, slope: float, exact: bool) -> None:
    program = alone(code, slope, exact)
    assert OPS[code].int16 is None
    model, data = Model(program), samples()
    spelled = program.clone()
    assert spell_out_int16(spelled, Recipe(SIXTEEN))
    assert all(OPS[op.code].int16 is not None for op in spelled.ops())
    assert {op.code for op in spelled.ops()} <= PIECES[code]
    exactly = code in ("PRELU", "RELU_N1_TO_1", "RELU_0_TO_1", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", *NAMED)
    assert quality(model, Model(spelled), "builtin", data) > (140 if exactly else 70 if exact else 110)
    small = octavo.quantize(model, SIXTEEN, data)
    assert small.integer_only
    for kernels in ("builtin", "xnnpack"):
        assert quality(model, small, kernels, data) > 65, kernels


def test_only_what_is_asked_for_is_spelled_out() -> None:
    recipe = Recipe(octavo.integer(), (octavo.Rule(SIXTEEN, name="wide"),))
    b = Builder()
    y = b.op("HARD_SWISH", [b.input("x", SHAPE)], "narrow", SHAPE, "HardSwishOptions")
    program = b.program(b.op("HARD_SWISH", [y], "wide", SHAPE, "HardSwishOptions"))
    assert spell_out_int16(program, recipe)
    assert [op.code for op in program.ops()] == ["HARD_SWISH", "ADD", "MUL", "MUL"]
    assert all(recipe.scheme_of(op.keys) is SIXTEEN for op in list(program.ops())[1:])
    assert not spell_out_int16(alone("GELU"), Recipe(octavo.integer()))


def test_a_rule_for_the_op_holds_for_its_pieces() -> None:
    recipe = Recipe(octavo.integer(activations=16), (octavo.Rule(octavo.keep_float(), kind="GELU"),))
    small = octavo.quantize(Model(alone("GELU")), recipe, samples())
    assert [op.code for op in small.program.ops()] == ["GELU"]


def test_what_cant_be_spelled_out_is_named() -> None:
    with pytest.raises(NotIntegerError, match=r"ELU 'out'.*no int16 kernel"):
        octavo.quantize(Model(alone("ELU")), SIXTEEN, samples())


@pytest.mark.parametrize(("code", "named"), [("TILE", [1, 1, 1, 1]), ("REVERSE_V2", [])])
def test_what_changes_nothing_is_left_alone(code: str, named: list[int]) -> None:
    b = Builder()
    operands = [b.input("x", SHAPE), b.const("named", np.array(named, np.int32))]
    program = b.program(b.op(code, operands, "out", SHAPE, OPS[code].options_type))
    assert not spell_out_int16(program, Recipe(SIXTEEN))


def test_what_is_picked_is_known_only_of_known_sizes() -> None:
    program = alone("REVERSE_V2")
    program.main.inputs[0].shape_signature = (-1, 4, 4, 8)
    assert not spell_out_int16(program, Recipe(SIXTEEN))
