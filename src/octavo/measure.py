"""A model on its target, as far as this machine can tell: run on TFLM's kernels, or compiled for Ethos-U by Vela.

`octavo.check` holds a model against written rules; here the target's own software has its say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from octavo import api
from octavo.errors import DataError, RecipeError, RunError
from octavo.model import Model
from octavo.runtime import tflm, vela
from octavo.runtime.batching import shapes_for
from octavo.runtime.codes import from_file
from octavo.runtime.parity import BASE, parity
from octavo.runtime.session import Session
from octavo.runtime.vela import VelaReport, compile_model

TARGETS = ("tflm", *vela.DEFAULTS)
_RANDOM_SAMPLES = 20

Samples = np.ndarray | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class TflmRun:
    """What TFLM's plain kernels made of a model on this machine.

    Attributes:
      arena_bytes: memory that TFLM used, its kernels' own included, with pointers of 64 bits; None if it doesn't tell.
      samples: how many samples TFLM and LiteRT's reference kernels were compared on.
      steps: largest difference between the two, in steps of an output's scale; None where no output is quantized.
      error: the same in real numbers.
      differing: share of samples where any output value differs at all.
      random: whether the samples were random numbers, for want of real ones.
      against: LiteRT's kernels that it was compared with: "reference", or "builtin" where these don't load the model.
    """

    arena_bytes: int | None
    samples: int
    steps: float | None
    error: float
    differing: float
    random: bool
    against: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def agreement(self) -> str:
        """How well the two sets of kernels agree, in words."""
        kind = "random samples" if self.random else "samples"
        return (
            f"{self.samples} {kind}: TFLM differs from LiteRT's {self.against} kernels on "
            f"{100 * self.differing:.3g} %, by {self._largest} at most"
        )

    @property
    def _largest(self) -> str:
        if self.steps is None:
            return f"{self.error:.3g}"
        return f"{self.steps:.0f} step" + ("" if self.steps == 1 else "s")

    def __str__(self) -> str:
        arena = "unknown" if self.arena_bytes is None else f"{self.arena_bytes:,} bytes"
        return f"tflm runs it: arena {arena}; {self.agreement}"


def measure(
    model: Model | str | os.PathLike[str] | bytes, target: str, samples: Samples | None = None, progress: bool = False
) -> TflmRun | VelaReport:
    """Really run or compile a model.

    Args:
      model: a model as it would be flashed.
      target: "tflm" runs it on TFLM's kernels and compares with LiteRT's reference kernels; "ethosu55", "ethosu65",
        "ethosu85" or one size of them ("ethos-u55-256") compiles it with Vela.
      samples: for TFLM, as `octavo.Runner` takes them; without them a quantized model is given random numbers.
      progress: show progress bars.

    Raises:
      MissingDependencyError: `octavo[tflm]` or `octavo[vela]` isn't installed.
      RunError: the target's software refuses the model; says why.
      RecipeError: another target, of which no software can be had here.
      DataError: samples are missing or don't fit.
    """
    model = model if isinstance(model, Model) else api.load(model)
    if target in vela.DEFAULTS or target in vela.ACCELERATORS:
        return compile_model(model, target)
    if target != "tflm":
        raise RecipeError(f"{target!r} can't be run here: choose {', '.join(TARGETS)}")
    return run_on_tflm(model, samples, progress)[0]


def run_on_tflm(model: Model, samples: Samples | None, progress: bool) -> tuple[TflmRun, Samples]:
    """Run on TFLM and compare with LiteRT's reference kernels; also gives the samples that were used.

    Raises:
      As `measure`.
    """
    tflm.check_installed()
    label = model.name or "the model"
    x = random_samples(model, label) if samples is None else samples
    try:
        base = BASE
        Session(model, base, name=label)
    except RunError:  # they have fewer versions of some ops, such as DEPTH_TO_SPACE
        base = "builtin"
    found = parity(model, x, kernels=("tflm",), progress=progress, base=base)
    row = found["tflm"]
    if row.refused:
        raise RunError(row.refused)
    run = TflmRun(
        row.arena_bytes,
        found.samples,
        row.largest_steps,
        row.largest_error or 0.0,
        row.differing or 0.0,
        samples is None,
        base,
    )
    return run, x


def random_samples(model: Model, label: str) -> dict[str, np.ndarray]:
    """Real numbers over each input's whole range.

    Raises:
      DataError: an input isn't quantized, so that its range isn't known.
    """
    rng = np.random.default_rng(0)
    found = {}
    session = Session(model, "builtin", name=label)
    shapes = shapes_for(session.inputs, session.outputs, _RANDOM_SAMPLES)
    for port, shape in zip(session.inputs, shapes, strict=True):
        if port.qparams is None:
            raise DataError(
                f"{label}: input {port.name!r} is {port.dtype.name} without a scale, so random numbers mean nothing "
                "to it: give samples (--data)"
            )
        limits = np.iinfo(port.dtype)
        codes = rng.integers(limits.min, limits.max, shape, port.dtype, endpoint=True)
        found[port.name] = from_file(port, codes)
    return found
