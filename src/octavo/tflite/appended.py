"""The zip archive that TFLite Metadata appends to a model to carry label files.

https://ai.google.dev/edge/litert/conversion/tensorflow/metadata ("the associated files are packed as a zip"). It
isn't part of the flatbuffer, and its directory holds offsets from the start of the whole file.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 to 4.3.16, and 4.5.3 for zip64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from octavo.errors import ModelFileError

_END = struct.Struct("<4s4H2IH")  # signature, disks, entries on disk, entries, size and start of directory, comment
_END64 = struct.Struct("<4sQ2H2I4Q")  # ..., entries on disk, entries, size and start of directory
_LOCATOR = struct.Struct("<4sIQI")  # signature, disk, where the zip64 end record stands, disks
_ENTRY_SIZE = 46
_LOCAL_SIGNATURE, _ENTRY_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64_SIGNATURE, _LOCATOR_SIGNATURE = b"PK\x06\x06", b"PK\x06\x07"
_MAX_COMMENT = 0xFFFF
_ELSEWHERE = 0xFFFFFFFF  # the real number stands in a zip64 field


class _DamagedError(ValueError):
    """The archive isn't well-formed."""


@dataclass
class _Layout:
    """Where an archive's offsets stand, and what they are off by.

    Attributes:
      start: the archive's first byte.
      shift: what has to be added to a stored offset to get the byte in this buffer.
      fields: (position, struct format, stored offset).
    """

    start: int = 0
    shift: int = 0
    fields: list[tuple[int, str, int]] = field(default_factory=list)


def find_zip(buffer: memoryview) -> memoryview | None:
    """The archive at the end of a file, None if there is none.

    Raises:
      ModelFileError: an archive ends the file, but is damaged.
    """
    end = _find_end(buffer)
    if end is None:
        return None
    try:
        return buffer[_layout(buffer, end).start :]
    except (_DamagedError, struct.error) as error:
        raise ModelFileError(
            f"the zip archive behind the model (label files) is damaged: {error}; pack it anew, or cut it off"
        ) from None


def rebase_zip(archive: np.ndarray, position: int) -> bytes:
    """The archive with its offsets set for a file in which it starts at byte `position`.

    Raises:
      ModelFileError: an offset outgrows the 32 bits that it has.
    """
    data = bytearray(archive)
    end = _find_end(memoryview(data))
    assert end is not None, "only what find_zip found is written"
    layout = _layout(memoryview(data), end)
    for place, code, stored in layout.fields:
        try:
            struct.pack_into(code, data, place, stored + layout.shift + position)
        except struct.error:
            raise ModelFileError("the label files behind the model would stand past 4 GiB: leave them out") from None
    return bytes(data)


def _find_end(buffer: memoryview) -> int | None:
    """Where the end-of-directory record stands; it must end with the file."""
    first = max(0, len(buffer) - _END.size - _MAX_COMMENT)
    tail = bytes(buffer[first:])
    found = tail.rfind(_END_SIGNATURE)
    if found < 0 or len(tail) - found < _END.size:
        return None
    comment = _END.unpack_from(tail, found)[-1]
    return first + found if found + _END.size + comment == len(tail) else None


def _layout(buffer: memoryview, end: int) -> _Layout:
    """Follow an archive from its end record to its first file."""
    _, _, _, _, _, size, start, _ = _END.unpack_from(buffer, end)
    found = _Layout()
    close = end  # where the directory ends
    if end >= _LOCATOR.size and bytes(buffer[end - _LOCATOR.size :][:4]) == _LOCATOR_SIGNATURE:
        close, size, start = _zip64(buffer, end - _LOCATOR.size, found)
    else:
        found.fields.append((end + 16, "<I", start))
    directory = close - size
    if directory < 0:
        raise _DamagedError("its directory is larger than the file")
    found.shift = directory - start
    files = list(_entries(buffer, directory, close, found))
    found.start = min((stored + found.shift for stored in files), default=directory)
    if not 0 <= found.start <= directory or (files and bytes(buffer[found.start :][:4]) != _LOCAL_SIGNATURE):
        raise _DamagedError("its directory points to no file")
    found.shift -= found.start  # offsets count from the archive's own start from here on
    return found


def _zip64(buffer: memoryview, locator: int, found: _Layout) -> tuple[int, int, int]:
    """(where the directory ends, its size, its stored start), by the zip64 end record before the locator."""
    place = locator - _END64.size
    if place < 0 or bytes(buffer[place:][:4]) != _END64_SIGNATURE:
        raise _DamagedError("its zip64 record is missing, or longer than usual")
    size, start = _END64.unpack_from(buffer, place)[-2:]
    found.fields += [(place + 48, "<Q", start), (locator + 8, "<Q", _LOCATOR.unpack_from(buffer, locator)[2])]
    return place, size, start


def _entries(buffer: memoryview, position: int, end: int, found: _Layout) -> list[int]:
    """The stored offset of each file; notes the fields that hold them."""
    offsets = []
    while position + _ENTRY_SIZE <= end and bytes(buffer[position : position + 4]) == _ENTRY_SIGNATURE:
        name, extra, comment = struct.unpack_from("<3H", buffer, position + 28)
        place, code = position + 42, "<I"
        if struct.unpack_from("<I", buffer, place)[0] == _ELSEWHERE:
            place, code = _wide_offset(buffer, position, position + _ENTRY_SIZE + name, extra), "<Q"
        offsets.append(struct.unpack_from(code, buffer, place)[0])
        found.fields.append((place, code, offsets[-1]))
        position += _ENTRY_SIZE + name + extra + comment
    if position != end:
        raise _DamagedError("its directory isn't what its end record says")
    return offsets


def _wide_offset(buffer: memoryview, entry: int, extra: int, size: int) -> int:
    """Where the 64-bit offset of an entry stands: in its zip64 field, after the sizes that stand there too."""
    end = extra + size
    while extra + 4 <= end:
        kind, length = struct.unpack_from("<2H", buffer, extra)
        if kind == 1:
            before = sum(struct.unpack_from("<I", buffer, entry + at)[0] == _ELSEWHERE for at in (20, 24))
            if 8 * before + 8 <= length:
                return extra + 4 + 8 * before
        extra += 4 + length
    raise _DamagedError("an entry has no zip64 offset")
