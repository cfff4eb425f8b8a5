"""Models and samples as the commands read and write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import octavo
from octavo.console import Run

if TYPE_CHECKING:
    import numpy as np

    from octavo.calibrate.data import InputSpec
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
    """Samples by input name, and the labels or None, from an .npz file, or, read on demand, from many files."""
    from octavo.datasets.npz import load_npz_inputs
    from octavo.datasets.shards import is_many, shards

    inputs = _inputs(model)
    names = [spec.name for spec in inputs]
    if not is_many(path):
        return load_npz_inputs(path, names, split)
    found = shards(path, split=split, pixels=click.get_current_context().ensure_object(Run).pixels)
    arrays: Any = found.arrays(inputs)
    return arrays, found.labels(names)


def _inputs(model: Model) -> list[InputSpec]:
    import numpy as np

    from octavo.calibrate.data import InputSpec

    try:
        return [InputSpec(port.name, port.shape_signature, port.dtype) for port in octavo.Runner(model).inputs]
    except octavo.RunError:  # a custom op that LiteRT hasn't got: the file knows its inputs too
        main = model.program.main
        named = next((s.inputs for s in model.program.signatures if s.graph is main), None)
        pairs = [(tensor.name, tensor) for tensor in main.inputs] if named is None else named
        return [InputSpec(name, t.shape_signature or t.shape, np.dtype(t.dtype.numpy)) for name, t in pairs]


def load_by_signature(path: Path, model: Model) -> dict[str, dict[str, np.ndarray]]:
    """Samples for each signature of a model with several, from an .npz file; empty if it doesn't name signatures."""
    from octavo.datasets.npz import load_npz_signatures
    from octavo.datasets.shards import is_many

    if len(model.program.signatures) < 2 or is_many(path):
        return {}
    return load_npz_signatures(path, {s.key: [name for name, _ in s.inputs] for s in model.program.signatures})


def spread(x: dict[str, np.ndarray], count: int, steps: int = 1) -> dict[str, np.ndarray]:
    """`count` samples, evenly spread: the first ones of a file that is sorted by class would all be alike.

    With `steps`, so many samples belong together: whole sequences are spread, at least one.
    """
    import numpy as np

    from octavo.datasets.sharded import Sharded

    def pick(array: Any) -> Any:
        if len(array) <= count:
            return array
        chosen = max(count // steps, 1)
        starts = np.arange(chosen) * -(-len(array) // steps) // chosen * steps
        rows = (starts[:, None] + np.arange(steps)).reshape(-1)
        rows = rows[rows < len(array)]
        return array.choose(rows) if isinstance(array, Sharded) else array[rows]

    return {name: pick(array) for name, array in x.items()}


def calibration(x: dict[str, np.ndarray], count: int, steps: int | None) -> Any:
    """Samples to calibrate with: some of `x`, as sequences of `steps` if that is given."""
    chosen = spread(x, count, steps or 1)
    return chosen if steps is None else octavo.Sequences(chosen, steps)


def save_model(model: Model, path: Path) -> None:
    """Write the file and say how large it is."""
    model.save(path)
    click.echo(f"{path}: {model.nbytes:,} bytes")
