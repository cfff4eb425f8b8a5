"""What is computed twice is computed once.

Algebra: an op that does the same to the same operands gives the same. Compilers merge such ops; converters also take
them apart again, to fuse each with what comes behind: a dense layer whose result is used with and without an
activation, or in two shapes, comes out as two FULLY_CONNECTED with the same weights. With y = x W^T + b:

| beside y stands                        | becomes |
|----------------------------------------|---|
| FULLY_CONNECTED(x, W, b) with RELU     | RELU(y) |
| FULLY_CONNECTED(x, W, b), other shape  | RESHAPE(y) |

Refuses ops with effects or several results, tensors whose range training recorded, and dynamic shapes where a RESHAPE
would be needed.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, has_static_shape, is_pure
from octavo.graph.queries import recorded_range

_CLAMPS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}  # ActivationFunctionType in the schema


def share_equal(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for first, *others in _groups(list(editor.ops())):
            for op in others:
                if _kind(op) == _kind(first) and _alike(first.outputs[0], op.outputs[0]):
                    editor.bypass(op, first.outputs[0])
        for ops in _groups([op for op in editor.ops() if _is_product(op)]):
            _share_products(editor, ops)
        editor.finish()
    return []


def _groups(ops: list[Op]) -> list[list[Op]]:
    """Ops of one kind with the same operands, two or more together, in order."""
    groups: dict[object, list[list[Op]]] = {}
    for op in ops:
        if len(op.outputs) != 1 or not op.inputs or not is_pure(op) or recorded_range(op.outputs[0]) is not None:
            continue
        # Constants are compared byte by byte, but only where all else is equal.
        read = tuple((t.dtype, t.shape) if t is not None and t.is_constant else t for t in op.inputs)
        alike = groups.setdefault((_kind(op) if op.code != "FULLY_CONNECTED" else op.code, read), [])
        group = next((group for group in alike if _same_constants(group[0], op)), None)
        if group is None:
            alike.append([op])
        else:
            group.append(op)
    return [group for alike in groups.values() for group in alike if len(group) > 1]


def _kind(op: Op) -> object:
    return op.code, op.version, repr(op.options)


def _same_constants(a: Op, b: Op) -> bool:
    pairs = zip(a.inputs, b.inputs, strict=True)
    return all(
        s is t or (s.data is not None and t.data is not None and np.array_equal(s.data, t.data)
                   and s.qparams == t.qparams and repr(s.extra) == repr(t.extra))
        for s, t in pairs if s is not None and t is not None
    )  # fmt: skip


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape, a.shape_signature, a.qparams) == (b.dtype, b.shape, b.shape_signature, b.qparams)


def _is_product(op: Op) -> bool:
    plain = op.code == "FULLY_CONNECTED" and op.outputs[0].dtype is DType.FLOAT32 and not op.option("weightsFormat")
    clamps = op.option("fusedActivationFunction", 0) in (0, *_CLAMPS)
    return plain and clamps and has_static_shape(op.outputs[0])


def _share_products(editor: Editor, ops: list[Op]) -> None:
    """FULLY_CONNECTED ops of the same operands, which differ in activation or shape."""
    base = ops[0]
    if base.option("fusedActivationFunction"):
        options = {**(base.options or {}), "fusedActivationFunction": 0}
        made = editor.tensor_like(base.outputs[0], f"{base.outputs[0].name}/product")
        new = Op(base.code, list(base.inputs), [made], options, base.options_type, base.version)
        editor.insert_before(base, new)
        base = new
    for op in ops:
        if op is not base:
            _derive(editor, op, base.outputs[0])


def _derive(editor: Editor, op: Op, product: Tensor) -> None:
    """Let `op` take what it gives out from the product."""
    made = op.outputs[0]
    clamp = _CLAMPS.get(op.option("fusedActivationFunction", 0))
    if product.shape == made.shape and clamp is None:
        editor.bypass(op, product)
    elif product.shape == made.shape and clamp is not None:
        editor.change(op, clamp, [product])
    else:
        shape = editor.constant(f"{made.name}/shape", np.array(made.shape, np.int32))
        source = product
        if clamp is not None:
            source = editor.tensor_like(product, f"{made.name}/{clamp.lower()}")
            editor.insert_before(op, Op(clamp, [product], [source]))
        editor.change(op, "RESHAPE", [source, shape], "ReshapeOptions", {"newShape": list(made.shape)})
