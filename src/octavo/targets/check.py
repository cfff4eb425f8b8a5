"""`octavo.check`: will this model run in full on that target, and if not, what stands in the way?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from octavo.api import load
from octavo.errors import OctavoError, RecipeError
from octavo.graph import DType, Op, Program, Tensor
from octavo.making import prepare
from octavo.model import Model
from octavo.report.notebook import lines_html
from octavo.report.terminal import Column, Table
from octavo.targets import find
from octavo.targets.rules import Target
from octavo.text import printable
from octavo.versions import Release, first_runtime

_NAME = 32  # characters


@dataclass(frozen=True)
class Finding:
    """One reason why one op won't run.

    Attributes:
      op: how messages call it; "" if it is about the model as a whole.
      kind: its kind ("CONV_2D").
      tensor: the tensor that it is about; "" if it is about the op.
      what: what is there.
      why: what the target takes instead.
      change: what to do.
    """

    op: str
    kind: str
    tensor: str
    what: str
    why: str
    change: str


@dataclass(frozen=True)
class Check:
    """What `octavo.check` found. Print it: one line per reason.

    Attributes:
      model: its name.
      target: name of the target; "" if only the runtime was asked about.
      runtime: oldest runtime that it has to run on; "" if none was asked about.
      ops: number of ops in the model.
      refused: how many of them won't run.
      findings: what stands in the way; nothing if the model runs in full.
      elsewhere: what becomes of an op that the target doesn't take.
      notes: what is worth knowing about a model that does run.
      after: for a float model, what would still stand in the way after `octavo quantize --target`; None if it isn't
        one, or runs as it is.
    """

    model: str
    target: str
    runtime: str
    ops: int
    refused: int
    findings: tuple[Finding, ...]
    elsewhere: str = ""
    notes: tuple[str, ...] = ()
    after: tuple[Finding, ...] | None = None

    @property
    def ok(self) -> bool:
        """It runs in full."""
        return not self.findings

    def table(self, every: bool = False) -> Table:
        """The findings: one line per reason with the number of ops, or (`every`) one line for each."""
        return findings_table(self.findings, every)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def parts(self, every: bool = False) -> list[str | Table]:
        """What there is to say, as lines and tables."""
        place = " and ".join(filter(None, [self.target, self.runtime and f"runtime {self.runtime}"]))
        name = printable(self.model) or "the model"
        if self.ok:
            return [f"{name} runs on {place}: all {self.ops} ops", *(f"note: {note}" for note in self.notes)]
        counted = f": {self.refused} of {self.ops} ops won't" if self.refused else ""
        said: list[str | Table] = [f"{name} doesn't run in full on {place}{counted}", self.table(every)]
        said += filter(None, [self.elsewhere, *self.notes])
        if self.after is not None:
            command = f"octavo quantize --target {self.target}"
            said.append(f"{command} can't cure this:" if self.after else f"{command} cures all of it")
            said += [findings_table(self.after, every)] if self.after else []
        return said

    def text(self, every: bool = False) -> str:
        """What `print` shows; with `every` finding on a line of its own."""
        lines = [part if isinstance(part, str) else f"\n{part}\n" for part in self.parts(every)]
        return "\n".join(lines).rstrip("\n")

    def _repr_html_(self) -> str:
        parts = self.parts()
        return "".join(lines_html([part]) if isinstance(part, str) else part._repr_html_() for part in parts)

    def __str__(self) -> str:
        return self.text()


def check(
    model: Model | str | os.PathLike[str] | bytes, target: str | Target | None = None, runtime: str | None = None
) -> Check:
    """Hold a model against what a target takes, op by op, without running it.

    Args:
      model: a model, quantized or float.
      target: "tflm", "edgetpu", "ethosu55", "ethosu65", "ethosu85", "xnnpack", "gpu" or "hexagon".
      runtime: oldest TensorFlow Lite or LiteRT that it has to run on, such as "2.14".

    Raises:
      RecipeError: neither is given, an unknown target, or no version number.
    """
    if target is None and runtime is None:
        raise RecipeError("say what to check for: a target, a runtime, or both")
    model = model if isinstance(model, Model) else load(model)
    place = None if target is None else find(target)
    release = None if runtime is None else parse_release(runtime)
    found = [] if place is None else list(target_findings(model.program, place))
    if release is not None:
        found += runtime_findings(model.program, release)
    result = Check(
        model.name,
        "" if place is None else place.name,
        runtime or "",
        sum(len(graph.ops) for graph in model.program.graphs),
        len({op for op, _ in found if op is not None}),
        tuple(finding for _, finding in found),
    )
    if place is None:
        return result
    notes = tuple(_notes(model.program, place, {op for op, _ in found if op is not None}))
    return replace(result, elsewhere=place.elsewhere, notes=notes, after=_after(model, place) if found else None)


def parse_release(text: str) -> Release:
    """A version such as "2.14" or "2.14.1", as (major, minor).

    Raises:
      RecipeError: it is no version.
    """
    found = re.fullmatch(r"v?(\d+)\.(\d+)(\.\d+)*", text.strip())
    if found is None:
        raise RecipeError(f"runtime {text!r} is no version: write 2.14")
    return int(found[1]), int(found[2])


def target_findings(program: Program, target: Target, scales: bool = True) -> Iterator[tuple[Op | None, Finding]]:
    """Everything in a program that a target doesn't take, each with its op (None: the model as a whole).

    Args:
      program: what to look at.
      target: what has to take it.
      scales: its scales count too; false where they are made up.
    """
    dynamic = _dynamic(program)
    if target.static_shapes and dynamic is not None:
        shape = "x".join("?" if n < 0 else str(n) for n in dynamic.shape_signature or ())
        why, change = f"{target.title} takes fixed sizes only", "give it sizes: --shape"
        yield None, Finding("", "", dynamic.name, f"dynamic size {shape}", why, change)
    for graph in program.graphs:
        stored = _unpacked(graph.ops)
        for op in graph.ops:
            for problem in target.problems(_with_constants(op, stored), scales):
                yield op, Finding(op.name, op.code, problem.tensor, problem.what, problem.why, problem.remedy)


def runtime_findings(program: Program, release: Release) -> Iterator[tuple[Op | None, Finding]]:
    """The ops whose kernel version is newer than a runtime."""
    asked = ".".join(map(str, release))
    for op in program.ops():
        if op.code == "CUSTOM":
            continue
        first = first_runtime(op.code, op.version)
        what = f"{op.code} version {op.version}"
        if first is None:
            yield op, Finding(op.name, op.code, "", what, "no runtime is known to have it", "replace the op")
        elif first > release:
            needed = ".".join(map(str, first))
            change = f"a runtime from {needed} on, or another precision for the op"
            yield op, Finding(op.name, op.code, "", what, f"runtime {asked} is older than {needed}", change)


def _dynamic(program: Program) -> Tensor | None:
    """A tensor of unknown size, an input if there is one. The batch may be open: the file's own size is taken then."""
    tensors = (*program.main.inputs, *program.tensors()) if program.graphs else ()
    return next((tensor for tensor in tensors if any(n < 0 for n in (tensor.shape_signature or ())[1:])), None)


def _unpacked(ops: Iterable[Op]) -> dict[Tensor, Tensor]:
    """Float tensors that a DEQUANTIZE or DENSIFY makes of a constant: constants to whoever reads them."""
    found: dict[Tensor, Tensor] = {}
    for op in ops:
        source = op.inputs[0] if op.code in ("DEQUANTIZE", "DENSIFY") and op.inputs else None
        source = found.get(source, source) if source is not None else None
        if source is not None and source.is_constant and op.outputs:
            found[op.outputs[0]] = op.outputs[0].copy(data=source.data)
    return found


def _with_constants(op: Op, stored: dict[Tensor, Tensor]) -> Op:
    if not any(tensor in stored for tensor in op.inputs if tensor is not None):
        return op
    inputs = [None if tensor is None else stored.get(tensor, tensor) for tensor in op.inputs]
    return Op(op.code, inputs, op.outputs, op.options, op.options_type, op.version, op.custom_code)


def _notes(program: Program, target: Target, broken: set[Op]) -> Iterator[str]:
    held = sum(tensor.data.nbytes for tensor in program.tensors() if tensor.data is not None)
    inputs = [tensor for tensor in program.main.inputs if tensor.shape]
    batches = [tensor.shape[0] for tensor in inputs if (tensor.shape_signature or (0,))[0] < 0]
    if target.static_shapes and batches:
        yield f"its batch is open: it is taken as the {batches[0]} that the file holds"
    if target.cache_bytes is not None and held > target.cache_bytes:
        yield (
            f"its constants take {held:,} bytes, more than the {target.cache_bytes:,} that the {target.title} caches: "
            "some are fetched anew for every run"
        )
    if target.first_only and broken:
        ops = program.main.ops
        before = next((index for index, op in enumerate(ops) if op in broken), len(ops))
        yield f"{before} of {len(ops)} ops come before the first that isn't taken"


def _after(model: Model, target: Target) -> tuple[Finding, ...] | None:
    """What quantizing for the target would leave; None if that can't be told, or wouldn't change a thing."""
    from octavo.targets.fit import left_over

    computed = (tensor for tensor in model.program.tensors() if not tensor.is_constant)
    if target.scheme.kind != "integer" or not any(tensor.dtype is DType.FLOAT32 for tensor in computed):
        return None
    try:
        prepared = prepare(model)
    except OctavoError:  # it is quantized already, in another way
        return None
    return left_over(prepared.program, target)


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings with the same reason and remedy together, in the order of the first of each."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.why, finding.change), []).append(finding)
    return list(groups.values())


def findings_table(findings: Iterable[Finding], every: bool = False) -> Table:
    """A table of findings: one line per reason, or one for each."""
    if every:
        rows = [(f.op or "the model", f.tensor or None, f.what, f.why, f.change) for f in findings]
        return Table(("op", "tensor", "has", "why not", "what to change"), rows)
    columns = (Column("ops", True), "which", "first", "has", "why not", "what to change")
    return Table(columns, [_line(group) for group in grouped(findings)])


def _line(group: list[Finding]) -> tuple[Any, ...]:
    first = group[0]
    kinds: dict[str, int] = {}
    for finding in group:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
    listed = [f"{kind} x{count}" if count > 1 else kind for kind, count in list(kinds.items())[:3]]
    named = ", ".join(listed) + (f" and {len(kinds) - 3} more kinds" if len(kinds) > 3 else "")
    has = list(dict.fromkeys(finding.what for finding in group))
    shown = has[0] if len(has) == 1 else f"{has[0]}, ..."
    where = first.tensor or first.op.partition(" ")[2].strip("'")
    return (len(group) if first.op else None, named or "the model", _short(where), shown, first.why, first.change)


def _short(name: str) -> str | None:
    """A name that fits a column; in full it stands in the long form and in the JSON."""
    return (name if len(name) <= _NAME else f"{name[: _NAME - 3]}...") or None
