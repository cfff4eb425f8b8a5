"""Let the algorithms loose on a plan: better ranges before it is made, better scales, codes and biases after.

Order: ranges first, for the plan's activation scales follow from them; then, op by op, weight scales, weight codes, and
the bias, which makes up for the mean error of the codes. All of it looks at the float model's statistics only, so no
op waits for another, and the errors of one aren't fitted by the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from octavo import numerics
from octavo.algorithms import bias_correction, gptq, mse_ranges, weight_scales
from octavo.calibrate.observers import Moments
from octavo.calibrate.run import Needs, Statistics
from octavo.graph import Op, Program, Tensor
from octavo.plan import Plan, rescale_weights
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
    wanted = [op for op in program.ops() if weights_of(op) and _scheme(op, recipe).effort != "fast"]
    wanted = [op for op in wanted if _scheme(op, recipe).weights is not None]
    rows = 32 if count is None else int(np.clip(_ROWS // max(count, 1), 16, 1024))
    return Needs(rows=rows, histograms=recipe.scheme.effort != "fast", moments=tuple(wanted), gram=frozenset(wanted))


def _scheme(op: Op, recipe: Recipe) -> Scheme:
    return recipe.scheme_for(op.code, op.outputs[0].name if op.outputs else "")


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
    """Choose scales and codes of all weights and biases of which there are moments; edits `plan`."""
    readers = Counter(tensor for op in program.ops() for tensor in op.inputs if tensor is not None)
    for op, seen in moments.items():
        facts = weights_of(op)
        if facts is None or (op, facts.index) not in plan.wants or plan.wants[op, facts.index].qparams is None:
            continue
        tensor = op.inputs[facts.index]
        assert tensor is not None
        if readers[tensor] == 1:  # weights that several ops share keep one set of codes
            _refine_weights(op, plan, _scheme(op, recipe), seen)
        _correct_bias(op, plan, seen)


def _refine_weights(op: Op, plan: Plan, scheme: Scheme, moments: Moments) -> None:
    facts = weights_of(op)
    assert facts is not None and scheme.weights is not None
    tensor = op.inputs[facts.index]
    form = plan.wants[op, facts.index]
    assert tensor is not None and form.qparams is not None
    second = moments.second()
    if second is None:
        return
    weights = to_matrix(op, tensor.values)
    factors = gptq.factor(second)
    blocks = _in_blocks(weights, moments.block)
    groups, outputs, _ = weights.shape
    if scheme.weights.bits < 8:  # eight bits lose more by clipping unseen combinations than they win
        importance = factors.importance.reshape(groups, -1)[:, : weights.shape[2]]
        scales = scale_matrix(op, form.qparams.scale)
        scales = weight_scales.best_scales(weights, importance, scales, scheme.weights)
        rescale_weights(op, scheme, plan, QParams(scales, form.qparams.zero_point, form.qparams.axis))
        form = plan.wants[op, facts.index]
        assert form.qparams is not None
    scales = scale_matrix(op, form.qparams.scale)
    spread = np.broadcast_to(scales, (groups, outputs, 1))
    repeated = np.repeat(spread, blocks.shape[0] // groups, axis=0)
    codes = gptq.round_weights(blocks, repeated, factors, scheme.weights)
    plan.codes[op, facts.index] = from_matrix(op, _out_of_blocks(codes, weights.shape), tensor.shape)
    if scheme.kind == "integer":
        rescale_weights(op, scheme, plan, form.qparams)


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


def _correct_bias(op: Op, plan: Plan, moments: Moments) -> None:
    facts = weights_of(op)
    assert facts is not None
    mean = moments.mean()
    if mean is None or facts.bias is None or facts.bias >= len(op.inputs):
        return
    tensor, bias = op.inputs[facts.index], op.inputs[facts.bias]
    if tensor is None or bias is None or (op, facts.bias) not in plan.wants:
        return
    form, bias_form = plan.wants[op, facts.index], plan.wants[op, facts.bias]
    assert form.qparams is not None and form.qtype is not None
    if bias_form.qparams is None or bias_form.qtype is None:
        return
    codes = plan.codes.get((op, facts.index))
    codes = numerics.quantize(tensor.values, form.qparams, form.qtype) if codes is None else codes
    restored = to_matrix(op, codes) * scale_matrix(op, form.qparams.scale.astype(np.float64))
    wanted = bias_correction.corrected(bias.values, to_matrix(op, tensor.values), restored, mean)
    plan.codes[op, facts.bias] = numerics.quantize_bias(wanted, bias_form.qparams, bias_form.qtype)
