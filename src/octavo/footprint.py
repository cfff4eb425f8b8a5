"""Where the bytes of a file go, and how much memory its activations need at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.graph import DType, Graph, Program, Tensor
from octavo.ops import OPS

ALIGNMENT = 16  # bytes; that of TensorFlow Lite for Microcontrollers (LiteRT on a CPU takes 64)
_PACKED_BITS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2}


@dataclass(frozen=True)
class Bytes:
    """The bytes of a file by what they are. A buffer that several tensors share counts once.

    Attributes:
      weights: constants that are multiplied: kernels and matrices, embedding tables.
      biases: constants that are added to sums of products.
      constants: the others: shapes, axes, lookup tables, scalars.
      metadata: buffers of metadata, and an archive behind the model.
      structure: all the rest: ops, tensors, scales, names, padding.
    """

    weights: int
    biases: int
    constants: int
    metadata: int
    structure: int

    @property
    def total(self) -> int:
        return self.weights + self.biases + self.constants + self.metadata + self.structure


def bytes_by_kind(program: Program, size: int) -> Bytes:
    """Sort the bytes of a file of `size` bytes, as read into `program`."""
    kinds = _kinds(program)
    sums = {"weights": 0, "biases": 0, "constants": 0}
    seen: set[tuple[int, int]] = set()
    for tensor in program.tensors():
        if tensor.data is None or tensor.data.nbytes == 0:
            continue
        where = (tensor.data.__array_interface__["data"][0], tensor.data.nbytes)
        if where not in seen:
            seen.add(where)
            sums[kinds.get(tensor, "constants")] += tensor.data.nbytes
    metadata = sum(data.nbytes for _, data in program.metadata)
    zipped = program.extra.get("appendedZip")
    metadata += len(zipped) if zipped is not None else 0
    return Bytes(**sums, metadata=metadata, structure=size - sum(sums.values()) - metadata)


def _kinds(program: Program) -> dict[Tensor, str]:
    """What each constant is to the first op that reads it; a constant behind DEQUANTIZE is what its reader takes."""
    kinds: dict[Tensor, str] = {}
    for graph in program.graphs:
        for op in graph.ops:
            row = OPS.get(op.code)
            for index, tensor in enumerate(op.inputs):
                if tensor is None or row is None:
                    continue
                role = row.input_role(index)
                is_weights = role in "wm" or (row.weights is not None and row.weights.index == index)
                table = op.code in ("GATHER", "EMBEDDING_LOOKUP") and tensor.dtype in _NUMERIC
                if is_weights or table:
                    kinds.setdefault(tensor, "weights")
                elif role == "b":
                    kinds.setdefault(tensor, "biases")
        for op in reversed(graph.ops):
            if op.code in ("DEQUANTIZE", "QUANTIZE") and op.inputs[0] is not None and op.outputs[0] in kinds:
                kinds.setdefault(op.inputs[0], kinds[op.outputs[0]])
    return kinds


_NUMERIC = {DType.FLOAT32, DType.FLOAT16, DType.INT8, DType.INT4, DType.UINT8, DType.INT16}


def arena_bytes(graph: Graph) -> int:
    """Bytes of activations that must be held at once: an estimate, for no runtime's Python interface tells its own.

    Tensors are placed largest first at the lowest address that is free for as long as they live, as the greedy planner
    of TensorFlow Lite for Microcontrollers does. What kernels need for themselves isn't known from the file, and isn't
    counted. A dynamic dimension counts as 1.
    """
    lives = _lives(graph)
    order = sorted(lives, key=lambda tensor: (-_bytes(tensor), lives[tensor]))
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first op, last op
    peak = 0
    for tensor in order:
        size = _bytes(tensor)
        first, last = lives[tensor]
        offset = 0
        for start, end, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if offset + size <= start:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
        peak = max(peak, offset + size)
    return peak


def _lives(graph: Graph) -> dict[Tensor, tuple[int, int]]:
    """First and last op during which each computed tensor must be held. Inputs are there from the start."""
    lives: dict[Tensor, tuple[int, int]] = dict.fromkeys(graph.inputs, (0, 0))
    for index, op in enumerate(graph.ops):
        for tensor in [*op.outputs, *op.inputs]:
            if tensor is not None and not tensor.is_constant:
                lives[tensor] = (lives.get(tensor, (index, index))[0], index)
    end = len(graph.ops)
    for tensor in graph.outputs:
        if tensor in lives:
            lives[tensor] = (lives[tensor][0], end)
    lives.update({tensor: (0, end) for tensor in lives if tensor.is_variable})
    return {t: span for t, span in lives.items() if t.dtype not in (DType.STRING, DType.RESOURCE, DType.VARIANT)}


def _bytes(tensor: Tensor) -> int:
    bits = _PACKED_BITS.get(tensor.dtype)
    if bits is None:
        width = tensor.dtype.numpy
        bits = 8 * (np.dtype(width).itemsize if width is not None else 2)
    size = -(-tensor.size * bits // 8)
    return -(-size // ALIGNMENT) * ALIGNMENT
