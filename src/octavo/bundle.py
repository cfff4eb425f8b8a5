"""What a firmware project needs to run a model on TensorFlow Lite for Microcontrollers, as one folder of sources."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octavo import api
from octavo.errors import RecipeError, RunError
from octavo.firmware.cpp import identifier
from octavo.firmware.folder import check_folder, write_folder
from octavo.firmware.resolver import methods
from octavo.firmware.scratch import scratch_bytes
from octavo.firmware.sources import FILES, Facts, sources
from octavo.graph.queries import quantization_kind
from octavo.measure import Samples, TflmRun, run_on_tflm
from octavo.model import Model
from octavo.recipe import Recipe, Scheme, integer
from octavo.runtime import tflm
from octavo.runtime.runner import Runner
from octavo.runtime.tflm import TflmSession

_ALIGNMENT = 16  # bytes, of TFLM's arena


@dataclass(frozen=True)
class Bundle:
    """What `octavo.bundle` wrote.

    Attributes:
      folder: where.
      files: names of the files in it.
      name: namespace of the sources.
      model_bytes: size of the model.
      arena_measured: bytes of the smallest arena in which TFLM runs the model on this machine.
      arena_bytes: bytes that the sources reserve.
      operators: the kernels that the sources register ("AddConv2D").
      run: how TFLM compares with LiteRT's reference kernels.
    """

    folder: Path
    files: tuple[str, ...]
    name: str
    model_bytes: int
    arena_measured: int
    arena_bytes: int
    operators: tuple[str, ...]
    run: TflmRun

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "folder": str(self.folder)}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.folder}: {len(self.files)} files, namespace {self.name}",
                f"  model      {self.model_bytes:,} bytes",
                f"  arena      {self.arena_bytes:,} bytes ({self.arena_measured:,} measured)",
                f"  operators  {', '.join(self.operators)}",
                f"  parity     {self.run.agreement}",
            ]
        )


def bundle(
    model: Model | str | os.PathLike[str] | bytes,
    folder: str | os.PathLike[str],
    samples: Samples | None = None,
    *,
    recipe: Recipe | Scheme | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Bundle:
    """Write a model as C++ for TensorFlow Lite for Microcontrollers, measured and with a test of its own.

    The folder holds the model as a C array, a resolver for exactly its ops, the measured size of the arena, scales and
    zero points, an input with the output that TFLM gives for it here, and a main that checks a device against it. It
    is written whole or not at all.

    Args:
      model: a model whose activations are integers already; or a float one, which is quantized to integers only.
      folder: a new or empty folder, or with `overwrite` an earlier bundle.
      samples: representative samples, as `octavo.Runner` takes them: real numbers. They quantize a float model, the
        first is the golden input, and on all of them TFLM is compared with LiteRT. Without them a quantized model is
        given random numbers.
      recipe: how to quantize a float model; by default `octavo.integer(fallback=False)`.
      name: C++ namespace; made from the folder's name by default.
      overwrite: replace an earlier bundle.
      progress: show progress bars.

    Raises:
      MissingDependencyError: `octavo[tflm]` isn't installed, which measures and checks.
      NotIntegerError: a float model has an op without an integer kernel.
      RunError: TFLM doesn't run the model.
      RecipeError: a float model comes without samples, or a quantized one with a recipe.
      DataError: samples don't fit.
      ModelFileError: the folder isn't empty or can't be written.
    """
    tflm.check_installed()
    target = Path(folder)
    check_folder(target, FILES, overwrite)
    small = _quantized(model if isinstance(model, Model) else api.load(model), samples, recipe, progress)
    label = small.name or "the model"
    operators = methods(small.program, label)
    run, x = run_on_tflm(small, samples, progress)
    runner = Runner(small, "tflm", name=label)
    golden = runner.first_codes(x)
    measured = _least_arena(small, label, run.arena_bytes, golden)
    arena = _reserved(measured, scratch_bytes(small.program))
    namespace = identifier(name or target.resolve().name)
    data = bytes(small)
    ports = runner.inputs, runner.outputs
    write_folder(
        target, sources(Facts(namespace, label, data, small.program, operators, measured, arena, *ports, *golden, run))
    )
    return Bundle(target, FILES, namespace, len(data), measured, arena, operators, run)


def _quantized(model: Model, samples: Any, recipe: Recipe | Scheme | None, progress: bool) -> Model:
    """The model itself if its activations are integers, else quantized.

    Raises:
      RecipeError: it is quantized already, and a recipe asks for something.
    """
    if quantization_kind(model.program):
        if recipe is not None:
            raise RecipeError(
                f"{model.name or 'the model'} is quantized already: leave out the recipe (--io, --effort), or bring it "
                "back to float with octavo.dequantize (--dequantize)"
            )
        return model
    small = api.quantize(model, recipe or integer(fallback=False), samples, progress=progress)
    small.path = model.path
    return small


def _reserved(measured: int, scratch: int) -> int:
    """What to reserve: the measure, a tenth more, and room for optimised kernels."""
    return _aligned(measured + measured // 10 + scratch)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _least_arena(small: Model, label: str, used: int | None, golden: tuple[list[np.ndarray], list[np.ndarray]]) -> int:
    """The smallest arena in which TFLM prepares the model and computes the golden output, found by trying.

    Mostly that is what TFLM says it used; while it plans a small model's memory it needs more for a moment.

    Raises:
      RunError: TFLM doesn't tell how much it used, or gives another output in a small arena.
    """
    if used is None:
        raise RunError(f"{label}: TFLM doesn't tell how much memory it used: is tflite-micro of another version?")
    low, high = 0, _aligned(used)
    while not _runs(small, label, high, golden):
        if high > tflm.ARENA:
            raise RunError(f"{label}: TFLM used {used} bytes and doesn't run in {high}: please report it")
        low, high = high, high + max(256, high // 4)
    while low and high - low > _ALIGNMENT:
        middle = _aligned((low + high) // 2)
        low, high = (low, middle) if _runs(small, label, middle, golden) else (middle, high)
    return high


def _runs(small: Model, label: str, arena: int, golden: tuple[list[np.ndarray], list[np.ndarray]]) -> bool:
    inputs, outputs = golden
    try:
        again = TflmSession(small, label, arena).invoke(inputs)
    except RunError:
        return False
    if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(again, outputs, strict=True)):
        raise RunError(f"{label}: TFLM gives another output in an arena of {arena} bytes: please report it")
    return True
