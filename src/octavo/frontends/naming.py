"""Names that people know: `conv2d/conv_general_dilated` instead of `jit(fn)/conv2d/jit(_conv)/conv_general_dilated`.

JAX records where each op comes from as a path of scopes, and Keras opens a scope per layer. The converter keeps the
path as MLIR location and the flatbuffer takes a tensor's name from it. Two steps: `name_ops` shortens the locations
before the file is written, `name_tensors` gives constants, inputs and outputs their names once it is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from octavo.graph import Graph, Op, Program, Tensor

# Scopes that JAX's transformations add: jit(fn), jvp(relu), closed_call, ...
_TRANSFORM = re.compile(r"^[\w.]+\(.*\)$|^(closed_call|core_call|checkpoint|rematted_computation)$")

# JAX's ops that have weights.
_WORKING = ("conv_general_dilated", "dot_general")

# What a constant operand is, where the op's kind says it.
_ROLES: dict[tuple[str, int], str] = {
    ("CONV_2D", 1): "kernel",
    ("CONV_2D", 2): "bias",
    ("DEPTHWISE_CONV_2D", 1): "kernel",
    ("DEPTHWISE_CONV_2D", 2): "bias",
    ("FULLY_CONNECTED", 1): "kernel",
    ("FULLY_CONNECTED", 2): "bias",
    ("TRANSPOSE_CONV", 0): "output_shape",
    ("TRANSPOSE_CONV", 1): "kernel",
    ("TRANSPOSE_CONV", 3): "bias",
    ("RESHAPE", 1): "shape",
    ("TRANSPOSE", 1): "perm",
    ("PAD", 1): "paddings",
    ("PADV2", 1): "paddings",
    ("MEAN", 1): "axes",
    ("SUM", 1): "axes",
    ("GATHER", 0): "table",
    ("PRELU", 1): "alpha",
}


def clean(path: str) -> str:
    """Drop the scopes that JAX's transformations add to a path of scopes."""
    return "/".join(part for part in _split(path) if part and not _TRANSFORM.match(part))


def _split(path: str) -> list[str]:
    """Split at slashes, but not within parentheses: `jit(a/b)/c` has two parts."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(path):
        depth += (char == "(") - (char == ")")
        if char == "/" and depth <= 0:
            parts.append(path[start:index])
            start = index + 1
    return [*parts, path[start:]]


def unique(names: Iterable[str]) -> list[str]:
    """The names with `_1`, `_2`, ... behind those that repeat."""
    taken: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        taken[name if name not in taken else next(n for n in numbered if n not in taken)] = None
    return list(taken)


def op_name(ir: Any, op: Any) -> str:
    """The short name of an MLIR op, "" if its location says nothing.

    When several ops were fused the one that does the work is chosen (a convolution takes in its bias, batch
    normalization and activation), else the last that carries a layer's path.
    """
    names = [name for name in map(clean, _paths(ir, op.location)) if name]
    working = [name for name in names if name.endswith(_WORKING)]
    layered = [name for name in names if "/" in name]
    return next(reversed([*names, *layered, *working]), "")


def _paths(ir: Any, location: Any) -> Iterator[str]:
    """The scope paths in a location; Python's stack frames, which JAX records inside them, are left out."""
    if isinstance(location, ir.FusedLoc):
        for part in location.locations:
            yield from _paths(ir, part)
    elif isinstance(location, ir.CallSiteLoc):
        # An op inlined from a jitted function: its own path is relative to the caller's.
        callers = [*_paths(ir, location.caller)]
        callees = [*_paths(ir, location.callee)]
        for callee in callees or [""]:
            yield f"{callers[-1]}/{callee}" if callers else callee
    elif isinstance(location, ir.NameLoc) and not isinstance(location.child_loc, ir.FileLineColLoc):
        yield location.name_str.rstrip(":")


def name_ops(ir: Any, module: Any) -> None:
    """Give every op of the module the short name as its location; ops without one keep what they have."""

    def visit(op: Any) -> Any:
        if name := op_name(ir, op):
            op.location = ir.Location.name(name)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)


def name_tensors(program: Program, inputs: Sequence[str], outputs: Sequence[str], scope: str = "") -> Program:
    """Name inputs and outputs as the signature does, constants after layer and role; every name once. In place.

    The converter calls the input `x` of the signature `serving_default_x`, and weights `dense/dot_general1`; here they
    become `x` and `dense/kernel`. A scope that encloses everything, a model's own name, is left out.
    """
    for graph in program.graphs:
        graph.name = clean(graph.name) or graph.name
        for tensor in graph.tensors:
            tensor.name = (clean(tensor.name) or tensor.name).removeprefix(f"{scope}/")
        _undo_numbering(graph)
    for signature in program.signatures:
        # The converter sorts the names; here they stand in the order of the arguments and results.
        signature.inputs.sort(key=lambda pair: inputs.index(pair[0]))
        signature.outputs.sort(key=lambda pair: outputs.index(pair[0]))
        # One tensor may be several outputs, or an input too: its first name counts.
        for name, tensor in reversed([*signature.inputs, *signature.outputs]):
            tensor.name = name
    for graph in program.graphs:
        _name_constants(graph)
        _name_layer_outputs(graph)
        _make_unique(graph)
    return program


def _name_layer_outputs(graph: Graph) -> None:
    """The last tensor that a layer makes is its output and takes its name: `conv/conv_general_dilated` -> `conv`.

    Only where the layer's ops stand together and nothing else is called so.
    """
    made = [tensor for op in graph.ops for tensor in op.outputs]
    taken = {tensor.name for tensor in graph.tensors}
    last = {_scope(tensor): index for index, tensor in enumerate(made)}
    borders = {*graph.inputs, *graph.outputs}
    for index, tensor in enumerate(made):
        scope = _scope(tensor)
        inside = any(other != scope and other.startswith(f"{scope}/") for other in last)
        if scope and last[scope] == index and not inside and scope not in taken and tensor not in borders:
            tensor.name = scope


def _scope(tensor: Tensor) -> str:
    return tensor.name.rpartition("/")[0]


def _name_constants(graph: Graph) -> None:
    borders = {*graph.inputs, *graph.outputs}
    done: set[Tensor] = set()
    for op in graph.ops:
        for index, tensor in enumerate(op.inputs):
            if tensor is None or not tensor.is_constant or tensor in done or tensor in borders:
                continue
            done.add(tensor)
            role = _ROLES.get((op.code, index), "const")
            layer = _layer(tensor, op, borders)
            tensor.name = f"{layer}/{role}" if layer else role


def _layer(tensor: Tensor, op: Op, borders: set[Tensor]) -> str:
    """The layer's path: the constant's own, else that of the op that reads it."""
    named = [tensor, *(output for output in op.outputs if output not in borders)]
    return next((t.name.rpartition("/")[0] for t in named if "/" in t.name), "")


def _make_unique(graph: Graph) -> None:
    """Number the names that repeat; inputs and outputs keep theirs."""
    borders = list(dict.fromkeys([*graph.inputs, *graph.outputs]))
    inner = [tensor for tensor in graph.tensors if tensor not in {*borders}]
    names = unique([*dict.fromkeys(tensor.name for tensor in borders), *(tensor.name for tensor in inner)])
    for tensor, name in zip(inner, names[len(names) - len(inner) :], strict=True):
        tensor.name = name


def _undo_numbering(graph: Graph) -> None:
    """`relu1` -> `relu` where there are others of the name: the exporter numbers what repeats, constants among them."""
    inner = [tensor for tensor in graph.tensors if tensor not in {*graph.inputs}]
    bases = Counter(tensor.name.rstrip("0123456789") for tensor in inner)
    for tensor in inner:
        base = tensor.name.rstrip("0123456789")
        if bases[base] > 1 and not base.endswith("_"):
            tensor.name = base
