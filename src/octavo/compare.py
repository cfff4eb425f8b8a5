"""Variants of one model side by side: bytes, accuracy, latency, and how far each is from the reference."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from octavo import numerics
from octavo.errors import DataError
from octavo.graph.queries import float_tensors
from octavo.progress import task
from octavo.runtime.evaluate import Metric, evaluate, top1
from octavo.runtime.latency import measure
from octavo.runtime.runner import Outputs, Runner
from octavo.runtime.session import Kernels, ModelLike, Port, model_bytes, model_path
from octavo.tflite.files import write_whole


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
      latency_ms_median: of one invocation at the file's own batch size, one thread; None if not measured.
      sqnr_db: signal to quantization noise ratio of the outputs against the reference's, inf if identical; the worst of
        several outputs. None for the reference itself and where the outputs have other shapes.
      agreement: share of samples with the reference's largest output; None too where an output is no vector of classes.
      max_error: largest absolute difference of an output value from the reference's.
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


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      rows: one for each variant, in the order given.
      reference: name of the variant that the others are compared with.
      metric: name of the metric behind `accuracy`.
    """

    rows: tuple[Variant, ...]
    reference: str
    metric: str

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
        return {**header, "metric": self.metric, "reference": self.reference, "variants": variants}

    def to_json(self, path: str | os.PathLike[str], **header: Any) -> Path:
        """Write `as_dict(**header)`, for example with dataset="mnist", seed=0. Whole or not at all.

        Raises:
          ModelFileError: the file can't be written.
        """
        target = Path(path)
        text = json.dumps(self.as_dict(**header), indent=2, allow_nan=False) + "\n"
        write_whole(target, [text.encode()], overwrite=True)
        return target

    def __str__(self) -> str:
        return str(self._table())

    def __rich__(self) -> Any:
        return self._table().__rich__()

    def _table(self) -> Any:
        from octavo.report.terminal import variants_table

        return variants_table([asdict(row) for row in self.rows], self.reference)


def compare(
    models: Mapping[str, ModelLike],
    x: Any,
    y: Any = None,
    metric: Metric = top1,
    reference: str | None = None,
    progress: bool = False,
    latency: bool = True,
    kernels: Kernels | str = "xnnpack",
) -> Comparison:
    """Run variants of one model on the same samples.

    Args:
      models: name -> `.tflite` bytes, path or `octavo.Model`.
      x: samples, as `Runner` takes them; read once for each variant, so no iterator.
      y: one label for each sample; None compares with the reference only.
      metric: as in `evaluate`.
      reference: which variant the others are compared with; the first if None.
      progress: show progress bars.
      latency: measure latencies too (up to 2 s for each variant).
      kernels: see `octavo.runtime.Session`.

    Raises:
      DataError: no models, an unknown reference, or data that doesn't fit a model.
      RunError: LiteRT refuses a model; the message has its name.
    """
    if not models:
        raise DataError("there are no models to compare")
    if isinstance(x, Iterator):
        raise DataError("x is an iterator, which can be read only once: give an array, or a list of arrays")
    base = next(iter(models)) if reference is None else reference
    if base not in models:
        raise DataError(f"reference {base!r} is none of the models {list(models)}")
    rows: dict[str, Variant] = {}
    expected: Outputs | None = None
    with task("comparing", len(models) + latency, progress) as work:
        for name in [base, *(n for n in models if n != base)]:
            row, outputs = _run(name, models[name], x, y, metric, kernels, progress)
            rows[name] = row if expected is None else replace(row, **_against(expected, outputs))
            expected = outputs if expected is None else expected
            work.advance()
        if latency:
            for name, found in measure(models, kernels=kernels).items():
                rows[name] = replace(rows[name], latency_ms_median=found.median)
            work.advance()
    return Comparison(tuple(rows[n] for n in models), base, getattr(metric, "__name__", type(metric).__name__))


def integer_only(model: ModelLike) -> bool:
    """Whether a file has no float tensor in any subgraph, read from the file itself.

    Raises:
      ModelFileError: the file can't be read.
    """
    from octavo import tflite

    return not float_tensors(tflite.read(model_bytes(model)))


def _run(
    name: str, model: ModelLike, x: Any, y: Any, metric: Metric, kernels: Kernels | str, progress: bool
) -> tuple[Variant, Outputs]:
    data = model_bytes(model)
    path = model_path(model)
    runner = Runner(data, kernels, name=name)
    if y is None:
        outputs, accuracy = runner.predict(x, progress), None
    else:
        result = evaluate(runner, x, y, metric, progress=progress, keep_outputs=True)
        assert result.outputs is not None
        outputs, accuracy = result.outputs, result.accuracy
    first = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    row = Variant(
        name,
        path.name if path else None,
        len(data),
        accuracy,
        len(first),
        _dtypes(runner.inputs),
        _dtypes(runner.outputs),
        integer_only(data),
    )
    return row, outputs


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
