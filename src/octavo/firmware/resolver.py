"""Which method of TFLM's `MicroMutableOpResolver` registers the kernel of an op.

Source: tensorflow/lite/micro/micro_mutable_op_resolver.h of https://github.com/tensorflow/tflite-micro.
"""

from __future__ import annotations

from octavo.errors import RunError
from octavo.graph import Op, Program

# Add..., as the header spells it. Without case and underscores each is the name of a builtin in the schema.
_BUILTINS = """
    Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo
    CallOnce Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div DynamicUpdateSlice
    Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather GatherNd Greater
    GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogicalAnd LogicalNot LogicalOr
    Logistic LogSoftmax Maximum MaxPool2D Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize
    ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round
    Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square SquaredDifference
    Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv UnidirectionalSequenceLSTM Unpack VarHandle While
    ZerosLike
"""
_METHODS = {name.upper(): f"Add{name}" for name in _BUILTINS.split()}
_CUSTOM = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
}


def method_of(op: Op) -> str | None:
    """The method for one op; None if TFLM has no kernel for it."""
    return _CUSTOM.get(op.custom_code or "") if op.code == "CUSTOM" else _METHODS.get(op.code.replace("_", ""))


def methods(program: Program, name: str) -> tuple[str, ...]:
    """The calls that register exactly the ops of all subgraphs, sorted.

    Raises:
      RunError: TFLM has no kernel for an op; names each.
    """
    found = {op: method_of(op) for op in program.ops()}
    missing = [op.name for op, method in found.items() if method is None]
    if missing:
        raise RunError(
            f"{name}: TensorFlow Lite for Microcontrollers has no kernel for {', '.join(missing)}: "
            "replace them, or run the model on LiteRT"
        )
    return tuple(sorted({method for method in found.values() if method is not None}))


def resource_variables(program: Program) -> int:
    """How many resource variables the program has: each name counts once, however many handles it has."""
    handles = [op for op in program.ops() if op.code == "VAR_HANDLE"]
    return len({(op.option("container"), op.option("sharedName")) for op in handles})
