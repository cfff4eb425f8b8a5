"""Samples and labels from `.npz` files.

Recognised keys, in any case: samples under `x`, `x_test`, `x_train`, `images`, `inputs`, `data` or `features`, the
first that is there; labels under `y_test` for `x_test`, `y_train` for `x_train`, else under `y`, `labels` or `targets`.
A file for a model with several inputs holds one array per input, under the input's name. Labels may be missing. All
arrays count samples along their first axis. Only the arrays that are asked for are read.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.npyio import NpzFile

from octavo.errors import DataError

_SAMPLES = {"test": ("x", "x_test", "x_train"), "train": ("x", "x_train", "x_test")}
_OTHER_SAMPLES = ("images", "inputs", "data", "features")
_LABELS = ("y", "labels", "targets")

_Path = str | os.PathLike[str]


def load_npz(path: _Path, split: Literal["test", "train"] = "test") -> tuple[np.ndarray, np.ndarray | None]:
    """Read (x, y); y is None if the file has no labels.

    Args:
      path: the file.
      split: which of `x_test` and `x_train` to take if both are there: "test" to evaluate, "train" to calibrate.

    Raises:
      DataError: no such file, not an `.npz` file, damaged, pickled arrays, no recognised keys, or x and y of different
        lengths.
    """
    keys = (*_SAMPLES[split], *_OTHER_SAMPLES)
    with _opened(path) as file:
        x_key = _first(file, keys)
        if x_key is None:
            raise DataError(f"{path} has no samples under a known key ({', '.join(keys)}); it has {_listing(file)}")
        suffix = x_key.lower().removeprefix("x")
        y_key = _first(file, ("y" + suffix,) if suffix in ("_test", "_train") else _LABELS)
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
        missing = [name for name in names if name not in file.files]
        if not missing:
            y_key = _first(file, [key for key in _LABELS if key not in names])
            x = {name: _read(file, name, path) for name in names}
            y = None if y_key is None else _read(file, y_key, path)
            _check_lengths(path, x | ({} if y is None or y_key is None else {y_key: y}))
            return x, y
        if len(names) > 1:
            raise DataError(f"{path} has no array for input {missing[0]!r}; it has {_listing(file)}")
    single, y = load_npz(path, split)
    return {names[0]: single}, y


@contextmanager
def _opened(path: _Path) -> Iterator[NpzFile]:
    try:
        with Path(path).open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise DataError(f"{path} is not an .npz file, or is cut short; np.savez(path, x=x, y=y) writes one")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                yield file
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _read(file: NpzFile, key: str, path: _Path) -> np.ndarray:
    try:
        array = file[key]
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            advice = "octavo doesn't run pickles: save an array of numbers, all rows of one shape"
            raise DataError(f"{path}: array {key!r} is pickled Python objects; {advice}") from error
        raise DataError(f"{path}: array {key!r} is damaged: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {key!r} is no array; write the file with np.savez")
    return array


def _first(file: NpzFile, keys: Sequence[str]) -> str | None:
    """The file's spelling of the first of `keys` that it has; lower case wins where both are there."""
    present = {key.lower(): key for key in sorted(file.files)}  # upper case sorts first, so lower case overwrites it
    return next((present[key] for key in keys if key in present), None)


def _listing(file: NpzFile) -> str:
    return ", ".join(map(repr, file.files)) or "no arrays at all"


def _check_lengths(path: _Path, arrays: dict[str, np.ndarray]) -> None:
    for key, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"{path}: array {key!r} is a single number; its first axis must count the samples")
    if len({len(array) for array in arrays.values()}) > 1:
        listed = ", ".join(f"{key!r} has {len(array)}" for key, array in arrays.items())
        raise DataError(f"{path}: arrays differ in their number of samples: {listed}")
