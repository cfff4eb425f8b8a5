"""The kernel version that an op asks for, and the first runtime that has it.

A `.tflite` file names a version for each of its ops, and a runtime refuses the file if it lacks that version. Versions
grow with what a kernel learned (a type, a rank, an option), and each includes those before it. So the right version is
the largest that anything about the op needs, and no larger: an older runtime may then run the file too.

What needs which version stands in the op's row (`octavo.ops`), after `GetBuiltinOperatorVersion` in LiteRT's
tflite/converter/tools/versioning/op_version.cc. Which runtime brought which version is `_RUNTIMES` below, after
`FindMinimumRuntimeVersionForOp` in runtime_version.cc of the same folder (commit 119ae633cc86).
"""

from __future__ import annotations

from collections.abc import Mapping

from octavo.graph import DType, Op, Program, Tensor
from octavo.ops import OPS, Need, Row

Release = tuple[int, int]


def lowest_version(op: Op) -> int | None:
    """The lowest kernel version that takes the op as it stands: its types, ranks, options and scales.

    None where octavo can't tell: an op without a row, of other types than octavo writes, or of a version newer than
    the row knows. Then the version of the file is the one to keep.
    """
    if op.code in ("QUANTIZE", "DEQUANTIZE"):
        return _conversion_version(op)
    row = OPS.get(op.code)
    if row is None or any(t is not None and t.extra.get("sparsity") is not None for t in op.inputs):
        return None
    base = _version_of_types(op, row)
    if base is None or op.version > max(_known(row)):
        return None
    return max([base, *(need.version for need in row.needs if _applies(need, op))])


def settle_versions(program: Program) -> None:
    """Give every op the lowest version that takes it; ops of which octavo can't tell keep theirs."""
    for op in program.ops():
        op.version = lowest_version(op) or op.version


def _known(row: Row) -> list[int]:
    """Every version that a row mentions."""
    types = (row.int8, row.int16, row.int16_bias32, row.dynamic, row.rescale_version, *row.int4.values())
    return [row.plain, *(need.version for need in row.needs), *(version for version in types if version is not None)]


def _version_of_types(op: Op, row: Row) -> int | None:
    data, weights = _data(op, row), _weights(op, row)
    if row.hybrid_axis is not None and weights is not None and op.outputs[0].dtype is DType.FLOAT32:
        return {DType.FLOAT32: row.plain, DType.INT8: row.dynamic, DType.INT4: row.int4.get(32)}.get(weights.dtype)
    bits = {DType.FLOAT32: 32, DType.INT8: 8, DType.INT16: 16}.get(data.dtype) if data is not None else None
    if bits is None:
        return None
    if weights is not None and weights.dtype is DType.INT4:
        return row.int4.get(bits)
    if bits == 32:
        return row.dynamic if weights is not None and weights.dtype is DType.INT8 else row.plain
    if bits == 16 and op.option("quantizedBiasType"):
        return row.int16_bias32
    if bits == 8 and row.rescale_version is not None and _rescale(op) >= 1:
        return row.rescale_version
    return row.version(bits)


def _data(op: Op, row: Row) -> Tensor | None:
    """The activation whose type decides."""
    if row.weights is not None:
        index = row.weights.data
        return op.inputs[index] if index < len(op.inputs) else None
    inputs = (tensor for index, tensor in enumerate(op.inputs) if row.input_role(index) in "am")
    return next((tensor for tensor in inputs if tensor is not None), None)


def _weights(op: Op, row: Row) -> Tensor | None:
    """The constant weights, any of several; a computed matrix is an activation."""
    indices = row.hybrid if row.weights is None else (row.weights.index,)
    present = [op.inputs[index] for index in indices if index < len(op.inputs)]
    return next((tensor for tensor in present if tensor is not None and tensor.is_constant), None)


def _rescale(op: Op) -> float:
    """scale(a) * scale(b) / scale(out)."""
    operands = [*op.inputs[:2], op.outputs[0]]
    a, b, out = (0.0 if t is None or t.qparams is None else float(t.qparams.scale[0]) for t in operands)
    return a * b / out if out else 0.0


def _applies(need: Need, op: Op) -> bool:
    present = [tensor for tensor in op.inputs if tensor is not None]
    rank = max((len(tensor.shape) for tensor in present), default=0)
    first = len(present[0].shape) if present else 0
    if need.rank_over is not None:
        same = len({tensor.shape for tensor in present[:2]}) == 1
        return rank > need.rank_over and not (need.broadcast and same)
    if need.rank_not is not None:
        return first != need.rank_not
    if need.operand is not None:
        return len(op.inputs) > need.operand and op.inputs[need.operand] is not None
    if need.without is not None:
        return len(op.inputs) <= need.without
    if need.grouped:
        data, kernel = op.inputs[0], op.inputs[1]
        return data is not None and kernel is not None and data.shape[-1:] != kernel.shape[-1:]
    return any((op.option(name) or 0) > most for name, most in need.options.items())


def _conversion_version(op: Op) -> int:
    source, made = op.inputs[0], op.outputs[0]
    assert source is not None
    if op.code == "QUANTIZE":
        if made.dtype is DType.INT4:
            return 4
        if made.qparams is not None and made.qparams.per_channel:
            return 3
        return 2 if made.dtype is DType.INT16 else 1
    if source.dtype is DType.INT8:
        return 5 if source.qparams is not None and source.qparams.per_channel else 2
    return {DType.FLOAT16: 3, DType.INT16: 3, DType.INT4: 6, DType.INT2: 7, DType.UINT4: 8}.get(source.dtype, 1)


def first_runtime(code: str, version: int) -> Release | None:
    """The first release of TensorFlow Lite, as (major, minor), whose kernels have this version of a builtin op.

    Releases count on from TensorFlow's after LiteRT parted from it (2.20, 2.21, ...). None where the source doesn't
    tell: a version that it doesn't list.
    """
    releases = _RUNTIMES.get(code, ())
    return releases[version - 1] if 0 < version <= len(releases) else None


def _parsed(table: str) -> Mapping[str, tuple[Release | None, ...]]:
    """One op to a line: its name, then the release of version 1, of version 2, ...; - where there is none."""
    found: dict[str, tuple[Release | None, ...]] = {}
    for line in table.strip().splitlines():
        name, *releases = line.split()
        pairs = [None if release == "-" else release.split(".") for release in releases]
        found[name] = tuple(None if pair is None else (int(pair[0]), int(pair[1])) for pair in pairs)
    return found


_RUNTIMES = _parsed("""
ABS 1.13 2.4 2.5 2.6 2.12
ADD 1.5 1.14 2.4 2.6 2.13 2.23
ADD_N 1.14
ARG_MAX 1.9 1.14 2.9
ARG_MIN 1.9 1.14 2.9
ASSIGN_VARIABLE 2.6
ATAN2 2.10
AVERAGE_POOL_2D 1.5 1.14 2.3
BATCH_MATMUL 2.3 2.3 2.4 2.5
BATCH_TO_SPACE_ND 1.6 1.14 2.3 2.12
BIDIRECTIONAL_SEQUENCE_LSTM 1.14 1.14 1.14
BIDIRECTIONAL_SEQUENCE_RNN 1.14 1.14 2.3
BITCAST 2.13
BITWISE_XOR 2.13
BROADCAST_ARGS 2.6
BROADCAST_TO - 2.5 2.5
BUCKETIZE 2.8
CALL_ONCE 2.5
CAST 1.5 2.7 2.8 2.9 2.12 2.15 2.17 2.21
CEIL 1.14
COMPLEX_ABS 2.5
CONCATENATION 1.5 1.14 2.3 2.14 2.21 2.23
CONV_2D 1.5 1.14 1.14 2.3 2.4 2.9 2.11 2.15
CONV_3D 2.5
CONV_3D_TRANSPOSE 2.6
COS 1.14 2.23
CUMSUM 2.4
DENSIFY 2.2
DEPTHWISE_CONV_2D 1.5 1.12 1.14 2.2 2.3 2.3 2.11
DEPTH_TO_SPACE 2.1 2.5
DEQUANTIZE 1.13 1.14 1.15 2.2 2.7 2.18 2.21 2.22
DILATE 2.15
DIV 1.6 2.3
DYNAMIC_UPDATE_SLICE 2.9 2.17 2.19 2.20 2.21 2.22
ELU 1.14
EMBEDDING_LOOKUP 1.13 1.14 1.14 2.18 2.21
EMBEDDING_LOOKUP_SPARSE 1.5
EQUAL 1.14 1.14 2.3 2.13 2.21
EXP 1.7 2.12
EXPAND_DIMS 1.10
FAKE_QUANT 1.5 1.10
FILL 1.13 2.3 2.5 2.12
FLOOR 1.9
FLOOR_DIV 1.14 1.14 2.13
FLOOR_MOD 1.13 2.13
FULLY_CONNECTED 1.5 1.10 1.14 1.14 2.0 2.1 2.3 2.3 2.3 2.11 2.15 2.17 2.18 2.21
GATHER 1.6 1.14 1.15 2.4 2.5 2.13 2.15
GATHER_ND 1.14 2.3 2.5 2.13 2.16
GELU 2.9 2.9
GREATER 1.14 1.14
GREATER_EQUAL 1.14 1.14 2.13
HARD_SWISH 1.15
HASHTABLE 2.5
HASHTABLE_FIND 2.5
HASHTABLE_IMPORT 2.5
HASHTABLE_LOOKUP 1.5
HASHTABLE_SIZE 2.5
IF 1.15
IMAG 2.5
L2_NORMALIZATION 1.5 1.14
L2_POOL_2D 1.5
LEAKY_RELU 1.13 2.3
LESS 1.14 1.14 2.13
LESS_EQUAL 1.14 1.14
LOCAL_RESPONSE_NORMALIZATION 1.5
LOG 1.14 2.15
LOGICAL_AND 1.11
LOGICAL_NOT 1.11
LOGICAL_OR 1.11
LOGISTIC 1.14 1.14 2.3
LOG_SOFTMAX 1.14 1.14
LSH_PROJECTION 1.5
LSTM 1.7 1.10 1.14 2.3
MATRIX_DIAG 1.14
MATRIX_SET_DIAG 1.14
MAXIMUM 1.14 1.14 2.3 2.3
MAX_POOL_2D 1.5 1.14 2.3
MEAN 1.6 1.14 2.4
MINIMUM 1.14 1.14 2.3 2.3
MIRROR_PAD 1.13 2.3 2.12
MUL 1.5 1.14 1.15 2.3 2.6 2.11 2.13 2.23
MULTINOMIAL 2.8
NEG 1.9
NON_MAX_SUPPRESSION_V4 2.1
NON_MAX_SUPPRESSION_V5 2.1
NOT_EQUAL 1.14 1.14 2.3 2.21
ONE_HOT 1.11
PACK 1.11 1.14 2.3 2.13
PAD 1.5 1.14 2.4 2.6 2.20
PADV2 1.9 1.14 2.4 2.6 2.20
POW 1.10
PRELU 1.8
QUANTIZE 1.14 1.15 2.7 2.21 2.21 2.21
RANDOM_STANDARD_NORMAL 2.8
RANDOM_UNIFORM 2.8
RANGE 1.13 2.14
RANK 1.14
READ_VARIABLE 2.6
REAL 2.5
REDUCE_ALL 2.6
REDUCE_ANY 1.11
REDUCE_MAX 1.11 1.14 2.5
REDUCE_MIN 1.11 1.14 2.5
REDUCE_PROD 1.11 2.6
REDUCE_WINDOW 2.15
RELU 1.5 2.1 2.5
RELU6 1.5 1.14 2.5
RELU_0_TO_1 2.10
RELU_N1_TO_1 1.5
RESHAPE 1.5
RESIZE_BILINEAR 1.7 1.14 2.2 2.5
RESIZE_NEAREST_NEIGHBOR 1.13 1.14 2.3 2.4
REVERSE_SEQUENCE 1.14
REVERSE_V2 1.14 2.2 2.5
RFFT2D 2.5
RIGHT_SHIFT 2.13
RNN 1.5 1.14 2.3
ROUND 1.14
RSQRT 1.10 2.5 2.15
SCATTER_ND 2.1
SEGMENT_SUM 2.2
SELECT 1.14 1.14 2.12 2.12
SELECT_V2 2.2 2.12
SHAPE 1.10
SIGN 2.11 2.12
SIN 1.9 2.23
SKIP_GRAM 1.5
SLICE 1.14 1.14 1.14 2.4 2.5 2.14 2.21 2.23
SOFTMAX 1.5 1.14 2.3 2.23
SPACE_TO_BATCH_ND 1.6 1.14 2.3 2.12
SPACE_TO_DEPTH 1.5 1.14
SPARSE_TO_DENSE 1.9 1.14 1.15
SPLIT 1.5 1.14 1.14 2.3
SPLIT_V 1.13 2.3
SQRT 1.10 2.21
SQUARE 1.12
SQUARED_DIFFERENCE 1.13 2.5
SQUEEZE 1.6 2.5
STABLEHLO_ADD 2.16
STABLEHLO_AND 2.17
STABLEHLO_CASE 2.17
STABLEHLO_CBRT 2.17
STABLEHLO_COMPOSITE 2.17
STABLEHLO_GATHER 2.16
STABLEHLO_MAXIMUM 2.16
STABLEHLO_MINIMUM 2.16
STABLEHLO_MULTIPLY 2.16
STABLEHLO_PAD 2.16
STABLEHLO_REDUCE_WINDOW 2.16
STABLEHLO_RNG_BIT_GENERATOR 2.15
STABLEHLO_SCATTER 2.15
STABLEHLO_SHIFT_LEFT 2.17
STRIDED_SLICE 1.6 1.14 2.1 2.2 2.5 2.6 2.14 2.14
SUB 1.6 1.14 2.3 2.4 2.4
SUM 1.10 1.15
SVDF 1.5 1.14 2.2 2.3
TANH 1.14 1.14 2.3
TILE 1.10 2.2 2.8
TOPK_V2 1.7 1.14 2.13
TRANSPOSE 1.6 1.14 1.15 2.3 2.4 2.12 2.14 2.22 2.23
TRANSPOSE_CONV 1.9 2.2 2.3 2.13 2.15
UNIDIRECTIONAL_SEQUENCE_LSTM 1.13 1.14 2.3 2.12
UNIDIRECTIONAL_SEQUENCE_RNN 1.14 1.14 2.3
UNIQUE 1.14
UNPACK 1.11 1.14 2.2 2.3 2.22
UNSORTED_SEGMENT_MAX 2.10
UNSORTED_SEGMENT_MIN 2.11
UNSORTED_SEGMENT_PROD 2.10
UNSORTED_SEGMENT_SUM 2.10
VAR_HANDLE 2.6
WHERE 1.14 2.8
WHILE 1.15
ZEROS_LIKE 1.12
""")
