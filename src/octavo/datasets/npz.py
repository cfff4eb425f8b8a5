"""Samples and labels from `.npz` files.

Recognised keys, in any case: samples under `x`, `x_test`, `x_train`, `images`, `inputs`, `data` or `features`, the
first that is there; labels under `y_test` for `x_test`, `y_train` for `x_train`, else under `y`, `labels` or `targets`.
A file for a model with several inputs holds one array per input, under the input's name. Labels may be missing. All
arrays count samples along their first axis. For a model with several signatures, arrays named "signature/input" hold
the samples of each. Only the arrays that are asked for are read.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.lib.npyio import NpzFile

from octavo.errors import DataError
from octavo.text import printable

_SAMPLES = {"test": ("x", "x_test", "x_train"), "train": ("x", "x_train", "x_test")}
_OTHER_SAMPLES = ("images", "inputs", "data", "features")
_LABELS = ("y", "labels", "targets")

_Path = str | os.PathLike[str]

# What zipfile, zlib and NumPy's parser of headers (Python's tokenizer among it) raise on damaged files.
_DAMAGE = (
    ValueError, LookupError, TypeError, ArithmeticError, EOFError, SyntaxError, RecursionError, NotImplementedError,
    tokenize.TokenError, zlib.error, zipfile.BadZipFile, RuntimeError,
)  # fmt: skip


def load_npz(path: _Path, split: Literal["test", "train"] = "test") -> tuple[np.ndarray, np.ndarray | None]:
    """Read (x, y); y is None if the file has no labels.

    Args:
      path: the file.
      split: which of `x_test` and `x_train` to take if both are there: "test" to evaluate, "train" to calibrate.

    Raises:
      DataError: no such file, not an `.npz` file, damaged, pickled arrays, no recognised keys, or x and y of different
        lengths.
    """
    with _opened(path) as file:
        x_key, y_key = _keys(file, path, split)
        x = _read(file, x_key, path)
        y = None if y_key is None else _read(file, y_key, path)
    _check_lengths(path, {x_key: x} | ({} if y is None or y_key is None else {y_key: y}))
    return x, y


def load_npz_inputs(
    path: _Path, names: Sequence[str], split: Literal["test", "train"] = "test"
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Read one array per model input, and the labels, None if there are none.

    Args:
      path: the file.
      names: the model's input names. With a single one the keys of `load_npz` will do too.
      split: as in `load_npz`.

    Raises:
      DataError: as in `load_npz`; or an input that has no array.
    """
    with _opened(path) as file:
        keys, y_key = _input_keys(file, path, names, split)
        x = {name: _read(file, key, path) for name, key in keys.items()}
        y = None if y_key is None else _read(file, y_key, path)
    _check_lengths(
        path, {keys[name]: array for name, array in x.items()} | ({} if y is None or y_key is None else {y_key: y})
    )
    return x, y


def load_npz_signatures(path: _Path, inputs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, np.ndarray]]:
    """Read samples for several signatures of a model, from arrays that are named "signature/input".

    Args:
      path: the file.
      inputs: signature -> its input names.

    Returns:
      signature -> input name -> array, for the signatures that the file names; empty if it names none.

    Raises:
      DataError: as in `load_npz`; or an array names an input that its signature hasn't got, or leaves one out.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    with _opened(path) as file:
        for signature, names in inputs.items():
            keys = {key: key.removeprefix(f"{signature}/") for key in file.files if key.startswith(f"{signature}/")}
            if not keys:
                continue
            odd = [key for key, name in keys.items() if name not in names]
            missing = [name for name in names if name not in keys.values()]
            if odd or missing:
                problem = (
                    f"{odd[0]!r} is no input of it" if odd else f"there is no array {f'{signature}/{missing[0]}'!r}"
                )
                listed = ", ".join(map(repr, names))
                raise DataError(f"{path}: signature {signature!r} has the inputs {listed}, but {problem}")
            found[signature] = {name: _read(file, key, path) for key, name in keys.items()}
            _check_lengths(path, {f"{signature}/{name}": array for name, array in found[signature].items()})
    return found


@dataclass(frozen=True)
class Header:
    """What a file says of one of its arrays before any of it is read."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype


def headers(
    path: _Path, names: Sequence[str], split: Literal["test", "train"] = "test"
) -> tuple[dict[str, Header], Header | None]:
    """Shapes and dtypes of what `load_npz_inputs` would read: by input name, and of the labels.

    Raises:
      DataError: as in `load_npz_inputs`.
    """
    with _opened(path) as file:
        keys, y_key = _input_keys(file, path, names, split)
        found = {name: _header(file, key, path) for name, key in keys.items()}
        labels = None if y_key is None else _header(file, y_key, path)
    _check_lengths(path, {header.key: header for header in (*found.values(), *([labels] if labels else []))})
    return found, labels


def length(path: _Path) -> int:
    """How many samples a file holds, whatever its arrays are called.

    Raises:
      DataError: as in `load_npz`.
    """
    with _opened(path) as file:
        if not file.files:
            raise DataError(f"{path} has no arrays at all")
        header = _header(file, file.files[0], path)
    _check_lengths(path, {header.key: header})
    return header.shape[0]


class Rows:
    """The rows of one array of an `.npz` file, read as a stream: what is in memory is what was asked for.

    Rows in order cost one pass over the file. Going back starts anew from the array's beginning if it is compressed.
    The file's checksum is verified by whoever reads all of it in order.
    """

    def __init__(self, path: _Path, key: str) -> None:
        self._path, self._key = path, key
        with _refusing(self._path, self._key):
            self._file = np.load(path, allow_pickle=False)
            self._stream = _member(self._file, key)
            self.shape, fortran, self.dtype = _read_header(self._stream)
            if self.dtype.hasobject:
                raise DataError(_pickled(path, key))
            _check_size(self._file, key, self.shape, self.dtype)
            self._start = self._stream.tell()
            self._whole = self._file[key] if fortran else None
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._whole is not None:
            return self._whole[rows]
        start, stop, _ = rows.indices(self.shape[0])
        with _refusing(self._path, self._key):
            offset = self._start + start * self._row_bytes
            if self._stream.tell() != offset:
                self._stream.seek(offset)
            count = max(0, stop - start)
            data = self._stream.read(count * self._row_bytes)
            if len(data) < count * self._row_bytes:
                raise EOFError("it ends too early")
            if stop == self.shape[0]:
                self._stream.read(1)  # past the end, where the checksum is compared
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()
        self._file.close()


@contextmanager
def _refusing(path: _Path, key: str = "") -> Iterator[None]:
    """What zipfile and NumPy raise on a damaged file, and on pickles, comes out as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        if "allow_pickle" in str(error):
            raise DataError(_pickled(path, key)) from error
        what = f": array {key!r}" if key else ""
        raise DataError(f"{path}{what} is damaged: {printable(' '.join(str(error).split()))[:300]}") from error


def _member(file: NpzFile, key: str) -> zipfile.ZipExtFile:
    """One array's bytes, as a stream."""
    assert file.zip is not None
    return cast(zipfile.ZipExtFile, file.zip.open(_stored_name(file, key)))


def _stored_name(file: NpzFile, key: str) -> str:
    assert file.zip is not None
    return f"{key}.npy" if f"{key}.npy" in file.zip.namelist() else key


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, dtype) from the start of an `.npy` stream."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the format, which is for records, not for arrays of numbers")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"its shape {shape} is impossible")
    return shape, fortran, dtype


def _header(file: NpzFile, key: str, path: _Path) -> Header:
    with _refusing(path, key), _member(file, key) as stream:
        if stream.peek(6)[:6] != np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{path}: {key!r} is no array; write the file with np.savez")
        shape, _, dtype = _read_header(stream)
        if dtype.hasobject:
            raise DataError(_pickled(path, key))
        _check_size(file, key, shape, dtype)
    return Header(key, shape, dtype)


def _check_size(file: NpzFile, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Before memory is taken for it: an array can't be larger than what it is stored in.

    Raises:
      ValueError: it says that it is.
    """
    assert file.zip is not None
    held = file.zip.getinfo(_stored_name(file, key)).file_size
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > held:
        raise ValueError(f"it says that its shape is {shape}, of which the file holds no more than {held} bytes")


def _keys(file: NpzFile, path: _Path, split: Literal["test", "train"]) -> tuple[str, str | None]:
    """The keys of samples and labels."""
    keys = (*_SAMPLES[split], *_OTHER_SAMPLES)
    x_key = _first(file, keys)
    if x_key is None:
        raise DataError(f"{path} has no samples under a known key ({', '.join(keys)}); it has {_listing(file)}")
    suffix = x_key.lower().removeprefix("x")
    return x_key, _first(file, ("y" + suffix,) if suffix in ("_test", "_train") else _LABELS)


def _input_keys(
    file: NpzFile, path: _Path, names: Sequence[str], split: Literal["test", "train"]
) -> tuple[dict[str, str], str | None]:
    """The key of each input, and of the labels."""
    missing = [name for name in names if name not in file.files]
    if not missing:
        return {name: name for name in names}, _first(file, [key for key in _LABELS if key not in names])
    if len(names) > 1:
        raise DataError(f"{path} has no array for input {missing[0]!r}; it has {_listing(file)}")
    x_key, y_key = _keys(file, path, split)
    return {names[0]: x_key}, y_key


@contextmanager
def _opened(path: _Path) -> Iterator[NpzFile]:
    with _refusing(path):
        stream = Path(path).open("rb")  # noqa: SIM115 - closed below
    with stream:
        with _refusing(path):
            if not zipfile.is_zipfile(stream):
                raise DataError(f"{path} is not an .npz file, or is cut short; np.savez(path, x=x, y=y) writes one")
            stream.seek(0)
            if stream.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):  # np.load would take it for a pickle
                raise DataError(f"{path} is damaged: it doesn't begin as a zip archive does")
            stream.seek(0)
            file = np.load(stream, allow_pickle=False)
        with file:
            yield file


def _read(file: NpzFile, key: str, path: _Path) -> np.ndarray:
    _header(file, key, path)
    with _refusing(path, key):
        return file[key]


def _pickled(path: _Path, key: str) -> str:
    advice = "octavo doesn't run pickles: save an array of numbers, all rows of one shape"
    return f"{path}: array {key!r} is pickled Python objects; {advice}"


def _first(file: NpzFile, keys: Sequence[str]) -> str | None:
    """The file's spelling of the first of `keys` that it has; lower case wins where both are there."""
    present = {key.lower(): key for key in sorted(file.files)}  # upper case sorts first, so lower case overwrites it
    return next((present[key] for key in keys if key in present), None)


def _listing(file: NpzFile) -> str:
    return ", ".join(map(repr, file.files)) or "no arrays at all"


def _check_lengths(path: _Path, arrays: Mapping[str, np.ndarray | Header]) -> None:
    for key, array in arrays.items():
        if not array.shape:
            raise DataError(f"{path}: array {key!r} is a single number; its first axis must count the samples")
    if len({array.shape[0] for array in arrays.values()}) > 1:
        listed = ", ".join(f"{key!r} has {array.shape[0]}" for key, array in arrays.items())
        raise DataError(f"{path}: arrays differ in their number of samples: {listed}")
