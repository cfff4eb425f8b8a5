"""Each invariant of a program is noticed when it breaks, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from octavo.errors import GraphError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor, raw_bytes
from octavo.graph.verify import expected_bytes, verify
from octavo.qtypes import QParams


def program() -> Program:
    """x (int8) -> CONV_2D (int8, per channel) -> RELU -> y, with a state that an op reads."""
    x = Tensor("x", DType.INT8, (1, 4, 4, 2), qparams=QParams.per_tensor(0.5, 3))
    scales = np.array([0.25, 0.125, 1.0], np.float32)
    weight = Tensor("weight", DType.INT8, (3, 1, 1, 2), np.zeros(6, np.uint8), QParams(scales, np.zeros(3), 0))
    bias = Tensor("bias", DType.INT32, (3,), np.zeros(12, np.uint8), QParams(scales * 0.5, np.zeros(3), 0))
    conv = Tensor("conv", DType.INT8, (1, 4, 4, 3), qparams=QParams.per_tensor(0.1, -128))
    y = Tensor("y", DType.INT8, (1, 4, 4, 3), qparams=QParams.per_tensor(0.1, -128))
    state = Tensor("state", DType.FLOAT32, (2,), is_variable=True)
    nothing = Tensor("nothing", DType.FLOAT32, (0, 2))
    read = Tensor("read", DType.FLOAT32, (2,))
    ops = [
        Op("CONV_2D", [x, weight, bias], [conv]),
        Op("RELU", [conv], [y]),
        Op("CUSTOM", [state, nothing, None], [read], custom_code="Read"),
    ]
    graph = Graph("main", [x, weight, bias, conv, y, state, nothing, read], [x], [y], ops)
    return Program([graph], [Signature("s", [("x", x)], [("y", y)], graph)])


def tensor(program: Program, name: str) -> Tensor:
    return next(tensor for tensor in program.tensors() if tensor.name == name)


def add_stranger(p: Program) -> None:
    p.main.ops[1].inputs.append(Tensor("stranger", DType.INT8, (1,), np.zeros(1, np.uint8)))


def add_stranger_scales(p: Program) -> None:
    tensor(p, "weight").extra["scales"] = Tensor("block scales", DType.FLOAT16, (1,))


def list_twice(p: Program) -> None:
    p.main.tensors.append(p.main.tensors[0])


def make_twice(p: Program) -> None:
    p.main.ops.append(Op("RELU", [tensor(p, "x")], [tensor(p, "y")]))


def reverse(p: Program) -> None:
    p.main.ops.reverse()


def feed_itself(p: Program) -> None:
    p.main.ops[1].inputs = [tensor(p, "y")]


def make_constant(p: Program) -> None:
    p.main.ops[1].outputs.append(p.main.add_tensor(Tensor("fixed", DType.INT8, (1,), np.zeros(1, np.uint8))))


def constant_input(p: Program) -> None:
    p.main.inputs.append(tensor(p, "weight"))


def no_producer(p: Program) -> None:
    del p.main.ops[0]


def output_from_nowhere(p: Program) -> None:
    p.main.outputs.append(p.main.add_tensor(Tensor("ghost", DType.INT8, (1,))))


def short_constant(p: Program) -> None:
    tensor(p, "bias").data = np.zeros(11, np.uint8)


def scales(values: list[float], axis: int | None = None, zero_points: list[int] | None = None):
    def change(p: Program) -> None:
        tensor(p, "y").qparams = QParams(np.array(values), np.array(zero_points or [0] * len(values)), axis)

    return change


def bias_scale(p: Program) -> None:
    tensor(p, "bias").qparams = QParams(np.array([0.125, 0.0625, 0.4]), np.zeros(3), 0)


def bias_scale_count(p: Program) -> None:
    tensor(p, "bias").qparams = QParams.per_tensor(0.125)


def foreign_signature(p: Program) -> None:
    p.signatures[0].inputs.append(("z", Tensor("z", DType.INT8, (1,))))


def foreign_signature_graph(p: Program) -> None:
    p.signatures[0] = Signature("s", [], [], Graph())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_stranger, "RELU 'y' mentions tensor 'stranger'"),
        (add_stranger_scales, "the quantization of 'weight' mentions tensor 'block scales'"),
        (list_twice, "tensor 'x' is listed twice"),
        (make_twice, "tensor 'y' is made by RELU 'y' and again by RELU 'y'"),
        (reverse, "op RELU 'y' reads tensor 'conv' before it is made"),
        (feed_itself, "op RELU 'y' reads tensor 'y' before it is made"),
        (make_constant, "op RELU 'y' makes tensor 'fixed', which is a constant"),
        (constant_input, "graph input 'weight' is a constant"),
        (no_producer, "nothing makes tensor 'conv', which is needed by op RELU 'y'"),
        (output_from_nowhere, "nothing makes tensor 'ghost', which is needed by the graph's outputs"),
        (short_constant, r"constant 'bias' has 11 bytes, but int32\[3\] takes 12"),
        (scales([0.0]), "'y' has a scale that isn't a positive normal number"),
        (scales([-1.0]), "positive normal"),
        (scales([1e-40]), "positive normal"),
        (scales([np.inf]), "positive normal"),
        (scales([np.nan]), "positive normal"),
        (scales([1.0, 1.0]), r"'y' has 2 scale\(s\) per tensor"),
        (scales([1.0, 1.0], axis=3), r"'y' has 2 scale\(s\) for 3 channels"),
        (scales([1.0, 1.0], axis=4), "along axis 4"),
        (scales([1.0], zero_points=[1, 2]), r"1 scale\(s\) but 2 zero point\(s\)"),
        (scales([1.0], zero_points=[128]), "zero point outside of int8"),
        (scales([1.0], zero_points=[-129]), "zero point outside of int8"),
        (bias_scale, "the scale of bias 'bias' isn't input scale"),
        (bias_scale_count, r"bias 'bias' has 1 scale\(s\), the weight 3"),
        (foreign_signature, "signature 's': 'z' is tensor 'z', which isn't in its graph"),
        (foreign_signature_graph, "signature 's' belongs to a graph that isn't in the program"),
    ],
)
def test_broken(change: Callable[[Program], None], message: str):
    broken = program()
    change(broken)
    with pytest.raises(GraphError, match=message) as caught:
        verify(broken)
    assert str(caught.value).startswith("program: 1 broken invariant(s): ")
    assert "\n" not in str(caught.value)


def test_sound():
    verify(program())
    verify(program().clone())


def test_per_channel_on_the_right_axis():
    sound = program()
    scales([1.0, 2.0, 3.0], axis=3)(sound)
    verify(sound)


def test_all_problems_are_listed():
    broken = program()
    broken.source = "model.tflite"
    short_constant(broken)
    constant_input(broken)
    with pytest.raises(GraphError, match=r"model\.tflite: 2 broken invariant\(s\): .*'weight' is a constant.*11 bytes"):
        verify(broken)


def test_a_long_list_is_cut():
    tensors = [Tensor(f"t{n}", DType.INT8, (2,), np.zeros(1, np.uint8)) for n in range(50)]
    with pytest.raises(GraphError, match=r"50 broken invariant.*; and 30 more$"):
        verify(Program([Graph("", tensors)]))


def test_no_graph():
    with pytest.raises(GraphError, match="no graph"):
        verify(Program([]))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        (DType.FLOAT32, (2, 3), 24),
        (DType.BOOL, (3,), 3),
        (DType.COMPLEX128, (), 16),
        (DType.INT4, (3,), 2),
        (DType.UINT4, (4,), 2),
        (DType.INT2, (5,), 2),
        (DType.BFLOAT16, (3,), 6),
        (DType.FLOAT8_E5M2, (3,), 3),
        (DType.STRING, (3,), None),
        (DType.VARIANT, (), None),
    ],
)
def test_expected_bytes(dtype: DType, shape: tuple[int, ...], size: int | None):
    assert expected_bytes(Tensor("t", dtype, shape)) == size


def test_every_type_has_a_size():
    for dtype in DType:
        size = expected_bytes(Tensor("t", dtype, (8,)))
        assert size is None or size > 0


def test_sparse_constants_have_their_own_size():
    sparse = Tensor("t", DType.FLOAT32, (100,), raw_bytes(np.ones(3, np.float32)), extra={"sparsity": object()})
    verify(Program([Graph("", [sparse])]))


@pytest.mark.parametrize(("dtype", "zero_point", "sound"), [
    (DType.INT4, 7, True), (DType.INT4, 8, False), (DType.UINT4, 15, True), (DType.INT2, -2, True),
    (DType.INT2, 2, False), (DType.UINT8, 255, True), (DType.UINT8, -1, False), (DType.FLOAT32, 1000, True),
])  # fmt: skip
def test_zero_point_limits(dtype: DType, zero_point: int, sound: bool):
    quantized = Program([Graph("", [Tensor("t", dtype, (1,), qparams=QParams.per_tensor(1.0, zero_point))])])
    if sound:
        verify(quantized)
    else:
        with pytest.raises(GraphError, match="zero point outside"):
            verify(quantized)
