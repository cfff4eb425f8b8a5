"""What two variants made of the same samples, one by one: differences, whether they are noise, and which flipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.runtime.runner import Outputs
from octavo.statistics import mcnemar, mean_interval, paired_permutation, wilson


@dataclass(frozen=True)
class Flip:
    """A sample on which a variant and the reference part.

    Attributes:
      variant: name of the variant.
      sample: number of the sample.
      before, after: class that the reference and the variant chose; None where outputs are no vectors of classes.
      label: the right class, None without labels.
      change: "lost" (only the reference is right), "gained" (only the variant is), "moved" (both wrong, or no label).
    """

    variant: str
    sample: int
    before: int | None
    after: int | None
    label: int | None
    change: str


@dataclass(frozen=True)
class Result:
    """What one variant gave, sample by sample where that is known."""

    outputs: Outputs
    each: np.ndarray | None
    classes: np.ndarray | None
    labels: np.ndarray | None


def interval_of(each: np.ndarray | None) -> dict[str, Any]:
    """Confidence interval of the mean of `each`, under the names of `Variant`'s fields."""
    if each is None or each.size == 0:
        return {}
    right = each.dtype == bool
    found = wilson(int(np.count_nonzero(each)), each.size) if right else mean_interval(each)
    return {} if found is None else {"accuracy_low": found.low, "accuracy_high": found.high}


def paired(reference: Result, result: Result) -> dict[str, Any]:
    """Whether the difference in accuracy is more than noise, from samples that differ."""
    ours, theirs = reference.each, result.each
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return {}
    if ours.dtype != bool:
        return {"p_value": paired_permutation(np.subtract(theirs, ours, dtype=np.float64))}
    lost, gained = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    return {"lost": lost, "gained": gained, "p_value": mcnemar(lost, gained)}


def flips_of(name: str, reference: Result, result: Result) -> list[Flip]:
    """Samples that changed from right to wrong or back, or to another class."""
    before, after = reference.classes, result.classes
    if before is None or after is None or before.shape != after.shape:
        return []
    right = reference.each if reference.labels is not None else None
    still = result.each if reference.labels is not None else None
    changed = before != after
    if right is not None and still is not None:
        changed = changed | (right != still)
    flips = []
    for sample in map(int, np.flatnonzero(changed)):
        change = "moved"
        if right is not None and still is not None and right[sample] != still[sample]:
            change = "lost" if right[sample] else "gained"
        label = None if reference.labels is None else int(reference.labels[sample])
        flips.append(Flip(name, sample, int(before[sample]), int(after[sample]), label, change))
    return flips
