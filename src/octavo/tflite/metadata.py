"""The flatbuffer named "TFLITE_METADATA" that a model's metadata may hold, as plain dicts and back.

Schema: metadata_schema.fbs, version 1.5, of https://github.com/google-ai-edge/mediapipe (mediapipe/tasks/metadata), as
used by https://ai.google.dev/edge/litert/conversion/tensorflow/metadata. No package on PyPI that is still built carries
the generated code alone, so the schema stands here, one table a line.
"""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import number_types as types
from flatbuffers.table import Table

from octavo.errors import ModelFileError

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS, RGB, GRAYSCALE = 2, 1, 2  # AssociatedFileType.TENSOR_AXIS_LABELS and two of ColorSpaceType
_MAX_ITEMS = 1 << 20  # of a well-formed record there are some hundreds

# A field is name:type. Types: s string, b byte, i int32, u uint32, f float32, B aligned bytes, a table's name; in
# brackets a vector of them; after | a union, which takes two fields of the schema.
_SCHEMA = """
AssociatedFile name:s description:s type:b locale:s version:s
FeatureProperties
ImageSize width:u height:u
ImageProperties color_space:b default_size:ImageSize
BoundingBoxProperties index:[u] type:b coordinate_type:b
AudioProperties sample_rate:u channels:u
ValueRange min:i max:i
Content content_properties:|ContentProperties range:ValueRange
NormalizationOptions mean:[f] std:[f]
ScoreCalibrationOptions score_transformation:b default_score:f
ScoreThresholdingOptions global_score_threshold:f
BertTokenizerOptions vocab_file:[AssociatedFile]
SentencePieceTokenizerOptions sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]
RegexTokenizerOptions delim_regex_pattern:s vocab_file:[AssociatedFile]
ProcessUnit options:|ProcessUnitOptions
Stats max:[f] min:[f]
TensorGroup name:s tensor_names:[s]
TensorMetadata name:s description:s dimension_names:[s] content:Content process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]
CustomMetadata name:s data:B
SubGraphMetadata name:s description:s input_tensor_metadata:[TensorMetadata] output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] input_process_units:[ProcessUnit] output_process_units:[ProcessUnit] input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup] custom_metadata:[CustomMetadata]
ModelMetadata name:s description:s version:s subgraph_metadata:[SubGraphMetadata] author:s license:s associated_files:[AssociatedFile] min_parser_version:s
"""  # noqa: E501
_TABLES = {
    name: [tuple(field.split(":")) for field in fields]
    for name, *fields in (line.split() for line in _SCHEMA.strip().splitlines())
}
_UNIONS = {
    "ContentProperties": ("FeatureProperties", "ImageProperties", "BoundingBoxProperties", "AudioProperties"),
    "ProcessUnitOptions": (
        "NormalizationOptions", "ScoreCalibrationOptions", "ScoreThresholdingOptions", "BertTokenizerOptions",
        "SentencePieceTokenizerOptions", "RegexTokenizerOptions",
    ),
}  # fmt: skip
_SCALARS = {"b": types.Int8Flags, "i": types.Int32Flags, "u": types.Uint32Flags, "f": types.Float32Flags}
_ARRAYS = {"b": np.int8, "i": np.int32, "u": np.uint32, "f": np.float32}


def decode(data: bytes, label: str) -> dict[str, Any]:
    """A record as nested dicts, field by field; fields that aren't there are left out.

    A member of a union is a dict with its table's name under "table". Under "newer" stands True where a table has
    fields that octavo's schema doesn't know.

    Raises:
      ModelFileError: it is no such record, or damaged.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelFileError(f"{label}: its {NAME} isn't metadata as octavo knows it ({data[4:8]!r}, not M001)")
    try:
        (start,) = struct.unpack_from("<I", data)
        return _Decoder(data).table("ModelMetadata", start)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{label}: its {NAME} is damaged: {error}") from None


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, _MAX_ITEMS

    def table(self, name: str, position: int) -> dict[str, Any]:
        self._count()
        table, slot = Table(self.data, position), 0
        found: dict[str, Any] = {}
        for field, kind in _TABLES[name]:
            if kind.startswith("|"):
                value = self._union(table, kind[1:], slot)
                slot += 1
            else:
                offset = table.Offset(4 + 2 * slot)
                value = self._value(table, kind, position + offset) if offset else None
            slot += 1
            if value is not None:
                found[field] = value
        (vtable_back,) = struct.unpack_from("<i", self.data, position)
        (size,) = struct.unpack_from("<H", self.data, position - vtable_back)
        if any(table.Offset(at) for at in range(4 + 2 * slot, size, 2)):
            found["newer"] = True
        return found

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it refers to itself")

    def _union(self, table: Table, union: str, slot: int) -> dict[str, Any] | None:
        kind, offset = table.Offset(4 + 2 * slot), table.Offset(6 + 2 * slot)
        number = table.Get(types.Uint8Flags, table.Pos + kind) if kind else 0
        if not number or not offset:
            return None
        if number > len(_UNIONS[union]):
            return {"table": "", "newer": True}
        name = _UNIONS[union][number - 1]
        return {"table": name, **self.table(name, table.Indirect(table.Pos + offset))}

    def _value(self, table: Table, kind: str, at: int) -> Any:
        if kind in _SCALARS:
            return table.Get(_SCALARS[kind], at)
        if kind == "s":
            return table.String(at).decode("utf-8")
        if kind == "B" or kind.startswith("["):
            return self._vector(table, "B" if kind == "B" else kind[1:-1], at)
        return self.table(kind, table.Indirect(at))

    def _vector(self, table: Table, kind: str, at: int) -> Any:
        start = table.Indirect(at)
        (length,) = struct.unpack_from("<I", self.data, start)
        if kind == "B":
            return self.data[start + 4 : start + 4 + length]
        if kind in _ARRAYS:
            return np.frombuffer(self.data, _ARRAYS[kind], length, start + 4).tolist()
        items = []
        for index in range(length):
            self._count()
            items.append(self._value(table, kind, start + 4 + 4 * index))
        return items


def encode(record: dict[str, Any]) -> bytes:
    """The flatbuffer of what `decode` gives.

    Raises:
      ModelFileError: it has fields that octavo's schema doesn't know, which would be lost.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_encode(builder, "ModelMetadata", record), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _encode(builder: flatbuffers.Builder, name: str, record: dict[str, Any]) -> int:
    if record.get("newer"):
        raise ModelFileError(f"the model's metadata has fields in {name} that octavo doesn't know: it can't be changed")
    slots: list[tuple[int, str, Any]] = []
    slot = 0
    for field, kind in _TABLES[name]:
        value = record.get(field)
        if kind.startswith("|"):
            if value is not None:
                if value.get("newer"):
                    raise ModelFileError(f"the model's metadata has a {kind[1:]} that octavo doesn't know")
                slots.append((slot, "type", _UNIONS[kind[1:]].index(value["table"]) + 1))
                slots.append((slot + 1, "offset", _encode(builder, value["table"], value)))
            slot += 1
        elif value is not None:
            stored = (slot, kind, value) if kind in _SCALARS else (slot, "offset", _stored(builder, kind, value))
            slots.append(stored)
        slot += 1
    builder.StartObject(slot)
    for number, kind, value in slots:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
        elif kind == "type":
            builder.PrependUint8Slot(number, value, 0)
        else:
            builder.PrependSlot(_SCALARS[kind], number, value, None)
    return builder.EndObject()


def _stored(builder: flatbuffers.Builder, kind: str, value: Any) -> int:
    """Write what stands outside of its table; returns where."""
    if kind == "s":
        return builder.CreateString(value)
    if kind == "B":
        builder.StartVector(1, len(value), 16)
        builder.head -= len(value)
        builder.Bytes[builder.head : builder.head + len(value)] = value
        return builder.EndVector()
    if not kind.startswith("["):
        return _encode(builder, kind, value)
    inner = kind[1:-1]
    if inner in _ARRAYS:
        return builder.CreateNumpyVector(np.asarray(value, _ARRAYS[inner]))
    offsets = [_stored(builder, inner, item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
