"""Dynamic dimensions get the sizes that the user names, through every subgraph.

Algebra: shapes follow from shapes. Each subgraph runs once on zeros of the given shapes, which tells the shape of every
tensor; a tensor's is written down where it follows from shapes and constants alone. SHAPE of such a tensor is a
constant, and what is computed from it too (see `fold_constants`), so the chains that exporters leave around a dynamic
batch go away. A branch or a body gets the shapes that its caller hands it; what comes back is static if both branches
give the same, or if a loop's turns don't change it.

Refuses (leaves dynamic) what depends on values: WHERE and its like, and all that reads them; branches and bodies that
are called from several places, or with resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from octavo.errors import OctavoError, RecipeError, RunError
from octavo.graph import Graph, Op, Program, Tensor
from octavo.graph.edit import has_static_shape
from octavo.passes.check_operands import check_operands
from octavo.passes.drop_dead import called_graphs
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
_BY_VALUE = frozenset({"WHERE", "UNIQUE", "SEGMENT_SUM", "SKIP_GRAM", "READ_VARIABLE",
                       "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "BROADCAST_ARGS"})  # fmt: skip


_CALLS = ("IF", "WHILE", "CALL")


def fix_shapes(program: Program, shapes: Mapping[str, Sequence[int]] | Sequence[int]) -> list[str]:
    """Edit every subgraph of `program` in place; says what was fixed and what stays dynamic.

    Args:
      program: any program; it must run.
      shapes: input name -> shape, for every signature that has an input of this name; "signature/input" means one
        signature alone. Or one shape, for a model with one input. Inputs without dynamic dimensions may be left out.

    Raises:
      RecipeError: an unknown input, a shape that doesn't fit it, or a dynamic input without one.
      RunError: the model can't run with these shapes.
    """
    check_operands(program)
    wanted = _wanted(_entries(program), shapes)
    if all(has_static_shape(tensor) for tensor in program.tensors()):
        return []
    for graph, sizes in wanted.items():
        _fix_graph(program, graph, sizes)
    given = {printable(t.name): "x".join(map(str, shape)) for sizes in wanted.values() for t, shape in sizes.items()}
    left = [t for op in program.ops() for t in op.outputs if not has_static_shape(t)]
    notes = [f"shapes are fixed: {', '.join(f'{name}={shape}' for name, shape in given.items())}"]
    return notes + ([f"{len(left)} tensors stay dynamic, such as {printable(left[0].name)!r}"] if left else [])


def held_shapes(program: Program) -> dict[str, Shape]:
    """For `fix_shapes`: the shape that the file holds for each input whose sizes are open."""
    return {name: tensor.shape for name, tensor in _open_inputs(program)}


def dynamic_inputs(program: Program) -> list[str]:
    """A note on the inputs that keep dynamic sizes; empty if there are none."""
    found = [f"{printable(name)}={_shown(tensor)}" for name, tensor in _open_inputs(program)]
    return [f"dynamic sizes are kept: {', '.join(found)}; --shape fixes them"] if found else []


def _open_inputs(program: Program) -> list[tuple[str, Tensor]]:
    """Inputs with open sizes, by the names that `fix_shapes` takes."""
    several = len(program.signatures) > 1
    return [
        (f"{key}/{name}" if several else name, tensor)
        for key, named in _entries(program).values()
        for name, tensor in named.items()
        if not has_static_shape(tensor)
    ]


def _shown(tensor: Tensor) -> str:
    return ",".join("?" if n < 0 else str(n) for n in tensor.shape_signature or tensor.shape)


def _entries(program: Program) -> dict[Graph, tuple[str, dict[str, Tensor]]]:
    """Each entry point: its signature's name, and its inputs by name. A second signature on a subgraph is left out."""
    found: dict[Graph, tuple[str, dict[str, Tensor]]] = {}
    for signature in program.signatures:
        found.setdefault(signature.graph, (signature.key, dict(signature.inputs)))
    found.setdefault(program.main, ("", {tensor.name: tensor for tensor in program.main.inputs}))
    return found


def _wanted(
    entries: Mapping[Graph, tuple[str, dict[str, Tensor]]], shapes: Mapping[str, Sequence[int]] | Sequence[int]
) -> dict[Graph, dict[Tensor, Shape]]:
    """The shape of every input of every entry point."""
    inputs = {f"{key}/{name}": tensor for key, named in entries.values() for name, tensor in named.items()}
    names = list(dict.fromkeys(name for _, named in entries.values() for name in named))
    if not isinstance(shapes, Mapping):
        if len(names) != 1:
            raise RecipeError(f"the model has {len(names)} inputs ({', '.join(names)}): name each one's shape")
        shapes = {names[0]: shapes}
    unknown = sorted(set(shapes) - set(names) - set(inputs))
    if unknown:
        known = names if len(entries) == 1 else list(inputs)
        raise RecipeError(f"there is no input {unknown[0]!r}: the model has {', '.join(map(repr, known))}")
    return {
        graph: {
            tensor: _shape_for(tensor, name, key, shapes.get(f"{key}/{name}", shapes.get(name)), len(entries) > 1)
            for name, tensor in named.items()
        }
        for graph, (key, named) in entries.items()
    }


def _shape_for(tensor: Tensor, name: str, key: str, asked: Sequence[int] | None, several: bool) -> Shape:
    present = tuple(tensor.shape_signature or tensor.shape)
    shape = present if asked is None else tuple(int(n) for n in asked)
    fits = len(shape) == len(present) and all(a in (b, -1) for a, b in zip(present, shape, strict=True))
    if fits and all(n >= 1 for n in shape):
        return shape
    problem = "it needs a shape" if asked is None else f"{','.join(map(str, shape))} doesn't fit it"
    called = f"{key}/{name}" if several else name
    raise RecipeError(f"input {called!r} has the shape {_shown(tensor)}: {problem}; give sizes of 1 or more for each ?")


def _fix_graph(program: Program, graph: Graph, sizes: Mapping[Tensor, Shape]) -> None:
    """Give the inputs of one subgraph their sizes, and write down what follows."""
    if all(has_static_shape(tensor) for tensor in graph.tensors) and not any(op.code in _CALLS for op in graph.ops):
        return
    found = _run(program, graph, sizes)
    for tensor, shape in sizes.items():
        tensor.shape, tensor.shape_signature, tensor.has_rank = shape, None, True
    gone = set()
    for op in graph.ops:
        static = _fix_call(program, op, found) if op.code in _CALLS else _fix(op, found)
        if static and not set(op.outputs) & set(graph.outputs) and fold(op):
            gone.add(op)
    graph.ops = [op for op in graph.ops if op not in gone]
    graph.drop_unused_tensors()


def _fix_call(program: Program, op: Op, found: Mapping[Tensor, Shape]) -> bool:
    """Fix the subgraphs that an op calls, and then what they give back; whether its outputs are static now."""
    handed = op.inputs[1:] if op.code == "IF" else op.inputs
    called = [program.graphs[index] for index in called_graphs(op.options)]
    callers = [index for other in program.ops() for index in called_graphs(other.options)]
    alone = all(callers.count(program.graphs.index(graph)) == 1 for graph in called)
    plain = [t for t in handed if t is not None and has_static_shape(t) and t.dtype.numpy is not None]
    known = len(plain) == len(handed) and all(len(graph.inputs) == len(handed) for graph in called)
    if op.code == "WHILE" and not (known and alone and _settles(program, called[-1], [t.shape for t in plain])):
        return False
    if alone and known:
        for graph in called:
            _fix_graph(program, graph, {t: given.shape for t, given in zip(graph.inputs, plain, strict=True)})
    shapes = [_static_shapes(graph.outputs) for graph in (called[-1:] if op.code == "WHILE" else called)]
    if shapes and None not in shapes and all(listed == shapes[0] for listed in shapes):
        for tensor, shape in zip(op.outputs, shapes[0] or (), strict=True):
            tensor.shape, tensor.shape_signature, tensor.has_rank = shape, None, True
    return all(has_static_shape(tensor) for tensor in op.outputs)


def _settles(program: Program, body: Graph, shapes: list[Shape]) -> bool:
    """Whether a turn of a loop gives the very shapes that it is handed; else its first turn proves nothing."""
    copy = program.clone()
    trial = copy.graphs[program.graphs.index(body)]
    _fix_graph(copy, trial, dict(zip(trial.inputs, shapes, strict=True)))
    return _static_shapes(trial.outputs) == shapes


def _static_shapes(tensors: Iterable[Tensor]) -> list[Shape] | None:
    listed = list(tensors)
    return [tensor.shape for tensor in listed] if all(has_static_shape(tensor) for tensor in listed) else None


def _run(program: Program, graph: Graph, wanted: Mapping[Tensor, Shape]) -> dict[Tensor, Shape]:
    """The shape of every computed tensor, from one run on zeros."""
    attempts = [("xnnpack", _BY_VALUE), ("builtin", _BY_VALUE)]  # XNNPACK has ops of its own, and fails on a few shapes
    if any(op.code in _CALLS for op in graph.ops):
        attempts.append(("builtin", _BY_VALUE | {*_CALLS}))
    for kernels, by_value in attempts[:-1]:
        with suppress(OctavoError):
            return _run_on(kernels, program, graph, wanted, by_value)
    kernels, by_value = attempts[-1]
    return _run_on(kernels, program, graph, wanted, by_value)


def _run_on(
    kernels: str, program: Program, graph: Graph, wanted: Mapping[Tensor, Shape], by_value: frozenset[str]
) -> dict[Tensor, Shape]:
    from octavo.graph.views import opened
    from octavo.runtime.session import Session
    from octavo.tflite import write

    skipped: set[Tensor] = set()
    computed: list[Tensor] = []
    for op in graph.ops:
        if op.code in by_value or any(tensor in skipped for tensor in op.inputs):
            skipped.update(op.outputs)  # of no use here, and LiteRT can't give out what is empty
        else:
            computed += [t for t in op.outputs if t.dtype.numpy is not None and not t.is_variable]
    if not computed:
        return {}
    shapes = [wanted.get(tensor, tensor.shape) for tensor in graph.inputs]
    try:
        arrays = [np.zeros(shape, tensor.dtype.numpy) for tensor, shape in zip(graph.inputs, shapes, strict=True)]
    except (MemoryError, ValueError):
        raise RunError(f"there isn't enough memory for inputs of the shapes {shapes}") from None
    copy, key = opened(program, graph, computed)
    session = Session(write(copy), kernels=kernels, signature=key, name=program.source or None)
    session.resize([array.shape for array in arrays])
    return dict(zip(computed, (tuple(values.shape) for values in session.invoke(arrays)), strict=True))


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
