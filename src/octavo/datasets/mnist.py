"""MNIST, from the four idx files that it is published as.

The files come from the repository's `data/mnist/` in a checkout; elsewhere Keras downloads the same images.
Format: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octavo.errors import DataError, MissingDependencyError

TRAIN_COUNT = 60_000
TEST_COUNT = 10_000
SIZE = 28  # pixels

_UINT8 = 0x08  # the only element type that MNIST uses


@dataclass(frozen=True, eq=False)
class MNIST:
    """Handwritten digits.

    Attributes:
      x_train: uint8, (60000, 28, 28); 0 is paper, 255 is ink.
      y_train: int64, (60000,); 0 to 9.
      x_test: uint8, (10000, 28, 28).
      y_test: int64, (10000,).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(folder: str | os.PathLike[str] | None = None) -> MNIST:
    """Load MNIST.

    Args:
      folder: holds the four idx files, gzipped or not, itself or in a folder `mnist`. By default the checkout's
        `data/`; if octavo doesn't run from a checkout, Keras downloads the data (to ~/.keras/datasets).

    Raises:
      DataError: a file is missing, damaged, or of another size (names the file); or nothing could be downloaded.
      MissingDependencyError: a download is needed and Keras isn't installed.
    """
    if folder is not None:
        return _from_folder(_find(Path(folder)))
    checkout = _checkout_data()
    return _from_folder(checkout) if checkout is not None else _download()


def _checkout_data() -> Path | None:
    """`data/mnist` of the repository that this file is part of (src layout); None in an installed package."""
    source = Path(__file__).resolve().parents[2]
    folder = source.parent / "data" / "mnist"
    return folder if source.name == "src" and folder.is_dir() else None


def _find(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold MNIST's four idx files")
    return folder / "mnist" if (folder / "mnist").is_dir() else folder


def _from_folder(folder: Path) -> MNIST:
    x_train, y_train = _images(folder, "train", TRAIN_COUNT), _labels(folder, "train", TRAIN_COUNT)
    return MNIST(x_train, y_train, _images(folder, "t10k", TEST_COUNT), _labels(folder, "t10k", TEST_COUNT))


def _images(folder: Path, part: str, count: int) -> np.ndarray:
    return read_idx(_file(folder, f"{part}-images-idx3-ubyte"), (count, SIZE, SIZE))


def _labels(folder: Path, part: str, count: int) -> np.ndarray:
    path = _file(folder, f"{part}-labels-idx1-ubyte")
    labels = read_idx(path, (count,))
    if labels.max() > 9:
        sample = int(np.argmax(labels > 9))
        raise DataError(f"{path}: label {labels[sample]} of sample {sample} is no digit; fetch the file again")
    return labels.astype(np.int64)


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{folder}: {name}.gz is missing; MNIST is four such files")


def read_idx(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """Read one idx file of uint8, gzipped if its name ends in `.gz`.

    Layout, big-endian: two zero bytes, the element type, the number of dimensions, each dimension as uint32, the data.

    Args:
      path: the file.
      shape: what it must hold.

    Raises:
      DataError: it can't be read, isn't idx, or holds another number or size of samples than `shape` says.
    """
    data = _read_bytes(Path(path))
    header = 4 + 4 * len(shape)
    if len(data) < header:
        raise DataError(
            f"{path}: truncated: {len(data)} bytes, fewer than its header of {header}; fetch the file again"
        )
    magic, *dims = struct.unpack(f">{1 + len(shape)}I", data[:header])
    if magic != _UINT8 << 8 | len(shape):
        raise DataError(f"{path}: not an idx file of uint8 in {len(shape)} dimensions: it starts with {magic:#010x}")
    if tuple(dims) != shape:
        raise DataError(f"{path}: holds {_times(dims)} values, MNIST has {_times(shape)}; fetch the file again")
    expected = header + int(np.prod(shape))
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "too long"
        raise DataError(f"{path}: {fault}: {len(data)} bytes instead of {expected}; fetch the file again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _times(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, shape))


def _read_bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); fetch the file again") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def _download() -> MNIST:
    from octavo.frontends.keras import import_keras

    try:
        keras = import_keras()
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"MNIST isn't here, and downloading it takes Keras; or pass the folder that holds its idx files. {error}"
        ) from error
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:  # urllib's errors come wrapped in a bare Exception
        raise DataError(
            f"MNIST isn't here, and Keras can't download it ({error}); pass the folder that holds its idx files"
        ) from error
    return MNIST(x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64))
