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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from octavo import errors
from octavo.errors import ConversionError, MissingDependencyError, OctavoError
from octavo.frontends import jax as jax_frontend
from octavo.frontends import stablehlo
from octavo.frontends.inputs import is_single, parse_input
from octavo.graph import Program

_SECONDS_TO_END = 5  # that a worker which is no longer wanted may take to remove its temporary files


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
    job = {
        "path": path,
        "where": where,
        "inputs": _as_data(inputs, where),
        "batch": batch,
        "imports": list(imports),
    }
    with tempfile.TemporaryFile() as log, _started(job, log) as worker:
        _get_ready()
        return jax_frontend.lower(_received(worker, log, where), where)


@contextmanager
def _started(job: Mapping[str, Any], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The worker, which is gone when the context is left."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  (an environment holds strings)
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "octavo.frontends.keras_worker", json.dumps(job)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        yield worker
    finally:
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            pipe.close()
        try:
            worker.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _get_ready() -> None:
    """Import what lowering needs; the other process is busy for seconds."""
    from octavo.tflite import schema

    schema.module()
    with suppress(MissingDependencyError):  # which is said when it is needed
        stablehlo.libraries()


def _received(worker: subprocess.Popen[bytes], log: IO[bytes], where: str) -> Iterator[jax_frontend.Traced]:
    """What the worker sends; raises the error that it met."""
    assert worker.stdout is not None
    while line := worker.stdout.readline():
        told = json.loads(line)
        if "error" in told:
            raise getattr(errors, told["error"], OctavoError)(told["message"])
        if "done" in told:
            return
        artifact = worker.stdout.read(told["nbytes"])
        if len(artifact) < told["nbytes"]:
            break
        yield jax_frontend.Traced(artifact, tuple(told["inputs"]), tuple(told["outputs"]), told["scope"])
    status = worker.wait()
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()] or ["no message"]
    raise ConversionError(f"{where}: the process that runs Keras on JAX ended with {ended}: {lines[-1]}")


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
