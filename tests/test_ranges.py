"""Ranges that follow from others: over ties, over fixed scales, over arithmetic with constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import Builder
from octavo.graph import DType, Tensor
from octavo.ranges import Range, range_of, spread

ROWS = (2, 6)


def known(b: Builder, **ranges: Range) -> dict[str, Range]:
    """What `spread` makes of these ranges, by the names of the tensors."""
    named = {t.name: t for t in b.graph.tensors}
    found = spread(b.graph, {named[name]: ends for name, ends in ranges.items()})
    return {tensor.name: ends for tensor, ends in found.items()}


def arithmetic(code: str, constant: Any, first: bool = False, act: int = 0) -> Builder:
    b = Builder()
    x, c = b.input("x", ROWS), b.const("c", np.asarray(constant, np.float32))
    b.op(code, [c, x] if first else [x, c], "y", ROWS, f"{code.title()}Options", fusedActivationFunction=act)
    return b


def test_moves_hand_ranges_on_both_ways() -> None:
    b = Builder()
    y = b.reshape(b.reshape(b.input("x", ROWS), "flat", (12,)), "square", (3, 4))
    b.unary("ABS", y, "abs")
    assert known(b, x=(-1.0, 2.0)) == {"x": (-1, 2), "flat": (-1, 2), "square": (-1, 2)}
    assert known(b, square=(-1.0, 2.0)) == {"x": (-1, 2), "flat": (-1, 2), "square": (-1, 2)}


def test_what_is_joined_takes_the_union() -> None:
    b = Builder()
    parts = [b.input(name, ROWS) for name in ("x", "y", "z")]
    b.op("CONCATENATION", parts, "all", (6, 6), "ConcatenationOptions", axis=0)
    assert known(b, x=(-1.0, 2.0), y=(-3.0, 0.0)) == {"x": (-1, 2), "y": (-3, 0), "z": (-3, 2), "all": (-3, 2)}


def test_what_is_compared_has_one_range() -> None:
    b = Builder()
    b.op("LESS", [b.input("x", ROWS), b.input("y", ROWS)], "less", ROWS, "LessOptions", dtype=DType.BOOL)
    assert known(b, x=(-1.0, 2.0)) == {"x": (-1, 2), "y": (-1, 2)}


@pytest.mark.parametrize(
    ("code", "ends"), [("SOFTMAX", (0.0, 255 / 256)), ("TANH", (-1.0, 127 / 128)), ("LOGISTIC", (0.0, 255 / 256))]
)
def test_a_kernel_with_a_scale_of_its_own(code: str, ends: Range) -> None:
    b = Builder()
    b.reshape(b.unary(code, b.input("x", ROWS), "y"), "z", (12,))
    assert known(b, x=(-7.0, 7.0)) == {"x": (-7, 7), "y": ends, "z": ends}


@pytest.mark.parametrize(
    ("code", "constant", "first", "ends"),
    [
        ("ADD", 3, False, (2, 5)),
        ("ADD", [3, -4, 0, 0, 0, 0], False, (-5, 5)),
        ("SUB", 3, False, (-4, -1)),
        ("SUB", 3, True, (1, 4)),
        ("MUL", 3, True, (-3, 6)),
        ("MUL", -3, False, (-6, 3)),
        ("MUL", [2, -5, 1, 1, 1, 1], False, (-10, 5)),
    ],
)
def test_arithmetic_with_a_constant(code: str, constant: Any, first: bool, ends: Range) -> None:
    assert known(arithmetic(code, constant, first), x=(-1.0, 2.0))["y"] == ends


@pytest.mark.parametrize(("act", "ends"), [(0, (-9, 18)), (1, (0, 18)), (2, (-1, 1)), (3, (0, 6)), (4, (-9, 18))])
def test_a_fused_activation_clips(act: int, ends: Range) -> None:
    assert known(arithmetic("MUL", 9, act=act), x=(-1.0, 2.0))["y"] == ends


def test_arithmetic_goes_forwards_only_and_with_one_constant_only() -> None:
    assert known(arithmetic("ADD", 3), y=(-1.0, 2.0)) == {"y": (-1, 2)}
    b = Builder()
    b.op("ADD", [b.input("x", ROWS), b.input("z", ROWS)], "y", ROWS, "AddOptions")
    assert known(b, x=(-1.0, 2.0), z=(0.0, 1.0)) == {"x": (-1, 2), "z": (0, 1)}
    both = Builder()
    both.op("ADD", [both.weights("c", 6), both.weights("d", 6)], "y", (6,), "AddOptions")
    assert known(both, **{}) == {}


def test_other_ops_tell_nothing() -> None:
    for code in ("ABS", "SIN", "CUSTOM"):
        b = Builder()
        b.unary(code, b.input("x", ROWS), "y")
        assert known(b, x=(-1.0, 2.0)) == {"x": (-1, 2)}


def test_what_is_known_stays_and_nothing_comes_of_nothing() -> None:
    b = Builder()
    b.reshape(b.unary("SOFTMAX", b.input("x", ROWS), "y"), "z", (12,))
    assert known(b, y=(-5.0, 5.0), z=(0.0, 1.0)) == {"y": (-5, 5), "z": (0, 1)}
    assert known(b) == {}


def test_the_range_of_a_constant_holds_zero() -> None:
    b = Builder()
    x = b.input("x", ROWS)
    assert range_of(x, {x: (1.0, 2.0)}) == (1, 2)
    assert range_of(b.const("c", np.array([2, 3], np.float32)), {}) == (0, 3)
    assert range_of(b.const("d", np.array([-2, -3], np.float32)), {}) == (-3, 0)
    assert range_of(Tensor("e", DType.FLOAT32, (0,), data=np.zeros(0, np.uint8)), {}) == (0, 0)
