"""Data sets in many files, larger than memory: `.npz` shards, or a folder of images.

Files count in the order of their paths, and each is read when its samples are due. The data set as a whole is never
in memory, however it is used: to calibrate, to evaluate, to compare.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from octavo.datasets import npz
from octavo.datasets.images import SUFFIXES, Look, Preprocess
from octavo.datasets.sharded import ImagePart, NpzPart, Sharded
from octavo.errors import DataError

_Path = str | os.PathLike[str]
_MAGIC = ("*", "?", "[")


class Input(Protocol):
    """What a model takes; the batch dimension comes first in `shape`, and -1 is any size."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


@dataclass(frozen=True)
class Shards:
    """Samples in many files. Made by `octavo.shards`.

    Attributes:
      files: absolute paths, sorted.
      kind: "npz" or "images".
      look: how an image becomes a sample.
      split: which of `x_test` and `x_train` counts in files that have both.
      root: the folder whose subfolders are the classes of images, None if images have no labels.
    """

    files: tuple[str, ...]
    kind: Literal["npz", "images"]
    look: Look = field(default_factory=Look)
    split: Literal["test", "train"] = "test"
    root: str | None = None

    def __len__(self) -> int:
        """Number of samples; of `.npz` files only headers are read."""
        return len(self.files) if self.kind == "images" else sum(map(npz.length, self.files))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of images: the folders that they lie in, sorted; their numbers are the labels."""
        return tuple(sorted({self._class_of(file) for file in self.files})) if self.root is not None else ()

    def arrays(self, inputs: Sequence[Input]) -> dict[str, Sharded]:
        """One array for each input of a model: samples first, read on demand.

        Args:
          inputs: the model's inputs.

        Raises:
          DataError: a file has no array for an input, or another shape or dtype than the first file; images for a model
            that takes none; names the file.
        """
        return self._from_images(inputs) if self.kind == "images" else self._from_npz([spec.name for spec in inputs])

    def labels(self, names: Sequence[str] = ("x",)) -> np.ndarray | None:
        """One label for each sample, None if there are none.

        Args:
          names: the model's inputs.

        Raises:
          DataError: some files have labels and others haven't.
        """
        if self.kind == "images":
            numbers = {name: number for number, name in enumerate(self.classes)}
            return np.array([numbers[self._class_of(file)] for file in self.files]) if numbers else None
        found = [npz.headers(file, names, self.split)[1] for file in self.files]
        if all(header is None for header in found):
            return None
        parts = []
        for file, header in zip(self.files, found, strict=True):
            if header is None:
                raise DataError(f"{file} has no labels, but other files have: give all of them labels, or none")
            parts.append(npz.Rows(file, header.key)[:])
            if parts[-1].shape[1:] != parts[0].shape[1:]:
                raise DataError(f"{file}: labels have shape {parts[-1].shape}, in the first file {parts[0].shape}")
        return np.concatenate(parts)

    def _class_of(self, file: str) -> str:
        assert self.root is not None
        return Path(file).relative_to(self.root).parts[0]

    def _from_npz(self, names: Sequence[str]) -> dict[str, Sharded]:
        parts: dict[str, list[NpzPart]] = {name: [] for name in names}
        first: dict[str, npz.Header] = {}
        for file in self.files:
            found, _ = npz.headers(file, names, self.split)
            for name, header in found.items():
                known = first.setdefault(name, header)
                if header.shape[1:] != known.shape[1:] or header.dtype != known.dtype:
                    raise DataError(
                        f"{file}: array {header.key!r} holds {header.dtype} rows of shape {header.shape[1:]}, but in "
                        f"{self.files[0]} they are {known.dtype} of shape {known.shape[1:]}: all must be alike"
                    )
                parts[name].append(NpzPart(file, header.shape[0], header.key))
        return {name: Sharded(found, first[name].shape[1:], first[name].dtype) for name, found in parts.items()}

    def _from_images(self, inputs: Sequence[Input]) -> dict[str, Sharded]:
        if len(inputs) != 1:
            raise DataError(f"a folder of images feeds a model with one input, and this one has {len(inputs)}")
        look = self.look if self.look.preprocess is not None else self._fitted(inputs[0])
        row = look.read(self.files[0])
        return {inputs[0].name: Sharded([ImagePart(file, look) for file in self.files], row.shape, row.dtype)}

    def _fitted(self, spec: Input) -> Look:
        """The look that an input asks for where the user left it open."""
        shape = spec.shape
        if len(shape) != 4 or shape[3] not in (1, 3):
            raise DataError(
                f"input {spec.name!r} has shape {shape}, which is no image (batch, height, width, 1 or 3 channels): "
                "say with preprocess= how an image becomes a sample"
            )
        size = self.look.size or (shape[1], shape[2])
        if min(size) < 1:
            raise DataError(f"input {spec.name!r} takes images of any size, {shape}: give size=(height, width)")
        if np.dtype(spec.dtype).kind == "f" and self.look.pixels is None:
            raise DataError(
                f"images hold numbers from 0 to 255: say what input {spec.name!r} was trained on with pixels=(0, 1), "
                "(-1, 1) or (0, 255) (--pixels on the command line), or with preprocess="
            )
        return Look(size, shape[3], self.look.pixels)


def shards(
    source: _Path | Iterable[_Path],
    *,
    split: Literal["test", "train"] = "test",
    size: tuple[int, int] | None = None,
    pixels: tuple[float, float] | None = None,
    preprocess: Preprocess | None = None,
) -> Shards:
    """A data set in many files, each read when it is due: for `calibration=`, `octavo.evaluate`, `octavo.compare`.

    Args:
      source: a pattern such as "train-*.npz", a folder, or paths. All are `.npz` files (with arrays as in
        `octavo.datasets.npz`), or all are images. Images in subfolders have the folder's number as their label.
      split: which of `x_test` and `x_train` to take from files that have both.
      size: (height, width) that images are resized to; that of the model's input by default.
      pixels: what the pixel values 0 and 255 become: (0, 1), (-1, 1), (0, 255), as in training. Needed for models that
        take floats.
      preprocess: makes a sample of an image (height, width, 3) in uint8, in place of `size` and `pixels`.

    Raises:
      DataError: no such files, or files of several kinds.
    """
    folder = Path(source) if isinstance(source, str | os.PathLike) and Path(source).is_dir() else None
    files = tuple(sorted(str(Path(file).absolute()) for file in _files(source)))
    suffixes = {Path(file).suffix.lower() for file in files}
    if suffixes == {".npz"}:
        if size is not None or pixels is not None or preprocess is not None:
            raise DataError("size, pixels and preprocess are for images: save .npz files as the model takes them")
        return Shards(files, "npz", split=split)
    if not suffixes <= set(SUFFIXES):
        odd = next(file for file in files if Path(file).suffix.lower() not in SUFFIXES)
        raise DataError(f"{odd} is neither an image nor an .npz file like all others: name the files with a pattern")
    look = Look(size, 3, pixels, preprocess)
    root = None if folder is None else str(folder.absolute())
    nested = root is not None and all(len(Path(file).relative_to(root).parts) > 1 for file in files)
    return Shards(files, "images", look, split, root if nested else None)


def is_many(source: _Path) -> bool:
    """Whether a path means a folder or a pattern rather than one file."""
    return Path(source).is_dir() or (any(c in str(source) for c in _MAGIC) and not Path(source).exists())


def _files(source: Any) -> list[str]:
    """The files that a pattern, a folder or paths stand for."""
    if not isinstance(source, str | os.PathLike):
        files = [str(path) for path in source]
        if not files:
            raise DataError("shards of no files: give a pattern, a folder or paths")
        return files
    path = Path(source)
    if path.is_dir():
        found = [str(file) for file in path.rglob("*") if file.suffix.lower() in (".npz", *SUFFIXES)]
        if not found:
            raise DataError(f"{path}: no .npz files and no images in this folder")
        return found
    found = [str(path)] if path.exists() else glob.glob(str(source), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
    if not found:
        raise DataError(f"no file matches {str(source)!r}")
    return found
