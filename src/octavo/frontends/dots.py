"""Dense layers over (..., 1, features): what the converter fails at, in a form that it takes.

litert-converter 0.5 makes a FULLY_CONNECTED of a matrix product (..., n, c) x (c, units), but where n is 1 and more
than one dimension stands before it, it makes a BATCH_MATMUL of the wrong rank and stops; reshapes around it are merged
into it. As a convolution by a kernel of 1 x 1 the product is the same.
"""

from __future__ import annotations

import math
from typing import Any


def to_convolutions(ir: Any, stablehlo: Any, module: Any) -> int:
    """Rewrite such products, where shapes are known; returns how many there were."""
    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.name == "stablehlo.dot_general" and _fails(ir, stablehlo, op):
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for op in found:
        _rewrite(ir, stablehlo, op)
    return len(found)


def _fails(ir: Any, stablehlo: Any, op: Any) -> bool:
    left, right = (ir.RankedTensorType(operand.type) for operand in op.operands)
    dims = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    over = list(dims.lhs_contracting_dimensions), list(dims.rhs_contracting_dimensions)
    plain = over == ([left.rank - 1], [0]) and right.rank == 2 and not list(dims.lhs_batching_dimensions)
    plain = plain and str(left.element_type) == "f32"
    return plain and left.rank > 3 and left.shape[-2] == 1 and left.has_static_shape


def _rewrite(ir: Any, stablehlo: Any, op: Any) -> None:
    result = ir.RankedTensorType(op.results[0].type)
    (*rows, features), units = ir.RankedTensorType(op.operands[0].type).shape, result.shape[-1]
    image = [math.prod(rows[:-2]), rows[-2], 1]

    def shaped(value: Any, *shape: int) -> Any:
        """The value in another shape."""
        now = ir.RankedTensorType(value.type)
        wanted = ir.RankedTensorType.get(shape, now.element_type)
        return value if wanted == now else stablehlo.reshape(wanted, value)

    with ir.InsertionPoint(op), op.location:
        one = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), 1)
        layout = stablehlo.ConvDimensionNumbers.get(0, 3, [1, 2], 2, 3, [0, 1], 0, 3, [1, 2])
        attributes = {"batch_group_count": one, "feature_group_count": one, "dimension_numbers": layout}
        operands = [shaped(op.operands[0], *image, features), shaped(op.operands[1], 1, 1, features, units)]
        made = ir.RankedTensorType.get([*image, units], result.element_type)
        product = ir.Operation.create("stablehlo.convolution", [made], operands, attributes).results[0]
        value = shaped(product, *result.shape)
    op.results[0].replace_all_uses_with(value)
    op.erase()
