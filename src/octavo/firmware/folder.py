"""A folder of files that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from octavo.errors import ModelFileError
from octavo.tflite.files import left_behind, temporary_name


def check_folder(path: Path, names: Collection[str], overwrite: bool) -> None:
    """Find that a folder can't be written before the work, not after it.

    Args:
      path: the folder, which may not be there yet.
      names: the files that belong in it.
      overwrite: replace it if it holds nothing else.

    Raises:
      ModelFileError: it is a file, its parent is missing, or it holds files that would be lost.
    """
    if not path.parent.is_dir():
        raise ModelFileError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_dir():
        raise ModelFileError(f"{path} is a file: name a folder")
    held = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    foreign = [name for name in held if name not in names]
    if foreign:
        raise ModelFileError(f"{path} holds other files ({foreign[0]}): name a new folder")
    if held and not overwrite:
        raise ModelFileError(f"{path} isn't empty: name another folder, or --force to replace it")


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of `files` at `path`, in place of what `check_folder` let pass.

    Raises:
      ModelFileError: the disk refuses; what was there before is still there.
    """
    _clear_up(path)
    check_folder(path, files, overwrite=True)
    new, old = temporary_name(path, "new"), temporary_name(path, "old")
    try:
        new.mkdir()
        for name, data in files.items():
            with (new / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise ModelFileError(f"{path}: can't be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def _clear_up(path: Path) -> None:
    """Bring back what a process was about to replace when it was killed, and remove what it was writing."""
    for old in left_behind(path, "old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    for new in left_behind(path, "new"):
        shutil.rmtree(new, ignore_errors=True)
