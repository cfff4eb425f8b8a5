"""Transposed convolutions: what the converter gets wrong, put right before and after it.

StableHLO has no transposed convolution, only a convolution over an input that is dilated by the stride s, with any
padding. TRANSPOSE_CONV knows two: VALID, which keeps all (n - 1) * s + k outputs, and SAME, which crops the k - s
that are too many to n * s, the smaller half in front. litert-converter 0.5 picks VALID or SAME by the output's
size, not by the padding itself: for a 3 x 3 kernel with stride 2 and Keras's padding="same" it writes VALID with the
sizes of SAME, which doesn't load, and other paddings come out shifted by a pixel, without a word.

So `make_plain` rewrites every padding that is neither as VALID followed by a crop, and once LiteRT's ops are there
`set_padding` marks as SAME those whose sizes aren't VALID's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import ConversionError

# TRANSPOSE_CONV's operands: output shape, kernel (out, height, width, in), input (batch, height, width, channels).
_KERNEL, _INPUT = 1, 2


@dataclass(frozen=True)
class _Axis:
    """One spatial dimension: input size, kernel size with its dilation, stride, padding of the dilated input."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def crop(self) -> tuple[int, int]:
        """How many of VALID's outputs are dropped in front and behind; negative: zeros are added."""
        return self.kernel - 1 - self.before, self.kernel - 1 - self.after

    @property
    def is_valid(self) -> bool:
        # A kernel smaller than the stride leaves rows at the end without input; TRANSPOSE_CONV counts them either way.
        before, after = self.crop
        return before == 0 and (after == 0 or (self.stride - self.kernel) == -after > 0)

    @property
    def is_same(self) -> bool:
        surplus = self.kernel - self.stride
        return surplus >= 0 and self.crop == (surplus // 2, surplus - surplus // 2)


def make_plain(ir: Any, stablehlo: Any, module: Any) -> int:
    """Rewrite the transposed convolutions that are neither VALID nor SAME; returns how many there were."""
    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.name == "stablehlo.convolution" and "lhs_dilation" in op.attributes:
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    count = 0
    for op in found:
        axes = _axes(ir, stablehlo, op)
        if axes is None or all(a.is_valid for a in axes) or all(a.is_same for a in axes):
            continue
        _rewrite(ir, stablehlo, op, axes)
        count += 1
    return count


def _axes(ir: Any, stablehlo: Any, op: Any) -> list[_Axis] | None:
    """The spatial dimensions of a convolution; None if it isn't transposed, or is strided too."""
    strides = _integers(op, "lhs_dilation")
    if all(stride == 1 for stride in strides) or any(step != 1 for step in _integers(op, "window_strides")):
        return None
    dims = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    source, kernel = (ir.RankedTensorType(operand.type).shape for operand in op.operands)
    dilation = _integers(op, "rhs_dilation") or [1] * len(strides)
    padding = _integers(op, "padding") or [0] * (2 * len(strides))
    return [
        _Axis(
            source[dims.input_spatial_dimensions[i]],
            (kernel[dims.kernel_spatial_dimensions[i]] - 1) * dilation[i] + 1,
            strides[i],
            *padding[2 * i : 2 * i + 2],
        )
        for i in range(len(strides))
    ]


def _integers(op: Any, name: str) -> list[int]:
    """An attribute's integers, row by row; empty if it is left out."""
    return [int(value) for value in op.attributes[name]] if name in op.attributes else []


def _rewrite(ir: Any, stablehlo: Any, op: Any, axes: list[_Axis]) -> None:
    """All outputs that there are (VALID), then a crop, or zeros where the padding reached past them."""
    result = ir.RankedTensorType(op.results[0].type)
    spatial = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"]).output_spatial_dimensions
    full_shape = list(result.shape)
    low, high = [0] * result.rank, [0] * result.rank
    for axis, dim in zip(axes, spatial, strict=True):
        full_shape[dim] = (axis.size - 1) * axis.stride + axis.kernel
        low[dim], high[dim] = (-crop for crop in axis.crop)
    attributes = {name: op.attributes[name] for name in (named.name for named in _named(op))}
    padding = [[axis.kernel - 1, axis.kernel - 1] for axis in axes]
    with ir.InsertionPoint(op), op.location:
        attributes["padding"] = ir.DenseIntElementsAttr.get(np.array(padding, np.int64))
        full_type = ir.RankedTensorType.get(full_shape, result.element_type)
        full = ir.Operation.create("stablehlo.convolution", [full_type], list(op.operands), attributes).results[0]
        value = _crop(ir, stablehlo, full, [max(-edge, 0) for edge in low], [max(-edge, 0) for edge in high])
        value = _zeros_around(ir, stablehlo, value, [max(edge, 0) for edge in low], [max(edge, 0) for edge in high])
    op.results[0].replace_all_uses_with(value)
    op.erase()


def _crop(ir: Any, stablehlo: Any, value: Any, low: list[int], high: list[int]) -> Any:
    if not any(low + high):
        return value
    shape = ir.RankedTensorType(value.type).shape
    limits = [size - edge for size, edge in zip(shape, high, strict=True)]
    return stablehlo.slice(value, low, limits, [1] * len(shape))


def _zeros_around(ir: Any, stablehlo: Any, value: Any, low: list[int], high: list[int]) -> Any:
    if not any(low + high):
        return value
    scalar = ir.RankedTensorType.get([], ir.RankedTensorType(value.type).element_type)
    zero = stablehlo.constant(ir.DenseElementsAttr.get_splat(scalar, ir.FloatAttr.get(scalar.element_type, 0.0)))
    return stablehlo.pad(value, zero, low, high, [0] * len(low))


def set_padding(ir: Any, module: Any, where: str) -> None:
    """Mark as SAME every TRANSPOSE_CONV whose sizes are SAME's and not VALID's.

    Raises:
      ConversionError: the sizes are neither's; LiteRT would refuse the file.
    """

    def visit(op: Any) -> Any:
        if op.name == "tfl.transpose_conv" and "VALID" in str(op.attributes["padding"]) and not _fits(ir, op, "VALID"):
            if not _fits(ir, op, "SAME"):
                raise ConversionError(
                    f"{where} has a transposed convolution that LiteRT can't do ({op.location!s:.80})"
                )
            op.attributes["padding"] = ir.StringAttr.get("SAME")
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)


def _fits(ir: Any, op: Any, padding: str) -> bool:
    """LiteRT's own test (`ComputeOutSize` in tflite/kernels/padding.h): the output, convolved, has the input's size."""
    source, kernel = (ir.RankedTensorType(op.operands[index].type).shape for index in (_INPUT, _KERNEL))
    output = ir.RankedTensorType(op.results[0].type).shape
    strides = [ir.IntegerAttr(op.attributes[name]).value for name in ("stride_h", "stride_w")]
    for axis, stride in zip((1, 2), strides, strict=True):
        reach = kernel[axis] if padding == "VALID" else 1
        if (output[axis] + stride - reach) // stride != source[axis]:
            return False
    return True


def _named(op: Any) -> list[Any]:
    return [op.attributes[index] for index in range(len(op.attributes))]
