"""Which tensors share one scale.

A site is a set of places that must carry the same scale and zero point: tensors, and single uses of a tensor by an op.
Sites are joined by union-find over the ties that `ops.py` states. A use is kept apart from its tensor where joining
would clip values (the fixed scale of a softmax met by wider values in a concatenation); there, a QUANTIZE op between
the two will convert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo import numerics
from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import Row, Tie
from octavo.qtypes import INT8, INT16, QParams

Range = tuple[float, float]
_Place = Tensor | tuple[Op, int]


@dataclass
class _Site:
    """A set of places with one scale: its observed range, the kernel's fixed scale if any, and its width in bits."""

    low: float
    high: float
    bits: int
    fixed: tuple[float, int] | None = None

    @property
    def bounds(self) -> Range:
        """Values that the fixed scale can represent."""
        assert self.fixed is not None
        scale, zero_point = self.fixed
        qtype = INT8 if self.bits == 8 else INT16
        return (qtype.qmin - zero_point) * scale, (qtype.qmax - zero_point) * scale

    def holds(self, other: _Site) -> bool:
        """Whether the fixed scale takes the other's range without clipping by more than a step."""
        low, high = self.bounds
        step = self.fixed[0] if self.fixed else 0.0
        return other.low >= low - step and other.high <= high + step


class Sites:
    """The answer: scale and zero point of every tensor and of every use."""

    def __init__(self) -> None:
        self._parent: dict[_Place, _Place] = {}
        self._site: dict[_Place, _Site] = {}

    def add(self, place: _Place, observed: Range, bits: int) -> None:
        """Know a place; a place that is known already keeps its site."""
        if place not in self._parent:
            self._parent[place] = place
            self._site[place] = _Site(*observed, bits)

    def has(self, place: _Place) -> bool:
        return place in self._parent

    def bits(self, place: _Place) -> int:
        return self._site[self._root(place)].bits

    def fix(self, place: _Place, fixed: tuple[float, int]) -> None:
        self._site[self._root(place)].fixed = fixed

    def join(self, a: _Place, b: _Place) -> bool:
        """Make two places share a scale; False (and nothing changed) if that would clip one of them."""
        a, b = self._root(a), self._root(b)
        if a == b:
            return True
        first, second = self._site[a], self._site[b]
        if first.bits != second.bits or (first.fixed and second.fixed and first.fixed != second.fixed):
            return False
        if (first.fixed and not first.holds(second)) or (second.fixed and not second.holds(first)):
            return False
        self._parent[b] = a
        low, high = min(first.low, second.low), max(first.high, second.high)
        self._site[a] = _Site(low, high, first.bits, first.fixed or second.fixed)
        return True

    def follow(self, place: _Place, anchor: _Place) -> None:
        """Give `place` the anchor's scale, whatever its own range."""
        self._parent[place] = self._root(anchor)

    def of_tensor(self, tensor: Tensor) -> QParams:
        """Scale and zero point of a tensor as it is stored."""
        return self._params(tensor)

    def of_use(self, op: Op, index: int) -> QParams:
        """Scale and zero point in which `op` reads operand `index`."""
        tensor = op.inputs[index]
        own = (op, index) in self._parent
        assert tensor is not None
        return self._params((op, index) if own else tensor)

    def _params(self, place: _Place) -> QParams:
        site = self._site[self._root(place)]
        if site.fixed:
            return QParams.per_tensor(*site.fixed)
        return numerics.activation_params(site.low, site.high, INT8 if site.bits == 8 else INT16)

    def _root(self, place: _Place) -> _Place:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place


def tie_sites(graph: Graph, integer: Mapping[Op, Row], bits: Mapping[Op, int], ranges: Mapping[Tensor, Range]) -> Sites:
    """Give every activation of the integer ops a site, joined as their rows say.

    Args:
      graph: the subgraph.
      integer: the ops that become integer, with their rows.
      bits: width of each one's activations.
      ranges: observed range of each float tensor.
    """
    sites = Sites()
    for op, row in integer.items():
        uses = _add_inputs(sites, op, row, bits[op], ranges)
        outputs = [t for i, t in enumerate(op.outputs) if row.output_role(i) == "a" and t.dtype is DType.FLOAT32]
        for tensor in outputs:
            sites.add(tensor, ranges[tensor], bits[op])
            if row.tie is Tie.FIXED:
                sites.fix(tensor, row.fixed[bits[op]])
        if row.tie is Tie.SAME:
            _tie_same(sites, op, uses, outputs)
        elif row.tie is Tie.INPUTS:
            _tie_uses(sites, op, uses[0][0], uses[1:])
        elif row.tie is Tie.FIXED and not outputs:
            _tie_to_state(sites, op, uses, row.fixed[bits[op]], bits[op])
    _add_borders(sites, graph, ranges)
    return sites


def _add_inputs(sites: Sites, op: Op, row: Row, bits: int, ranges: Mapping[Tensor, Range]) -> list[tuple[_Place, int]]:
    """A site for each activation that `op` reads; a constant, or a tensor of another width, gets one for this use."""
    uses: list[tuple[_Place, int]] = []
    for index, tensor in enumerate(op.inputs):
        if tensor is None or tensor.dtype is not DType.FLOAT32:
            continue
        role = row.input_role(index)
        if not (role == "a" or (role == "m" and not tensor.is_constant)):
            continue
        if tensor.is_constant:
            values = tensor.values
            observed = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            sites.add((op, index), observed, bits)
            uses.append(((op, index), index))
        elif sites.has(tensor) and sites.bits(tensor) != bits:
            sites.add((op, index), ranges[tensor], bits)
            uses.append(((op, index), index))
        else:
            sites.add(tensor, ranges[tensor], bits)
            uses.append((tensor, index))
    return uses


def _tie_same(sites: Sites, op: Op, uses: list[tuple[_Place, int]], outputs: list[Tensor]) -> None:
    anchor: _Place = outputs[0] if outputs else uses[0][0]
    for tensor in outputs[1:]:
        sites.join(anchor, tensor)
    _tie_uses(sites, op, anchor, uses)


def _tie_uses(sites: Sites, op: Op, anchor: _Place, uses: list[tuple[_Place, int]]) -> None:
    """Join each use to the anchor, or give it a place of its own there and leave the tensor apart."""
    for place, index in uses:
        if not sites.join(anchor, place):
            sites.follow((op, index), anchor)


def _tie_to_state(sites: Sites, op: Op, uses: list[tuple[_Place, int]], fixed: tuple[float, int], bits: int) -> None:
    """What a variable stores has the variable's scale."""
    anchor: _Place = (op, -1)
    sites.add(anchor, (0.0, 0.0), bits)
    sites.fix(anchor, fixed)
    _tie_uses(sites, op, anchor, uses)


def _add_borders(sites: Sites, graph: Graph, ranges: Mapping[Tensor, Range]) -> None:
    """Inputs and outputs that only float ops touch still need a scale when the file's I/O is integer."""
    for tensor in (*graph.inputs, *graph.outputs):
        if tensor.dtype is DType.FLOAT32 and tensor in ranges:
            sites.add(tensor, ranges[tensor], 8)
