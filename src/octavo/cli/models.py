"""Models and samples as the commands read and write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import octavo
from octavo.console import Run

if TYPE_CHECKING:
    import numpy as np

    from octavo.model import Model


def load_model(path: Path) -> Model:
    """A Keras file converted, any other read as `.tflite`."""
    modules = imports(path)
    return octavo.convert(path, imports=modules) if is_keras(path) else octavo.load(path)


def load_keras(path: Path) -> Any:
    """The Keras model of a Keras file."""
    from octavo.frontends.keras_files import load

    return load(path, imports(path))


def is_keras(path: Path) -> bool:
    """Whether a file is one of Keras's, by its name."""
    from octavo.frontends import KERAS_FILES

    return path.suffix.lower() in KERAS_FILES


def imports(path: Path) -> tuple[str, ...]:
    """The modules that --import names, for this file."""
    modules = click.get_current_context().ensure_object(Run).imports
    if modules and not is_keras(path):
        raise click.UsageError(f"--import is for .keras and .h5 files, and {path} is none.")
    return modules


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
