"""Resource variables: state that a model keeps from one run to the next, and reads and writes by name.

What READ_VARIABLE gives out is what some ASSIGN_VARIABLE, in this subgraph or another, has stored: codes, if the
variable is integer, and kernels copy them as they are. So a variable has one scale wherever it is read or written, from
the union of all ranges there; and either all of its ops are integer, with the same bits, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from octavo import numerics
from octavo.graph import DType, Op, Program, Tensor
from octavo.ops import OPS, Row, Tie
from octavo.qtypes import INT8, INT16
from octavo.ranges import Range, range_of

_Name = tuple[str, str]


@dataclass(frozen=True)
class Variable:
    """One float variable.

    Attributes:
      name: as the file shares it.
      uses: each op that reads or assigns it, and the tensor that it makes or stores.
    """

    name: str
    uses: tuple[tuple[Op, Tensor], ...]

    def fixed(self, ranges: Mapping[Tensor, Range], bits: int) -> tuple[float, int]:
        """Its scale and zero point; `ranges` knows every computed tensor that it holds."""
        low, high = numerics.merge_ranges([range_of(tensor, ranges) for _, tensor in self.uses])
        params = numerics.activation_params(low, high, INT8 if bits == 8 else INT16)
        return float(params.scale[0]), int(params.zero_point[0])


def variables(program: Program) -> list[Variable]:
    """Every float variable of the program; those whose name can't be told (handed over as arguments) are one."""
    found: dict[_Name | None, list[tuple[Op, Tensor]]] = {}
    for name, op, tensor in _uses(program):
        found.setdefault(name, []).append((op, tensor))
    if None in found:  # it may be any of the others
        found = {None: [use for uses in found.values() for use in uses]}
    return [Variable("" if name is None else name[1], tuple(uses)) for name, uses in found.items()]


def _uses(program: Program) -> Iterator[tuple[_Name | None, Op, Tensor]]:
    for graph in program.graphs:
        makers = graph.producers()
        for op in graph.ops:
            if op.code not in ("READ_VARIABLE", "ASSIGN_VARIABLE") or not op.inputs or op.inputs[0] is None:
                continue
            tensor = op.outputs[0] if op.code == "READ_VARIABLE" else op.inputs[1]
            handle = makers.get(op.inputs[0])
            known = handle is not None and handle.code == "VAR_HANDLE"
            name = (_text(handle.option("container")), _text(handle.option("sharedName"))) if handle and known else None
            if tensor is not None and tensor.dtype is DType.FLOAT32:
                yield name, op, tensor


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value or "")


def rows(program: Program, bits: Mapping[Op, int], ranges: Mapping[Tensor, Range]) -> dict[Op, Row]:
    """The rows of the integer ops that read or assign a variable, with its scale as one that the kernel gives.

    Args:
      program: a float model.
      bits: the integer ops, with the width of their activations; of a variable, all or none.
      ranges: of every computed tensor that an integer variable holds.
    """
    found = {}
    for variable in variables(program):
        if all(op in bits for op, _ in variable.uses):
            width = bits[variable.uses[0][0]]
            fixed = {width: variable.fixed(ranges, width)}
            found.update({op: replace(OPS[op.code], tie=Tie.FIXED, fixed=fixed) for op, _ in variable.uses})
    return found
