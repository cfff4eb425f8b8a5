"""Dynamic dimensions get the sizes that the user names, through the whole main subgraph.

Algebra: shapes follow from shapes. The model runs once on zeros of the given shapes, which tells the shape of every
tensor; a tensor's is written down where it follows from shapes and constants alone. SHAPE of such a tensor is a
constant, and what is computed from it too (see `fold_constants`), so the chains that exporters leave around a dynamic
batch go away.

Refuses (leaves dynamic) what depends on values: WHERE and its like, control flow, and all that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from octavo.errors import OctavoError, RecipeError
from octavo.graph import Op, Program, Tensor
from octavo.graph.edit import has_static_shape
from octavo.passes.fold_constants import fold
from octavo.text import printable

Shape = tuple[int, ...]

# Operands whose values decide about the shape of what comes out.
_DECIDING = {
    "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_TO": (1,), "CONV_3D_TRANSPOSE": (0,), "EXPAND_DIMS": (1,), "FILL": (0,),
    "MEAN": (1,), "MIRROR_PAD": (1,), "ONE_HOT": (1,), "PAD": (1,), "PADV2": (1,), "RANGE": (0, 1, 2),
    "REDUCE_ALL": (1,), "REDUCE_ANY": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
    "RESHAPE": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "RFFT2D": (1,), "SCATTER_ND": (2,),
    "SLICE": (1, 2), "SPACE_TO_BATCH_ND": (1, 2), "SPARSE_TO_DENSE": (1,), "SPLIT": (0,), "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3), "SUM": (1,), "TILE": (1,), "TOPK_V2": (1,), "TRANSPOSE": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
_BY_VALUE = frozenset({"WHERE", "UNIQUE", "SEGMENT_SUM", "SKIP_GRAM", "IF", "WHILE", "CALL", "READ_VARIABLE",
                       "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "BROADCAST_ARGS"})  # fmt: skip


def fix_shapes(program: Program, shapes: Mapping[str, Sequence[int]] | Sequence[int]) -> list[str]:
    """Edit the main subgraph of `program` in place; says what was fixed and what stays dynamic.

    Args:
      program: any program; it must run.
      shapes: input name -> shape; or one shape, for a model with one input. Inputs without dynamic dimensions may be
        left out.

    Raises:
      RecipeError: an unknown input, a shape that doesn't fit it, or a dynamic input without one.
      RunError: the model can't run with these shapes.
    """
    graph = program.main
    wanted = _wanted(program, shapes)
    if all(has_static_shape(tensor) for tensor in graph.tensors):
        return []
    found = _run(program, wanted)
    for tensor, shape in wanted.items():
        tensor.shape, tensor.shape_signature = shape, None
    gone = {op for op in graph.ops if _fix(op, found) and not set(op.outputs) & set(graph.outputs) and fold(op)}
    graph.ops = [op for op in graph.ops if op not in gone]
    graph.drop_unused_tensors()
    named = ", ".join(f"{printable(t.name)}={'x'.join(map(str, shape))}" for t, shape in wanted.items())
    left = [tensor for op in graph.ops for tensor in op.outputs if not has_static_shape(tensor)]
    notes = [f"shapes are fixed: {named}"]
    return notes + ([f"{len(left)} tensors stay dynamic, such as {printable(left[0].name)!r}"] if left else [])


def _wanted(program: Program, shapes: Mapping[str, Sequence[int]] | Sequence[int]) -> dict[Tensor, Shape]:
    """The shape of every input."""
    inputs = _input_names(program)
    if not isinstance(shapes, Mapping):
        if len(inputs) != 1:
            raise RecipeError(f"the model has {len(inputs)} inputs ({', '.join(inputs)}): name each one's shape")
        shapes = {next(iter(inputs)): shapes}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise RecipeError(f"there is no input {unknown[0]!r}: the model has {', '.join(map(repr, inputs))}")
    result = {}
    for name, tensor in inputs.items():
        present = tuple(tensor.shape_signature or tensor.shape)
        shape = tuple(int(n) for n in shapes.get(name, present))
        fits = len(shape) == len(present) and all(a in (b, -1) for a, b in zip(present, shape, strict=True))
        if not fits or any(n < 1 for n in shape):
            shown = ",".join("?" if n < 0 else str(n) for n in present)
            asked = f"{','.join(map(str, shape))} doesn't fit it" if name in shapes else "it needs a shape"
            raise RecipeError(f"input {name!r} has the shape {shown}: {asked}; give sizes of 1 or more for each ?")
        result[tensor] = shape
    return result


def _input_names(program: Program) -> dict[str, Tensor]:
    for signature in program.signatures:
        if signature.graph is program.main:
            return dict(signature.inputs)
    return {tensor.name: tensor for tensor in program.main.inputs}


def _run(program: Program, wanted: Mapping[Tensor, Shape]) -> dict[Tensor, Shape]:
    """The shape of every computed tensor, from one run on zeros."""
    from octavo.graph.views import exposed
    from octavo.runtime.session import Session
    from octavo.tflite import write

    graph = program.main
    computed: list[Tensor] = []
    by_value: set[Tensor] = set()
    for op in graph.ops:
        if op.code in _BY_VALUE or any(tensor in by_value for tensor in op.inputs):
            by_value.update(op.outputs)  # of no use here, and LiteRT can't give out what is empty
        else:
            computed += [t for t in op.outputs if t.dtype.numpy is not None and not t.is_variable]
    arrays = [np.zeros(wanted[tensor], tensor.dtype.numpy) for tensor in graph.inputs]
    data = write(exposed(program, computed))
    for kernels in ("xnnpack", "builtin"):  # the former has ops that the latter lacks, and fails on a few shapes
        try:
            session = Session(data, kernels=kernels, name=program.source or None)
            session.resize([array.shape for array in arrays])
            return dict(zip(computed, (tuple(values.shape) for values in session.invoke(arrays)), strict=True))
        except OctavoError:
            if kernels == "builtin":
                raise
    raise AssertionError("the loop returns or raises")


def _fix(op: Op, found: Mapping[Tensor, Shape]) -> bool:
    """Note the shapes of the op's outputs if they follow from shapes and constants; whether all are static now."""
    operands = [tensor for tensor in op.inputs if tensor is not None]
    deciding = [op.inputs[i] for i in _DECIDING.get(op.code, ()) if i < len(op.inputs)]
    known = all(tensor is None or tensor.is_constant for tensor in deciding)
    if op.code not in _BY_VALUE and known and all(has_static_shape(tensor) for tensor in operands):
        for tensor in op.outputs:
            if tensor in found:
                tensor.shape, tensor.shape_signature, tensor.has_rank = found[tensor], None, True
    return all(has_static_shape(tensor) for tensor in op.outputs)
