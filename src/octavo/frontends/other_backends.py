"""A Keras model on the TensorFlow or PyTorch backend: saved, and converted by a process on the JAX backend.

Keras reads its backend once per process, and a `.keras` file holds no trace of it, so this costs a save, a load and a
new interpreter (seconds), and nothing in this process changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError
from octavo.graph import Program

_PROGRAM = """
import sys
import octavo
path, out, batch = sys.argv[1:]
try:
    octavo.convert(path, batch=None if batch == "none" else int(batch)).save(out)
except octavo.OctavoError as error:
    sys.exit(f"octavo: {error}")
"""


def convert(model: Any, *, batch: int | None, where: str) -> Program:
    """Convert a Keras model of another backend.

    Args:
      model: a built `keras.Model` that can be saved.
      batch: as in `octavo.convert`.
      where: what messages call it.

    Raises:
      ConversionError: it can't be saved, or not be loaded and converted on the JAX backend; says why.
    """
    from octavo.tflite import read

    with tempfile.TemporaryDirectory() as folder:
        saved, out = Path(folder) / "model.keras", Path(folder) / "model.tflite"
        try:
            model.save(saved)
        except Exception as error:  # whatever a user's layer raises
            raise ConversionError(
                f"{where} can't be saved, which converting from this backend needs: {error}"
            ) from error
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        command = [sys.executable, "-c", _PROGRAM, str(saved), str(out), "none" if batch is None else str(batch)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode != 0 or not out.exists():
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            why = (lines[-1] if lines else "no message").removeprefix("octavo: ").replace(str(saved), where)
            raise ConversionError(f"{where} can't be converted on Keras's JAX backend, which octavo uses: {why}")
        program = read(out.read_bytes())
    program.source = where
    return program
