"""Models and samples as the commands read and write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import octavo

if TYPE_CHECKING:
    import numpy as np

    from octavo.model import Model


def load_model(path: Path) -> Model:
    """A `.keras` file converted, any other read as `.tflite`."""
    return octavo.convert(path) if path.suffix == ".keras" else octavo.load(path)


def load_samples(path: Path, model: Model, split: Literal["test", "train"]) -> tuple[dict[str, np.ndarray], Any]:
    """Samples by input name, and the labels or None, from an .npz file."""
    from octavo.datasets.npz import load_npz_inputs

    return load_npz_inputs(path, [port.name for port in octavo.Runner(model).inputs], split)


def spread(x: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` samples, evenly spread: the first ones of a file that is sorted by class would all be alike."""
    import numpy as np

    def pick(array: np.ndarray) -> np.ndarray:
        return array if len(array) <= count else array[np.arange(count) * len(array) // count]

    return {name: pick(array) for name, array in x.items()}


def save_model(model: Model, path: Path) -> None:
    """Write the file and say how large it is."""
    model.save(path)
    click.echo(f"{path}: {model.nbytes:,} bytes")
