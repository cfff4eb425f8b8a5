"""`octavo.Model`: what every public function takes and gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from octavo import tflite
from octavo.errors import ModelFileError
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.queries import float_tensors
from octavo.plan import Decision
from octavo.report.terminal import Table


class Model:
    """A `.tflite` model, as loaded, converted or quantized.

    Args:
      program: the graphs.
      decisions: what quantization made of each op, empty for a model that octavo didn't quantize.
      notes: what is worth knowing about how it came about.
      path: the file that holds it, if any.

    `bytes(model)` is the `.tflite` file; `model.save(path)` writes it.
    """

    def __init__(
        self,
        program: Program,
        decisions: tuple[Decision, ...] = (),
        notes: tuple[str, ...] = (),
        path: Path | None = None,
    ) -> None:
        self.program = program
        self.decisions = decisions
        self.notes = notes
        self.path = path
        self._bytes: bytes | None = None

    def __bytes__(self) -> bytes:
        if self._bytes is None:
            self._bytes = tflite.write(self.program)
        return self._bytes

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return tflite.size(self.program) if self._bytes is None else len(self._bytes)

    @property
    def name(self) -> str:
        return str(self.path) if self.path else self.program.source

    @property
    def integer_only(self) -> bool:
        """No float tensor anywhere, as read from the graphs themselves."""
        return not float_tensors(self.program)

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> Path:
        """Write the file whole or not at all, and return its path.

        Raises:
          ModelFileError: it can't be written, or exists and `overwrite` is false.
        """
        target = Path(path)
        if not overwrite and target.exists():
            raise ModelFileError(f"{target} exists: choose another name, or allow overwriting")
        tflite.save(self.program, target)
        self.path = target
        return target

    def summary(self) -> Summary:
        """What became of every op, and why an op stayed in float. Print it."""
        return Summary(self.decisions, self.notes)

    def describe(self) -> Table:
        """The graph as a table: op, name, shapes, dtypes, scales. Print it."""
        rows = [row for graph in self.program.graphs for row in map(_describe, graph.ops)]
        return Table(("op", "name", "inputs", "output", "dtype", "scale", "zero point"), rows)

    def __repr__(self) -> str:
        return f"<octavo.Model {self._title()}>"

    def _repr_html_(self) -> str:
        from octavo.report.notebook import lines_html

        graph = self.program.main
        borders = [("input", tensor) for tensor in graph.inputs] + [("output", tensor) for tensor in graph.outputs]
        rows = [(side, t.name, _shape(t), t.dtype.value, *_scale(t)) for side, t in borders]
        table = Table(("", "name", "shape", "dtype", "scale", "zero point"), rows)
        return lines_html([f"{self._title()}, {self.nbytes:,} bytes"]) + table._repr_html_()

    def _title(self) -> str:
        ops = sum(len(graph.ops) for graph in self.program.graphs)
        return f"{self.name or 'in memory'}: {ops} ops"


def _describe(op: Op) -> tuple[str, ...]:
    kind = op.custom_code or "CUSTOM" if op.code == "CUSTOM" else op.code
    inputs = ", ".join(_shape(tensor) for tensor in op.inputs if tensor is not None)
    if not op.outputs:
        return kind, "", inputs, "", "", "", ""
    output = op.outputs[0]
    return kind, output.name, inputs, _shape(output), output.dtype.value, *_scale(output)


def _shape(tensor: Tensor) -> str:
    shape = tensor.shape_signature or tensor.shape
    return "x".join("?" if n < 0 else str(n) for n in shape) or "scalar"


def _scale(tensor: Tensor) -> tuple[str, str]:
    if tensor.qparams is None or tensor.dtype is DType.FLOAT32:
        return "", ""
    if tensor.qparams.per_channel:
        return f"{tensor.qparams.scale.size} scales", "0"
    return f"{tensor.qparams.scale[0]:.6g}", str(int(tensor.qparams.zero_point[0]))


@dataclass(frozen=True)
class Summary:
    """What became of every op. Its text lists counts by precision, then each op left in float with the reason."""

    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of ops by precision."""
        counts: dict[str, int] = {}
        for decision in self.decisions:
            counts[decision.precision] = counts.get(decision.precision, 0) + 1
        return counts

    @property
    def in_float(self) -> tuple[Decision, ...]:
        """The ops that were to be quantized and stayed in float."""
        return tuple(decision for decision in self.decisions if decision.reason)

    def __str__(self) -> str:
        if not self.decisions:
            return "not quantized by octavo"
        lines = self._counted()
        lines += [f"  in float: {d.op}: {d.reason}" + (f"; {d.remedy}" if d.remedy else "") for d in self.in_float]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from octavo.report.notebook import lines_html

        if not self.decisions:
            return lines_html([str(self)])
        rows = [(d.op, d.reason, d.remedy or None) for d in self.in_float]
        table = Table(("in float", "why", "what to do"), rows)._repr_html_() if rows else ""
        return lines_html(self._counted()) + table + lines_html(f"note: {note}" for note in self.notes)

    def _counted(self) -> list[str]:
        """How many ops have which precision, and which weights."""
        counted = ", ".join(f"{count} {precision}" for precision, count in sorted(self.counts.items()))
        lines = [f"{len(self.decisions)} ops: {counted}"]
        for kept in sorted({decision.weights for decision in self.decisions} - {""}):
            held = [decision for decision in self.decisions if decision.weights == kept]
            why = " (no int4 kernel)" if kept != "int4" else ""
            lines.append(f"  weights of {len(held)} ops: {kept}{why}: {', '.join(sorted({d.kind for d in held}))}")
        return lines
