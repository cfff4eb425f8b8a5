"""A flatbuffers builder that stores equal things once, and the parts of a model that need placing by hand."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np

from octavo.tflite import schema

ALIGNMENT = 16  # of constants, from the start of the file: `force_align: 16` of Buffer.data in the schema
_SHARED_BYTES = 1 << 16  # longer vectors are constants, which the writer has deduplicated already


class SharingBuilder(flatbuffers.Builder):
    """Stores equal strings and equal short vectors once: readers follow offsets, so they can't tell."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.strings: dict[bytes, int] = {}
        self.vectors: dict[tuple[int, bytes], int] = {}
        self.tables: dict[int, int] = {}

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "surrogateescape") -> int:  # noqa: N802 (overrides)
        raw = s if isinstance(s, bytes) else s.encode(encoding, errors)
        if raw not in self.strings:
            self.strings[raw] = super().CreateString(raw)
        return self.strings[raw]

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
        if x.nbytes > _SHARED_BYTES:
            return super().CreateNumpyVector(x)
        # The element size is also the alignment, so vectors with equal keys are interchangeable.
        key = (x.itemsize, x.tobytes())
        if key not in self.vectors:
            self.vectors[key] = super().CreateNumpyVector(x)
        return self.vectors[key]

    def create_constant(self, data: np.ndarray) -> int:
        """A vector of bytes whose first byte is aligned; copied once, straight into place."""
        self.StartVector(1, data.size, ALIGNMENT)
        start = self.head - data.size
        memoryview(self.Bytes)[start : self.head] = data.data
        self.head = start
        return self.EndVector()


@dataclass(eq=False)
class Once:
    """A table that several others point to: packed the first time, referred to afterwards."""

    table: Any

    def Pack(self, builder: SharingBuilder) -> int:  # noqa: N802 (as in generated objects)
        if id(self) not in builder.tables:
            builder.tables[id(self)] = self.table.Pack(builder)
        return builder.tables[id(self)]


@dataclass(eq=False)
class BufferRecord:
    """One entry of the model's buffers.

    Attributes:
      data: bytes (uint8, 1-D); None for the buffer of what has no data.
      outside: stored behind the flatbuffer, at `offset` bytes from the file's start.
      offset: 1 until it is known: not the default 0, which would take no room in the table.
    """

    data: np.ndarray | None = None
    outside: bool = False
    offset: int = 1

    def Pack(self, builder: SharingBuilder) -> int:  # noqa: N802 (as in generated objects)
        generated = schema.module()
        vector = None
        if self.data is not None and not self.outside:
            vector = builder.create_constant(self.data)
        generated.BufferStart(builder)
        if vector is not None:
            generated.BufferAddData(builder, vector)
        if self.data is not None and self.outside:
            generated.BufferAddOffset(builder, self.offset)
            generated.BufferAddSize(builder, self.data.size)
        return generated.BufferEnd(builder)


@dataclass
class BufferPool:
    """The model's buffers: equal bytes get one entry. Entry 0 is the empty one, by the schema's convention."""

    records: list[BufferRecord] = field(default_factory=lambda: [BufferRecord()])
    _by_place: dict[tuple[int, int], int] = field(default_factory=dict)
    _by_content: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def index(self, data: np.ndarray | None) -> int:
        """The entry of a constant; 0 for none."""
        if data is None or data.size == 0:
            return 0
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        place = (data.__array_interface__["data"][0], data.size)
        if place not in self._by_place:
            self._by_place[place] = self._find(data)
        return self._by_place[place]

    def add(self, data: np.ndarray | None) -> int:
        """A new entry, also for empty bytes (metadata that is there but empty)."""
        self.records.append(BufferRecord(data))
        return len(self.records) - 1

    def _find(self, data: np.ndarray) -> int:
        # The checksum only narrows the search: entries are shared between equal bytes, never between equal sums.
        candidates = self._by_content.setdefault((data.size, zlib.crc32(data.data)), [])
        for index in candidates:
            if np.array_equal(self.records[index].data, data):  # type: ignore[arg-type]
                return index
        candidates.append(self.add(data))
        return candidates[-1]

    @property
    def nbytes(self) -> int:
        return sum(record.data.size for record in self.records if record.data is not None)
