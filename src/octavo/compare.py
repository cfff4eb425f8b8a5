"""Variants of one model side by side: bytes, accuracy, latency, and how far each is from the reference."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo import numerics, tflite
from octavo.errors import DataError, RunError
from octavo.footprint import arena_bytes, bytes_by_kind
from octavo.graph.queries import float_tensors
from octavo.metrics import classes_of, higher_is_better, metric_name, metric_of, per_sample
from octavo.pairing import Flip, Result, flips_of, interval_of, paired
from octavo.progress import task
from octavo.provenance import versions
from octavo.report.shown import Shown
from octavo.runtime.evaluate import Metric, class_numbers, evaluate, top1
from octavo.runtime.latency import Latency, measure
from octavo.runtime.runner import Outputs
from octavo.runtime.session import Kernels, ModelLike, Port, model_bytes, model_path
from octavo.runtime.workers import runner_for_many
from octavo.tflite.files import write_whole

if TYPE_CHECKING:
    from octavo.inspect import Inspection
    from octavo.report.terminal import Table
    from octavo.runtime.parity import Parity

SIGNIFICANT = 0.05  # p-values below are called more than noise


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
      name: as the caller calls it.
      file: name of its file; None for a model in memory.
      bytes: size of the file.
      accuracy: the metric's value (0..1 for top-1); None without labels.
      samples: how many samples were run.
      input_dtype, output_dtype: as the file has them; several are joined with a comma.
      integer_only: no float tensor in any subgraph of the file.
      latency_ms_median: of one invocation at the file's own batch size; None if not measured.
      sqnr_db: signal to quantization noise ratio of the outputs against the reference's, inf if identical; the worst of
        several outputs. None for the reference itself and where the outputs have other shapes.
      agreement: share of samples with the reference's largest output; None too where an output is no vector of classes.
      max_error: largest absolute difference of an output value from the reference's.
      cosine: cosine of the angle between the outputs and the reference's; the worst of several outputs.
      accuracy_low, accuracy_high: 95 % confidence interval of `accuracy`: Wilson's for right and wrong, else the
        mean's. None for a metric that doesn't tell single samples.
      lost, gained: samples that only the reference has right, and that only this variant has right.
      p_value: chance of a difference in accuracy at least as large if neither model were better: McNemar's exact test
        on `lost` and `gained`, or flipped signs for other metrics. None where single samples aren't known.
      latency_ms_low, latency_ms_high: 95 % confidence interval of the median.
      latency_ms_p90: nine in ten invocations are faster.
      ops, delegated_ops: ops in the main subgraph as LiteRT prepared it, and how many of them XNNPACK runs.
      bytes_by_kind: bytes of "weights", "biases", "constants", "metadata", "structure"; they sum up to `bytes`.
      arena_bytes_estimated: memory for activations, estimated (see `octavo.footprint.arena_bytes`).
    """

    name: str
    file: str | None
    bytes: int
    accuracy: float | None
    samples: int
    input_dtype: str
    output_dtype: str
    integer_only: bool
    latency_ms_median: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    max_error: float | None = None
    cosine: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    latency_ms_low: float | None = None
    latency_ms_high: float | None = None
    latency_ms_p90: float | None = None
    ops: int | None = None
    delegated_ops: int | None = None
    bytes_by_kind: Mapping[str, int] | None = None
    arena_bytes_estimated: int | None = None

    @property
    def more_than_noise(self) -> bool | None:
        """Whether its accuracy differs from the reference's by more than chance explains (p < 0.05)."""
        return None if self.p_value is None else self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Subject:
    """What was compared, kept for the report: nothing is copied."""

    models: Mapping[str, ModelLike]
    x: Any
    progress: bool = False


@dataclass(frozen=True)
class Comparison(Shown):
    """What `compare` found.

    Attributes:
      rows: one for each variant, in the order given.
      reference: name of the variant that the others are compared with.
      metric: name of the metric behind `accuracy`.
      flips: samples on which a variant and the reference part, in the order of variants and samples.
      higher_is_better: whether a larger value of the metric is a better one.
      settings: how it was measured: kernels, threads, versions.
    """

    rows: tuple[Variant, ...]
    reference: str
    metric: str
    flips: tuple[Flip, ...] = ()
    higher_is_better: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    subject: Subject | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[Variant]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Variant:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def as_dict(self, **header: Any) -> dict[str, Any]:
        """`{**header, "variants": [...]}`, values that JSON has.

        Infinite and undefined ratios are None; `max_error` of 0 tells identical outputs from incomparable ones.
        """
        variants = [{key: _plain(value) for key, value in asdict(row).items()} for row in self.rows]
        told = {"metric": self.metric, "reference": self.reference, "settings": dict(self.settings)}
        return {**header, **told, "variants": variants, "flips": [asdict(flip) for flip in self.flips]}

    def to_json(self, path: str | os.PathLike[str], **header: Any) -> Path:
        """Write `as_dict(**header)`, for example with dataset="mnist", seed=0. Whole or not at all.

        Raises:
          ModelFileError: the file can't be written.
        """
        target = Path(path)
        text = json.dumps(self.as_dict(**header), indent=2, allow_nan=False) + "\n"
        write_whole(target, [text.encode()], overwrite=True)
        return target

    def to_html(
        self,
        path: str | os.PathLike[str],
        title: str = "",
        kernels: Mapping[str, Parity] | None = None,
        **header: Any,
    ) -> Path:
        """Write one page that shows all of this: it works offline, and holds no link to anything outside.

        Args:
          path: the `.html` file to write, whole or not at all.
          title: what was compared, for the page's headline.
          kernels: what `octavo.runtime.parity.parity` found, by name of the variant.
          header: what else belongs to the record, such as dataset="mnist", seed=0, command="octavo demo".

        Raises:
          MissingDependencyError: the libraries of `octavo[report]` aren't installed.
          ModelFileError: the file can't be written.
          RunError: LiteRT refuses to run a model with its inside shown.
        """
        from octavo.report.data import page_data
        from octavo.report.render import render

        inspections, notes = self.inspections()
        models = self.subject.models if self.subject else {}
        graphs = {name: tflite.read(model_bytes(model)).main for name, model in models.items()}
        page = render(page_data(self, inspections, graphs, kernels or {}, notes, title, header))
        write_whole(Path(path), [page.encode()], overwrite=True)
        return Path(path)

    def inspections(self, limit: int = 32) -> tuple[dict[str, Inspection], list[str]]:
        """`inspect` of each variant against the reference, and why for some there is none."""
        from octavo.inspect import inspect

        found: dict[str, Inspection] = {}
        notes: list[str] = []
        if self.subject is None:
            return found, notes
        models, x, progress = self.subject.models, self.subject.x, self.subject.progress
        with task("inspecting layers", len(self.rows) - 1, progress) as work:
            for row in self.rows:
                if row.name == self.reference:
                    continue
                try:
                    found[row.name] = inspect(models[self.reference], models[row.name], x, limit=limit)
                except (DataError, RunError) as error:
                    notes.append(f"{row.name} can't be inspected layer by layer: {error}")
                work.advance()
        return found, notes

    def _table(self) -> Table:
        from octavo.report.terminal import variants_table

        return variants_table([asdict(row) for row in self.rows], self.reference)


def compare(
    models: Mapping[str, ModelLike],
    x: Any,
    y: Any = None,
    metric: Metric | str = top1,
    reference: str | None = None,
    progress: bool = False,
    latency: bool = True,
    kernels: Kernels | str = "xnnpack",
    threads: int | None = 1,
) -> Comparison:
    """Run variants of one model on the same samples.

    Args:
      models: name -> `.tflite` bytes, path or `octavo.Model`.
      x: samples, as `Runner` takes them; read once for each variant, so no iterator.
      y: one label for each sample; None compares with the reference only.
      metric: "top1", "top5", "mean_absolute_error", a `octavo.metrics.PerSample`, or a function (outputs, y) -> float.
      reference: which variant the others are compared with; the first if None.
      progress: show progress bars.
      latency: measure latencies too (up to 2 s for each variant).
      kernels: see `octavo.runtime.Session`.
      threads: threads inside one invocation while latencies are measured.

    Raises:
      DataError: no models, an unknown reference or metric, or data that doesn't fit a model.
      RunError: LiteRT refuses a model; the message has its name.
    """
    if not models:
        raise DataError("there are no models to compare")
    if isinstance(x, Iterator):
        raise DataError("x is an iterator, which can be read only once: give an array, or a list of arrays")
    base = next(iter(models)) if reference is None else reference
    if base not in models:
        raise DataError(f"reference {base!r} is none of the models {list(models)}")
    metric = metric_of(metric)
    rows: dict[str, Variant] = {}
    flips: dict[str, list[Flip]] = {}
    expected: Result | None = None
    with task("comparing", len(models) + latency, progress) as work:
        for name in [base, *(n for n in models if n != base)]:
            row, result = _run(name, models[name], x, y, metric, kernels, progress)
            if expected is None:
                expected = result
            else:
                row = replace(row, **_against(expected.outputs, result.outputs), **paired(expected, result))
                flips[name] = flips_of(name, expected, result)
            rows[name] = row
            work.advance()
        if latency:
            for name, found in measure(models, kernels=kernels, threads=threads).items():
                rows[name] = replace(rows[name], **_timed(found))
            work.advance()
    return Comparison(
        tuple(rows[n] for n in models),
        base,
        metric_name(metric),
        tuple(flip for n in models for flip in flips.get(n, [])),
        higher_is_better(metric),
        {"kernels": str(kernels), "threads": threads, **versions()},
        Subject(models, x, progress),
    )


def integer_only(model: ModelLike) -> bool:
    """Whether a file has no float tensor in any subgraph, read from the file itself.

    Raises:
      ModelFileError: the file can't be read.
    """
    return not float_tensors(tflite.read(model_bytes(model)))


def _run(
    name: str, model: ModelLike, x: Any, y: Any, metric: Metric, kernels: Kernels | str, progress: bool
) -> tuple[Variant, Result]:
    data = model_bytes(model)
    path = model_path(model)
    runner = runner_for_many(data, kernels, name=name)
    single = None if y is None else per_sample(metric)
    if y is None:
        outputs, accuracy, each = runner.predict(x, progress), None, None
    else:
        result = evaluate(runner, x, y, metric, progress=progress, keep_outputs=True)
        assert result.outputs is not None
        outputs, accuracy = result.outputs, result.accuracy
        each = None if single is None else single.each(outputs, np.asarray(y))
    first = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    program = tflite.read(data)
    row = Variant(
        name,
        path.name if path else None,
        len(data),
        accuracy,
        len(first),
        _dtypes(runner.inputs),
        _dtypes(runner.outputs),
        not float_tensors(program),
        bytes_by_kind=asdict(bytes_by_kind(program, len(data))),
        arena_bytes_estimated=arena_bytes(program.main),
        **interval_of(each),
    )
    classes = classes_of(outputs)
    labels = None
    if classes is not None and y is not None and each is not None and each.dtype == bool and each.size == classes.size:
        labels = class_numbers(np.asarray(y), classes.size, first.shape[-1])
    return row, Result(outputs, each, classes, labels)


def _timed(found: Latency) -> dict[str, Any]:
    delegation = found.delegation
    return {
        "latency_ms_median": found.median,
        "latency_ms_low": found.low,
        "latency_ms_high": found.high,
        "latency_ms_p90": found.p90,
        "ops": None if delegation is None else delegation.ops,
        "delegated_ops": None if delegation is None else delegation.delegated,
    }


def _against(reference: Outputs, outputs: Outputs) -> dict[str, float | None]:
    """Differences from the reference's outputs; empty if they can't be compared."""
    pairs = _pairs(reference, outputs)
    if pairs is None:
        return {}
    errors = [np.abs(np.subtract(a, b, dtype=np.float64)).max() for a, b in pairs if a.size]
    agreement = None
    if len(pairs) == 1 and pairs[0][0].ndim >= 2 and pairs[0][0].shape[-1] > 1:
        ours, theirs = (np.argmax(array, axis=-1) for array in pairs[0])
        agreement = float(np.mean(ours == theirs))
    return {
        "sqnr_db": min(numerics.sqnr_db(a, b) for a, b in pairs),
        "agreement": agreement,
        "max_error": float(max(errors, default=0.0)),
        "cosine": min(numerics.cosine(a, b) for a, b in pairs),
    }


def _pairs(reference: Outputs, outputs: Outputs) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Outputs that belong together: by name, or by order if the names differ. None if shapes differ, or no numbers."""
    ours, theirs = (o if isinstance(o, dict) else {"": o} for o in (reference, outputs))
    if set(ours) == set(theirs):
        pairs = [(ours[name], theirs[name]) for name in ours]
    else:
        pairs = list(zip(ours.values(), theirs.values(), strict=False))
    alike = len(ours) == len(theirs) and all(a.shape == b.shape and a.dtype.kind in "biuf" for a, b in pairs)
    return pairs if alike else None


def _dtypes(ports: tuple[Port, ...]) -> str:
    names = ["string" if p.dtype.kind in "SUO" else p.dtype.name for p in ports]
    return ",".join(dict.fromkeys(names))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
