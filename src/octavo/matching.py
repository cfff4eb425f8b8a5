"""Which tensor of a quantized model stands for which tensor of the float model that it was made from.

Names lead: octavo keeps them, and so do other converters, mostly. Conversions are seen through. What names leave open
(they may be empty, or repeat) is settled by the order of the ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

from octavo.graph import DType, Graph, Op, Tensor

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_SUFFIXES = tuple(f"/{dtype.value}" for dtype in (DType.INT8, DType.UINT8, DType.INT16, DType.FLOAT32, DType.FLOAT16))


def counterparts(original: Graph, small: Graph) -> dict[Tensor, Tensor]:
    """Tensor of `small` -> tensor of `original` with the same values, but for quantization.

    Inputs and computed tensors only. What has no counterpart is left out.
    """
    found = _by_position(original, small)
    found.update((t, f) for t, f in _by_name(original, small) if t not in found)
    _through_conversions(small, found)
    _by_order(original, small, found)
    _through_conversions(small, found)
    return found


def _by_position(original: Graph, small: Graph) -> dict[Tensor, Tensor]:
    """Inputs and outputs keep their order."""
    found: dict[Tensor, Tensor] = {}
    for theirs, ours in ((original.inputs, small.inputs), (original.outputs, small.outputs)):
        if len(theirs) == len(ours):
            found.update((t, f) for t, f in zip(ours, theirs, strict=True) if _alike(t, f))
    return found


def _by_name(original: Graph, small: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    candidates = [*original.inputs, *_computed(original)]
    counts = Counter(tensor.name for tensor in candidates)
    named = {tensor.name: tensor for tensor in candidates if tensor.name and counts[tensor.name] == 1}
    for tensor in _computed(small):
        name = tensor.name
        while name not in named and name.endswith(_SUFFIXES):
            name = name.rpartition("/")[0]
        match = named.get(name)
        if match is not None and _alike(tensor, match):
            yield tensor, match


def _through_conversions(small: Graph, found: dict[Tensor, Tensor]) -> None:
    """Both sides of a conversion stand for the same tensor."""
    for op in small.ops:
        if op.code in CONVERSIONS and op.inputs[0] in found and op.outputs[0] not in found:
            found[op.outputs[0]] = found[op.inputs[0]]
    for op in reversed(small.ops):
        source = op.inputs[0] if op.code in CONVERSIONS else None
        if source is not None and not source.is_constant and op.outputs[0] in found and source not in found:
            found[source] = found[op.outputs[0]]


def _by_order(original: Graph, small: Graph, found: dict[Tensor, Tensor]) -> None:
    """Line up the ops that are left, between those that are settled."""
    ours = [op for op in small.ops if op.code not in CONVERSIONS and op.outputs]
    theirs = [op for op in original.ops if op.code not in CONVERSIONS and op.outputs]
    settled = {id(tensor) for tensor in found.values()}

    def key_of(op: Op, tensor: Tensor | None) -> tuple[object, ...]:
        if tensor is not None:
            return (id(tensor),)
        return (op.code, tuple(t.shape for t in op.outputs))

    our_keys = [key_of(op, found.get(op.outputs[0])) for op in ours]
    their_keys = [key_of(op, op.outputs[0] if id(op.outputs[0]) in settled else None) for op in theirs]
    matcher = SequenceMatcher(None, our_keys, their_keys, autojunk=False)
    for block in matcher.get_matching_blocks():
        for mine, its in zip(ours[block.a : block.a + block.size], theirs[block.b : block.b + block.size], strict=True):
            for tensor, match in zip(mine.outputs, its.outputs, strict=False):
                if tensor not in found and id(match) not in settled and _alike(tensor, match):
                    found[tensor] = match


def _computed(graph: Graph) -> list[Tensor]:
    return [tensor for op in graph.ops for tensor in op.outputs]


def _alike(tensor: Tensor, match: Tensor) -> bool:
    """Same shape, and both real numbers (codes count) or both of one other type."""
    if tensor.shape != match.shape or tensor.is_variable != match.is_variable or match.is_variable:
        return False
    real = tensor.dtype.is_float or tensor.qparams is not None
    return real if match.dtype.is_float else tensor.dtype is match.dtype and tensor.qparams is None
