"""Constants that were stored small become float32 constants again.

Algebra: DEQUANTIZE(constant) is a constant: the same numbers as float32, exactly for float16, as scale * (code - zero
point) for integers; the op goes, and its output becomes the constant. Integer weights that an op with float
activations reads directly (dynamic range) become the float32 numbers that they stand for; the op no longer quantizes
its activations at run time.

Refuses (leaves alone) whatever is computed, packed below a byte, or sparse.
"""

from __future__ import annotations

import numpy as np

from octavo import numerics
from octavo.graph import DType, Graph, Op, Program, Tensor

_PLAIN = {DType.FLOAT16, DType.INT8, DType.UINT8, DType.INT16}


def unpack_constants(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; returns what is worth telling the user."""
    float16 = integer = 0
    for graph in program.graphs:
        for source in _unpack_dequantize(graph):
            float16 += source.dtype is DType.FLOAT16
            integer += source.dtype is not DType.FLOAT16
        integer += _unpack_hybrid(graph)
    notes = []
    if float16:
        notes.append(f"{float16} constants were float16 in the source; their values are kept as they are")
    if integer:
        notes.append(f"{integer} constants were integers in the source already; what they lost then stays lost")
    return notes


def _unpack_dequantize(graph: Graph) -> list[Tensor]:
    """Turn the output of each DEQUANTIZE of a constant into that constant; returns the constants."""
    unpacked = [op for op in graph.ops if op.code == "DEQUANTIZE" and _plain_constant(op.inputs[0])]
    sources = [op.inputs[0] for op in unpacked]
    for op in unpacked:
        source = op.inputs[0]
        assert source is not None
        op.outputs[0].set_values(_real(source))
    gone = set(unpacked)
    graph.ops = [op for op in graph.ops if op not in gone]
    graph.drop_unused_tensors()
    return [source for source in sources if source is not None]


def _unpack_hybrid(graph: Graph) -> int:
    """Give ops with float activations float weights; returns how many constants that took."""
    made: dict[Tensor, Tensor] = {}
    for op in graph.ops:
        if not _computes_in_float(op):
            continue
        for index, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.qparams is not None and _plain_constant(tensor):
                if tensor not in made:
                    made[tensor] = graph.add_tensor(tensor.copy(qparams=None))
                    made[tensor].set_values(_real(tensor))
                op.inputs[index] = made[tensor]
        if op.option("asymmetricQuantizeInputs"):
            op.options = {**(op.options or {}), "asymmetricQuantizeInputs": False}
    graph.drop_unused_tensors()
    return len(made)


def _computes_in_float(op: Op) -> bool:
    computed = [t for t in [*op.inputs, *op.outputs] if t is not None and not t.is_constant]
    floats = any(t.dtype is DType.FLOAT32 for t in computed)
    return floats and op.code != "CUSTOM" and not any(t.qparams is not None and t.dtype in _PLAIN for t in computed)


def _plain_constant(tensor: Tensor | None) -> bool:
    return (
        tensor is not None
        and tensor.is_constant
        and tensor.dtype in _PLAIN
        and (tensor.qparams is not None or tensor.dtype is DType.FLOAT16)
        and tensor.extra.get("sparsity") is None
    )


def _real(tensor: Tensor) -> np.ndarray:
    if tensor.qparams is None or tensor.dtype is DType.FLOAT16:
        return tensor.values.astype(np.float32)
    return numerics.dequantize(tensor.values, tensor.qparams)
