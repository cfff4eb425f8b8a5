"""What a plan says: the form of every tensor, and what became of every op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from octavo.graph import DType, Graph, Op, Tensor
from octavo.qtypes import QParams, QType


@dataclass(frozen=True)
class Form:
    """How a tensor's values are stored: a dtype, and scale and zero point if it is quantized.

    Attributes:
      block: so many neighbours share a scale: `qparams` is for the values as (blocks, block). 0: no blocks.
    """

    dtype: DType
    qparams: QParams | None = None
    qtype: QType | None = None
    block: int = 0


FLOAT = Form(DType.FLOAT32)
FLOAT16 = Form(DType.FLOAT16)


@dataclass(frozen=True)
class Decision:
    """What became of one op.

    Attributes:
      op: the op's name for messages.
      kind: its kind ("CONV_2D").
      precision: "int8", "int16", "dynamic", "float16", "weight_only", "float32", or "as is" for ops without floats.
      reason: why an op that was to be quantized stays in float; "" otherwise.
      remedy: what the user can do about it; "" if nothing.
      weights: how its weights are stored, where that isn't told by the precision: "int4", or "4 bits in int8" where
        no kernel takes int4.
    """

    op: str
    kind: str
    precision: str
    reason: str = ""
    remedy: str = ""
    weights: str = ""


@dataclass
class Plan:
    """What `passes.apply` carries out; algorithms may refine `codes` and `wants` in between.

    Attributes:
      decisions: one per op, in order.
      stores: form in which a tensor stands in the file, for every tensor that doesn't stay as it is.
      wants: form in which an op reads operand i, for every (op, i) that doesn't take the tensor as stored.
      outputs: form in which a graph gives out a tensor, where it isn't as stored.
      options: options that an op's precision needs.
      intermediates: dtype, scale and zero point of each tensor inside a recurrent op.
      codes: integers of a constant, as an op reads it or as it is stored, where an algorithm chose better ones than
        rounding gives.
    """

    decisions: dict[Op, Decision] = field(default_factory=dict)
    stores: dict[Tensor, Form] = field(default_factory=dict)
    wants: dict[tuple[Op, int], Form] = field(default_factory=dict)
    outputs: dict[tuple[Graph, Tensor], Form] = field(default_factory=dict)
    options: dict[Op, dict[str, object]] = field(default_factory=dict)
    intermediates: dict[Op, list[Form]] = field(default_factory=dict)
    codes: dict[tuple[Op, int] | Tensor, np.ndarray] = field(default_factory=dict)


def integer_bits(decisions: Mapping[Op, Decision]) -> dict[Op, int]:
    """The integer ops, with the width of their activations."""
    widths = {"int8": 8, "int16": 16}
    return {op: widths[made.precision] for op, made in decisions.items() if made.precision in widths}
