"""A Keras model on the TensorFlow or PyTorch backend: saved, and converted by a process on the JAX backend.

Keras reads its backend once per process, and a saved model holds no trace of it, so this costs a save, a load and a
new interpreter (seconds), and nothing in this process changes. The new process imports the modules that the model's own
classes come from, and finds them where this one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError
from octavo.frontends.inputs import is_single, parse_input
from octavo.graph import Program

_PROGRAM = """
import json
import sys
import octavo
job = json.loads(sys.argv[1])
try:
    octavo.convert(job["path"], inputs=job["inputs"], batch=job["batch"], imports=job["imports"]).save(job["out"])
except octavo.OctavoError as error:
    sys.exit(f"octavo: {error}")
"""


def convert(
    source: Any, *, inputs: Any = None, batch: int | None = 1, where: str, imports: Sequence[str] = ()
) -> Program:
    """Convert a Keras model of another backend.

    Args:
      source: a built `keras.Model` that can be saved, or the path of a saved one.
      inputs: as in `octavo.convert`.
      batch: as in `octavo.convert`.
      where: what messages call it.
      imports: names of modules that define classes and functions of the user's own.

    Raises:
      ConversionError: it can't be saved, or not be loaded and converted on the JAX backend; says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved, modules = source, list(imports)
        if not isinstance(source, str):
            modules += _own_modules(source, where)
            saved = _save(source, folder, where)
        job = {
            "path": saved,
            "batch": batch,
            "inputs": _as_data(inputs, where),
            "imports": list(dict.fromkeys(modules)),
        }
        program = _in_another_process(job, Path(folder) / "model.tflite", where)
    program.source = where
    return program


def _save(model: Any, folder: str, where: str) -> str:
    path = str(Path(folder) / "model.keras")
    try:
        model.save(path)
    except Exception as error:  # whatever a user's layer raises
        raise ConversionError(f"{where} can't be saved, which converting from this backend needs: {error}") from error
    return path


def _own_modules(model: Any, where: str) -> Iterator[str]:
    """The modules of layers, and of what layers use as activation, that are neither Keras's nor octavo's."""
    for layer in model._flatten_layers():
        activation: Any = getattr(layer, "activation", None)
        used: tuple[Any, ...] = (type(layer), activation if hasattr(activation, "__name__") else type(activation))
        for thing in used:
            if thing.__module__ == "__main__":
                raise ConversionError(
                    f"{where}: this script or notebook itself defines {thing.__name__}, and Keras's JAX backend, which "
                    "octavo uses, runs in a process that can't import it: define it in a module, or set "
                    "KERAS_BACKEND=jax before keras is imported"
                )
            if str(thing.__module__).partition(".")[0] not in ("keras", "octavo", "builtins"):
                yield thing.__module__


def _as_data(inputs: Any, where: str) -> Any:
    """`inputs` as what JSON can hold: [shape, dtype] for each."""
    if inputs is None:
        return None
    if isinstance(inputs, Mapping):
        return {str(name): _entry(entry, str(name), where) for name, entry in inputs.items()}
    entries = [inputs] if is_single(inputs) else list(inputs)
    return [_entry(entry, str(index), where) for index, entry in enumerate(entries)]


def _entry(entry: Any, name: str, where: str) -> list[Any]:
    parsed = parse_input(name, entry, where)
    return [list(parsed.shape), parsed.dtype]


def _in_another_process(job: Mapping[str, Any], out: Path, where: str) -> Program:
    """Run `_PROGRAM`."""
    from octavo.tflite import read

    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  (an environment holds strings)
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps({**job, "out": str(out)})],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0 or not out.exists():
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        why = (lines[-1] if lines else "no message").removeprefix("octavo: ").replace(str(job["path"]), where)
        why = why.removeprefix(f"{where}: ")
        raise ConversionError(f"{where} can't be converted on Keras's JAX backend, which octavo uses: {why}")
    return read(out.read_bytes())
