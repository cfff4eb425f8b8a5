"""A quantized model brought back to float.

Algebra: an integer tensor stands for scale * (code - zero point); every such tensor becomes a float32 tensor, every
such constant the numbers that it stands for, and QUANTIZE and DEQUANTIZE do nothing any longer and go. The float model
computes what the integer one does, less the rounding of activations; what its weights lost stays lost. The range that a
tensor's codes could hold is written down, so that the model can be quantized again without samples.

Refuses, with an error that names the op: recurrent ops whose integer form octavo doesn't know; weights in an order that
only some kernels know; codes below a byte in a custom op.
"""

from __future__ import annotations

import numpy as np

from octavo import numerics
from octavo.errors import RecipeError
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor
from octavo.graph.queries import record_range, recorded_range
from octavo.ops import OPS
from octavo.passes.check_operands import check_operands
from octavo.passes.level_channels import KEY
from octavo.qtypes import QParams
from octavo.recurrent import LAYOUTS

_CODES = {
    DType.INT8: (-128, 127), DType.UINT8: (0, 255), DType.INT16: (-32768, 32767), DType.INT4: (-8, 7),
    DType.INT32: None, DType.INT64: None,
}  # fmt: skip


def dequantize(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; says how many tensors it brought back.

    Raises:
      RecipeError: an op can't be brought back; names it.
    """
    check_operands(program)
    # From here on this is the float model, and what is made of it is scaled as it is.
    program.metadata = [(name, data) for name, data in program.metadata if name != KEY]
    count = 0
    for graph in program.graphs:
        for op in graph.ops:
            _check(op)
            _name_bias_scale(op)
            op.intermediates = []  # they only carry scales
        quantized = [t for t in graph.tensors if t.qparams is not None and t.dtype in _CODES]
        for tensor in quantized:
            _to_float(tensor)
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "QUANTIZE":
                _keep_range(op)
            if op.code in ("QUANTIZE", "DEQUANTIZE") and not editor.bypass(op):
                shape = editor.constant("shape", np.array(op.outputs[0].shape, np.int32))
                editor.change(op, "RESHAPE", [op.inputs[0], shape], "ReshapeOptions", {})
            elif op.option("quantizedBiasType"):
                op.options = {**(op.options or {}), "quantizedBiasType": 0}
        editor.finish()
        count += len(quantized)
    return [f"{count} quantized tensors are float again; what was lost stays lost"] if count else []


def _check(op: Op) -> None:
    narrow = [t for t in [*op.inputs, *op.outputs] if t is not None and t.qparams is not None]
    row = OPS.get(op.code)
    if row is not None and row.hybrid and op.code not in LAYOUTS and narrow:
        raise RecipeError(f"{op.name} can't be brought back to float: its integer form keeps state of its own kind")
    if op.option("weightsFormat"):
        raise RecipeError(f"{op.name} can't be brought back to float: its weights are shuffled for one kernel")


def _name_bias_scale(op: Op) -> None:
    """Old files leave out the scale of a bias, which is that of the input times that of the weights."""
    row = OPS.get(op.code)
    if row is None or row.weights is None or row.weights.bias is None or row.weights.bias >= len(op.inputs):
        return
    bias, data, kernel = (op.inputs[i] for i in (row.weights.bias, row.weights.data, row.weights.index))
    if bias is None or data is None or kernel is None or bias.qparams is not None:
        return
    if bias.dtype in (DType.INT32, DType.INT64) and data.qparams is not None and kernel.qparams is not None:
        scale = data.qparams.scale * kernel.qparams.scale
        bias.qparams = QParams(scale, np.zeros(scale.shape), 0 if scale.size > 1 else None)


def _keep_range(op: Op) -> None:
    """What a QUANTIZE op gives out goes; its range belongs to what it was given, as wide as every reader had it."""
    source, made = op.inputs[0], recorded_range(op.outputs[0])
    if source is not None and made is not None and not source.is_constant:
        known = recorded_range(source) or made
        record_range(source, min(known[0], made[0]), max(known[1], made[1]))


def _to_float(tensor: Tensor) -> None:
    qparams, codes = tensor.qparams, _CODES[tensor.dtype]
    assert qparams is not None
    if tensor.data is not None:
        values = (
            numerics.unpack_int4(tensor.data, tensor.size).reshape(tensor.shape)
            if tensor.dtype is DType.INT4
            else tensor.values
        )
        tensor.set_values(numerics.dequantize(values, qparams).astype(np.float32))
        tensor.extra.pop("quantization", None)
    elif codes is not None and not qparams.per_channel:
        low, high = ((code - int(qparams.zero_point[0])) * float(qparams.scale[0]) for code in codes)
        record_range(tensor, low, high)
    tensor.dtype, tensor.qparams = DType.FLOAT32, None
