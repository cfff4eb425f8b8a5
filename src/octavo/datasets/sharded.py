"""One array in many files, of which only the rows that are asked for are read."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from octavo.datasets.images import Look
from octavo.datasets.npz import Rows
from octavo.errors import DataError

CHUNK_BYTES = 4 << 20  # read at a time


class Part(Protocol):
    """One file: its path, how many rows it has, and how to open it for reading slices of them."""

    @property
    def path(self) -> str: ...

    @property
    def count(self) -> int: ...

    def open(self) -> Any: ...


@dataclass(frozen=True)
class NpzPart:
    """One array of an `.npz` file."""

    path: str
    count: int
    key: str

    def open(self) -> Rows:
        return Rows(self.path, self.key)


@dataclass(frozen=True)
class ImagePart:
    """One image file: a single row."""

    path: str
    look: Look
    count: int = 1

    def open(self) -> ImagePart:
        return self

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.look.read(self.path)[np.newaxis][rows]

    def close(self) -> None:
        """Nothing is held open."""


class _Held:
    """The one file that is open, for an array and all that were chosen from it; a copy in another process has its own.

    Blocks that follow each other in a compressed file are read in one pass that way.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._part: Part | None = None
        self._file: Any = None

    def __reduce__(self) -> Any:
        return _Held, ()

    def open(self, part: Part) -> Any:
        if self._part != part:
            if self._file is not None:
                self._file.close()
            self._part, self._file = None, None
            self._file = part.open()
            self._part = part
        return self._file


class Sharded:
    """An array (samples, ...) whose rows lie in many files, in the order of the files.

    A row, a slice or an array of row numbers is read when it is asked for and comes as a NumPy array, so this can stand
    wherever a memory-mapped array could. One file is open at a time. Can be pickled: only paths and numbers travel.

    Args:
      parts: the files.
      shape: of one row.
      dtype: of the rows.
      rows: numbers of the rows that count, in this order; all by default.
      held: where the open file is kept.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        shape: tuple[int, ...],
        dtype: np.dtype,
        rows: np.ndarray | None = None,
        held: _Held | None = None,
    ) -> None:
        self._parts = tuple(parts)
        counts = np.array([part.count for part in parts], np.int64)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self._rows = np.arange(self._ends[-1] if len(parts) else 0) if rows is None else rows
        self._held = held or _Held()
        self.shape = (len(self._rows), *shape)
        self.dtype = dtype

    def __reduce__(self) -> Any:
        return Sharded, (self._parts, self.shape[1:], self.dtype, self._rows, self._held)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Sharded(shape={self.shape}, dtype={self.dtype}, files={len(self._parts)})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # rows are always read anew
        return np.asarray(self[:], dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """A row by its number, or several by a slice or an array of numbers.

        Raises:
          DataError: a file is gone, damaged, or has changed; names it.
        """
        chosen = self._rows[rows]
        return self._read(chosen) if chosen.ndim else self._read(chosen[np.newaxis])[0]

    def choose(self, rows: slice | np.ndarray) -> Sharded:
        """Some of the rows as another such array; nothing is read, and files without any of them are forgotten."""
        chosen = self._rows[rows]
        places = np.searchsorted(self._ends, chosen, "right")
        used, among = np.unique(places, return_inverse=True)
        parts = [self._parts[part] for part in used]
        starts = np.cumsum([0, *(part.count for part in parts)])
        return Sharded(parts, self.shape[1:], self.dtype, starts[among] + chosen - self._starts[places], self._held)

    def place(self, row: int) -> tuple[str, int]:
        """(file, number in the file) of a row."""
        part = int(np.searchsorted(self._ends, self._rows[row], "right"))
        return self._parts[part].path, int(self._rows[row] - self._starts[part])

    def spans(self) -> Iterator[slice]:
        """Runs of rows that follow each other in one file and fit into `CHUNK_BYTES`."""
        step = max(1, CHUNK_BYTES // max(1, self.row_bytes))
        for _, start, stop in self._runs(self._rows):
            for first in range(start, stop, step):
                yield slice(first, min(first + step, stop))

    def _runs(self, rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(file, start, stop) of rows that follow each other in one file."""
        places = np.searchsorted(self._ends, rows, "right")
        breaks = np.flatnonzero((np.diff(places) != 0) | (np.diff(rows) != 1)) + 1
        ends = [0, *breaks.tolist(), len(rows)]
        return ((int(places[a]), a, b) for a, b in itertools.pairwise(ends) if a < b)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        with self._held.lock:
            for part, start, stop in self._runs(rows):
                first = int(rows[start] - self._starts[part])
                found = self._held.open(self._parts[part])[first : first + stop - start]
                if found.shape[1:] != self.shape[1:] or found.dtype != self.dtype:
                    raise DataError(
                        f"{self._parts[part].path} holds {found.dtype} of shape {found.shape[1:]}, but the first file "
                        f"{self.dtype} of shape {self.shape[1:]}: all must be alike"
                    )
                result[start:stop] = found
        return result
