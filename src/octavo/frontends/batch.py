"""A dynamic batch: lower at two batch sizes; where the two programs differ, the batch stands.

Exporting with a symbolic batch makes the converter compute every shape at run time (SHAPE, CONCATENATION, BROADCAST_TO
around each layer) and leaves biases and activations unfused. Two programs for fixed sizes have the same few ops, and
their difference says exactly which dimensions follow the batch. Anything that differs and can't be written as
"unknown" in a `.tflite` file is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from octavo.errors import ConversionError
from octavo.frontends.inputs import Input
from octavo.graph import DType, Graph, Op, Program, Tensor

# Not 1, at which shapes are simplified away, and with no common factor.
_SIZES = (2, 3)

# Operands that say "whatever is left" with -1: the new shape of a RESHAPE, the size of a SLICE.
_OPEN_ENDED = {("RESHAPE", 1), ("SLICE", 2)}


def lower(at: Callable[[int], Program], specs: Sequence[Input], batch: int | None, where: str) -> Program:
    """A program for one batch size, or with a dynamic batch.

    Args:
      at: makes the program for one batch size.
      specs: the inputs; a leading None in a shape is the batch.
      batch: its size; None keeps it dynamic.
      where: what is being converted, for messages.

    Raises:
      ConversionError: the sizes don't say enough, or the model can't be made dynamic.
    """
    return joined([at(size) for size in sizes(specs, batch, where)], where)


def sizes(specs: Sequence[Input], batch: int | None, where: str) -> tuple[int, ...]:
    """The batch sizes at which a model must be lowered, to be `joined`; for arguments and errors see `lower`."""
    if batch is not None and batch < 1:
        raise ConversionError(f"{where}: batch must be at least 1, or None to keep it dynamic; it is {batch}")
    for spec in specs:
        if None in spec.shape[1:]:
            example = tuple(1 if i == 0 else "?" if dim is None else dim for i, dim in enumerate(spec.shape))
            raise ConversionError(
                f"{where}: input {spec} leaves more than the batch open; say its sizes: "
                f"inputs={{{spec.name!r}: ({', '.join(map(str, example))})}} with a number for each ?"
            )
    if batch is not None:
        return (batch,)
    if all(spec.shape[:1] != (None,) for spec in specs):
        listed = ", ".join(str(spec) for spec in specs)
        raise ConversionError(f"{where}: batch=None needs an input whose shape starts with None; it has {listed}")
    return _SIZES


def joined(programs: Sequence[Program], where: str) -> Program:
    """One program out of those for each of the `sizes`.

    Args:
      programs: the same ops in the same order for each size.
      where: what is being converted, for messages.

    Returns:
      The only program; or one whose batch is dynamic: `shape` holds what it would be at batch 1, `shape_signature` has
      -1 where the batch decides.

    Raises:
      ConversionError: the batch size ends up in a constant or an option; the message names the op.
    """
    if len(programs) == 1:
        return programs[0]
    small, large = programs
    if [_kinds(graph) for graph in small.graphs] != [_kinds(graph) for graph in large.graphs]:
        raise ConversionError(f"{where} needs other ops for other batch sizes; {_ADVICE}")
    for graph, other in zip(small.graphs, large.graphs, strict=True):
        _merge_graph(graph, other, where)
    return small


_ADVICE = "convert it with a fixed batch, such as batch=1"


def _kinds(graph: Graph) -> tuple[list[str], int]:
    return [op.code for op in graph.ops], len(graph.tensors)


def _merge_graph(graph: Graph, other: Graph, where: str) -> None:
    partner = dict(zip(graph.tensors, other.tensors, strict=True))
    for op, op2 in zip(graph.ops, other.ops, strict=True):
        for index, (tensor, tensor2) in enumerate(zip(op.inputs, op2.inputs, strict=True)):
            if tensor is None or tensor2 is None:
                continue
            if partner[tensor] is not tensor2:
                raise ConversionError(f"{where} is wired otherwise for other batch sizes at {op.name}; {_ADVICE}")
            if tensor.data is not None and not _same_constant(tensor, tensor2):
                op.inputs[index] = graph.add_tensor(_open_ended(op, index, tensor, tensor2, where))
        _merge_options(op, op2, where)
    for tensor, tensor2 in partner.items():
        if tensor.data is None:
            _merge_shape(tensor, tensor2, where)
    graph.drop_unused_tensors()


def _same_constant(tensor: Tensor, other: Tensor) -> bool:
    return (
        tensor.shape == other.shape
        and tensor.dtype == other.dtype
        and tensor.data is not None
        and other.data is not None
        and np.array_equal(tensor.data, other.data)
    )


def _open_ended(op: Op, index: int, tensor: Tensor, other: Tensor, where: str) -> Tensor:
    """The shape operand with -1 where the two programs differ."""
    refusal = ConversionError(f"{where}: the batch size is part of {op.name}, so it can't stay dynamic; {_ADVICE}")
    if (op.code, index) not in _OPEN_ENDED or tensor.shape != other.shape or tensor.dtype is not DType.INT32:
        raise refusal
    differs = tensor.values != other.values
    if np.count_nonzero(differs) != 1:
        raise refusal
    if op.code == "SLICE" and not _to_the_end(op, other, int(np.argmax(differs))):
        raise refusal
    merged = tensor.copy()
    merged.set_values(np.where(differs, np.int32(-1), tensor.values))
    return merged


def _to_the_end(op: Op, other_size: Tensor, axis: int) -> bool:
    """Whether a SLICE takes all that is left along an axis: -1 says just that."""
    source, begin, size = op.inputs
    if source is None or begin is None or size is None or not begin.is_constant:
        return False
    grown = other_size.values[axis] - size.values[axis]
    return int(begin.values[axis] + size.values[axis]) == source.shape[axis] and int(grown) > 0


def _merge_options(op: Op, other: Op, where: str) -> None:
    if op.options is None or other.options is None:
        return
    for key, value in op.options.items():
        value2 = other.options.get(key)
        if np.array_equal(np.asarray(value), np.asarray(value2)):
            continue
        if op.code != "RESHAPE" or key != "newShape":
            raise ConversionError(f"{where}: the batch size is part of {op.name}, so it can't stay dynamic; {_ADVICE}")
        op.options[key] = np.where(np.asarray(value) == np.asarray(value2), value, -1)


def _merge_shape(tensor: Tensor, other: Tensor, where: str) -> None:
    """Set -1 in the signature where two shapes differ, and the shape itself to that of batch 1."""
    if len(tensor.shape) != len(other.shape):
        raise ConversionError(f"{where}: {tensor.name!r} has another rank for other batch sizes; {_ADVICE}")
    if tensor.shape == other.shape:
        return
    first, second = _SIZES
    shape, signature = [], []
    for a, b in zip(tensor.shape, other.shape, strict=True):
        slope, rest = divmod(b - a, second - first)
        at_one = a + slope * (1 - first)
        if rest or at_one < 0:
            raise ConversionError(f"{where}: {tensor.name!r} doesn't grow evenly with the batch; {_ADVICE}")
        shape.append(at_one)
        signature.append(a if a == b else -1)
    tensor.shape, tensor.shape_signature = tuple(shape), tuple(signature)
