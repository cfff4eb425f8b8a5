"""The table of a tensor's quantization, read and written.

Scale, zero point and axis become `QParams`; the rest goes to `Tensor.extra["quantization"]`. Blockwise scales and zero
points are tensors of their own, which the file gives by index: they become `Tensor.extra["scales"]` and
`Tensor.extra["zeroPoints"]`, so that renumbering can't break them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from octavo.errors import ModelFileError
from octavo.graph import Tensor
from octavo.qtypes import QParams
from octavo.tflite import schema
from octavo.tflite.records import decoded, is_empty, leftovers, pick, restore

_INDEXES = ("scales", "zeroPoints")


def read_quantization(record: Any, extra: dict[str, Any], what: str) -> QParams | None:
    """Scale and zero point; the rest of the table goes to `extra["quantization"]`."""
    if record is None:
        return None
    rest = leftovers(record, "scale", "zeroPoint", "detailsType", "details")
    if record.details is not None:
        kind = schema.names("QuantizationDetails")[record.detailsType]
        rest["details"] = {"type": kind, **vars(record.details)}
    qparams = None
    if not is_empty(record.scale):
        count = len(record.scale)
        zero_point = np.zeros(count, np.int64) if is_empty(record.zeroPoint) else record.zeroPoint
        if len(zero_point) != count:
            raise ModelFileError(f"{what} has {count} scale(s) but {len(zero_point)} zero point(s)")
        qparams = QParams(record.scale, zero_point, record.quantizedDimension if count > 1 else None)
        if count > 1:
            rest.pop("quantizedDimension", None)
    if rest:
        extra["quantization"] = rest
    return qparams


def resolve_details(tensor: Tensor, record: Any, tensors: list[Tensor]) -> None:
    """Turn the indexes of blockwise scales and zero points into the tensors that they mean."""
    details = tensor.extra.get("quantization", {}).get("details", {})
    for key in _INDEXES:
        index = details.get(key)
        # 0 is the field's default and means "no zero points", unless tensor 0 can really hold them.
        if index is None or index < 0 or (key == "zeroPoints" and index == 0 and not tensors[0].is_constant):
            continue
        tensor.extra[key] = pick(tensors, index, f"the blockwise {key} of tensor {decoded(record.name)!r}")
        del details[key]


def write_quantization(tensor: Tensor, number: Callable[[Tensor], int]) -> Any:
    """The tensor's `QuantizationParametersT`, None if it would be empty; `number` tells a tensor's index."""
    rest = dict(tensor.extra.get("quantization", {}))
    qparams = tensor.qparams
    if qparams is None and not rest:
        return None
    record = schema.module().QuantizationParametersT()
    details = rest.pop("details", None)
    dimension = rest.pop("quantizedDimension", 0)
    restore(record, rest)
    if qparams is not None:
        record.scale, record.zeroPoint = qparams.scale, qparams.zero_point
        dimension = qparams.axis if qparams.axis is not None else dimension
    # A dimension that was read must not outlive a change of rank: LiteRT refuses to load that.
    record.quantizedDimension = dimension if dimension < max(len(tensor.shape), 1) else 0
    if details is not None:
        record.detailsType = schema.values("QuantizationDetails")[details["type"]]
        record.details = getattr(schema.module(), details["type"] + "T")()
        restore(record.details, details)
        for key in _INDEXES:
            if key in tensor.extra:
                setattr(record.details, key, number(tensor.extra[key]))
    return record
