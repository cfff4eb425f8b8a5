"""An accuracy budget: which ops go to which precision, so that the file is smallest or fastest and still good enough.

Each op alone is quantized to each precision while the rest stays in float, and the noise that this puts on the model's
outputs is measured on the real runtime. Noise of different ops adds up, near enough: so choosing a precision for every
op under a noise budget is a knapsack with one choice per op. Its linear relaxation is solved exactly by a path: from
every op at its cheapest, always the step that takes away the most noise for its cost (Sinha and Zoltners, "The
Multiple-Choice Knapsack Problem", 1979). The metric decides how far along that path to go: it is measured on real
files, by bisection, and what is returned was itself measured to be within the budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from octavo.api import load
from octavo.calibrate.run import GRAM_BYTES
from octavo.datasets.shards import Shards
from octavo.errors import RecipeError
from octavo.graph import Op, Program
from octavo.making import carry_out, observe, prepare
from octavo.model import Model
from octavo.ops import OPS
from octavo.parallel import reduce
from octavo.plan import why_not_integer
from octavo.recipe import Recipe, Rule, Scheme, integer, keep_float
from octavo.runtime.evaluate import Metric, top1
from octavo.runtime.runner import Outputs, Runner
from octavo.runtime.workers import arrays_of, runner_for_many
from octavo.unfold import weights_of

PRECISIONS = ("int4", "int8", "int16", "float32")
OBJECTIVES = ("bytes", "latency")
_PROBES = 32  # samples on which single ops are probed
_BYTES = {"int4": 0.5, "int8": 1.0, "int16": 1.0, "float32": 4.0}  # per weight
_ACTIVATION_BYTES = {"int4": 1.0, "int8": 1.0, "int16": 2.0, "float32": 4.0}  # per value
# Time against int8 on a CPU: XNNPACK takes int8 and float, not int16 and int4 convolutions.
_SLOWNESS = {"int4": 6.0, "int8": 1.0, "int16": 25.0, "float32": 2.5}


@dataclass(frozen=True)
class Sensitivity:
    """What one precision of one op does to the outputs.

    Attributes:
      op: the op's name for messages.
      precision: what it was quantized to, alone.
      noise: power of the error on the outputs, as a share of the outputs' own power.
    """

    op: str
    precision: str
    noise: float


@dataclass(frozen=True)
class SearchResult:
    """What `search` found.

    Attributes:
      recipe: use it with `octavo.quantize`, or write it with `octavo.save_recipe`.
      model: the quantized model.
      drop: measured loss against the float model, in the unit of `max_drop`.
      precisions: op name -> chosen precision.
      sensitivities: what single ops do, the worst first.
      measured: (bytes of the file, drop) of every candidate that was evaluated.
    """

    recipe: Recipe
    model: Model
    drop: float
    precisions: dict[str, str]
    sensitivities: tuple[Sensitivity, ...]
    measured: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        counts = {name: list(self.precisions.values()).count(name) for name in PRECISIONS}
        counted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"{self.model.nbytes:,} bytes, drop {self.drop:.2f}: {counted}"


@dataclass
class _Unit:
    """One op, the precisions that it can take, and for each its cost and its noise."""

    op: Op
    costs: dict[str, float]
    noise: dict[str, float] = field(default_factory=dict)


def search(
    model: Model | Any,
    samples: Any,
    max_drop: float = 0.5,
    metric: Metric | str | None = None,
    evaluation: tuple[Any, Any] | Shards | None = None,
    *,
    precisions: Sequence[str] = PRECISIONS,
    objective: str = "bytes",
    scheme: Scheme | None = None,
    progress: bool = False,
) -> SearchResult:
    """Find the smallest (or fastest) model whose metric stays within `max_drop` of the float model's.

    Args:
      model: a float model.
      samples: representative samples, as for `octavo.quantize`; an array, a dict of arrays, or `octavo.shards`.
      max_drop: greatest loss, in hundredths: percentage points of an accuracy.
      metric: `metric(outputs, y) -> float` (higher is better, unless it has `higher_is_better = False`); "agreement":
        share of samples with the float model's largest output; "sqnr": noise power in percent of the signal's. By
        default top-1 with labels; without, agreement for class scores, else sqnr.
      evaluation: (x, y) on which the metric is measured; y may be None. Or `octavo.shards`, with their labels if they
        have any. By default the samples themselves.
      precisions: those to choose from, of "int4" and "int8" (weights, with int8 activations), "int16" (activations) and
        "float32".
      objective: "bytes" or "latency" (estimated by the ops' sizes).
      scheme: an `octavo.integer(...)` whose io, effort and per_channel to use.
      progress: show progress bars.

    Raises:
      RecipeError: an unknown precision, objective or metric, or nothing within the budget.
      DataError: unusable samples.
    """
    _check(precisions, objective)
    base = scheme or integer()
    prepared = prepare(model if isinstance(model, Model) else load(model))
    runner = runner_for_many(prepared)
    if isinstance(evaluation, Shards):
        evaluation = evaluation, evaluation.labels([port.name for port in runner.inputs])
    samples = arrays_of(runner, samples)
    seen = observe(prepared, Recipe(scheme_for(base, "int4")), samples, progress)
    judge = _Judge(prepared, samples, metric, evaluation)
    units = _units(prepared.program, precisions, objective, seen.ranges)
    if not units:
        raise RecipeError(f"{prepared.name or 'the model'} has no op that can be quantized to {', '.join(precisions)}")

    _probe(prepared, units, base, seen, judge.probes, progress)
    path = _path(units)

    def measure(index: int) -> _Candidate:
        recipe = _recipe(base, units, path[index])
        made = carry_out(prepared, recipe, seen)
        return _Candidate(recipe, made, judge.drop(made))

    measured = _bisect(len(path), measure, max_drop)
    fitting = [index for index, candidate in measured.items() if candidate.drop <= max_drop]
    if not fitting:
        least = min(candidate.drop for candidate in measured.values())
        raise RecipeError(
            f"no choice of {', '.join(precisions)} stays within max_drop={max_drop}: the best found loses {least:.2f}; "
            "allow more, or add 'int16' or 'float32' to precisions"
        )
    best = min(fitting, key=lambda index: measured[index].model.nbytes if objective == "bytes" else index)
    return _result(units, path[best], measured[best], list(measured.values()))


@dataclass(frozen=True)
class _Candidate:
    """One choice of precisions, carried out and measured."""

    recipe: Recipe
    model: Model
    drop: float


def _bisect(count: int, measure: Callable[[int], _Candidate], max_drop: float) -> dict[int, _Candidate]:
    """Measure choices from 0 (the cheapest, which may do already) on, until the first within the budget is found."""
    measured: dict[int, _Candidate] = {}
    low, high = 0, count - 1
    while low <= high:
        middle = (low + high) // 2 if measured else low
        measured[middle] = measure(middle)
        low, high = (low, middle - 1) if measured[middle].drop <= max_drop else (middle + 1, high)
    return measured


def _result(
    units: Sequence[_Unit], choice: Sequence[str], best: _Candidate, measured: Sequence[_Candidate]
) -> SearchResult:
    alone = [Sensitivity(u.op.name, name, noise) for u in units for name, noise in u.noise.items() if name != "float32"]
    return SearchResult(
        best.recipe,
        best.model,
        best.drop,
        {unit.op.name: name for unit, name in zip(units, choice, strict=True)},
        tuple(sorted(alone, key=lambda s: -s.noise)),
        tuple((candidate.model.nbytes, candidate.drop) for candidate in measured),
    )


def _check(precisions: Sequence[str], objective: str) -> None:
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        raise RecipeError(f"precision {unknown[0] if unknown else None!r}: choose of {', '.join(PRECISIONS)}")
    if objective not in OBJECTIVES:
        raise RecipeError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")


# ---------------------------------------------------------------- what can be chosen, and what it costs


def _units(program: Program, precisions: Sequence[str], objective: str, ranges: Any) -> list[_Unit]:
    """The ops that have an integer form, with the cost of each precision that they can take."""
    units = []
    for op in program.main.ops:
        row = OPS.get(op.code)
        if row is None or row.int8 is None or why_not_integer(op, 8, ranges) is not None:
            continue
        weighted = weights_of(op) is not None
        able = [name for name in precisions if name != "int4" or weighted]
        able = [name for name in able if name != "int16" or why_not_integer(op, 16, ranges) is None]
        if len(able) > 1 or (able and able[0] != "float32"):
            units.append(_Unit(op, {name: _cost(op, name, objective) for name in able}))
    return units


def _cost(op: Op, precision: str, objective: str) -> float:
    """Bytes of the weights, and a little for the activations' traffic; or an estimate of the time."""
    facts = weights_of(op)
    kernel = None if facts is None else op.inputs[facts.index]
    weights = 0 if kernel is None else kernel.size
    values = sum(tensor.size for tensor in op.outputs)
    if objective == "bytes":
        return weights * _BYTES[precision] + values * _ACTIVATION_BYTES[precision] * 1e-3
    per_output = weights / max(op.outputs[0].shape[-1], 1) if op.outputs and op.outputs[0].shape else 0
    return values * (1 + per_output) * _SLOWNESS[precision]


def scheme_for(base: Scheme, precision: str) -> Scheme:
    """The scheme that gives an op this precision, with the effort and io of `base`."""
    if precision == "float32":
        return keep_float()
    made = integer(weights=4 if precision == "int4" else 8, per_channel=base.per_channel, effort=base.effort)
    return made if precision != "int16" else integer(activations=16, per_channel=base.per_channel, effort=base.effort)


def _rule(op: Op, scheme: Scheme) -> Rule:
    return Rule.exactly(scheme, op.keys[0])


def _recipe(base: Scheme, units: Sequence[_Unit], choice: Sequence[str]) -> Recipe:
    """`base` for all ops, and a rule for each unit that is to be something else."""
    usual = "int4" if base.weights is not None and base.weights.bits == 4 else "int8"
    pairs = zip(units, choice, strict=True)
    return Recipe(base, tuple(_rule(unit.op, scheme_for(base, name)) for unit, name in pairs if name != usual))


# ---------------------------------------------------------------- how much each hurts


def _probe(prepared: Model, units: list[_Unit], base: Scheme, seen: Any, probes: Any, progress: bool) -> None:
    """Fill in the noise of every unit and precision."""
    work = _Probing(prepared, units, base, seen, probes)
    for number, noise in reduce(work, map(_Probe, range(len(units))), len(units), "probing", progress):
        units[number].noise.update(noise)


@dataclass(frozen=True)
class _Probe:
    """One unit, by its number: a `parallel.Unit`."""

    number: int
    count: int = 1
    nbytes: int = 0

    def place(self, index: int = 0) -> str:
        return f"op {self.number + index}"


@dataclass(frozen=True)
class _Probing:
    """Quantizes one unit after the other alone: a `parallel.Work`, whose result is (number, noise by precision)."""

    prepared: Model
    units: list[_Unit]
    base: Scheme
    seen: Any
    probes: Any

    @property
    def nbytes(self) -> int:
        return 3 * self.prepared.nbytes + (GRAM_BYTES if self.seen.moments else 0)

    @cached_property
    def reference(self) -> list[np.ndarray]:
        return _flat(Runner(self.prepared).predict(self.probes))

    def start(self) -> list[tuple[int, dict[str, float]]]:
        return []

    def add(self, state: list[tuple[int, dict[str, float]]], unit: _Probe) -> None:
        probed = self.units[unit.number]
        state.append((unit.number, {precision: self._noise(probed.op, precision) for precision in probed.costs}))

    def pack(self, state: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
        return state

    def merge(self, state: list[tuple[int, dict[str, float]]], packed: list[tuple[int, dict[str, float]]]) -> None:
        state.extend(packed)

    def _noise(self, op: Op, precision: str) -> float:
        if precision == "float32":
            return 0.0
        recipe = Recipe(keep_float(), (_rule(op, scheme_for(self.base, precision)),))
        outputs = _flat(Runner(carry_out(self.prepared, recipe, self.seen)).predict(self.probes))
        pairs = zip(self.reference, outputs, strict=True)
        noise = [float(np.square(a - b).sum()) / (float(np.square(a).sum()) or 1.0) for a, b in pairs]
        return float(np.mean(noise)) if np.isfinite(noise).all() else 1e9


def _flat(outputs: Outputs) -> list[np.ndarray]:
    parts = outputs.values() if isinstance(outputs, dict) else [outputs]
    return [np.asarray(part, np.float64) for part in parts]


def _path(units: list[_Unit]) -> list[list[str]]:
    """Choices from cheapest to most accurate, each one step from the last: the convex hull of cost against noise."""
    steps: list[tuple[float, int, str]] = []
    start = []
    for number, unit in enumerate(units):
        hull = _hull([(unit.costs[name], unit.noise[name], name) for name in unit.costs])
        start.append(hull[0][2])
        for before, after in itertools.pairwise(hull):
            gain = (before[1] - after[1]) / max(after[0] - before[0], 1e-12)
            steps.append((-gain, number, after[2]))
    path = [start]
    for _, number, name in sorted(steps):
        path.append([name if i == number else chosen for i, chosen in enumerate(path[-1])])
    return path


def _hull(points: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points of the lower convex hull, by rising cost: each step takes away less noise per cost than the last."""
    hull: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[float, float, str], b: tuple[float, float, str]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)


# ---------------------------------------------------------------- the metric


class _Judge:
    """Measures how much worse than the float model a model is, in hundredths."""

    def __init__(self, reference: Model, samples: Any, metric: Metric | str | None, evaluation: Any) -> None:
        self.x, self.y = evaluation if evaluation is not None else (samples, None)
        self.outputs = runner_for_many(reference).predict(self.x)
        if metric is None:
            metric = top1 if self.y is not None else "agreement" if _class_scores(self.outputs) else "sqnr"
        if isinstance(metric, str) and metric not in ("agreement", "sqnr"):
            raise RecipeError(f"metric {metric!r}: give 'agreement', 'sqnr' or a function")
        if not isinstance(metric, str) and self.y is None:
            raise RecipeError("a metric needs labels: give evaluation=(x, y)")
        self.metric = metric
        self.value = 0.0 if isinstance(metric, str) else float(metric(self.outputs, np.asarray(self.y)))
        self.probes = _first(samples, _PROBES)

    def drop(self, model: Model) -> float:
        outputs = runner_for_many(model).predict(self.x)
        if self.metric == "agreement":
            pairs = zip(_flat(self.outputs), _flat(outputs), strict=True)
            return 100 * max(float(np.mean(a.argmax(-1) != b.argmax(-1))) for a, b in pairs)
        if self.metric == "sqnr":
            pairs = zip(_flat(self.outputs), _flat(outputs), strict=True)
            return 100 * max(float(np.square(a - b).sum() / (np.square(a).sum() or 1.0)) for a, b in pairs)
        assert not isinstance(self.metric, str)
        loss = self.value - float(self.metric(outputs, np.asarray(self.y)))
        loss = loss if getattr(self.metric, "higher_is_better", True) else -loss
        return 100 * loss if np.isfinite(loss) else float("inf")


def _class_scores(outputs: Outputs) -> bool:
    return isinstance(outputs, np.ndarray) and outputs.ndim == 2 and outputs.shape[1] >= 2


def _first(samples: Any, count: int) -> Any:
    """The first samples of an array, a list or a dict of arrays."""
    if isinstance(samples, dict):
        return {name: array[:count] for name, array in samples.items()}
    try:
        return samples[:count]
    except TypeError:
        raise RecipeError("search goes over the samples more than once: pass an array or a dict of arrays") from None
