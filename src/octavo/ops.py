"""THE table: what LiteRT's integer kernels take, one row per op.

Everything that octavo knows about an op stands in its row: which operands quantize, how their scales are tied, where
weights and bias sit, which kernel version each precision needs, and a sample from which the tests build a one-op
model, quantize it, and hold it against the float kernel on XNNPACK and on the builtin kernels. To teach octavo a new
op, add its row.

Operands are spelled one letter each, the last one repeating when a `*` follows:

    a  activation: int8 or int16, per tensor (a constant here quantizes like an activation)
    w  weights: a constant, symmetric; see `Weights`
    m  matrix: symmetric weights if it is a constant, an activation if it is computed
    b  bias: a constant, int32 or int64 at scale(input) * scale(weights)
    .  left as it is: indices, shapes, conditions

Sources: LiteRT's quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec); versions as
in LiteRT's tflite/converter/tools/versioning/op_version.cc; the rest was tried on the runtime (tests/test_ops.py).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Tie(enum.Enum):
    """How the scales of an op's activations hang together."""

    FREE = "free"  # each has its own; the kernel rescales
    SAME = "same"  # all inputs and outputs share one: the kernel copies or compares codes
    FIXED = "fixed"  # the output's is given by the kernel
    INPUTS = "inputs"  # all inputs share one; the output isn't quantized (comparisons)


@dataclass(frozen=True)
class Weights:
    """Where an op keeps its weights.

    Attributes:
      index: operand number of the weights.
      axis: channel dimension that carries one scale each ("quantized_dimension"); None: one scale for all.
      data: operand number of the activation that they multiply.
      bias: operand number of the bias, None if the op has none.
      bias_required: the integer kernel doesn't load without a bias; octavo adds zeros.
    """

    index: int
    axis: int | None
    data: int = 0
    bias: int | None = None
    bias_required: bool = False


@dataclass(frozen=True)
class Act:
    """Sample operand: a random activation of `shape`, uniform in [low, high]."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 3.0


@dataclass(frozen=True)
class Const:
    """Sample operand: a random float constant of `shape`, uniform in [low, high]."""

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Ints:
    """Sample operand: integers (or bools), a constant of the model or (`constant=False`) fed to it."""

    values: Any
    dtype: str = "int32"
    constant: bool = True


@dataclass(frozen=True)
class Sample:
    """A one-op model for the generated test.

    Attributes:
      operands: one per input of the op.
      options: fields of the op's options that aren't at their default.
      results: dtype of each output.
    """

    operands: tuple[Act | Const | Ints | None, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[str, ...] = ("float32",)


@dataclass(frozen=True)
class Need:
    """What needs a newer kernel version, whatever the types; one condition each.

    Attributes:
      version: the first kernel version that takes it.
      rank_over: an operand has more dimensions than this;
      broadcast: and the first two operands differ in shape.
      rank_not: the first operand has another number of dimensions.
      operand: operand number that is given.
      without: operand number that is left out at the end.
      grouped: fewer channels in the weights than in the data.
      options: one of these options is greater than here.
    """

    version: int
    rank_over: int | None = None
    broadcast: bool = False
    rank_not: int | None = None
    operand: int | None = None
    without: int | None = None
    grouped: bool = False
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One op.

    Attributes:
      name: the builtin's name in the schema.
      inputs, outputs: operand letters (see above).
      sample: what the generated test builds; None for ops that are never quantized, and for those with state.
      options_type: options table of the op in the schema, None if it has none.
      tie: how scales hang together.
      fixed: for Tie.FIXED: activation bits -> (scale, zero point) of the output.
      weights: where the weights are, None if there are none.
      plain: kernel version for float.
      int8, int16: kernel version for activations of that width; None: no right kernel.
      int16_bias32: kernel version for int16 activations with an int32 bias; None: the bias must be int64.
      dynamic: kernel version for float activations with int8 weights, quantized at run time.
      int4: bits of the activations (32: float) -> kernel version that takes weights stored as int4.
      hybrid: operands that are weights, where there are several: the dynamic kernel wants all that are given as int8,
        per tensor.
      hybrid_axis: channel dimension of those, None: one scale for all.
      blocks: whether the kernel for float activations takes int4 weights with a scale for each block of features.
      dynamic_options: options that the dynamic kernel needs.
      int16_options: options that the int16 kernel needs.
      needs: what else needs a newer version.
      rescale_version: version from which the int8 kernel takes scale(a) * scale(b) / scale(out) >= 1.
      finest: activation bits -> scale(output) / the larger input scale that some kernel doesn't go below: it takes
        2 * the larger input scale / (2^shift * output scale) below 1 (add.cc, sub.cc), or input scale / (128 * output
        scale) (activations.cc, HardSwishPrepare). Empty where there is no such bound.
      slow_int8: the int8 kernel takes several times as long as XNNPACK's float one and two conversions (bench-zoo).
      steps: largest error that the test accepts, in steps of the output.
      int16_steps: the same for int16, where it differs.
      because: why a precision is missing, in words, where "no kernel" isn't the whole reason.
    """

    name: str
    inputs: str
    outputs: str = "a"
    sample: Sample | None = None
    options_type: str | None = None
    tie: Tie = Tie.FREE
    fixed: Mapping[int, tuple[float, int]] = field(default_factory=dict)
    weights: Weights | None = None
    plain: int = 1
    int8: int | None = None
    int16: int | None = None
    int16_bias32: int | None = None
    dynamic: int | None = None
    int4: Mapping[int, int] = field(default_factory=dict)
    hybrid: tuple[int, ...] = ()
    hybrid_axis: int | None = None
    blocks: bool = False
    dynamic_options: Mapping[str, Any] = field(default_factory=dict)
    int16_options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    rescale_version: int | None = None
    finest: Mapping[int, float] = field(default_factory=dict)
    slow_int8: bool = False
    steps: float = 1.5
    int16_steps: float | None = None
    because: Mapping[str, str] = field(default_factory=dict)

    def input_role(self, index: int) -> str:
        return _letter(self.inputs, index)

    def output_role(self, index: int) -> str:
        return _letter(self.outputs, index)

    def version(self, bits: int) -> int | None:
        """Kernel version for activations of `bits`, None if there is no right kernel."""
        return {8: self.int8, 16: self.int16}.get(bits)


def _letter(letters: str, index: int) -> str:
    plain = letters.removesuffix("*")
    if index < len(plain):
        return plain[index]
    return plain[-1] if letters.endswith("*") else "."


# ---------------------------------------------------------------- the samples' usual operands

_IMAGE = Act((1, 6, 6, 4))
_ROWS = Act((2, 12))
_POSITIVE = Act((2, 12), 0.25, 4.0)
_FINEST_SUM = {8: 2 / 2**20, 16: 2 / 2**15}
_BROADCAST = (Need(3, rank_over=4, broadcast=True),)
_UNIT = {8: (1 / 256, -128), 16: (1 / 32768, 0)}


def _unary(
    name: str, int8: int | None = None, int16: int | None = None, operand: Act = _ROWS, options_type: str | None = None,
    options: Mapping[str, Any] | None = None, **facts: Any,
) -> Row:  # fmt: skip
    """An op with one activation in and one out."""
    sample = Sample((operand,), options or {})
    return Row(name, "a", sample=sample, options_type=options_type, int8=int8, int16=int16, **facts)


def _binary(name: str, options_type: str, int8: int | None, int16: int | None, **facts: Any) -> Row:
    """An op with two activations in (one may be a constant) and one out."""
    sample = Sample((_ROWS, Act((2, 12), -0.5, 1.5)))
    return Row(name, "aa", sample=sample, options_type=options_type, int8=int8, int16=int16, **facts)


def _compare(name: str, options_type: str, int8: int, int16: int) -> Row:
    """Two activations in, booleans out. int16 kernels compare raw codes, so the inputs are always tied."""
    sample = Sample((_ROWS, Act((2, 12), -2.0, 3.0)), results=("bool",))
    return Row(name, "aa", ".", sample, options_type, Tie.INPUTS, int8=int8, int16=int16)


def _reduce(name: str, int8: int | None, int16: int | None, operand: Act = _IMAGE, **facts: Any) -> Row:
    """An op that reduces over axes given by its second input."""
    sample = Sample((operand, Ints([1, 2])), {"keepDims": True})
    return Row(name, "a.", sample=sample, options_type="ReducerOptions", int8=int8, int16=int16, **facts)


def _moves(
    name: str, operands: tuple[Act | Const | Ints | None, ...], int8: int | None = 1, int16: int | None = 1,
    options_type: str | None = None, options: Mapping[str, Any] | None = None, inputs: str | None = None,
    results: tuple[str, ...] = ("float32",), **facts: Any,
) -> Row:  # fmt: skip
    """An op that copies, picks or compares values: one scale for all its activations, and no rounding at all."""
    letters = inputs or "".join("." if isinstance(operand, Ints) else "a" for operand in operands)
    sample = Sample(operands, options or {}, results)
    facts.setdefault("steps", 0.5)
    return Row(name, letters, sample=sample, options_type=options_type, tie=Tie.SAME, int8=int8, int16=int16, **facts)


def _float_only(name: str, why: str, inputs: str = "a*", outputs: str = "a*") -> Row:
    """An op whose integer kernels are missing or wrong."""
    return Row(name, inputs, outputs, because={"int8": why, "int16": why})


def _recurrent(
    name: str, options_type: str, hybrid: tuple[int, ...], dynamic: int, int8: int | None = None, **facts: Any
) -> Row:
    """An op with state, whose weights quantize together or not at all."""
    why = {"int8": "octavo doesn't make this recurrent op integer", "int16": "octavo makes recurrent ops int8 only"}
    dynamic_options = {"asymmetricQuantizeInputs": True}
    return Row(name, "a", options_type=options_type, hybrid=hybrid, dynamic=dynamic, dynamic_options=dynamic_options,
               int8=int8, because=why, **facts)  # fmt: skip


# Else three scales that are nearly powers of two get a kernel that takes few of them (add.cc, sub.cc).
_ANY_SCALE = {"potScaleInt16": False}
_NO_KERNEL = "LiteRT has no integer kernel for it"

_ROWS_BY_KIND: tuple[tuple[Row, ...], ...] = (
    # ------------------------------------------------------------ weights
    (
        Row(
            "CONV_2D", "awb", options_type="Conv2DOptions",
            sample=Sample(
                (_IMAGE, Const((5, 3, 3, 4)), Const((5,))),
                {"padding": 0, "strideW": 1, "strideH": 1, "fusedActivationFunction": 1},
            ),
            weights=Weights(1, axis=0, bias=2, bias_required=True),
            int8=3, int16=4, int16_bias32=8, dynamic=5, int4={8: 7, 32: 5}, needs=(Need(6, grouped=True),),
        ),
        Row(
            "DEPTHWISE_CONV_2D", "awb", options_type="DepthwiseConv2DOptions",
            sample=Sample(
                (_IMAGE, Const((1, 3, 3, 4)), Const((4,))),
                {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": 1},
            ),
            weights=Weights(1, axis=3, bias=2, bias_required=True),
            int8=3, int16=5, dynamic=6, int4={8: 7},
            needs=(Need(2, options={"dilationWFactor": 1, "dilationHFactor": 1}),),
        ),
        Row(
            "FULLY_CONNECTED", "awb", options_type="FullyConnectedOptions",
            sample=Sample((_ROWS, Const((7, 12)), Const((7,)))),
            weights=Weights(1, axis=0, bias=2),
            int8=4, int16=7, int16_bias32=11, dynamic=12, int4={8: 10, 32: 12}, blocks=True,
            needs=(Need(6, without=2), Need(5, options={"keepNumDims": 0})),
            dynamic_options={"asymmetricQuantizeInputs": True},
        ),
        Row(
            "TRANSPOSE_CONV", ".wab", options_type="TransposeConvOptions",
            sample=Sample(
                (Ints([1, 12, 12, 5]), Const((5, 3, 3, 4)), _IMAGE, Const((5,))),
                {"padding": 0, "strideW": 2, "strideH": 2},
            ),
            weights=Weights(1, axis=0, data=2, bias=3),
            int8=2, int16=2, int16_bias32=5,
            needs=(Need(3, operand=3), Need(4, options={"fusedActivationFunction": 0})),
            because={"dynamic": "only XNNPACK runs it with float activations and int8 weights"},
        ),
        Row(
            "BATCH_MATMUL", "am", options_type="BatchMatMulOptions",
            sample=Sample((Act((2, 3, 8)), Const((2, 8, 5)))),
            weights=Weights(1, axis=None),
            int8=2, int16=3, dynamic=4,
            dynamic_options={"asymmetricQuantizeInputs": True},
        ),
        Row(
            "EMBEDDING_LOOKUP", ".a", sample=Sample((Ints([3, 0, 5], constant=False), Const((8, 6)))),
            tie=Tie.SAME, int8=1, steps=0.5, dynamic=4, int4={32: 4}, hybrid=(1,), hybrid_axis=0,
            blocks=True,
        ),
    ),
    # ------------------------------------------------------------ arithmetic: scales are free
    (
        _binary("ADD", "AddOptions", 2, 3, finest=_FINEST_SUM, int16_options=_ANY_SCALE),
        _binary("SUB", "SubOptions", 2, 5, needs=_BROADCAST, finest=_FINEST_SUM, int16_options=_ANY_SCALE),
        _binary("MUL", "MulOptions", 2, 4, rescale_version=3),
        _binary("SQUARED_DIFFERENCE", "SquaredDifferenceOptions", 2, None),
        _reduce("MEAN", 2, 3),
        _reduce("SUM", 2, 1),
        _reduce("REDUCE_PROD", 2, 2, Act((1, 2, 2, 4), 0.5, 1.5)),
        _unary("RELU", 2, 3),
        _unary("RELU6", 2, 3, Act((2, 12), -2.0, 8.0)),
        _unary("RELU_N1_TO_1", 1, None),
        _unary("RELU_0_TO_1", 1, None),
        _unary("LEAKY_RELU", 1, 2, options_type="LeakyReluOptions", options={"alpha": 0.125}),
        Row("PRELU", "aa", sample=Sample((_IMAGE, Const((1, 1, 4), 0.05, 0.4))), int8=1, slow_int8=True,
            because={"int16": "LiteRT's int16 kernel is wrong"}),
        _unary("ELU", 1, None),
        _unary("ABS", 2, 3, options_type="AbsOptions"),
        _unary("GELU", 2, None, options_type="GeluOptions"),
        _unary("HARD_SWISH", 1, None, options_type="HardSwishOptions", finest={8: 1 / 128}),
        _unary("EXP", 2, None, Act((2, 12), -3.0, 1.0), "ExpOptions",
               because={"int16": "LiteRT's int16 kernel is off by dozens of steps"}),
        _unary("LOG", 2, None, _POSITIVE, because={"int16": "LiteRT's int16 kernel is wrong"}),
        _unary("SQRT", 2, 2, _POSITIVE),
        _unary("RSQRT", 2, None, _POSITIVE, because={"int16": "LiteRT's int16 kernel is wrong"}),
    ),
    # ------------------------------------------------------------ the kernel gives the output's scale
    (
        _unary("SOFTMAX", 2, 3, options_type="SoftmaxOptions", options={"beta": 1.0}, tie=Tie.FIXED, fixed=_UNIT),
        _unary("LOGISTIC", 2, 3, tie=Tie.FIXED, fixed=_UNIT),
        _unary("TANH", 2, 3, tie=Tie.FIXED, fixed={8: (1 / 128, 0), 16: (1 / 32768, 0)}, int16_steps=3.0),
        _unary("LOG_SOFTMAX", 2, None, options_type="LogSoftmaxOptions", tie=Tie.FIXED, fixed={8: (16 / 256, 127)}),
        _unary("L2_NORMALIZATION", 2, None, options_type="L2NormOptions", tie=Tie.FIXED, fixed={8: (1 / 128, 0)}),
    ),
    # ------------------------------------------------------------ one scale for all
    (
        Row("CONCATENATION", "a*", sample=Sample((_IMAGE, Act((1, 6, 6, 2), -1.0, 5.0)), {"axis": 3}),
            options_type="ConcatenationOptions", tie=Tie.SAME, int8=2, int16=3, steps=0.5),
        Row("PACK", "a*", sample=Sample((_ROWS, Act((2, 12), -1.0, 5.0)), {"valuesCount": 2, "axis": 0}),
            options_type="PackOptions", tie=Tie.SAME, int8=2, int16=3, steps=0.5),
        Row("UNPACK", "a", "a*", Sample((_ROWS,), {"num": 2, "axis": 0}, ("float32", "float32")),
            "UnpackOptions", Tie.SAME, int8=2, int16=4, steps=0.5),
        Row("SPLIT", ".a", "a*", Sample((Ints(1), _ROWS), {"numSplits": 2}, ("float32", "float32")),
            "SplitOptions", Tie.SAME, int8=2, int16=4, steps=0.5),
        Row("SPLIT_V", "a..", "a*",
            Sample((_ROWS, Ints([5, 7]), Ints(1)), {"numSplits": 2}, ("float32", "float32")),
            "SplitVOptions", Tie.SAME, int8=2, int16=1, steps=0.5),
        _moves("PAD", (_IMAGE, Ints([[0, 0], [1, 1], [2, 1], [0, 0]])), 2, 3, "PadOptions",
               needs=(Need(4, rank_over=4),)),
        _moves("PADV2", (_IMAGE, Ints([[0, 0], [1, 1], [2, 1], [0, 0]]), Const((), 0.5, 0.5)), 2, 3, "PadV2Options",
               needs=(Need(4, rank_over=4),)),
        _moves("MIRROR_PAD", (_IMAGE, Ints([[0, 0], [1, 1], [2, 1], [0, 0]])), 2, 3, "MirrorPadOptions", {"mode": 0}),
        _moves("MAX_POOL_2D", (_IMAGE,), 2, 3, "Pool2DOptions",
               {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}),
        _moves("AVERAGE_POOL_2D", (_IMAGE,), 2, 3, "Pool2DOptions",
               {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}, steps=1.5),
        _moves("RESHAPE", (_IMAGE, Ints([1, 144])), 1, 1, "ReshapeOptions"),
        _moves("SQUEEZE", (Act((1, 1, 12)),), 1, 1, "SqueezeOptions", {"squeezeDims": [1]}),
        _moves("EXPAND_DIMS", (_ROWS, Ints(0)), 1, 1, "ExpandDimsOptions"),
        _moves("TRANSPOSE", (_IMAGE, Ints([0, 3, 1, 2])), 2, 5, "TransposeOptions",
               needs=(Need(4, rank_over=4), Need(6, rank_over=5), Need(8, rank_over=6))),
        _moves("SLICE", (_IMAGE, Ints([0, 1, 1, 0]), Ints([1, 3, 4, 4])), 2, 4, "SliceOptions",
               needs=(Need(5, rank_over=4),)),
        _moves("STRIDED_SLICE", (_IMAGE, Ints([0, 0, 1, 0]), Ints([1, 6, 6, 4]), Ints([1, 2, 1, 1])), 2, 1,
               "StridedSliceOptions",
               needs=(Need(4, rank_over=4), Need(6, options={"ellipsisMask": 0, "newAxisMask": 0}),
                      Need(8, options={"offset": 0}))),
        _moves("GATHER", (_ROWS, Ints([3, 0, 5])), 2, 4, "GatherOptions", {"axis": 1},
               needs=(Need(5, options={"batchDims": 0}),)),
        _moves("GATHER_ND", (_ROWS, Ints([[1, 3], [0, 5]])), 1, 3, "GatherNdOptions"),
        _moves("TILE", (_ROWS, Ints([2, 1])), 3, None, "TileOptions"),
        _moves("BROADCAST_TO", (Act((1, 12)), Ints([3, 12])), 3, 3, "BroadcastToOptions", plain=2),
        _moves("REVERSE_V2", (_ROWS, Ints([1])), 3, None, "ReverseV2Options"),
        _moves("SPACE_TO_DEPTH", (_IMAGE,), 2, None, "SpaceToDepthOptions", {"blockSize": 2}),
        _moves("DEPTH_TO_SPACE", (_IMAGE,), 2, None, "DepthToSpaceOptions", {"blockSize": 2}),
        _moves("SPACE_TO_BATCH_ND", (_IMAGE, Ints([2, 2]), Ints([[0, 0], [0, 0]])), 2, 4, "SpaceToBatchNDOptions",
               needs=(Need(3, rank_not=4),)),
        _moves("BATCH_TO_SPACE_ND", (Act((4, 3, 3, 2)), Ints([2, 2]), Ints([[0, 0], [0, 0]])), 2, 4,
               "BatchToSpaceNDOptions", needs=(Need(3, rank_not=4),)),
        _moves("RESIZE_BILINEAR", (_IMAGE, Ints([12, 12])), 2, 4, "ResizeBilinearOptions", steps=1.5,
               needs=(Need(3, options={"halfPixelCenters": 0}),)),
        _moves("RESIZE_NEAREST_NEIGHBOR", (_IMAGE, Ints([12, 12])), 2, 4, "ResizeNearestNeighborOptions",
               needs=(Need(3, options={"halfPixelCenters": 0, "alignCorners": 0}),)),
        _moves("MAXIMUM", (_ROWS, Act((2, 12), -0.5, 1.5)), 2, 4, "MaximumMinimumOptions", needs=_BROADCAST),
        _moves("MINIMUM", (_ROWS, Act((2, 12), -0.5, 1.5)), 2, 4, "MaximumMinimumOptions", needs=_BROADCAST),
        _moves("REDUCE_MAX", (_IMAGE, Ints([1, 2])), 2, 3, "ReducerOptions", {"keepDims": True}),
        _moves("REDUCE_MIN", (_IMAGE, Ints([1, 2])), 2, 3, "ReducerOptions", {"keepDims": True}),
        _moves("FILL", (Ints([2, 3]), Act(())), 3, 3, "FillOptions"),
        _moves("SELECT", (Ints([[True] * 6 + [False] * 6] * 2, "bool"), _ROWS, Act((2, 12), -0.5, 1.5)), 1, 1,
               "SelectOptions", needs=(Need(3, rank_over=4),)),
        _moves("SELECT_V2", (Ints([[True] * 6 + [False] * 6] * 2, "bool"), _ROWS, Act((2, 12), -0.5, 1.5)), 1, 1,
               "SelectV2Options"),
        _moves("DYNAMIC_UPDATE_SLICE", (_ROWS, Act((1, 3)), Ints([1, 4])), 1, 4),
        _moves("ONE_HOT", (Ints([0, 2, 1], constant=False), Ints(4), Const((), 1.0, 1.0), Const((), 0.0, 0.0)), 1, None,
               "OneHotOptions", {"axis": -1}),
        Row("TOPK_V2", "a.", "a.", Sample((_ROWS, Ints(3)), {}, ("float32", "int32")), "TopKV2Options",
            Tie.SAME, int8=2, int16=3, steps=0.5),
    ),
    # ------------------------------------------------------------ what comes out isn't quantized
    (
        _compare("EQUAL", "EqualOptions", 2, 5),
        _compare("NOT_EQUAL", "NotEqualOptions", 2, 4),
        _compare("GREATER", "GreaterOptions", 2, 1),
        _compare("GREATER_EQUAL", "GreaterEqualOptions", 2, 3),
        _compare("LESS", "LessOptions", 2, 3),
        _compare("LESS_EQUAL", "LessEqualOptions", 2, 1),
        Row("SHAPE", "a", ".", Sample((_ROWS,), {"outType": 2}, ("int32",)), "ShapeOptions", int8=1, int16=1),
        Row("ARG_MAX", "a.", ".", Sample((_ROWS, Ints(1)), {"outputType": 2}, ("int32",)), "ArgMaxOptions", int8=2),
        Row("ARG_MIN", "a.", ".", Sample((_ROWS, Ints(1)), {"outputType": 2}, ("int32",)), "ArgMinOptions", int8=2),
    ),
    # ------------------------------------------------------------ recurrent: `octavo.recurrent` gives the other formats
    (
        _recurrent("UNIDIRECTIONAL_SEQUENCE_LSTM", "UnidirectionalSequenceLSTMOptions", (*range(1, 12), 16), 3, int8=1,
                   needs=(Need(4, options={"diagonalRecurrentTensors": 0}),)),
        _recurrent("SVDF", "SVDFOptions", (1, 2), 4, int8=3),
        _recurrent("LSTM", "LSTMOptions", (*range(1, 12), 16), 4, needs=(Need(2, options={"kernelType": 0}),)),
        _recurrent("BIDIRECTIONAL_SEQUENCE_LSTM", "BidirectionalSequenceLSTMOptions",
                   (*range(1, 12), 16, *range(18, 29), 33, *range(40, 48)), 3),
        _recurrent("RNN", "RNNOptions", (1, 2), 3),
        _recurrent("UNIDIRECTIONAL_SEQUENCE_RNN", "SequenceRNNOptions", (1, 2), 3),
        _recurrent("BIDIRECTIONAL_SEQUENCE_RNN", "BidirectionalSequenceRNNOptions", (1, 2, 5, 6, 10, 11), 3),
    ),
    # ------------------------------------------------------------ state: `octavo.variables` gives the scale
    (
        Row("READ_VARIABLE", ".", options_type="ReadVariableOptions", int8=1, int16=1),
        Row("ASSIGN_VARIABLE", ".a", "", options_type="AssignVariableOptions", int8=1, int16=1),
    ),
    # ------------------------------------------------------------ left in float, and why
    (
        *(
            _float_only(name, _NO_KERNEL)
            for name in (
                "SQUARE", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "SIGN", "POW", "ADD_N", "L2_POOL_2D",
                "LOCAL_RESPONSE_NORMALIZATION", "CUMSUM", "REVERSE_SEQUENCE",
            )
        ),
        _float_only("DIV", "LiteRT's integer kernel is far off where the numerator is tiny"),
        _float_only("FLOOR_DIV", "LiteRT's integer kernel divides raw codes"),
        _float_only("FLOOR_MOD", "LiteRT's integer kernel divides raw codes"),
        _float_only("NEG", "LiteRT's integer kernel ignores the zero point"),
        *(
            _float_only(name, "it hands floats to its subgraphs")
            for name in ("IF", "WHILE", "CALL")
        ),
        _float_only("SCATTER_ND", "LiteRT's integer kernel writes code 0 where the value 0 is meant"),
    ),
)  # fmt: skip

OPS: Mapping[str, Row] = {row.name: row for kind in _ROWS_BY_KIND for row in kind}


def claims() -> Iterator[tuple[Row, str]]:
    """Every (row, precision) that the table promises of an op by itself: "int8", "int16", "dynamic"."""
    for row in (row for row in OPS.values() if row.sample is not None):
        for precision in ("int8", "int16", "dynamic"):
            if getattr(row, precision) is not None:
                yield row, precision
