"""An ONNX file -> `Program`, by the command `onnx2tf` in an environment of its own.

onnx2tf 2.6 writes `.tflite` files without TensorFlow, and pins every package it uses, LiteRT 2.1 among them, so it
can't be installed next to octavo; as a command it can (docs/onnx.md). It also writes files for models that it didn't
understand, so it is always asked to run both models on random inputs and compare: a file that it can't vouch for is
refused here.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, MissingDependencyError, ModelFileError
from octavo.frontends.inputs import parse_input
from octavo.graph import Program

COMMAND = "onnx2tf"
_SAMPLES = 3  # random inputs on which the two models are compared
_ADVICE = "convert the model that it was exported from (Keras, PyTorch and JAX models go straight in)"


def convert(path: str, *, inputs: Any = None, batch: int | None = 1, name: str | None = None) -> Program:
    """Convert an ONNX file.

    Args:
      path: the file.
      inputs: sizes for inputs that leave some open: a dict of input name -> shape, in ONNX's order of dimensions.
      batch: the first size of every input, where `inputs` isn't given; None leaves it as it is.
      name: what messages and the program call it.

    Returns:
      The program. onnx2tf puts channels last: an input (1, 3, 224, 224) of the file is (1, 224, 224, 3) here.

    Raises:
      MissingDependencyError: there is no command onnx2tf.
      ConversionError: onnx2tf can't convert it, or the outputs of its file differ from ONNX Runtime's.
      ModelFileError: no such file.
    """
    from octavo.tflite import read

    where = name or path
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: no such file")
    command = shutil.which(COMMAND)
    if command is None:
        raise MissingDependencyError(
            f"{where}: ONNX files need the command {COMMAND}, in an environment of its own with Python 3.12 or newer: "
            f"pipx install {COMMAND}; or {_ADVICE}"
        )
    sizes = _sizes(inputs, batch, where)
    with tempfile.TemporaryDirectory() as folder:
        # -ewo and -efot: compare with ONNX Runtime, and fail if the outputs differ. -n: no report of every op.
        options = ["-i", str(Path(path).resolve()), "-o", folder, "-n", "-ewo", "-efot", "-ens", str(_SAMPLES), *sizes]
        run = subprocess.run(
            [command, *options], cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
        made = sorted(Path(folder).glob("*_float32.tflite"))
        if run.returncode != 0 or not made:
            raise ConversionError(f"{where}: {COMMAND} can't convert it: {_reason(run.stdout, run.stderr)}; {_ADVICE}")
        program = read(made[0].read_bytes())
    program.source = where
    return program


def _sizes(inputs: Any, batch: int | None, where: str) -> list[str]:
    """The options that say sizes."""
    if inputs is None:
        return [] if batch is None else ["-b", str(batch)]
    if not isinstance(inputs, Mapping):
        raise ConversionError(f"{where}: inputs of an ONNX file is a dict of input name -> shape")
    specs = [parse_input(str(key), entry, where) for key, entry in inputs.items()]
    shapes = (",".join(str(batch or 1 if size is None else size) for size in spec.shape) for spec in specs)
    return ["-ois", *(f"{spec.name}:{shape}" for spec, shape in zip(specs, shapes, strict=True))]


def _reason(*streams: str) -> str:
    """The last line that names an error; onnx2tf draws progress bars and prints tracebacks around it."""
    lines: Sequence[str] = [line.strip() for text in streams for line in text.replace("\r", "\n").splitlines()]
    errors = [line for line in lines if "Error" in line or "INVALID" in line or "FAIL" in line]
    told = errors or [line for line in lines if line]
    return told[-1][:300] if told else "it says nothing"
