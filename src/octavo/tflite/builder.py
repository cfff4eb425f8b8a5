"""A flatbuffers builder that stores equal things once, and the parts of a model that need placing by hand."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np

from octavo.graph.constants import Deferred, note_reading
from octavo.tflite import schema

Stored = np.ndarray | Deferred  # bytes of a constant: uint8, 1-D

ALIGNMENT = 16  # of constants, from the start of the file: `force_align: 16` of Buffer.data in the schema
_SHARED_BYTES = 1 << 16  # longer vectors are constants, which the writer has deduplicated already
_SAMPLE = 64  # bytes at the start, middle and end that tell most constants apart


class SharingBuilder(flatbuffers.Builder):
    """Stores equal strings and equal short vectors once: readers follow offsets, so they can't tell.

    Constants aren't copied: they leave a hole, which takes no memory since nothing touches it.

    Attributes:
      holes: each constant, and how far before the end of the flatbuffer it starts.
    """

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self.Bytes = mmap.mmap(-1, size)  # pages of zeros come into being when they are written
        self.head = size
        self.holes: list[tuple[int, Stored]] = []
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

    def create_constant(self, data: Stored) -> int:
        """A vector of bytes whose first byte is aligned, as a hole."""
        self.StartVector(1, data.size, ALIGNMENT)
        self.head -= data.size
        self.holes.append((len(self.Bytes) - self.head, data))
        return self.EndVector()

    def pieces(self) -> Iterator[memoryview | Stored]:
        """The finished flatbuffer, its constants in their places."""
        whole = memoryview(self.Bytes)
        position = self.head
        for before_end, data in reversed(self.holes):  # a flatbuffer is built from its end
            start = len(whole) - before_end
            yield whole[position:start]
            yield data
            position = start + data.size
        yield whole[position:]


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
      data: bytes (uint8, 1-D) or what makes them; None for the buffer of what has no data.
      outside: stored behind the flatbuffer, at `offset` bytes from the file's start.
      offset: 1 until it is known: not the default 0, which would take no room in the table.
    """

    data: Stored | None = None
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
    _by_place: dict[object, int] = field(default_factory=dict)
    _by_sample: dict[object, list[int]] = field(default_factory=dict)

    def index(self, data: Stored | None) -> int:
        """The entry of a constant; 0 for none."""
        if data is None or data.size == 0:
            return 0
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        place = data if isinstance(data, Deferred) else (data.__array_interface__["data"][0], data.size)
        if place not in self._by_place:
            self._by_place[place] = self._find(data)
        return self._by_place[place]

    def add(self, data: Stored | None) -> int:
        """A new entry, also for empty bytes (metadata that is there but empty)."""
        self.records.append(BufferRecord(data))
        return len(self.records) - 1

    def _find(self, data: Stored) -> int:
        source, form = _origin(data)
        if source is None:
            return self.add(data)
        # The sample only narrows the search: entries are shared between equal bytes, never between equal samples.
        note_reading(source)  # pages come in by the dozen, whatever is read of them
        parts = (source[:_SAMPLE], source[source.size // 2 :][:_SAMPLE], source[-_SAMPLE:])
        candidates = self._by_sample.setdefault((form, source.size, *(part.tobytes() for part in parts)), [])
        for index in candidates:
            other, _ = _origin(self.records[index].data)
            if other is not None and np.array_equal(other, source):
                return index
        candidates.append(self.add(data))
        return candidates[-1]

    @property
    def nbytes(self) -> int:
        return sum(record.data.size for record in self.records if record.data is not None)


def _origin(data: Stored | None) -> tuple[np.ndarray | None, object]:
    """What decides a constant's bytes: other bytes, if they are known, and what is made of them."""
    return (data.source, data.form) if isinstance(data, Deferred) else (data, None)
