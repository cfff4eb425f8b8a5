"""FULLY_CONNECTED with computed weights becomes BATCH_MATMUL.

Algebra: both are x W^T. FULLY_CONNECTED's integer kernels take constant weights; attention multiplies two activations.

Refuses ops with a bias or a fused activation, flattened inputs (keep_num_dims off with more than two dimensions), and
weights in another format or type.
"""

from __future__ import annotations

from octavo.graph import DType, Program
from octavo.graph.edit import Editor


def computed_weights(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code != "FULLY_CONNECTED" or len(op.inputs) < 2 or any(t is not None for t in op.inputs[2:]):
                continue
            x, weights = op.inputs[:2]
            if x is None or weights is None or weights.is_constant or weights.is_variable:
                continue
            if any(t.dtype is not DType.FLOAT32 for t in (x, weights, op.outputs[0])) or op.option("weightsFormat"):
                continue
            rows = x.shape[:-1] == op.outputs[0].shape[:-1] and len(weights.shape) == 2 <= len(x.shape)
            if rows and x.shape[-1:] == weights.shape[-1:] and not op.option("fusedActivationFunction"):
                options = {"adjX": False, "adjY": True}
                editor.change(op, "BATCH_MATMUL", [x, weights], "BatchMatMulOptions", options)
        editor.finish()
    return []
