"""The same file on several sets of kernels: they need not agree to the last step, and on odd inputs they don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.errors import DataError, RunError
from octavo.metrics import classes_of, metric_name, metric_of
from octavo.progress import task
from octavo.report.shown import Shown
from octavo.runtime import tflm
from octavo.runtime.evaluate import Metric, top1
from octavo.runtime.runner import Outputs, Runner
from octavo.runtime.session import ModelLike, Port, model_bytes, model_name
from octavo.runtime.workers import runner_for_many

if TYPE_CHECKING:
    from octavo.report.terminal import Table

BASE = "reference"


@dataclass(frozen=True)
class KernelSet:
    """What one set of kernels made of the samples.

    Attributes:
      kernels: "xnnpack", "builtin", "reference" or "tflm".
      accuracy: the metric's value; None without labels.
      largest_steps: largest difference from the reference kernels, in steps of the output's scale; None where no output
        is quantized.
      largest_error: the same in real numbers.
      differing: share of samples where any output value differs at all.
      disagreeing: share of samples whose class differs; None where outputs are no vectors of classes.
      worst_sample: number of the sample with the largest difference; None if there is none.
      arena_bytes: memory that TFLM used, its kernels' own included; None for others, which don't tell.
      refused: why these kernels don't run the model; "" if they do.
    """

    kernels: str
    accuracy: float | None = None
    largest_steps: float | None = None
    largest_error: float | None = None
    differing: float | None = None
    disagreeing: float | None = None
    worst_sample: int | None = None
    arena_bytes: int | None = None
    refused: str = ""


@dataclass(frozen=True)
class Parity(Shown):
    """What `parity` found: one row for each set of kernels, held against the reference kernels.

    Attributes:
      rows: in the order asked for.
      samples: how many samples were run.
      metric: name of the metric behind `accuracy`.
    """

    rows: tuple[KernelSet, ...]
    samples: int
    metric: str

    def __iter__(self) -> Iterator[KernelSet]:
        return iter(self.rows)

    def __getitem__(self, kernels: str) -> KernelSet:
        for row in self.rows:
            if row.kernels == kernels:
                return row
        raise KeyError(kernels)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def _table(self) -> Table:
        from octavo.report.terminal import parity_table

        return parity_table([asdict(row) for row in self.rows])


def parity(
    model: ModelLike,
    x: Any,
    y: Any = None,
    metric: Metric | str = top1,
    kernels: Sequence[str] | None = None,
    progress: bool = False,
    base: str = BASE,
) -> Parity:
    """Run one file on several sets of kernels and compare each with LiteRT's reference kernels.

    Args:
      model: `.tflite` bytes, a path, or an `octavo.Model`.
      x: samples, as `Runner` takes them.
      y: one label for each sample; None compares outputs only.
      metric: as in `octavo.compare`.
      kernels: which; by default LiteRT's three, and "tflm" if tflite-micro is installed.
      progress: show progress bars.
      base: other kernels to compare with, for a model that the reference kernels don't load.

    Raises:
      DataError: samples that don't fit the model.
      RunError: not even the kernels to compare with run it.
      MissingDependencyError: "tflm" was asked for and tflite-micro isn't installed.
    """
    if kernels is None:
        kernels = ("xnnpack", "builtin", "reference", *(("tflm",) if tflm.installed() else ()))
    data, name, metric = model_bytes(model), model_name(model), metric_of(metric)
    runner = runner_for_many(data, base, name=name)
    ports = runner.outputs
    rows = []
    with task("kernels", len(kernels), progress) as work:
        expected = runner.predict(x, progress)
        for kind in kernels:
            known = expected if kind == base else None
            rows.append(_row(kind, data, name, x, y, metric, ports, expected, known, progress))
            work.advance()
    count = len(next(iter(_by_name(expected, ports).values())))
    return Parity(tuple(rows), count, metric_name(metric))


def _row(
    kind: str,
    data: bytes,
    name: str,
    x: Any,
    y: Any,
    metric: Metric,
    ports: Sequence[Port],
    base: Outputs,
    known: Outputs | None,
    show: bool,
) -> KernelSet:
    try:
        runner = Runner(data, kind, name=name) if kind == "tflm" else runner_for_many(data, kind, name=name)
        outputs = runner.predict(x, show) if known is None else known
    except DataError:
        raise
    except RunError as error:
        return KernelSet(kind, refused=str(error))
    accuracy = None if y is None else float(metric(outputs, np.asarray(y)))
    ours, theirs = classes_of(outputs), classes_of(base)
    disagreeing = None if ours is None or theirs is None else float(np.mean(ours != theirs))
    return KernelSet(
        kind, accuracy, **_differences(outputs, base, ports), disagreeing=disagreeing, arena_bytes=runner.arena_bytes
    )


def _differences(outputs: Outputs, base: Outputs, ports: Sequence[Port]) -> dict[str, Any]:
    ours, theirs = _by_name(outputs, ports), _by_name(base, ports)
    count = len(next(iter(ours.values())))
    errors, steps, known = np.zeros(count), np.zeros(count), False
    for port in ports:
        if ours[port.name].dtype.kind not in "biuf":
            continue
        difference = np.abs(np.subtract(ours[port.name], theirs[port.name], dtype=np.float64)).reshape(count, -1)
        errors = np.maximum(errors, difference.max(axis=1, initial=0.0))
        if port.qparams is not None and not port.qparams.per_channel:
            known = True
            in_steps = np.round(difference / float(port.scale[0]))
            steps = np.maximum(steps, in_steps.max(axis=1, initial=0.0))
    return {
        "largest_steps": float(steps.max()) if known else None,
        "largest_error": float(errors.max()),
        "differing": float(np.mean(errors > 0)),
        "worst_sample": int(np.argmax(errors)) if errors.any() else None,
    }


def _by_name(outputs: Outputs, ports: Sequence[Port]) -> Mapping[str, np.ndarray]:
    return outputs if isinstance(outputs, dict) else {ports[0].name: outputs}
