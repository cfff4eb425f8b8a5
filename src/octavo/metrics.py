"""How good outputs are, sample by sample. What is known of each sample can be compared in pairs between variants.

`octavo.compare` takes any `metric(outputs, y) -> float`. A `PerSample` metric also tells the value of each sample,
which gives intervals, paired tests and the samples that flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import DataError
from octavo.runtime.evaluate import Metric, class_numbers, class_scores, top1
from octavo.runtime.runner import Outputs


@dataclass(frozen=True)
class PerSample:
    """A metric that is the mean of one number for each sample.

    Attributes:
      name: as tables call it.
      each: (outputs, labels) -> float or bool array (N,); bool means right or wrong.
      higher_is_better: false for errors.
    """

    name: str
    each: Callable[[Outputs, np.ndarray], np.ndarray]
    higher_is_better: bool = True

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, outputs: Outputs, y: np.ndarray) -> float:
        return float(np.mean(self.each(outputs, y)))


def top_k(k: int) -> PerSample:
    """Share of samples whose label is among the `k` largest outputs. Of equal outputs the first counts as larger."""

    def each(outputs: Outputs, y: np.ndarray) -> np.ndarray:
        scores = _scores(outputs, f"top{k}")
        labels = class_numbers(np.asarray(y), len(scores), scores.shape[1])
        own = scores[np.arange(len(scores)), labels][:, None]
        # The label's rank: outputs that are larger, or equal and earlier (as argmax has it).
        ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
        return np.count_nonzero(ahead, axis=1) < k

    return PerSample(f"top{k}", each)


top5 = top_k(5)


def _absolute(outputs: Outputs, y: np.ndarray) -> np.ndarray:
    if isinstance(outputs, Mapping):
        raise DataError(f"mean_absolute_error needs one output, the model has {list(outputs)}: give your own metric")
    wanted = np.asarray(y)
    if wanted.size != outputs.size or len(wanted) != len(outputs):
        raise DataError(f"mean_absolute_error: outputs have shape {outputs.shape} but targets {wanted.shape}")
    errors = np.abs(np.subtract(outputs, wanted.reshape(outputs.shape), dtype=np.float64))
    return errors.reshape(len(outputs), -1).mean(axis=1)


mean_absolute_error = PerSample("mean_absolute_error", _absolute, higher_is_better=False)

_BY_NAME: dict[str, Metric] = {"top1": top1, "top5": top5, "mean_absolute_error": mean_absolute_error}


def metric_of(metric: Metric | str) -> Metric:
    """The metric of that name, or the one given.

    Raises:
      DataError: there is no metric of that name.
    """
    if not isinstance(metric, str):
        return metric
    if metric not in _BY_NAME:
        raise DataError(f"unknown metric {metric!r}: use one of {', '.join(_BY_NAME)}, or a function (outputs, y)")
    return _BY_NAME[metric]


def metric_name(metric: Metric) -> str:
    """How tables call a metric."""
    return getattr(metric, "__name__", type(metric).__name__)


def per_sample(metric: Metric) -> PerSample | None:
    """The metric sample by sample, None for one that only knows the whole."""
    if metric is top1:
        return top_k(1)
    return metric if isinstance(metric, PerSample) else None


def higher_is_better(metric: Metric) -> bool:
    """Whether a larger value is a better one; functions are taken to be scores."""
    return bool(getattr(metric, "higher_is_better", True))


def classes_of(outputs: Outputs) -> np.ndarray | None:
    """The class that each sample was given, (N,); None where outputs aren't (N, classes)."""
    if isinstance(outputs, Mapping) or outputs.ndim < 2 or outputs.shape[-1] < 2 or _rows(outputs) != len(outputs):
        return None
    return np.argmax(outputs.reshape(len(outputs), -1), axis=1)


def _rows(outputs: Any) -> int:
    return int(np.prod(outputs.shape[:-1]))


def _scores(outputs: Outputs, name: str) -> np.ndarray:
    scores = class_scores(outputs, name)
    return scores.reshape(_rows(scores), -1)
