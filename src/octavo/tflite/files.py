"""Model files on disk: mapped into memory, told apart from other formats, written whole or not at all."""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from octavo.errors import ModelFileError
from octavo.graph.constants import MappedFile

Source = str | os.PathLike | bytes | bytearray | memoryview


def open_source(source: Source, name: str = "") -> tuple[memoryview, str]:
    """The bytes of a model, not copied, and what messages call it.

    Raises:
      ModelFileError: the file is missing, unreadable, a folder, or empty.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _view(source, name), name or "model"
    try:
        path = Path(os.fspath(source))
    except TypeError:
        raise ModelFileError(f"a model is a path or bytes, not {type(source).__name__}") from None
    label = name or str(path)
    if path.is_dir():
        saved_model = (path / "saved_model.pb").exists()
        kind = "a TensorFlow SavedModel folder; convert it first" if saved_model else "a folder"
        raise ModelFileError(f"{label}: this is {kind}; name a .tflite file")
    try:
        with path.open("rb") as file:
            # An empty file can't be mapped; the mapping outlives the file object.
            mapped = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
    except FileNotFoundError:
        raise ModelFileError(f"{label}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{label}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    return memoryview(mapped), label


def _view(source: bytes | bytearray | memoryview, name: str) -> memoryview:
    view = memoryview(source)
    if not view.c_contiguous:
        raise ModelFileError(f"{name or 'model'}: the memoryview isn't contiguous; pass bytes(view)")
    return view.cast("B").toreadonly()


def describe(buffer: memoryview) -> str:
    """What a file that isn't a `.tflite` model looks like, with what to do about it; "" if it can't be told."""
    start = bytes(buffer[:4096])
    for test, answer in _FORMATS:
        if test(start):
            return answer
    return ""


def _zip_with(*members: bytes) -> Any:
    return lambda start: start[:4] == b"PK\x03\x04" and any(member in start for member in members)


# Ordered: a special zip before any zip.
_FORMATS = (
    (_zip_with(b"metadata.json", b"config.json"), "it looks like a .keras file; convert it with octavo.convert"),
    (_zip_with(b"data.pkl"), "it looks like a PyTorch checkpoint; load it in PyTorch and convert the module"),
    (_zip_with(b".npy"), "it looks like a NumPy .npz archive, not a model"),
    (_zip_with(b""), "it looks like a zip archive; unpack it and name the .tflite file in it"),
    (lambda start: start.startswith(b"\x89HDF\r\n"), "it looks like HDF5 (.h5); save it as .keras"),
    (lambda start: start.startswith(b"LITERTLM"), "it looks like a .litertlm bundle, not a single .tflite model"),
    (lambda start: start.startswith(b"version https://git-lfs"), "it is a Git LFS pointer; run 'git lfs pull'"),
    (lambda start: start.lstrip()[:1] == b"<", "it looks like HTML or XML: a web page in place of the download"),
    (lambda start: start.startswith(b"\x1f\x8b"), "it is compressed with gzip; unpack it first"),
    (lambda start: start[:1] == b"\x08" and b"saved_model_" in start, "it looks like a TensorFlow SavedModel"),
    (lambda start: start[:1] == b"\x08" and b"\x12" in start[:4], "it looks like ONNX; it must be converted first"),
)


def write_whole(path: Path, pieces: Iterable[bytes | memoryview], overwrite: bool) -> int:
    """Write a file so that at `path` stands either what was there or all of `pieces`; returns the bytes written.

    Temporary files that killed processes have left there are removed.

    Raises:
      ModelFileError: the file exists and may not be overwritten, or the disk refuses.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; name a file in it")
    if not overwrite and path.exists():
        raise ModelFileError(f"{path}: exists already; choose another name or allow overwriting")
    if not path.parent.is_dir():
        raise ModelFileError(f"{path}: its folder {path.parent} doesn't exist; make it first")
    for left in left_behind(path, "tmp"):
        left.unlink(missing_ok=True)
    temporary = temporary_name(path, "tmp")
    try:
        with temporary.open("xb") as file:
            written = sum(file.write(piece) for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ModelFileError(f"{path}: can't be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return written


def temporary_name(path: Path, kind: str) -> Path:
    """A name beside `path` for what is to become it, which tells whose it is: the machine and the process."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}.{kind}")


def left_behind(path: Path, kind: str) -> list[Path]:
    """What processes of this machine that were killed have left beside `path` under temporary names."""
    if os.name != "posix":
        return []
    start, found = _prefix(path), []
    try:
        entries = [entry for entry in path.parent.iterdir() if entry.name.startswith(start)]
    except OSError:  # whoever is going to write there will tell
        return []
    for entry in entries:
        process, _, rest = entry.name.removeprefix(start).partition("-")
        if rest.endswith(f".{kind}") and process.isdecimal() and not _alive(int(process)):
            found.append(entry)
    return found


def _prefix(path: Path) -> str:
    # Of a folder that several machines share, each clears away its own only: it can't know the others' processes.
    return f".{path.name[:100]}.{zlib.crc32(platform.node().encode()):08x}-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
