"""Sparse constants become dense ones.

Algebra: none, only storage. A sparse constant keeps the numbers that aren't zero, level by level as in a compressed
sparse tree (the TACO format of the `.tflite` schema's SparsityParameters: https://github.com/tensor-compiler/taco);
here they are put in their places among zeros. DENSIFY(sparse constant) is that dense constant, and the op goes. Integer
kernels take dense weights only.

Refuses a record that contradicts itself, or whose dense form would be over a thousand times larger than what the file
holds (and over 16 million numbers): the constant and its op stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.graph import Program, Tensor

_SPARSE_CSR = 1  # DimensionType in the schema
_MOST = 1 << 24
_MOST_GROWTH = 1000


def densify(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; returns a note if any constant was sparse."""
    made = left = 0
    for graph in program.graphs:
        for tensor in graph.tensors:
            if tensor.is_constant and tensor.extra.get("sparsity") is not None:
                dense = dense_values(tensor)
                left += dense is None
                if dense is not None:
                    tensor.set_values(dense, tensor.dtype)
                    del tensor.extra["sparsity"]
                    made += 1
        gone = set()
        for op in graph.ops:
            source = op.inputs[0] if op.code == "DENSIFY" else None
            if source is not None and source.is_constant and source.extra.get("sparsity") is None:
                op.outputs[0].data, op.outputs[0].dtype = source.data, source.dtype
                op.outputs[0].shape, op.outputs[0].qparams = source.shape, source.qparams
                gone.add(op)
        graph.ops = [op for op in graph.ops if op not in gone]
        graph.drop_unused_tensors()
    notes = [f"{made} constants were sparse; they are dense now, zeros included"] if made else []
    return notes + ([f"{left} sparse constants can't be made dense; they stay as they are"] if left else [])


def dense_values(tensor: Tensor) -> np.ndarray | None:
    """The dense array of a sparse constant, of `tensor.shape`; None if its record makes no sense."""
    record = tensor.extra["sparsity"]
    if tensor.data is None or tensor.dtype.numpy is None or tensor.data.nbytes % tensor.dtype.numpy.itemsize:
        return None
    stored = tensor.data.view(tensor.dtype.numpy)
    if tensor.size > max(_MOST, _MOST_GROWTH * stored.size):
        return None
    try:
        positions = _positions(record, tensor.shape, stored.size)
    except (IndexError, ValueError, TypeError, AttributeError):
        return None
    if positions is None or positions.size != stored.size:
        return None
    dense = np.zeros(tensor.size, stored.dtype)
    dense[positions] = stored
    return dense.reshape(tensor.shape)


def _positions(record: Any, shape: tuple[int, ...], count: int) -> np.ndarray | None:
    """Flat index of each stored number, by walking the levels of the tree; None if one lies outside of the shape."""
    order = np.asarray(record.traversalOrder).tolist()
    blocks = [] if record.blockMap is None else np.asarray(record.blockMap).tolist()
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(record.dimMetadata) != len(order):
        return None
    nodes, coordinates = np.zeros(1, np.int64), np.zeros((1, len(order)), np.int64)
    block_sizes = np.ones(rank, np.int64)
    for dimension, level in zip(order, record.dimMetadata, strict=True):
        if level.format == _SPARSE_CSR:
            starts = np.asarray(level.arraySegments.values, np.int64)
            indices = np.asarray(level.arrayIndices.values, np.int64)
            counts = starts[nodes + 1] - starts[nodes]
            parents = np.repeat(np.arange(nodes.size), counts)
            first = np.cumsum(counts) - counts
            below = starts[nodes][parents] + np.arange(parents.size) - first[parents]
            along = indices[below]
        else:
            size = int(level.denseSize)
            if size < 0 or nodes.size * size > max(_MOST, count):
                return None
            parents = np.repeat(np.arange(nodes.size), size)
            along = np.tile(np.arange(size), nodes.size)
            below = nodes[parents] * size + along
        if dimension >= rank:
            block_sizes[blocks[dimension - rank]] = level.denseSize
        coordinates = coordinates[parents]
        coordinates[:, dimension] = along
        nodes = below
    index = coordinates[:, :rank] * block_sizes
    for block, dimension in enumerate(blocks):
        index[:, dimension] += coordinates[:, rank + block]
    if ((index < 0) | (index >= np.array(shape))).any():
        return None
    flat = np.zeros(nodes.size, np.int64)
    flat[nodes] = np.ravel_multi_index(tuple(index.T), shape) if rank else 0
    return flat
