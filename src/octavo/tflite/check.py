"""Is this really a flatbuffer of the `.tflite` schema? Asked before the generated code walks it.

The generated code trusts every offset and length. This does what flatbuffers' C++ `Verifier` does
(https://flatbuffers.dev/languages/cpp/#access-of-untrusted-buffers): each table, vector and string must lie within
the file, and their number is limited, so that a damaged length costs neither time nor memory.
"""

from __future__ import annotations

import struct

from octavo.tflite import schema
from octavo.tflite.schema import Field, Kind

IDENTIFIER = b"TFL3"
MAX_TABLES = 1_000_000  # the C++ verifier's own limit, so LiteRT loads nothing with more

_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from


class LayoutError(ValueError):
    """The bytes are not a well-formed flatbuffer; the message says where."""


def check_layout(buffer: memoryview) -> None:
    """Walk every table of the file from the root.

    Raises:
      LayoutError: something points outside of the file, or there is more of it than fits into the file.
    """
    walk = _Walk(buffer)
    pending = [("Model", walk.pointer(0, "the root"))]
    while pending:
        table, position = pending.pop()
        pending.extend(walk.table(table, position))


class _Walk:
    """The file, and how much more may be unpacked from it.

    Tables, strings and vectors may be shared, so they can add up to more than the file. Every reference takes
    4 bytes, which bounds the tables; strings and lists of indexes, which are copied, get some slack.
    """

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.tables_left = min(MAX_TABLES, self.size // 4 + 16)
        self.bytes_left = 2 * self.size + (1 << 24)

    def span(self, start: int, size: int, what: str) -> int:
        """`start`, once it is sure that `size` bytes from there lie within the file."""
        if start < 0 or start + size > self.size:
            raise LayoutError(f"{what} points outside of the file (byte {start + size} of {self.size})")
        return start

    def pointer(self, position: int, what: str) -> int:
        """Follow the offset stored at `position`."""
        return self.span(position + _U32(self.buffer, self.span(position, 4, what))[0], 4, what)

    def vector(self, position: int, element: int, what: str, copied: bool = False) -> tuple[int, int]:
        """Start and count of the vector that the offset at `position` leads to."""
        length = self.pointer(position, what)
        count = _U32(self.buffer, length)[0]
        self.bytes_left -= count * element * copied
        if self.bytes_left < 0:
            raise LayoutError(f"{what} is part of more data than the file can hold")
        return self.span(length + 4, count * element, what), count

    def table(self, table: str, position: int) -> list[tuple[str, int]]:
        """Check one table; returns the tables that it points to."""
        self.tables_left -= 1
        if self.tables_left < 0:
            raise LayoutError(f"there are more tables than the file can hold (at a {table})")
        self.span(position, 4, table)
        vtable = self.span(position - _I32(self.buffer, position)[0], 4, f"the vtable of a {table}")
        vtable_size, table_size = _U16(self.buffer, vtable)[0], _U16(self.buffer, vtable + 2)[0]
        self.span(vtable, max(vtable_size, 4), f"the vtable of a {table}")
        self.span(position, table_size, table)
        children: list[tuple[str, int]] = []
        for field in schema.layout(table):
            if field.slot + 2 > vtable_size:
                break
            offset = _U16(self.buffer, vtable + field.slot)[0]
            if offset:
                children += self.field(table, field, position, position + offset, vtable, vtable_size)
        return children

    def field(
        self, table: str, field: Field, base: int, place: int, vtable: int, vtable_size: int
    ) -> list[tuple[str, int]]:
        """Check one field of the table at `base`, stored at `place`; returns the tables that it points to."""
        what = f"{table}.{field.attribute}"
        if field.kind is Kind.SCALAR:
            self.span(place, field.size, what)
        elif field.kind is Kind.STRING:
            self.vector(place, 1, what, copied=True)
        elif field.kind is Kind.VECTOR:
            self.vector(place, field.size, what, copied=field.flags.name == "int32")
        elif field.kind is Kind.TABLE:
            return [(field.table, self.pointer(place, what))]
        elif field.kind is Kind.UNION:
            return self.union(field, base, place, vtable, vtable_size, what)
        else:
            return self.references(field, place, what)
        return []

    def references(self, field: Field, place: int, what: str) -> list[tuple[str, int]]:
        """A vector of tables or of strings."""
        start, count = self.vector(place, 4, what)
        positions = range(start, start + 4 * count, 4)
        if field.kind is Kind.STRINGS:
            for position in positions:
                self.vector(position, 1, what, copied=True)
            return []
        if count > self.tables_left:
            raise LayoutError(f"{what} has {count} tables, more than the file can hold")
        return [(field.table, self.pointer(position, what)) for position in positions]

    def union(
        self, field: Field, base: int, place: int, vtable: int, vtable_size: int, what: str
    ) -> list[tuple[str, int]]:
        """A table whose kind is told by the type byte, the field just before it in the vtable."""
        self.span(place, 4, what)
        type_slot = field.slot - 2
        type_offset = _U16(self.buffer, vtable + type_slot)[0] if type_slot < vtable_size else 0
        kind = self.buffer[self.span(base + type_offset, 1, what)] if type_offset else 0
        if kind == 0:
            return []
        member = schema.names(field.table).get(kind)
        if member is None:
            raise LayoutError(
                f"{what} is of kind {kind}, unknown to the installed schema (a newer ai-edge-litert may know it)"
            )
        return [(member, self.pointer(place, what))]
