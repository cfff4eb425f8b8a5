"""The zip archive that TFLite Metadata appends to a model to carry label files.

https://ai.google.dev/edge/litert/conversion/tensorflow/metadata ("the associated files are packed as a zip"). It
isn't part of the flatbuffer, and its directory holds offsets from the start of the whole file.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct

import numpy as np

_END = struct.Struct("<4s4H2IH")  # signature, disks, entries on disk, entries, size and start of directory, comment
_ENTRY_SIZE = 46
_LOCAL_SIGNATURE, _ENTRY_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF


def find_zip(buffer: memoryview) -> memoryview | None:
    """The archive at the end of a file, None if there is none (or it isn't well-formed)."""
    end = _find_end(buffer)
    if end is None:
        return None
    _, _, _, _, _, size, start, _ = _END.unpack_from(buffer, end)
    directory, shift = end - size, end - size - start
    entries = _entries(buffer, directory, end) if directory >= 0 else None
    if entries is None:
        return None
    offsets = [struct.unpack_from("<I", buffer, entry + 42)[0] + shift for entry in entries]
    first = min(offsets, default=directory)
    if not 0 <= first <= directory or (offsets and bytes(buffer[first : first + 4]) != _LOCAL_SIGNATURE):
        return None
    return buffer[first:]


def rebase_zip(archive: np.ndarray, position: int) -> bytes:
    """The archive with its offsets set for a file in which it starts at byte `position`."""
    data = bytearray(archive)
    end = _find_end(memoryview(data))
    assert end is not None, "only what find_zip found is written"
    *_, size, start, _ = _END.unpack_from(data, end)
    directory = end - size
    change = position + directory - start
    for entry in _entries(memoryview(data), directory, end) or ():
        offset = struct.unpack_from("<I", data, entry + 42)[0]
        struct.pack_into("<I", data, entry + 42, offset + change)
    struct.pack_into("<I", data, end + 16, start + change)
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


def _entries(buffer: memoryview, position: int, end: int) -> list[int] | None:
    """Where the directory's entries start; None if they don't fill it exactly."""
    found = []
    while position + _ENTRY_SIZE <= end and bytes(buffer[position : position + 4]) == _ENTRY_SIGNATURE:
        found.append(position)
        position += _ENTRY_SIZE + sum(struct.unpack_from("<3H", buffer, position + 28))
    return found if position == end else None
