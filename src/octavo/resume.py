"""A folder of variants that can be gone on with: what was made from the same inputs isn't made again.

Beside the `.tflite` files lies `made.json`: for each variant a fingerprint of all that went into it, and the SHA-256
of the file that came out. Files and record are each written whole, a variant's file first; so whatever interrupts the
work, what the record lists is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from octavo.api import load, variants
from octavo.errors import ModelFileError
from octavo.model import Model
from octavo.provenance import fingerprint, versions
from octavo.tflite.files import write_whole

RECORD = "made.json"


class Folder:
    """The variants of one model in one folder.

    Args:
      path: the folder; made if it isn't there.
      model: the float model.
      calibration: samples by input name.
      io: types of inputs and outputs of the integer-only variant.
    """

    def __init__(self, path: Path, model: Model, calibration: Mapping[str, np.ndarray], io: str) -> None:
        self.path, self.model, self.calibration, self.io = path, model, calibration, io
        self.inputs = fingerprint(bytes(model), dict(calibration), io, dict(versions()))
        self._record = _read(path / RECORD)

    @property
    def is_same_work(self) -> bool:
        """Whether what the folder holds was begun from the same inputs."""
        return any(entry.get("inputs") == self.inputs for entry in self._record.values())

    def finished(self) -> dict[str, Model]:
        """Variants that are there already, made from the same inputs and not changed since."""
        found: dict[str, Model] = {}
        for name, entry in self._record.items():
            path = self.path / f"{name}.tflite"
            if entry.get("inputs") == self.inputs and _sha(path) == entry.get("file"):
                found[name] = load(path)
        return found

    def make(self, progress: bool = False) -> Iterator[tuple[str, Model, bool]]:
        """All variants, those that are there first.

        Yields:
          (name, model, whether it was there).

        Raises:
          NotIntegerError: at the last variant, if some op can't be integer; the others were made.
          ModelFileError: the folder can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError(f"can't make the folder {self.path}: {error.strerror or error}") from None
        there = self.finished()
        for name, model in there.items():
            yield name, model, True
        self._record = {name: self._record[name] for name in there}
        for name, model in variants(self.model, self.calibration, io=self.io, progress=progress, skip=there):
            path = model.save(self.path / f"{name}.tflite")
            self._record[name] = {"inputs": self.inputs, "file": _sha(path)}
            write_whole(self.path / RECORD, [(json.dumps(self._record, indent=2) + "\n").encode()], overwrite=True)
            yield name, model, False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The record; empty if there is none, or none that octavo wrote."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {name: entry for name, entry in record.items() if isinstance(entry, dict) and Path(name).name == name}


def _sha(path: Path) -> str | None:
    try:
        return fingerprint(path.read_bytes())
    except OSError:
        return None
