"""In which form each tensor is stored, and in which form each op wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from octavo import numerics
from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import OPS, Row
from octavo.plan.operands import float_constants, float_weights, storable, weight_axis, weight_operands
from octavo.plan.records import FLOAT, FLOAT16, Decision, Form, Plan
from octavo.qtypes import INT8_WEIGHT, INT32_BIAS, INT64_BIAS, UINT8, QParams, QType
from octavo.recipe import Scheme
from octavo.recurrent import LAYOUTS
from octavo.sites import Range, Sites


def integer_forms(integer: Mapping[Op, Row], schemes: Mapping[Op, Scheme], sites: Sites, result: Plan) -> None:
    """Forms of activations, weights and biases of the integer ops."""
    for op, row in integer.items():
        scheme = schemes[op]
        assert scheme.activations is not None
        for index, tensor in enumerate(op.inputs):
            if tensor is None or tensor.dtype is not DType.FLOAT32:
                continue
            role = row.input_role(index)
            if role == "a" or (role == "m" and not tensor.is_constant):
                result.wants[op, index] = activation_form(sites.of_use(op, index), scheme.activations)
        for index, tensor in enumerate(op.outputs):
            if row.output_role(index) == "a" and tensor.dtype is DType.FLOAT32:
                result.stores[tensor] = activation_form(sites.of_tensor(tensor), scheme.activations)
        if scheme.activations.bits == 16 and row.int16_options:
            result.options[op] = dict(row.int16_options)
        if row.weights is not None:
            _weight_forms(op, row, scheme, result)


def recurrent_forms(op: Op, scheme: Scheme, ranges: Mapping[Tensor, Range], result: Plan) -> None:
    """State and weights of a recurrent op, and the tensors inside of it."""
    layout, data, made = LAYOUTS[op.code], result.wants[op, 0].qparams, result.stores[op.outputs[0]].qparams
    state = op.inputs[layout.state]
    assert data is not None and made is not None and state is not None and scheme.weights is not None
    for index, format_ in layout.formats(op, data, made, ranges[state], scheme.weights).items():
        tensor = op.inputs[index]
        assert tensor is not None
        if tensor.is_constant:
            result.wants[op, index] = Form(*format_)
        else:
            result.stores[tensor] = Form(*format_)
    result.intermediates[op] = [Form(*inside) for inside in layout.intermediates(made)]


def activation_form(qparams: QParams, qtype: QType) -> Form:
    """int8 or int16, as wide as `qtype`."""
    return Form(DType.INT8 if qtype.bits == 8 else DType.INT16, qparams, qtype)


def _weight_forms(op: Op, row: Row, scheme: Scheme, result: Plan) -> None:
    facts, qtype = row.weights, scheme.weights
    assert facts is not None and qtype is not None
    tensor = op.inputs[facts.index]
    if tensor is None or not tensor.is_constant:
        return  # a computed matrix: an activation, already planned
    axis = facts.axis if scheme.per_channel else None
    rescale_weights(op, scheme, result, numerics.weight_params(tensor.values, qtype, axis))


def rescale_weights(op: Op, scheme: Scheme, result: Plan, qparams: QParams) -> None:
    """Plan the weights of an integer op with these scales, widened where its bias needs it, and the bias to match."""
    row = OPS[op.code]
    facts, qtype = row.weights, scheme.weights
    assert facts is not None and qtype is not None
    bias = op.inputs[facts.bias] if facts.bias is not None and facts.bias < len(op.inputs) else None
    data = result.wants[op, facts.data].qparams
    assert data is not None
    qparams = numerics.widen_for_bias(qparams, float(data.scale[0]), None if bias is None else bias.values)
    result.wants[op, facts.index] = Form(_weight_storage(op, scheme, result), qparams, qtype)
    if bias is not None and facts.bias is not None:
        result.wants[op, facts.bias] = _bias_form(op, row, scheme, data, qparams, bias, result)


def _weight_storage(op: Op, scheme: Scheme, result: Plan) -> DType:
    """int8; int4 for four bits where the kernel takes it; notes which in the plan."""
    assert scheme.weights is not None
    if scheme.weights.bits != 4:
        return DType.INT8
    bits = scheme.activations.bits if scheme.activations else 32
    row = OPS[op.code]
    table = op.inputs[row.hybrid[0]] if row.hybrid_axis is not None else None
    odd = table is not None and table.shape[-1] % 2 == 1  # rows that begin in the middle of a byte are read wrongly
    packed = bits in row.int4 and not odd
    result.decisions[op] = replace(result.decisions[op], weights="int4" if packed else "4 bits in int8")
    return DType.INT4 if packed else DType.INT8


def _bias_form(op: Op, row: Row, scheme: Scheme, data: QParams, weights: QParams, bias: Tensor, result: Plan) -> Form:
    """int32 with int8 activations; with int16 ones int32 where no sum can overflow it (4 times faster), else int64."""
    assert scheme.activations is not None and scheme.weights is not None and row.weights is not None
    params = numerics.bias_params(float(data.scale[0]), weights.scale)
    if scheme.activations.bits == 8:
        return Form(DType.INT32, params, INT32_BIAS)
    kernel = op.inputs[row.weights.index]
    assert kernel is not None
    if row.int16_bias32 is not None and row.weights.axis is not None:
        codes = result.codes.get((op, row.weights.index))
        codes = numerics.quantize(kernel.values, weights, scheme.weights) if codes is None else codes
        bias_codes = numerics.quantize_bias(bias.values, params, INT64_BIAS)
        if numerics.accumulator_fits_int32(codes, row.weights.axis, scheme.activations, 0, bias_codes):
            result.options[op] = {"quantizedBiasType": 2}  # TensorType.INT32
            return Form(DType.INT32, params, INT32_BIAS)
    result.options.pop(op, None)
    return Form(DType.INT64, params, INT64_BIAS)


def float_forms(graph: Graph, decisions: Mapping[Op, Decision], schemes: Mapping[Op, Scheme], result: Plan) -> None:
    """Ops whose activations stay float: what they read as float, and how their constants are stored."""
    for op in graph.ops:
        decision, scheme = decisions[op], schemes[op]
        if decision.precision in ("int8", "int16"):
            continue
        for index, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.dtype is DType.FLOAT32:
                result.wants[op, index] = FLOAT
        row = OPS.get(op.code)
        looks_up = decision.precision == "weight_only" and row is not None and row.hybrid_axis is not None
        if decision.precision == "dynamic" or looks_up:  # rows come out of their table as floats
            _dynamic_form(op, scheme, result)
        elif decision.precision in ("float16", "weight_only"):
            kept = float_weights(op, OPS.get(op.code)) if scheme.kind == "integer" else float_constants(op)
            for tensor in kept:
                if storable(tensor, scheme):
                    result.stores[tensor] = FLOAT16 if scheme.kind == "float16" else _stored_weights(op, tensor, scheme)


def _dynamic_form(op: Op, scheme: Scheme, result: Plan) -> None:
    row = OPS[op.code]
    assert scheme.weights is not None
    weights, whole = float_weights(op, row), False
    for index, tensor in enumerate(op.inputs):
        if tensor in weights and index in weight_operands(row):
            dtype = _weight_storage(op, scheme, result)
            whole = row.blocks and scheme.block > 0 and tensor.shape[-1] % scheme.block == 0
            if whole:
                qparams = numerics.block_params(tensor.values, scheme.weights, scheme.block)
            else:
                qparams = numerics.weight_params(tensor.values, scheme.weights, weight_axis(row))
            result.wants[op, index] = Form(dtype, qparams, scheme.weights, scheme.block if whole else 0)
    if scheme.block:
        _note_blocks(op, row, scheme.block, whole, result)
    if row.options_type is not None:
        result.options[op] = dict(row.dynamic_options)


def _note_blocks(op: Op, row: Row, block: int, whole: bool, result: Plan) -> None:
    made = result.decisions[op]
    why = f"whose width isn't a multiple of {block}" if row.blocks else "whose kernel takes none"
    kept = f"{made.weights} in blocks of {block}" if whole else f"{made.weights}, without blocks for an op {why}"
    result.decisions[op] = replace(made, weights=kept)


def _stored_weights(op: Op, tensor: Tensor, scheme: Scheme) -> Form:
    """Integers in the file, float32 in use. Per channel along the op's weight axis where it has one.

    Four bits are for weights: other constants, without a scale per channel, would lose too much.
    """
    assert scheme.weights is not None
    row = OPS.get(op.code)
    if row is None or row.weights is None or tensor not in float_weights(op, row):
        return Form(DType.INT8, numerics.weight_params(tensor.values, INT8_WEIGHT, None), INT8_WEIGHT)
    dtype = DType.INT4 if scheme.weights.bits == 4 else DType.INT8
    return Form(dtype, numerics.weight_params(tensor.values, scheme.weights, weight_axis(row)), scheme.weights)


def border_forms(graph: Graph, scheme: Scheme, sites: Sites, result: Plan) -> None:
    """Forms of what a subgraph takes and gives out."""
    if scheme.kind != "integer":
        return
    for tensor in graph.inputs:
        if tensor.dtype is DType.FLOAT32 and scheme.io.input != "float32" and sites.has(tensor):
            result.stores[tensor] = _io_form(sites.of_tensor(tensor), scheme.io.input)
    for tensor in graph.outputs:
        if tensor.dtype is not DType.FLOAT32:
            continue
        quantized = scheme.io.output != "float32" and sites.has(tensor)
        result.outputs[graph, tensor] = _io_form(sites.of_tensor(tensor), scheme.io.output) if quantized else FLOAT


def _io_form(qparams: QParams, dtype: str) -> Form:
    if dtype == "uint8":
        return Form(DType.UINT8, QParams(qparams.scale, qparams.zero_point + 128), UINT8)
    return Form(DType(dtype), qparams)
