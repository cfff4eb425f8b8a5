"""What litert-torch must know of the op `octavo::fake_quant`: how it is lowered, and that its layout is anybody's.

litert-torch 0.10 has no public way to add an op. Its table of lowerings and a table of its layout pass are
filled here, for this op only, and only once it is imported. Without the latter each mark would stand between two
transposes, as litert-torch's own composites do.
"""

from __future__ import annotations

import json
from importlib import import_module
from itertools import count
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from octavo import marks_torch  # noqa: F401  defines the op
from octavo.marks import NAME

_numbers = count()


def register() -> None:
    """Teach litert-torch the op; more than once does no harm."""
    tables: Any = import_module("litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite")
    lowerings: Any = import_module("litert_torch.backend.lowerings")

    op = torch.ops.octavo.fake_quant
    lowerings.lower(op)(_lower)
    tables.rewriters.register(op.default)(lambda node: None)  # the same op in either layout


def _lower(context: Any, x: Any, low: float, high: float, bits: int, symmetric: bool, name: str) -> Any:
    """A value between two marks, of which the converter makes a composite; it computes nothing in between.

    `passes.fake_quant_marks` resolves every one of them, so nobody asks what it would compute.
    """
    ir: Any = import_module("litert_converter.mlir.ir")
    stablehlo: Any = import_module("litert_converter.mlir.dialects.stablehlo")

    number = str(next(_numbers))
    attributes = {"low": low, "high": high, "bits": bits, "symmetric": symmetric, "name": name}

    def mark(value: Any, is_input: bool) -> Any:
        told = {"name": NAME, "pos": 0, "id": number, "is_input": is_input, "attr": None if is_input else attributes}
        config = ir.StringAttr.get(json.dumps(told))
        return stablehlo.custom_call(
            [value.type], inputs=[value], call_target_name="mark_tensor", backend_config=config
        )

    low_value, high_value = (_scalar(ir, stablehlo, x, bound) for bound in (low, high))
    return mark(stablehlo.clamp(low_value, mark(x, True), high_value), False)


def _scalar(ir: Any, stablehlo: Any, like: Any, value: float) -> Any:
    element = ir.RankedTensorType(like.type).element_type
    kind = ir.RankedTensorType.get([], element)
    return stablehlo.constant(ir.DenseElementsAttr.get_splat(kind, ir.FloatAttr.get(element, value)))
