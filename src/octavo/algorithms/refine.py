"""Let the algorithms loose on a plan: better ranges before it is made, better scales, codes and biases after.

Order: ranges first, for the plan's activation scales follow from them; then, op by op, weight scales, weight codes, and
the bias, which makes up for the mean error of the codes. So codes only have to keep what varies: where there is a
bias, they are judged by the covariance of the inputs, else by their Gram matrix. All of it looks at the float model's
statistics only, so no op waits for another, and the errors of one aren't fitted by the next. What is done for each op
is in `layer`, and can be done on a worker; here it comes into the plan.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from octavo import numerics
from octavo.algorithms import bias_correction, mse_ranges
from octavo.algorithms.equalize import equalize
from octavo.algorithms.layer import Chosen, Layer, Rounder, work
from octavo.algorithms.smoothquant import groups, smooth
from octavo.calibrate.halves import Halves
from octavo.calibrate.observers import ChannelBounds
from octavo.calibrate.probes import PROBES
from octavo.calibrate.run import Needs, Statistics
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.parallel import reduce
from octavo.passes.add_bias import complete
from octavo.plan import Form, Plan, rescale_weights
from octavo.qtypes import INT8, QParams, QType
from octavo.recipe import Recipe, Scheme
from octavo.unfold import from_matrix, matrix_shape, scale_matrix, to_matrix, weights_of

# Input vectors per op, from all samples together. Depthwise convolutions of many channels get fewer: they have a Gram
# matrix for each channel, small ones, so that vectors suffice in which so many products are, but enough per feature.
_ROWS = 3200
_PRODUCTS = 1 << 25
_ROWS_PER_FEATURE = 32


def needs(program: Program, recipe: Recipe, count: int | None = None) -> Needs:
    """The statistics that `recipe` calls for, of a program in normal form.

    Args:
      program: the float program.
      recipe: what is asked for.
      count: number of samples, if it is known: the fewer there are, the more is taken from each.
    """
    schemes = {op: _scheme(op, recipe) for op in program.ops() if weights_of(op)}
    wanted = [op for op, scheme in schemes.items() if scheme.effort != "fast" and scheme.weights is not None]
    return Needs(
        rows={op: _rows(op, recipe, count) for op in wanted},
        histograms=recipe.needs_ranges and recipe.scheme.effort != "fast",
        moments=tuple(wanted),
        gram=frozenset(wanted),
        bounds=frozenset(op for op in wanted if not schemes[op].per_channel),
        channels=recipe.scheme.effort != "fast" and any(True for g in program.graphs for _ in groups(program, g)),
        probes=PROBES if recipe.needs_ranges and recipe.scheme.effort != "fast" else 0,
    )


def _rows(op: Op, recipe: Recipe, count: int | None) -> int:
    """How many input vectors are drawn from each sample."""
    matrices, _, features = matrix_shape(op)
    allowed = max(_ROWS_PER_FEATURE * features, _PRODUCTS // (matrices * features**2)) if matrices > 1 else _ROWS
    rows = 32 if count is None else int(np.clip(min(_ROWS, allowed) // max(count, 1), 16, 1024))
    return rows * 4 if recipe.scheme.effort == "best" else rows


def _scheme(op: Op, recipe: Recipe) -> Scheme:
    return recipe.scheme_of(op.keys)


def ranges(program: Program, recipe: Recipe, statistics: Statistics) -> dict[Tensor, tuple[float, float]]:
    """The range that each tensor is to be quantized with.

    Inputs and outputs keep their observed bounds: what comes in may use them in full, and of what goes out the extremes
    are the answer.
    """
    found = statistics.ranges
    if recipe.scheme.effort == "fast":
        return found
    fixed = {*statistics.recorded}.union(*([*graph.inputs, *graph.outputs] for graph in program.graphs))
    fixed |= {tensor for op in program.ops() if not _eight_bits(op, recipe) for tensor in op.outputs}
    for tensor, histogram in statistics.histograms.items():
        if tensor in found and tensor not in fixed and np.isfinite(found[tensor]).all():
            low, high = found[tensor]
            values, counts = histogram.points
            found[tensor] = mse_ranges.best_range(values.clip(low, high), counts, low, high, INT8)
    return found


def _eight_bits(op: Op, recipe: Recipe) -> bool:
    activations = _scheme(op, recipe).activations
    return activations is not None and activations.bits == 8


def equalize_layers(
    program: Program,
    recipe: Recipe,
    moments: dict[Op, Halves],
    chosen: dict[Tensor, tuple[float, float]],
    observed: dict[Tensor, tuple[float, float]],
    channels: Mapping[Tensor, ChannelBounds],
) -> None:
    """Smooth activations of eight bits, and equalize layers whose weights get one scale; edits all to match.

    Args:
      program: the program that will be planned.
      recipe: what is asked for.
      moments: of the inputs of those ops of which there are samples.
      chosen, observed: the range that each tensor is to be quantized with, and that was seen.
      channels: bounds of each channel, as `needs` asks for them.
    """

    def type_of(op: Op) -> QType | None:
        scheme = _scheme(op, recipe)
        return scheme.weights if scheme.effort != "fast" and not scheme.per_channel else None

    def type_if_eight(op: Op) -> QType | None:
        scheme = _scheme(op, recipe)
        return scheme.weights if scheme.effort != "fast" and _eight_bits(op, recipe) else None

    smoothed = smooth(program, type_if_eight, moments, channels, observed)
    for tensor in [*smoothed, *equalize(program, type_of, moments, observed)]:
        chosen[tensor] = observed[tensor]


def refine(program: Program, plan: Plan, recipe: Recipe, moments: Mapping[Op, Halves], progress: bool = False) -> None:
    """Choose scales and codes of the weights that `plan` makes integer, and the biases that go with them.

    Edits `plan`, and `program` where a bias stays float or is missing: what rounding shifts, a bias puts right.

    Args:
      program: the program of the plan.
      plan: as made by `octavo.plan.plan`.
      recipe: what is asked for.
      moments: of the inputs of those ops of which there are samples; without, only scales of four bits are searched.
      progress: show a progress bar.
    """
    schemes = {op: _scheme(op, recipe) for op in program.ops()}
    refined = {op: s for op, s in schemes.items() if s.effort != "fast" and s.weights and _weights(op, plan)}
    for graph in program.graphs:
        for op in graph.ops:
            if op in refined and op in moments:
                _complete_bias(graph, op, plan, refined[op])
    readers = _readers(program)
    jobs = _jobs(plan, refined, moments, readers)
    total = sum(work(*matrix_shape(job.found.op)) for job in jobs)
    layers = (_layer(number, job, plan) for number, job in enumerate(jobs))
    # Here the library of linear algebra uses all cores as it is; elsewhere only if somebody asks for it.
    chosen = reduce(Rounder(), layers, total, "rounding weights", progress, moves=False)
    for number, job in enumerate(jobs):
        _carry_out(job, chosen[number], plan)
    for op in refined:
        if op in moments:
            _correct_bias(op, plan, moments[op], readers)


def _readers(program: Program) -> dict[Tensor, list[Op]]:
    readers: dict[Tensor, list[Op]] = {}
    for op in program.ops():
        for tensor in dict.fromkeys(op.inputs):
            if tensor is not None:
                readers.setdefault(tensor, []).append(op)
    return readers


def _complete_bias(graph: Graph, op: Op, plan: Plan, scheme: Scheme) -> None:
    """A bias of zeros where the op may have one and has none."""
    facts, found = weights_of(op), _weights(op, plan)
    if facts is None or found is None or facts.bias is None or _bias(op) is not None:
        return
    complete(graph, op, facts)
    if scheme.kind == "integer" and isinstance(found.key, tuple):
        rescale_weights(op, scheme, plan, found.qparams)


@dataclass
class _Weights:
    """An op's weights in a plan: where they stand there (as the op reads them, or as stored), and in which form."""

    op: Op
    tensor: Tensor
    key: tuple[Op, int] | Tensor
    form: Form

    @property
    def qparams(self) -> QParams:
        assert self.form.qparams is not None
        return self.form.qparams


def _weights(op: Op, plan: Plan) -> _Weights | None:
    """None if the op's weights stay float."""
    facts = weights_of(op)
    tensor = op.inputs[facts.index] if facts else None
    if facts is None or tensor is None:
        return None
    wanted, stored = plan.wants.get((op, facts.index)), plan.stores.get(tensor)
    if wanted is not None and wanted.qparams is not None:
        return _Weights(op, tensor, (op, facts.index), wanted)
    if stored is not None and stored.qparams is not None:
        return _Weights(op, tensor, tensor, stored)
    return None


@dataclass
class _Job:
    """Weights to be rounded: as one op reads them, or as several read them alike."""

    found: _Weights
    scheme: Scheme
    moments: Halves | None
    shared: bool = False


def _jobs(
    plan: Plan, refined: Mapping[Op, Scheme], moments: Mapping[Op, Halves], readers: Mapping[Tensor, Sequence[Op]]
) -> list[_Job]:
    jobs = []
    for op, scheme in refined.items():
        found = _weights(op, plan)
        assert found is not None
        sharers = readers[found.tensor]
        if len(sharers) == 1:
            jobs.append(_Job(found, scheme, moments.get(op)))
        elif op is sharers[0] and (together := _together(found, sharers, plan, moments)) is not None:
            jobs.append(_Job(found, scheme, together, shared=True))
    return jobs


def _together(found: _Weights, sharers: Sequence[Op], plan: Plan, moments: Mapping[Op, Halves]) -> Halves | None:
    """What is known of all inputs that meet the same weights; None if the ops don't read them alike.

    Then each rounds them to nearest, so that equal codes are stored once.
    """
    alike = [_weights(op, plan) for op in sharers]
    seen = [moments[op] for op in sharers if op in moments]
    same = all(other is not None and other.form == found.form for other in alike)
    kinds = {(op.code, part.block) for op, part in zip(sharers, seen, strict=False)}
    return functools.reduce(Halves.merge, seen) if same and seen and not found.form.block and len(kinds) == 1 else None


def _layer(number: int, job: _Job, plan: Plan) -> Layer:
    found, op, qtype = job.found, job.found.op, job.scheme.weights
    assert qtype is not None
    block = found.form.block
    scale, weights = found.qparams.scale, to_matrix(op, found.tensor.values)
    return Layer(
        number,
        op.name,
        weights,
        scale.reshape(weights.shape[1], -1) if block else scale_matrix(op, scale),
        qtype,
        job.moments,
        biased=_bias(op) is not None,
        search=qtype.bits < 8 and not job.shared,  # eight bits lose more by clipping than they win
        block=block,
        bias=_room(found, job.scheme, plan),
        thorough=job.scheme.effort == "best",
    )


def _room(found: _Weights, scheme: Scheme, plan: Plan) -> tuple[float, np.ndarray | None] | None:
    """The scale of the op's input and its bias, where scales must suit them: see `rescale_weights`."""
    facts, bias = weights_of(found.op), _bias(found.op)
    if scheme.kind != "integer" or not isinstance(found.key, tuple) or facts is None:
        return None
    data = plan.wants[found.op, facts.data].qparams
    assert data is not None
    return float(data.scale[0]), None if bias is None else bias.values


def _carry_out(job: _Job, chosen: Chosen, plan: Plan) -> None:
    """Write into the plan what was chosen for a layer."""
    found, op, scheme = job.found, job.found.op, job.scheme
    if found.form.block:
        if chosen.scales is not None and chosen.codes is not None:
            assert isinstance(found.key, tuple)
            plan.wants[found.key] = replace(found.form, qparams=_with(found.qparams, chosen.scales))
            plan.codes[found.key] = chosen.codes[0]
        return
    if chosen.scales is not None:
        found = _rescaled(found, plan, scheme, chosen.scales)
    if chosen.codes is None:
        return
    key = found.tensor if job.shared else found.key
    plan.codes[key] = from_matrix(op, chosen.codes, found.tensor.shape)
    if scheme.kind == "integer" and isinstance(key, tuple):
        rescale_weights(op, scheme, plan, found.qparams)  # once more: whether the sums fit depends on the codes


def _with(qparams: QParams, scales: np.ndarray) -> QParams:
    return QParams(scales, qparams.zero_point, qparams.axis)


def _bias(op: Op) -> Tensor | None:
    facts = weights_of(op)
    return op.inputs[facts.bias] if facts and facts.bias is not None and facts.bias < len(op.inputs) else None


def _rescaled(found: _Weights, plan: Plan, scheme: Scheme, scales: np.ndarray) -> _Weights:
    """The same weights with other scales, in the plan too."""
    qparams = _with(found.qparams, scales)
    if scheme.kind == "integer" and isinstance(found.key, tuple):
        rescale_weights(found.op, scheme, plan, qparams)
    elif isinstance(found.key, tuple):
        plan.wants[found.key] = replace(found.form, qparams=qparams)
    else:
        plan.stores[found.key] = replace(found.form, qparams=qparams)
    renewed = _weights(found.op, plan)
    assert renewed is not None
    return renewed


def _correct_bias(op: Op, plan: Plan, moments: Halves, readers: Mapping[Tensor, Sequence[Op]]) -> None:
    """Give a bias the values that keep the mean output; needs the weights' final form."""
    facts, bias, mean, current = weights_of(op), _bias(op), moments.mean(), _weights(op, plan)
    if facts is None or facts.bias is None or bias is None or mean is None or current is None or not bias.is_constant:
        return
    codes = plan.codes.get(current.key, plan.codes.get(current.tensor))
    if codes is None:
        assert current.form.qtype is not None
        values = current.tensor.values
        shaped = values.reshape(-1, current.form.block) if current.form.block else values
        codes = numerics.quantize(shaped, current.qparams, current.form.qtype).reshape(values.shape)
    scale = current.qparams.scale.astype(np.float64)
    if current.form.block:
        restored = (codes.reshape(-1, current.form.block) * scale[:, None]).reshape(1, *codes.shape)
    else:
        restored = to_matrix(op, codes) * scale_matrix(op, scale)
    wanted = bias_correction.corrected(bias.values, to_matrix(op, current.tensor.values), restored, mean)
    form = plan.wants.get((op, facts.bias))
    if form is not None and form.qparams is not None and form.qtype is not None:
        plan.codes[op, facts.bias] = numerics.quantize_bias(wanted, form.qparams, form.qtype)
    elif len(readers[bias]) == 1 and bias not in plan.stores and bias.dtype is DType.FLOAT32:
        bias.set_values(wanted.astype(np.float32))
