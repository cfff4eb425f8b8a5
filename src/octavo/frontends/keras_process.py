"""A saved Keras model, loaded and traced by a process of its own; lowered to LiteRT in this one.

Keras and JAX take seconds to import and hundreds of megabytes, and Keras reads its backend once per process. In a
process of its own both are gone when the model is traced, another backend may run here, and meanwhile this process
imports what comes after. The process finds modules where this one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from octavo import errors
from octavo.errors import ConversionError, MissingDependencyError, OctavoError
from octavo.frontends import jax as jax_frontend
from octavo.frontends import stablehlo
from octavo.frontends.inputs import is_single, parse_input
from octavo.frontends.keras_worker import ANSWER
from octavo.graph import Program


def convert(
    path: str, *, inputs: Any = None, batch: int | None = 1, where: str, imports: Sequence[str] = ()
) -> Program:
    """Convert a saved Keras model.

    Args:
      path: the `.keras` or `.h5` file.
      inputs, batch: as in `octavo.convert`.
      where: what messages call it.
      imports: names of modules that define classes and functions of the user's own.

    Raises:
      OctavoError: what converting it in a process with Keras on JAX raises.
      ConversionError: or that process died.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "path": path,
            "where": where,
            "inputs": _as_data(inputs, where),
            "batch": batch,
            "imports": list(imports),
            "folder": folder,
        }
        worker = _start(job)
        try:
            _get_ready()
            _, told = worker.communicate()
        except BaseException:
            worker.kill()
            worker.wait()
            raise
        found = _read(Path(folder), worker.returncode, told, where)
        return jax_frontend.lower(found, where)


def _start(job: Mapping[str, Any]) -> subprocess.Popen[str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  (an environment holds strings)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "octavo.frontends.keras_worker", json.dumps(job)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _get_ready() -> None:
    """Import what lowering needs; the other process is busy for seconds."""
    from octavo.tflite import read  # noqa: F401

    with suppress(MissingDependencyError):  # which is said when it is needed
        stablehlo.libraries()


def _read(folder: Path, status: int, told: str, where: str) -> list[jax_frontend.Traced]:
    """What the worker left in `folder`; its error, if it says that it met one."""
    answer = folder / ANSWER
    if not answer.exists():
        lines = [line for line in told.splitlines() if line.strip()] or ["no message"]
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise ConversionError(f"{where}: the process that runs Keras on JAX ended with {ended}: {lines[-1]}")
    facts = json.loads(answer.read_text())
    if "error" in facts:
        kind = getattr(errors, facts["error"], OctavoError)
        raise kind(facts["message"])
    return [
        jax_frontend.Traced(
            (folder / one["artifact"]).read_bytes(), tuple(one["inputs"]), tuple(one["outputs"]), one["scope"]
        )
        for one in facts["traced"]
    ]


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
