"""Let the algorithms loose on a plan: better ranges before it is made, better scales, codes and biases after.

Order: ranges first, for the plan's activation scales follow from them; then, op by op, weight scales, weight codes, and
the bias, which makes up for the mean error of the codes. All of it looks at the float model's statistics only, so no
op waits for another, and the errors of one aren't fitted by the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from octavo import numerics
from octavo.algorithms import bias_correction, descent, gptq, mse_ranges, weight_scales
from octavo.calibrate.observers import Moments
from octavo.calibrate.run import Needs, Statistics
from octavo.graph import Op, Program, Tensor
from octavo.plan import Form, Plan, rescale_weights
from octavo.qtypes import INT8, QParams
from octavo.recipe import Recipe, Scheme
from octavo.unfold import from_matrix, scale_matrix, to_matrix, weights_of

_ROWS = 3200  # input vectors per op, from all samples together


def needs(program: Program, recipe: Recipe, count: int | None = None) -> Needs:
    """The statistics that `recipe` calls for, of a program in normal form.

    Args:
      program: the float program.
      recipe: what is asked for.
      count: number of samples, if it is known: the fewer there are, the more is taken from each.
    """
    schemes = {op: _scheme(op, recipe) for op in program.ops() if weights_of(op)}
    wanted = [op for op, scheme in schemes.items() if scheme.effort != "fast" and scheme.weights is not None]
    rows = 32 if count is None else int(np.clip(_ROWS // max(count, 1), 16, 1024))
    rows *= 4 if recipe.scheme.effort == "best" else 1
    return Needs(
        rows=rows,
        histograms=recipe.needs_ranges and recipe.scheme.effort != "fast",
        moments=tuple(wanted),
        gram=frozenset(wanted),
    )


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


def refine(program: Program, plan: Plan, recipe: Recipe, moments: Mapping[Op, Moments]) -> None:
    """Choose scales and codes of the weights and biases that `plan` makes integer; edits `plan`.

    Args:
      program: the program of the plan.
      plan: as made by `octavo.plan.plan`.
      recipe: what is asked for.
      moments: of the inputs of those ops of which there are samples; without, only scales of four bits are searched.
    """
    readers = Counter(tensor for op in program.ops() for tensor in op.inputs if tensor is not None)
    for op in program.ops():
        found = _weights(op, plan)
        scheme = _scheme(op, recipe)
        if found is None or scheme.effort == "fast" or scheme.weights is None:
            continue
        if readers[found.tensor] == 1:  # weights that several ops share keep one set of codes
            _refine_weights(found, plan, scheme, moments.get(op))
        if op in moments:
            _correct_bias(found, plan, moments[op])


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


def _refine_weights(found: _Weights, plan: Plan, scheme: Scheme, moments: Moments | None) -> None:
    op, qtype = found.op, scheme.weights
    second = None if moments is None else moments.second()
    weights = to_matrix(op, found.tensor.values)
    factors = None if second is None or moments is None else gptq.factor(second, _damping(second, moments.count))
    assert qtype is not None
    if qtype.bits < 8:  # eight bits lose more by clipping than they win
        importance = None if factors is None else factors.importance.reshape(len(weights), -1)[:, : weights.shape[2]]
        scales = weight_scales.best_scales(weights, importance, scale_matrix(op, found.qparams.scale), qtype)
        found = _rescaled(found, plan, scheme, scales)
    if factors is None or moments is None:
        return
    blocks = _in_blocks(weights, moments.block)
    scales = np.broadcast_to(scale_matrix(op, found.qparams.scale), (*weights.shape[:2], 1))
    scales = scales.repeat(len(blocks) // len(weights), axis=0)
    codes = gptq.round_weights(blocks, scales, factors, qtype)
    if scheme.effort == "best" and second is not None:
        codes = descent.improve(blocks, codes, scales, _damped(second, _damping(second, moments.count)), qtype)
    plan.codes[found.key] = from_matrix(op, _out_of_blocks(codes, weights.shape), found.tensor.shape)
    if scheme.kind == "integer" and isinstance(found.key, tuple):
        rescale_weights(op, scheme, plan, found.qparams)  # once more: whether the sums fit depends on the codes


def _damping(second: np.ndarray, count: int) -> float:
    """More where few vectors speak for many features: what they seem to have in common may be chance."""
    return 0.01 + 0.1 * second.shape[1] / max(count, 1)


def _damped(second: np.ndarray, damping: float) -> np.ndarray:
    mean = np.diagonal(second, axis1=1, axis2=2).mean(axis=1)
    return second + np.eye(second.shape[1]) * (damping * mean)[:, None, None]


def _rescaled(found: _Weights, plan: Plan, scheme: Scheme, scales: np.ndarray) -> _Weights:
    """The same weights with other scales, in the plan too."""
    qparams = QParams(scales, found.qparams.zero_point, found.qparams.axis)
    if scheme.kind == "integer" and isinstance(found.key, tuple):
        rescale_weights(found.op, scheme, plan, qparams)
    elif isinstance(found.key, tuple):
        plan.wants[found.key] = replace(found.form, qparams=qparams)
    else:
        plan.stores[found.key] = replace(found.form, qparams=qparams)
    renewed = _weights(found.op, plan)
    assert renewed is not None
    return renewed


def _in_blocks(weights: np.ndarray, block: int) -> np.ndarray:
    """(groups, outputs, features) as (groups * blocks, outputs, block), padded with zeros."""
    groups, outputs, features = weights.shape
    blocks = -(-features // block)
    padded = np.pad(weights, ((0, 0), (0, 0), (0, blocks * block - features)))
    return padded.reshape(groups, outputs, blocks, block).transpose(0, 2, 1, 3).reshape(-1, outputs, block)


def _out_of_blocks(codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_in_blocks`."""
    groups, outputs, features = shape
    joined = codes.reshape(groups, -1, outputs, codes.shape[2]).transpose(0, 2, 1, 3)
    return joined.reshape(groups, outputs, -1)[:, :, :features]


def _correct_bias(found: _Weights, plan: Plan, moments: Moments) -> None:
    """Give an integer bias the codes that keep the mean output; needs the weights' final form."""
    op, facts, mean = found.op, weights_of(found.op), moments.mean()
    if mean is None or facts is None or facts.bias is None or facts.bias >= len(op.inputs):
        return
    bias, form = op.inputs[facts.bias], plan.wants.get((op, facts.bias))
    current = _weights(op, plan)
    if bias is None or form is None or form.qparams is None or form.qtype is None or current is None:
        return
    codes = plan.codes.get(current.key)
    if codes is None:
        assert current.form.qtype is not None
        codes = numerics.quantize(current.tensor.values, current.qparams, current.form.qtype)
    restored = to_matrix(op, codes) * scale_matrix(op, current.qparams.scale.astype(np.float64))
    wanted = bias_correction.corrected(bias.values, to_matrix(op, current.tensor.values), restored, mean)
    plan.codes[op, facts.bias] = numerics.quantize_bias(wanted, form.qparams, form.qtype)
