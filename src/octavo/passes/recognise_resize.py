"""Resizing spelled in copies, look-ups or matrix products becomes RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR.

Converters spell the upsampling of an image (batch, height, width, channels) as RESHAPE and BROADCAST_TO along height
and width, as GATHER_ND with constant rows, or as a product with one constant matrix for each of the two.

Algebra: a chain of ops that copy, move or mix the elements of one tensor with constant factors is a linear map of it,
and so is a resize. Two linear maps that agree on one random image are the same map (of all images, those on which two
different maps agree are a set of measure zero). So the chain is run on random numbers and compared with each resize:
nearest or bilinear, with half-pixel centers, aligned corners or neither.

Refuses chains whose pieces something else reads or training rounded, dynamic shapes, images of more than 16 million
numbers, and whatever no resize equals to float rounding (bicubic, antialiased shrinking).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, has_static_shape, int_values
from octavo.passes.trial import run_alone

_COPIES = frozenset({"BROADCAST_TO", "TILE", "GATHER", "GATHER_ND"})
_PRODUCTS = frozenset({"BATCH_MATMUL", "FULLY_CONNECTED"})
_MOVES = frozenset({"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS"})
_LONGEST = 12  # ops in a chain
_LARGEST = 1 << 24  # elements
_TOLERANCE = 1e-5
_KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", {"alignCorners": False, "halfPixelCenters": True}),
    ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", {"alignCorners": False, "halfPixelCenters": False}),
    ("RESIZE_BILINEAR", "ResizeBilinearOptions", {"alignCorners": False, "halfPixelCenters": True}),
    ("RESIZE_BILINEAR", "ResizeBilinearOptions", {"alignCorners": True, "halfPixelCenters": False}),
    ("RESIZE_BILINEAR", "ResizeBilinearOptions", {"alignCorners": False, "halfPixelCenters": False}),
)


def recognise_resize(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in reversed(list(editor.ops())):
            if op.outputs and editor.maker(op.outputs[0]) is op and _is_link(op):
                _recognise(editor, op)
        editor.finish()
    return []


def _data(op: Op) -> Tensor | None:
    """The one computed operand of an op; None if it has none or several."""
    computed = [tensor for tensor in op.inputs if tensor is not None and not tensor.is_constant]
    return computed[0] if len(computed) == 1 else None


def _is_link(op: Op) -> bool:
    """Whether the op is a linear map of its one computed operand, and maybe a part of a resize."""
    data = _data(op)
    if data is None or data.dtype is not DType.FLOAT32 or data.is_variable or op.option("fusedActivationFunction"):
        return False
    others = [tensor for tensor in op.inputs if tensor is not None and tensor is not data]
    if op.code in _MOVES or op.code in _COPIES:
        return op.inputs[0] is data and all(int_values(tensor) is not None for tensor in others)
    return op.code in _PRODUCTS and len(others) == 1 and float_values(others[0]) is not None


def _recognise(editor: Editor, last: Op) -> None:
    """Replace the longest chain that ends in `last` and is a resize."""
    made = last.outputs[0]
    if len(made.shape) != 4 or not has_static_shape(made) or made.size > _LARGEST:
        return
    chain, found = [last], None
    while len(chain) <= _LONGEST:
        x = _data(chain[0])
        if x is None or not has_static_shape(x):
            break
        working = any(op.code in _COPIES or op.code in _PRODUCTS for op in chain)
        if len(chain) > 1 and working and _is_image_of(x, made):
            found = _kind(chain, x, made) or found
            if found is not None and found[0] is x:
                break
        before = editor.maker(x)
        if before is None or not _is_link(before) or editor.only_reader(x) is not chain[0]:
            break
        chain.insert(0, before)
    if found is not None:
        x, (code, options_type, options) = found
        size = editor.constant(f"{made.name}/size", np.array(made.shape[1:3], np.int32))
        before = editor.maker(_data(last))
        editor.change(last, code, [x, size], options_type, dict(options), _version(options))
        editor.prune(before)


def _version(options: dict[str, Any]) -> int:
    return 3 if options["halfPixelCenters"] else 1


def _is_image_of(x: Tensor, made: Tensor) -> bool:
    """Whether one is the other with another height or width."""
    same = len(x.shape) == 4 and (x.shape[0], x.shape[3]) == (made.shape[0], made.shape[3])
    return same and x.shape != made.shape and x.size <= _LARGEST and min(x.shape) > 0


def _kind(chain: list[Op], x: Tensor, made: Tensor) -> tuple[Tensor, tuple[str, str, dict[str, Any]]] | None:
    """(x, the resize that the chain is); None if it is none."""
    image = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    result = run_alone(chain, {x: image}, made)
    if result is None or result.shape != made.shape:
        return None
    mixes = any(op.code in _PRODUCTS for op in chain)
    for kind in _KINDS:
        code, options_type, options = kind
        if mixes or code == "RESIZE_NEAREST_NEIGHBOR":
            size = Tensor("size", DType.INT32, (2,))
            size.set_values(np.array(made.shape[1:3], np.int32))
            output = Tensor("resized", DType.FLOAT32, made.shape)
            resize = Op(code, [x, size], [output], options, options_type, _version(options))
            resized = run_alone([resize], {x: image}, output)
            if resized is not None and np.abs(resized - result).max() <= _TOLERANCE * np.abs(result).max():
                return x, kind
    return None
