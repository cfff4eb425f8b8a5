"""Kernel versions: the lowest that types, ranks and options need, as LiteRT's own converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.graph import DType, Op, Tensor
from octavo.model import Model
from octavo.ops import OPS, claims
from octavo.qtypes import QParams
from octavo.runtime.session import Session
from octavo.versions import first_runtime, lowest_version, settle_versions

IMAGE = (1, 6, 6, 4)
RANK5 = (1, 6, 2, 3, 4)


def _convolution(shape: tuple[int, ...], **settings: Any) -> Callable[[Any], Any]:
    import jax

    kernel = jax.numpy.asarray(np.random.default_rng(0).normal(size=shape), np.float32)
    layout = ("NHWC", "HWIO", "NHWC")
    return lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout, **settings)


def _cases() -> dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]]:
    """Functions of one input, each with an op that needs more than its first version."""
    import jax.numpy as jnp
    from jax import lax

    ones = jnp.ones((3, 3, 5, 4), jnp.float32)
    return {
        "CONV_2D": (_convolution((3, 3, 4, 8)), IMAGE),
        "CONV_2D grouped": (_convolution((3, 3, 2, 8), feature_group_count=2), IMAGE),
        "DEPTHWISE_CONV_2D": (_convolution((3, 3, 1, 4), feature_group_count=4), IMAGE),
        "DEPTHWISE_CONV_2D dilated": (_convolution((3, 3, 1, 4), feature_group_count=4, rhs_dilation=(2, 2)), IMAGE),
        "FULLY_CONNECTED": (lambda x: x @ np.ones((40, 70), np.float32), (1, 40)),
        "TRANSPOSE": (lambda x: jnp.transpose(x, (0, 2, 1, 3)), IMAGE),
        "TRANSPOSE rank 5": (lambda x: jnp.transpose(x, (0, 2, 1, 4, 3)), RANK5),
        "TRANSPOSE rank 6": (lambda x: jnp.transpose(x, (0, 2, 1, 4, 3, 5)), (*RANK5, 2)),
        "SLICE rank 5": (lambda x: x[:, 1:4], RANK5),
        "STRIDED_SLICE": (lambda x: x[:, ::2], IMAGE),
        "STRIDED_SLICE rank 5": (lambda x: x[:, ::2], RANK5),
        "PAD rank 5": (lambda x: jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]), RANK5),
        "SUB broadcast": (lambda x: x - x[:, :1], RANK5),
        "MAXIMUM broadcast": (lambda x: jnp.maximum(x, x[:, :1]), RANK5),
        "BROADCAST_TO": (lambda x: jnp.broadcast_to(x, (3, *IMAGE[1:])), IMAGE),
        "TRANSPOSE_CONV bias": (
            lambda x: lax.conv_transpose(x, ones, (2, 2), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC")), IMAGE,
        ),
        "RELU": (lambda x: jnp.maximum(x, 0.0), IMAGE),
        "SOFTMAX": (lambda x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True), IMAGE),  # noqa: E501
        "REDUCE_MAX": (lambda x: x.max(1), IMAGE),
        "CONCATENATION": (lambda x: jnp.concatenate([x, x * 2.0], 1), IMAGE),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_cases()))
def test_float_ops_get_the_version_that_the_converter_writes(name: str) -> None:
    function, shape = _cases()[name]
    program = octavo.convert(function, inputs=[shape]).program
    written = [(op.code, op.version) for op in program.ops()]
    assert name.split()[0] in [code for code, _ in written]
    for op in program.ops():
        op.version = 1
    settle_versions(program)
    assert [(op.code, op.version) for op in program.ops() if op.code in OPS] == [w for w in written if w[0] in OPS]


# What GetBuiltinOperatorVersion of op_version.cc gives for integer types: case -> (int8, int16).
INTEGER = {
    "CONV_2D": (3, 8),  # 8: the int32 bias that octavo gives it
    "CONV_2D grouped": (6, 8),
    "DEPTHWISE_CONV_2D dilated": (3, 5),
    "FULLY_CONNECTED": (5, 7),  # keeps dimensions; it has no bias
    "TRANSPOSE": (2, 5),
    "TRANSPOSE rank 5": (4, 5),
    "TRANSPOSE rank 6": (6, 6),
    "SLICE rank 5": (5, 5),
    "STRIDED_SLICE": (2, 1),
    "STRIDED_SLICE rank 5": (4, 4),
    "PAD rank 5": (4, 4),
    "SUB broadcast": (3, 5),
    "MAXIMUM broadcast": (3, 4),
    "TRANSPOSE_CONV bias": (3, 5),
    "RELU": (2, 3),
    "REDUCE_MAX": (2, 3),
    "CONCATENATION": (2, 3),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", list(INTEGER))
def test_integer_ops_get_the_lowest_version(name: str, bits: int) -> None:
    function, shape = _cases()[name]
    samples = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    scheme = octavo.integer(fallback=False, activations=bits, effort="fast")  # which adds no bias
    small = octavo.quantize(octavo.convert(function, inputs=[shape]), scheme, samples)
    found = [op for op in small.program.ops() if op.code == name.split()[0]]
    assert [op.version for op in found] == [INTEGER[name][bits == 16]] * len(found)
    assert found
    Session(bytes(small), kernels="builtin")


@pytest.mark.parametrize(("scale", "version"), [(0.5, 2), (1.0, 3)])
def test_a_product_that_is_scaled_up_needs_a_newer_version(scale: float, version: int) -> None:
    inputs = [Tensor(name, DType.INT8, (1, 8), qparams=QParams.per_tensor(scale, 0)) for name in "ab"]
    out = Tensor("out", DType.INT8, (1, 8), qparams=QParams.per_tensor(1.0, 0))
    assert lowest_version(Op("MUL", list(inputs), [out], {}, "MulOptions")) == version


def test_a_dense_layer_that_leaves_its_bias_out_needs_a_newer_version() -> None:
    b = Builder()
    out = b.dense(b.input("x", (1, 6)), "out", 4)
    (op,) = b.program(out).ops()
    assert lowest_version(op) == 1
    op.inputs[2] = None
    assert lowest_version(op) == 1, "named as left out, it is still an operand"
    del op.inputs[2]
    assert lowest_version(op) == 6


def test_what_octavo_cannot_tell_keeps_its_version() -> None:
    x, y = Tensor("x", DType.FLOAT32, (1, 4)), Tensor("y", DType.FLOAT32, (1, 4))
    newer = Op("RELU", [x], [y], version=99)
    assert lowest_version(newer) is None
    assert lowest_version(Op("CUSTOM", [x], [y], custom_code="Mine", version=4)) is None
    ints = Op("RELU", [Tensor("i", DType.INT32, (1, 4))], [Tensor("o", DType.INT32, (1, 4))], version=3)
    assert lowest_version(ints) is None


def test_versions_of_the_file_that_are_too_high_are_lowered() -> None:
    b = Builder()
    program = b.program(b.unary("RELU", b.conv(b.input("x", IMAGE), "conv", 4), "y"))
    for op in program.ops():
        op.version = 3
    small = octavo.quantize(Model(program), octavo.float16(0))
    assert {op.code: op.version for op in small.program.ops()} == {"DEQUANTIZE": 3, "CONV_2D": 1}


@pytest.mark.parametrize(("row", "precision"), list(claims()), ids=lambda value: getattr(value, "name", value))
def test_each_version_of_the_table_has_a_first_runtime(row: Any, precision: str) -> None:
    found = first_runtime(row.name, getattr(row, precision))
    floor = first_runtime(row.name, row.plain)
    assert found is not None and floor is not None
    assert found >= floor


def test_first_runtime() -> None:
    assert first_runtime("CONV_2D", 8) == (2, 15)
    assert first_runtime("FULLY_CONNECTED", 12) == (2, 17)
    assert first_runtime("BROADCAST_TO", 1) is None
    assert first_runtime("CONV_2D", 99) is None and first_runtime("CUSTOM", 1) is None
