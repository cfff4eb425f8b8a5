"""How well a model does on labelled samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from octavo.datasets.sharded import Sharded
from octavo.datasets.shards import Shards
from octavo.errors import DataError
from octavo.parallel import configured
from octavo.progress import task
from octavo.runtime.runner import Outputs, Runner
from octavo.runtime.session import Kernels, ModelLike
from octavo.runtime.workers import ManyRunner, Score, arrays_of, runner_for_many

Metric = Callable[[Any, np.ndarray], float]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
      accuracy: the metric's value; for `top1` the share of samples that are right, 0..1.
      count: number of samples.
      metric: the metric's name.
      seconds: time of running all samples, scaling included, loading and the metric not.
      outputs: the model's outputs for all samples as real values; None unless they were asked for.
    """

    accuracy: float
    count: int
    metric: str
    seconds: float
    outputs: Outputs | None = field(default=None, repr=False, compare=False)


def class_scores(outputs: Outputs, name: str) -> np.ndarray:
    """The outputs as they are, if the metric `name` can count classes in them: (N, ..., classes).

    Raises:
      DataError: several outputs, or no dimension of classes.
    """
    if isinstance(outputs, Mapping):
        raise DataError(f"{name} needs one output, the model has {list(outputs)}: give a metric of your own")
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise DataError(
            f"{name} needs outputs of shape (N, classes) with at least 2 classes, got {outputs.shape}: "
            "give a metric of your own"
        )
    return outputs


def top1(outputs: Outputs, y: np.ndarray) -> float:
    """Share of samples whose largest output is the label's.

    Args:
      outputs: (N, classes), or (N, ..., classes) with N labels in all; one output only.
      y: labels: integers (N,) or (N, 1), or one-hot (N, classes).

    Raises:
      DataError: several outputs, labels that are no class numbers, or not one label for each sample.
    """
    scores = class_scores(outputs, "top1")
    classes = scores.shape[-1]
    found = np.argmax(scores, axis=-1).reshape(-1)
    labels = class_numbers(np.asarray(y), found.size, classes)
    return float(np.mean(found == labels))


def class_numbers(y: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Labels (N,), (N, 1) or one-hot (N, classes) as class numbers (N,).

    Raises:
      DataError: of another shape, no whole numbers, or outside 0..classes - 1; names the sample.
    """
    if y.ndim >= 2 and y.shape[-1] == classes and y.size == count * classes:
        rows = y.reshape(count, classes)
        wrong = np.flatnonzero((np.count_nonzero(rows, axis=1) != 1) | (rows.sum(axis=1) != 1))
        if wrong.size:
            raise DataError(f"label of sample {wrong[0]} is not one-hot: exactly one 1 among {classes} values")
        return rows.argmax(axis=1)
    if y.size != count:
        raise DataError(f"labels have shape {y.shape}: expected ({count},), ({count}, 1) or ({count}, {classes})")
    labels = y.reshape(-1)
    if labels.dtype.kind not in "biuf" or (labels.dtype.kind == "f" and (labels != np.trunc(labels)).any()):
        raise DataError(f"labels are {labels.dtype}: expected class numbers, or one-hot rows of {classes} values")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"label of sample {wrong[0]} is {labels[wrong[0]]}, but the model has the classes 0..{classes - 1}"
        )
    return labels.astype(np.int64)


def evaluate(
    model: ModelLike | Runner,
    x: Any,
    y: Any = None,
    metric: Metric = top1,
    kernels: Kernels | str = "xnnpack",
    threads: int | None = None,
    progress: bool = False,
    *,
    keep_outputs: bool = False,
) -> Evaluation:
    """Run a model on all samples and measure it.

    In `joblib.parallel_config(...)` samples go to the workers that it names.

    Args:
      model: `.tflite` bytes, a path, an `octavo.Model`, or a `Runner` (then `kernels` and `threads` are the runner's).
      x: samples, as `Runner` takes them; or, with `y` None, `octavo.shards` with labels, or an iterable of (x, y)
        batches.
      y: one label for each sample.
      metric: `metric(outputs, y) -> float` over all samples; outputs are real values, a dict if there are several.
      kernels: see `octavo.runtime.Session`.
      threads: likewise; None runs samples at the same time on all cores where that pays.
      progress: show a progress bar.
      keep_outputs: put the outputs into the result.

    Raises:
      DataError: no samples, x and y of different lengths, or samples that don't fit the model.
      RunError: LiteRT refuses the model.
    """
    runner = model if isinstance(model, Runner) else runner_for_many(model, kernels, threads)
    name = getattr(metric, "__name__", type(metric).__name__)
    if isinstance(x, Shards):
        x, y = _from_shards(runner, x, y)
    start = time.perf_counter()
    if y is None:
        outputs, labels = _run_batches(runner, x, progress)
    else:
        labels = np.asarray(y)
        _check_lengths(runner, x, labels)
        start = time.perf_counter()
        score = None if keep_outputs or not _is_large(x) else _score(metric)
        if score is not None and isinstance(runner, ManyRunner):
            each = runner.scores(x, labels, score, progress)
            return Evaluation(float(np.mean(each)), len(each), name, time.perf_counter() - start)
        outputs = runner.predict(x, progress)
    seconds = time.perf_counter() - start
    count = len(next(iter(outputs.values()))) if isinstance(outputs, dict) else len(outputs)
    if labels.ndim == 0 or len(labels) != count:
        raise DataError(f"{count} samples but {labels.size if labels.ndim == 0 else len(labels)} labels")
    value = float(metric(outputs, labels))
    return Evaluation(value, count, name, seconds, outputs if keep_outputs else None)


def _from_shards(runner: Runner, x: Shards, y: Any) -> tuple[Any, Any]:
    """Arrays by input name, and labels: those given, or those in the files."""
    labels = x.labels([p.name for p in runner.inputs]) if y is None else y
    if labels is None:
        raise DataError(f"{x.files[0]} has no labels, nor have the others: give y")
    return arrays_of(runner, x), labels


def _is_large(x: Any) -> bool:
    """Whether the outputs for all samples had better not be held: the samples aren't either, or others run them."""
    arrays = x.values() if isinstance(x, Mapping) else [x]
    return configured() or any(isinstance(array, Sharded) for array in arrays)


def _score(metric: Metric) -> Score | None:
    """What the metric is the mean of, if it is one."""
    from octavo.metrics import per_sample

    single = per_sample(metric)
    return None if single is None else single.each


def _check_lengths(runner: Runner, x: Any, labels: np.ndarray) -> None:
    """Find different lengths before hours of work, not after; the runner judges shapes."""
    arrays = list(x.values()) if isinstance(x, Mapping) else list(x) if len(runner.inputs) > 1 else [x]
    if labels.ndim == 0:
        raise DataError("y is a single number: give one label for each sample")
    for array, p in zip(arrays, runner.inputs, strict=False):
        rank = len(p.shape_signature)
        if getattr(array, "ndim", 0) == rank and rank and len(array) != len(labels):
            raise DataError(f"x has {len(array)} samples but y has {len(labels)} labels")


def _run_batches(runner: Runner, batches: Iterable[Any], progress: bool) -> tuple[Outputs, np.ndarray]:
    """Outputs and labels of an iterable of (x, y) batches."""
    if isinstance(batches, np.ndarray | Mapping) or not isinstance(batches, Iterable):
        raise DataError("evaluate needs labels: give y, or an iterable of (x, y) batches as x")
    outputs: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    names = [p.name for p in runner.outputs]
    with task(f"evaluating {runner.name}", None, progress) as work:
        for number, batch in enumerate(batches):
            if not isinstance(batch, Sequence) or len(batch) != 2:
                raise DataError(f"batch {number} is no (x, y) pair: give y, or an iterable of (x, y) batches as x")
            found = runner.predict(batch[0])
            outputs.append(found if isinstance(found, dict) else {names[0]: found})
            many = len(outputs[-1][names[0]])
            labels.append(np.asarray(batch[1]))
            # A batch of one sample may come with a bare label.
            if many == 1 and labels[-1].ndim == 0:
                labels[-1] = labels[-1][None]
            if labels[-1].ndim == 0 or len(labels[-1]) != many:
                raise DataError(f"batch {number} has {many} samples but {labels[-1].size} labels")
            work.advance(many)
    if not outputs:
        raise DataError("there are no samples to evaluate")
    joined = {name: np.concatenate([found[name] for found in outputs]) for name in names}
    result = joined if len(names) > 1 else joined[names[0]]
    return result, np.concatenate(labels)
