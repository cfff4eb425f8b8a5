"""A mark left by training becomes a recorded range, and goes.

A fake-quant of the training model arrives as a STABLEHLO_COMPOSITE named `octavo.fake_quant` that stands on the tensor
it belongs to, after bias and activation were fused. Algebra: on the float side the mark is the identity; its attributes
say which values the tensor was trained to hold. They are kept in the file's own record (the `min` and `max` of
QuantizationParameters), so they survive saving, and `octavo.quantize` takes them in place of calibration.

A mark on a tensor that carries one already is dropped: the first one says what is stored there, and the other belongs
to a neighbour with which it shares a scale. Refuses nothing; a composite of another name stays as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.errors import ConversionError
from octavo.graph import Graph, Op, Program, Tensor
from octavo.graph.queries import record_range, recorded_range
from octavo.marks import NAME

# Ops that give out what went in, in another shape or order.
_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")


def fake_quant_marks(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; returns a note if there were marks."""
    orphans: set[int] = set()
    count = 0
    for graph in program.graphs:
        marks = [op for op in graph.ops if _is_mark(op)]
        for op in marks:
            orphans.add(int(op.option("decompositionSubgraphIndex", 0)))
            _resolve(program, graph, op)
        gone = set(marks)
        graph.ops = [op for op in graph.ops if op not in gone]
        _record_before_views(graph)
        graph.drop_unused_tensors()
        count += len(marks)
    _drop_graphs(program, orphans)
    return [f"{count} ranges were learned in training"] if count else []


def _is_mark(op: Op) -> bool:
    name = op.option("name")
    return op.code == "STABLEHLO_COMPOSITE" and (name.decode() if isinstance(name, bytes) else name) == NAME


def _attributes(op: Op) -> dict[str, Any]:
    from flatbuffers import flexbuffers

    raw = op.option("compositeAttributes")
    attributes = flexbuffers.Loads(bytes(raw)) if raw is not None else {}
    if not isinstance(attributes, dict) or not {"low", "high"} <= set(attributes):
        raise ConversionError(f"{op.name}: a mark {NAME!r} needs the attributes low and high")
    return attributes


def _resolve(program: Program, graph: Graph, op: Op) -> None:
    """Record what a mark says on the tensor it stands on, and lead its readers there."""
    attributes = _attributes(op)
    marked, made = op.inputs[0], op.outputs[0]
    assert marked is not None
    first = not marked.is_constant and recorded_range(marked) is None
    if first:
        record_range(marked, float(attributes["low"]), float(attributes["high"]))
    for reader in graph.ops:
        reader.inputs = [marked if tensor is made else tensor for tensor in reader.inputs]
    if made in graph.outputs:
        _take_over(program, graph, marked, made)
    elif first and attributes.get("name") and marked not in (*graph.inputs, *graph.outputs):
        marked.name = str(attributes["name"])


def _record_before_views(graph: Graph) -> None:
    """What a view gives out has the range of what went in: should the op go, range and name stay."""
    borders = {*graph.inputs, *graph.outputs}
    for op in reversed(graph.ops):
        source = op.inputs[0] if op.code in _VIEWS else None
        known = recorded_range(op.outputs[0]) if source is not None else None
        if source is not None and known is not None and not source.is_constant and recorded_range(source) is None:
            record_range(source, *known)
            if not borders & {source, op.outputs[0]}:
                source.name, op.outputs[0].name = op.outputs[0].name, source.name


def _take_over(program: Program, graph: Graph, marked: Tensor, made: Tensor) -> None:
    """`marked` becomes the output in place of `made`; the public name goes with it."""
    if marked not in (*graph.inputs, *graph.outputs):
        marked.name = made.name
    graph.outputs = [marked if tensor is made else tensor for tensor in graph.outputs]
    for signature in program.signatures:
        if signature.graph is graph:
            signature.outputs = [(name, marked if t is made else t) for name, t in signature.outputs]


def _drop_graphs(program: Program, orphans: set[int]) -> None:
    """Remove subgraphs by number, and renumber what the options of the remaining ops say."""
    if not orphans:
        return
    kept = [index for index in range(len(program.graphs)) if index not in orphans or index == 0]
    renumbered = {old: new for new, old in enumerate(kept)}
    program.graphs = [program.graphs[index] for index in kept]
    for op in program.ops():
        # Every option that refers to subgraphs has "ubgraph" in its name: bodySubgraphIndex, branchSubgraphIndices, ...
        for key in [key for key in op.options or {} if "ubgraph" in key]:
            old = np.asarray(op.option(key))
            new = np.array([renumbered.get(int(index), int(index)) for index in old.reshape(-1)], np.int32)
            op.options = {**(op.options or {}), key: new if old.ndim else int(new[0])}
