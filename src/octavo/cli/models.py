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

    return load_npz_inputs(path, _input_names(model), split)


def _input_names(model: Model) -> list[str]:
    try:
        return [port.name for port in octavo.Runner(model).inputs]
    except octavo.RunError:  # a custom op that LiteRT hasn't got: the file has the names too
        program = model.program
        named = next((s.inputs for s in program.signatures if s.graph is program.main), None)
        return [tensor.name for tensor in program.main.inputs] if named is None else [name for name, _ in named]


def load_by_signature(path: Path, model: Model) -> dict[str, dict[str, np.ndarray]]:
    """Samples for each signature of a model with several, from an .npz file; empty if it doesn't name signatures."""
    from octavo.datasets.npz import load_npz_signatures

    if len(model.program.signatures) < 2:
        return {}
    return load_npz_signatures(path, {s.key: [name for name, _ in s.inputs] for s in model.program.signatures})


def spread(x: dict[str, np.ndarray], count: int, steps: int = 1) -> dict[str, np.ndarray]:
    """`count` samples, evenly spread: the first ones of a file that is sorted by class would all be alike.

    With `steps`, so many samples belong together: whole sequences are spread, at least one.
    """
    import numpy as np

    def pick(array: np.ndarray) -> np.ndarray:
        if len(array) <= count:
            return array
        chosen = max(count // steps, 1)
        starts = np.arange(chosen) * -(-len(array) // steps) // chosen * steps
        rows = (starts[:, None] + np.arange(steps)).reshape(-1)
        return array[rows[rows < len(array)]]

    return {name: pick(array) for name, array in x.items()}


def calibration(x: dict[str, np.ndarray], count: int, steps: int | None) -> Any:
    """Samples to calibrate with: some of `x`, as sequences of `steps` if that is given."""
    chosen = spread(x, count, steps or 1)
    return chosen if steps is None else octavo.Sequences(chosen, steps)


def save_model(model: Model, path: Path) -> None:
    """Write the file and say how large it is."""
    model.save(path)
    click.echo(f"{path}: {model.nbytes:,} bytes")
