"""How the bytes of a constant are held: in memory, in a mapped file, or made only when they are written.

Models outgrow memory. A mapped file's pages stay in the process once they were read, and new constants take room of
their own; both are bounded here.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable, Iterator

import numpy as np

BLOCK_BYTES = 1 << 24  # what is read and computed at a time
_SMALL_BYTES = 1 << 16  # of these even a million don't matter
_KEPT_BYTES = 1 << 26  # of a mapped file, at most about this much stays in the process


class MappedFile(mmap.mmap):
    """A file mapped for reading that lets go of its pages once many were read. They come back when they are touched."""

    read_bytes: int = 0

    def note(self, nbytes: int) -> None:
        """`nbytes` are about to be read."""
        self.read_bytes += nbytes
        if self.read_bytes > _KEPT_BYTES:
            self.read_bytes = nbytes
            self.release()

    def release(self) -> None:
        """Drop all pages from the process; the system keeps them for as long as it has room."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.madvise(mmap.MADV_DONTNEED)


def note_reading(data: np.ndarray) -> None:
    """Tell the file that `data` is mapped from, if it is, that it is about to be read."""
    if data.nbytes >= _SMALL_BYTES and (file := _file_of(data)) is not None:
        file.note(data.nbytes)


def _file_of(data: np.ndarray) -> MappedFile | None:
    base: object = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, MappedFile) else None


class Deferred:
    """The bytes of a large constant, computed piece by piece each time they are asked for and never kept.

    Attributes:
      size: number of bytes.
      pieces: makes them in order; each piece is uint8, 1-D.
      source: the bytes that they are made from, if any.
      form: what is made of the source: equal sources in equal forms give equal bytes.
    """

    def __init__(
        self,
        size: int,
        pieces: Callable[[], Iterator[np.ndarray]],
        source: np.ndarray | None = None,
        form: Hashable = None,
    ) -> None:
        self.size = size
        self.pieces = pieces
        self.source = source
        self.form = form

    def join(self) -> np.ndarray:
        """All of them: (size,) uint8, read-only."""
        joined = np.empty(self.size, np.uint8)
        position = 0
        for piece in self.pieces():
            joined[position : position + piece.size] = piece
            position += piece.size
        joined.flags.writeable = False
        return joined


def blocks(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """An array in runs of its first axis, of about `BLOCK_BYTES` each and of an even number of rows but for the last.

    Yields:
      the run as a slice of the first axis, and that part of `values`.
    """
    if values.ndim == 0 or values.nbytes <= BLOCK_BYTES:
        yield slice(None), values
        return
    rows = max(2, BLOCK_BYTES // max(values[:1].nbytes, 1) // 2 * 2)
    for start in range(0, len(values), rows):
        run = slice(start, min(start + rows, len(values)))
        note_reading(values[run])
        yield run, values[run]


def bounds(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest element, without a copy; NaN if there is one among them, (0, 0) of nothing."""
    if not values.size:
        return 0.0, 0.0
    found = [(part.min(), part.max()) for _, part in blocks(values)]
    low, high = np.transpose(found)
    return float(low.min()), float(high.max())
