"""The invariants of a program. Passes are tested with `verify` between them; the reader asks some of it too.

Each check is a generator of one-line problems about one graph; `verify` gathers them all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from octavo.errors import GraphError
from octavo.graph.model import DType, Graph, Op, Program, Tensor

# Bits per element of the packed types; LiteRT rounds the tensor's bytes up (BytesRequired in tflite/util.cc).
_PACKED_BITS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2}
# Types that NumPy lacks and that take whole bytes.
_BYTES = {DType.BFLOAT16: 2, DType.FLOAT8_E4M3FN: 1, DType.FLOAT8_E5M2: 1}
# Their size depends on their content, not on the shape.
_SHAPELESS = (DType.STRING, DType.RESOURCE, DType.VARIANT)

# (input, weight, bias) among the operands: https://ai.google.dev/edge/litert/models/quantization_spec
_BIAS_OPERANDS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
_BIAS_SCALE_TOLERANCE = 1e-3  # relative; scales are float32 products, so real mismatches are far larger
_LISTED = 20  # problems in one message


def verify(program: Program) -> None:
    """Check a whole program.

    Raises:
      GraphError: lists what is broken, in one line.
    """
    problems = [] if program.graphs else ["the program has no graph"]
    for index, graph in enumerate(program.graphs):
        where = f"graph {index}" + (f" {graph.name!r}" if graph.name else "")
        problems += [f"{where}: {problem}" for check in CHECKS for problem in check(graph)]
    problems += check_signatures(program)
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        listed = "; ".join(problems[:_LISTED])
        raise GraphError(f"{program.source or 'program'}: {len(problems)} broken invariant(s): {listed}{more}")


def _mentions(graph: Graph) -> Iterator[tuple[Tensor, str]]:
    """Every tensor that the graph refers to, and from where."""
    yield from ((tensor, "the graph's inputs") for tensor in graph.inputs)
    yield from ((tensor, "the graph's outputs") for tensor in graph.outputs)
    for op in graph.ops:
        for tensor in (*op.inputs, *op.outputs, *op.intermediates):
            if tensor is not None:
                yield tensor, f"op {op.name}"
    for tensor in graph.tensors:
        for value in tensor.extra.values():
            if isinstance(value, Tensor):
                yield value, f"the quantization of {tensor.name!r}"


def check_membership(graph: Graph) -> Iterator[str]:
    """Each mentioned tensor is listed by its graph, once."""
    listed = set(graph.tensors)
    if len(listed) < len(graph.tensors):
        twice = {tensor for tensor in graph.tensors if graph.tensors.count(tensor) > 1}
        yield from (f"tensor {tensor.name!r} is listed twice" for tensor in twice)
    for tensor, where in dict.fromkeys(_mentions(graph)):
        if tensor not in listed:
            yield f"{where} mentions tensor {tensor.name!r}, which isn't in the graph's tensors"


def check_single_producer(graph: Graph) -> Iterator[str]:
    """No tensor is made twice."""
    producers: dict[Tensor, Op] = {}
    for op in graph.ops:
        for tensor in op.outputs:
            if tensor in producers:
                yield f"tensor {tensor.name!r} is made by {producers[tensor].name} and again by {op.name}"
            producers[tensor] = op


def check_order(graph: Graph) -> Iterator[str]:
    """Ops come after what they read; state (variables) may be read before it is written."""
    pending = {tensor for op in graph.ops for tensor in op.outputs if not tensor.is_variable}
    pending.difference_update(graph.inputs)
    for op in graph.ops:
        for tensor in op.inputs:
            if tensor in pending:
                yield f"op {op.name} reads tensor {tensor.name!r} before it is made (wrong order, or a cycle)"
        pending.difference_update(op.outputs)


def check_constants(graph: Graph) -> Iterator[str]:
    """Nothing writes into a constant."""
    for op in graph.ops:
        for tensor in op.outputs:
            if tensor.is_constant:
                yield f"op {op.name} makes tensor {tensor.name!r}, which is a constant"
    for tensor in graph.inputs:
        if tensor.is_constant:
            yield f"graph input {tensor.name!r} is a constant"


def check_produced(graph: Graph) -> Iterator[str]:
    """What is read or returned comes from somewhere."""
    available = {*graph.inputs, *(tensor for op in graph.ops for tensor in op.outputs)}
    read = [(tensor, f"op {op.name}") for op in graph.ops for tensor in op.inputs if tensor is not None]
    read += [(tensor, "the graph's outputs") for tensor in graph.outputs]
    for tensor, where in dict.fromkeys(read):
        stored = tensor.is_constant or tensor.is_variable or "externalBuffer" in tensor.extra
        if not stored and tensor.size and tensor not in available:
            yield f"nothing makes tensor {tensor.name!r}, which is needed by {where}"


def expected_bytes(tensor: Tensor) -> int | None:
    """Bytes that the constant takes by its shape and type; None where they don't tell (sparse, string, ...)."""
    if tensor.dtype in _SHAPELESS or "sparsity" in tensor.extra:
        return None
    if tensor.dtype in _PACKED_BITS:
        return -(-tensor.size * _PACKED_BITS[tensor.dtype] // 8)
    width = tensor.dtype.numpy.itemsize if tensor.dtype.numpy is not None else _BYTES[tensor.dtype]
    return tensor.size * width


def check_constant_sizes(graph: Graph) -> Iterator[str]:
    """A constant has the bytes that its shape and type call for, as LiteRT demands (SetTensorParametersReadOnly)."""
    for tensor in graph.tensors:
        expected = expected_bytes(tensor) if tensor.data is not None else None
        if tensor.data is not None and expected is not None and tensor.data.nbytes != expected:
            shape = f"{tensor.dtype.value}{list(tensor.shape)}"
            yield f"constant {tensor.name!r} has {tensor.data.nbytes} bytes, but {shape} takes {expected}"


def check_qparams(graph: Graph) -> Iterator[str]:
    """Scales are positive normal numbers, one or one per channel; zero points are codes of the tensor's type."""
    for tensor in graph.tensors:
        if tensor.qparams is not None:
            yield from (f"tensor {tensor.name!r} {problem}" for problem in _qparams_problems(tensor))


def _qparams_problems(tensor: Tensor) -> Iterator[str]:
    qparams = tensor.qparams
    assert qparams is not None
    scale, zero_point, axis = qparams.scale, qparams.zero_point, qparams.axis
    smallest = np.finfo(np.float32).tiny
    if not (np.isfinite(scale) & (scale >= smallest)).all():
        yield f"has a scale that isn't a positive normal number ({scale.min()} to {scale.max()})"
    if axis is not None and not 0 <= axis < len(tensor.shape):
        yield f"is quantized along axis {axis}, but its shape is {list(tensor.shape)}"
    elif scale.size != (1 if axis is None else tensor.shape[axis]):
        channels = "per tensor" if axis is None else f"for {tensor.shape[axis]} channels"
        yield f"has {scale.size} scale(s) {channels}"
    if zero_point.size != scale.size:
        yield f"has {scale.size} scale(s) but {zero_point.size} zero point(s)"
    limits = _code_range(tensor.dtype)
    if limits and zero_point.size and not limits[0] <= zero_point.min() <= zero_point.max() <= limits[1]:
        yield f"has a zero point outside of {tensor.dtype.value} ({zero_point.min()} to {zero_point.max()})"


def _code_range(dtype: DType) -> tuple[int, int] | None:
    """Smallest and largest integer of the type; None if it isn't one."""
    if dtype in _PACKED_BITS:
        count = 1 << _PACKED_BITS[dtype]
        return (0, count - 1) if dtype is DType.UINT4 else (-count // 2, count // 2 - 1)
    if dtype.numpy is None or dtype.numpy.kind not in "iu":
        return None
    limits = np.iinfo(dtype.numpy)
    return int(limits.min), int(limits.max)


def check_bias_scales(graph: Graph) -> Iterator[str]:
    """An integer bias is in steps of input scale * weight scale: the kernels add it to the raw products."""
    for op in graph.ops:
        operands = [op.inputs[i] if i < len(op.inputs) else None for i in _BIAS_OPERANDS.get(op.code, ())]
        scales = [t.qparams.scale for t in operands if t is not None and t.qparams is not None]
        bias = operands[-1] if operands else None
        if len(scales) < 3 or bias is None or bias.dtype not in (DType.INT32, DType.INT64):
            continue
        product = scales[0].astype(np.float64) * scales[1]
        if scales[2].size != product.size:
            yield f"op {op.name}: bias {bias.name!r} has {scales[2].size} scale(s), the weight {product.size}"
        elif not np.allclose(scales[2], product, rtol=_BIAS_SCALE_TOLERANCE, atol=0):
            yield f"op {op.name}: the scale of bias {bias.name!r} isn't input scale * weight scale"


def check_signatures(program: Program) -> Iterator[str]:
    """Signatures name tensors of their graph, and graphs of the program."""
    for signature in program.signatures:
        if signature.graph not in program.graphs:
            yield f"signature {signature.key!r} belongs to a graph that isn't in the program"
        listed = set(signature.graph.tensors)
        for name, tensor in (*signature.inputs, *signature.outputs):
            if tensor not in listed:
                yield f"signature {signature.key!r}: {name!r} is tensor {tensor.name!r}, which isn't in its graph"


CHECKS = (
    check_membership,
    check_single_producer,
    check_order,
    check_constants,
    check_produced,
    check_constant_sizes,
    check_qparams,
    check_bias_scales,
)
