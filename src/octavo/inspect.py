"""Where a quantized model loses: for each layer the error that it adds itself, and the error that it inherits.

Three copies of the models run on every sample:

- the float model, giving out every tensor: f
- the small model, giving out every tensor: q
- the small model cut apart, every op fed what the float model computed there (on the op's own input grid): c

A fourth run tells how much of a layer's own error comes from the grid of its inputs: the float model cut apart, every
op fed the float values rounded to the grid that the small model has there.

Ops that only move values (reshapes, concatenations on one scale) pass on what they get: for them c is f.

What a layer adds itself is c - f, what it inherits from those before it is q - c; the two sum up to q - f. Each is
given as the root of its mean square over that of f: 0.01 is an error of one percent, or 40 dB.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.blame import Rig, relative
from octavo.calibrate.data import count_hint, samples
from octavo.errors import DataError
from octavo.findings import Histogram, Layer, TieFinding
from octavo.graph import Program, Tensor
from octavo.passes.level_channels import restore_levels
from octavo.passes.pipeline import normalise
from octavo.progress import track
from octavo.report.shown import Shown
from octavo.runtime.session import Kernels, ModelLike, model_bytes
from octavo.text import printable
from octavo.tflite import read
from octavo.tflite.files import write_whole

if TYPE_CHECKING:
    from octavo.report.terminal import Table

BINS = 64
WORST = 8  # layers that get a histogram


@dataclass(frozen=True)
class Inspection(Shown):
    """What `inspect` found.

    Attributes:
      layers: in the order of the file.
      ties: operands that suffer from a shared scale.
      samples: how many samples were run.
      unmatched: ops of the small model without a counterpart in the float model; their errors count for the next one.
    """

    layers: tuple[Layer, ...]
    ties: tuple[TieFinding, ...]
    samples: int
    unmatched: tuple[str, ...] = ()

    @property
    def ranked(self) -> tuple[Layer, ...]:
        """The layers, the one that adds most error itself first."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.own))

    def as_dict(self) -> dict[str, Any]:
        """Plain values; numbers that JSON hasn't got are None."""
        layers = [{**asdict(layer), "cause": layer.cause} for layer in self.layers]
        ties = [{**asdict(tie), "advice": tie.advice} for tie in self.ties]
        return _plain({"samples": self.samples, "layers": layers, "ties": ties, "unmatched": self.unmatched})

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `as_dict()`, whole or not at all.

        Raises:
          ModelFileError: the file can't be written.
        """
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"
        write_whole(Path(path), [text.encode()], overwrite=True)
        return Path(path)

    def _table(self) -> Table:
        from octavo.report.terminal import layers_table

        return layers_table([{**asdict(layer), "cause": layer.cause} for layer in self.ranked])

    def _remarks(self) -> list[str]:
        return [f"note: {printable(tie.advice)}" for tie in self.ties]


def inspect(
    float_model: ModelLike,
    small: ModelLike,
    data: Any,
    *,
    kernels: Kernels | str = "xnnpack",
    limit: int = 64,
    progress: bool = False,
) -> Inspection:
    """Find the layers where a quantized model loses.

    Args:
      float_model: the model that `small` was made from.
      small: the quantized model, by octavo or not.
      data: samples, in any shape that calibration takes.
      kernels: see `octavo.runtime.Session`.
      limit: number of samples used at most.
      progress: show progress bars.

    Raises:
      DataError: unusable samples, or two models that have nothing in common.
      ModelFileError: a model can't be read.
      RunError: LiteRT refuses a model.
    """
    original, program = _normalised(float_model), read(model_bytes(small))
    restore_levels(original, program)
    rig = Rig(original, program, kernels)
    rows: list[dict[str, np.ndarray]] = []
    for row in track(samples(data, rig.specs), "inspecting", _at_most(limit, count_hint(data, rig.specs)), progress):
        rows.append(row)
        rig.run(row)
        if len(rows) == limit:
            break
    if not rows:
        raise DataError("there are no samples to inspect the model with")
    worst = sorted(rig.pairs, key=lambda pair: -relative(pair.sums.own, pair.sums.signal))[:WORST]
    histograms = _histograms(rig, [pair.original for pair in worst], rows, progress)
    layers = tuple(rig.layer(pair, histograms.get(pair.original)) for pair in rig.pairs)
    return Inspection(layers, rig.ties(), len(rows), rig.unmatched())


def _normalised(model: ModelLike) -> Program:
    program = read(model_bytes(model))
    normalise(program)
    return program


def _histograms(
    rig: Rig, tensors: list[Tensor], rows: list[dict[str, np.ndarray]], progress: bool
) -> dict[Tensor, Histogram]:
    """A second pass over the samples, for ranges have to be known first."""
    counts = {tensor: np.zeros(BINS, np.int64) for tensor in tensors if rig.ranges[tensor][0] <= rig.ranges[tensor][1]}
    for row in track(rows, "histograms", len(rows), progress):
        values = rig.values(row)
        for tensor, total in counts.items():
            total += np.histogram(values[tensor], BINS, rig.ranges[tensor])[0]
    return {t: Histogram(*_edges(rig.ranges[t]), tuple(map(int, total))) for t, total in counts.items()}


def _edges(span: tuple[float, float]) -> tuple[float, float]:
    """As numpy.histogram widens an empty range."""
    return (span[0] - 0.5, span[1] + 0.5) if span[0] == span[1] else span


def _at_most(limit: int, hint: int | None) -> int:
    return limit if hint is None else min(limit, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
