"""One-op models of every kind of product with weights, and images whose pixels hang together."""

from __future__ import annotations

import numpy as np

from graphs import Builder
from octavo.graph import Program, Tensor


def depthwise(multiplier: int = 1, **options: int) -> Program:
    b = Builder()
    x = b.input("image", (1, 8, 8, 4))
    kernel, bias = b.weights("kernel", 1, 3, 3, 4 * multiplier), b.weights("bias", 4 * multiplier)
    given = {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": multiplier, **options}
    size = -(-8 // given["strideW"]) if given["padding"] == 0 else 6
    shape = (1, size, size, 4 * multiplier)
    return b.program(b.op("DEPTHWISE_CONV_2D", [x, kernel, bias], "out", shape, "DepthwiseConv2DOptions", **given))


def convolution(groups: int = 1, **options: int) -> Program:
    b = Builder()
    x = b.input("image", (1, 8, 8, 4))
    kernel, bias = b.weights("kernel", 6, 3, 2, 4 // groups), b.weights("bias", 6)
    out = b.op("CONV_2D", [x, kernel, bias], "out", (1, *OUT[tuple(options.items())], 6), "Conv2DOptions", **options)
    return b.program(out)


SAME = (("padding", 0), ("strideW", 1), ("strideH", 1))
STRIDED = (("padding", 0), ("strideW", 2), ("strideH", 3))
VALID = (("padding", 1), ("strideW", 2), ("strideH", 1))
DILATED = (("padding", 0), ("strideW", 1), ("strideH", 1), ("dilationWFactor", 2), ("dilationHFactor", 3))
OUT = {SAME: (8, 8), STRIDED: (3, 4), VALID: (6, 4), DILATED: (8, 8)}


def dense() -> Program:
    b = Builder()
    return b.program(b.dense(b.reshape(b.input("image", (1, 8, 8, 4)), "flat", (1, 256)), "out", 5))


def transposed(padding: int, stride: int) -> Program:
    b = Builder()
    x = b.input("image", (1, 8, 8, 4))
    size = 8 * stride if padding == 0 else 8 * stride + max(3 - stride, 0)
    target = b.const("shape", np.array([1, size, size, 5], np.int32))
    inputs: list[Tensor | None] = [target, b.weights("kernel", 5, 3, 3, 4), x, b.weights("bias", 5)]
    options = {"padding": padding, "strideW": stride, "strideH": stride}
    out = b.op("TRANSPOSE_CONV", inputs, "out", (1, size, size, 5), "TransposeConvOptions", **options)
    b.graph.ops[-1].version = 3
    return b.program(out)


def product(batched: bool, adjoint: bool) -> Program:
    b = Builder()
    x = b.reshape(b.input("image", (1, 8, 8, 4)), "rows", (8, 2, 16))
    shape = (5, 16) if adjoint else (16, 5)
    kernel = b.weights("kernel", *((8,) if batched else ()), *shape)
    return b.program(b.op("BATCH_MATMUL", [x, kernel], "out", (8, 2, 5), "BatchMatMulOptions", adjY=adjoint))


PRODUCTS = {
    "conv": convolution(**dict(SAME)),
    "conv strided": convolution(**dict(STRIDED)),
    "conv valid": convolution(**dict(VALID)),
    "conv dilated": convolution(**dict(DILATED)),
    "conv grouped": convolution(2, **dict(SAME)),
    "depthwise": depthwise(),
    "depthwise multiplied": depthwise(2),
    "depthwise strided": depthwise(strideW=2, strideH=2),
    "depthwise valid": depthwise(padding=1),
    "dense": dense(),
    "transposed": transposed(0, 2),
    "transposed valid": transposed(1, 2),
    "transposed unit": transposed(0, 1),
    "matmul": product(False, False),
    "matmul adjoint": product(False, True),
    "matmul batched": product(True, False),
}


def smooth(count: int, seed: int) -> np.ndarray:
    """Images of large areas: what stands in one pixel says much about its neighbours."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 2, 2, 4)).repeat(4, axis=1).repeat(4, axis=2)
    return (coarse + rng.normal(size=(count, 8, 8, 4)) * 0.05).astype(np.float32)
