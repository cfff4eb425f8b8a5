"""Output scales that kernels refuse to load because they are too fine, and ranges wide enough to avoid them.

Four rules, met where a layer is all but dead, its terms cancel, or training went astray:

- XNNPACK takes scale(input) * scale(weights) / scale(output) below 256 (the requantization scale of its convolutions
  and fully connected layers).
- The builtin and reference kernels write the clamp of a fused activation as a code, round(6 / scale), which must fit
  an int32 (kernel_util.cc, CheckedQuantize).
- ADD and SUB shift sums left by 20 bits (15 for int16) and take 2 * the larger input scale / (2^shift * output scale)
  below 1 (add.cc, sub.cc); beyond it, loading an ADD ends the process, and a SUB gives wrong values.
- HARD_SWISH's reference kernel takes scale(input) / (128 * scale(output)) below 1 (activations.cc, HardSwishPrepare).

A range that is too narrow gets a higher upper end: coarser steps for one tensor, where the file wouldn't load.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from octavo import numerics
from octavo.errors import RecipeError
from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import Row
from octavo.qtypes import QParams
from octavo.recipe import Scheme
from octavo.sites import Range, Sites, tie_sites

_REQUANTIZATION = 255.0  # a little under XNNPACK's 256: scales are rounded to float32
_CLAMPS = {2: 1.0, 3: 6.0}  # RELU_N1_TO_1, RELU6
_CLAMP_CODE = 2.0**28
_ABSURD = 1e30  # a range that grows to this grows without end: each widening widens the op's own input


def loadable_sites(
    graph: Graph,
    integer: Mapping[Op, Row],
    schemes: Mapping[Op, Scheme],
    bits: Mapping[Op, int],
    ranges: Mapping[Tensor, Range],
) -> Sites:
    """`tie_sites`, with ranges widened until every kernel takes the scales.

    A wider output is the next op's coarser input, so this goes on until nothing changes; scales only ever grow.

    Raises:
      RecipeError: they would grow without end (an op's output tied to its own input, and huge weights).
    """
    weights = {op: _weight_scales(op, row, schemes[op]) for op, row in integer.items() if row.weights is not None}
    ranges = dict(ranges)
    while True:
        sites = tie_sites(graph, integer, bits, ranges)
        wider = _too_fine(integer, weights, bits, sites, ranges)
        if not wider:
            return sites
        ranges.update(wider)


def _too_fine(
    integer: Mapping[Op, Row],
    weights: Mapping[Op, np.ndarray | None],
    bits: Mapping[Op, int],
    sites: Sites,
    ranges: Mapping[Tensor, Range],
) -> dict[Tensor, Range]:
    """The outputs whose scale some kernel refuses, with a range that it takes."""
    wider = {}
    for op, row in integer.items():
        output = op.outputs[0] if op.outputs else None
        if output is None or row.output_role(0) != "a" or output.dtype is not DType.FLOAT32 or row.fixed:
            continue
        least = max(_least_scale(op, row, weights.get(op), sites), _least_ratio(op, row, bits[op], sites))
        if float(sites.of_tensor(output).scale[0]) < least:
            low, high = min(ranges[output][0], 0.0), ranges[output][1]
            # Symmetric int16 counts only the larger side, so the upper end alone must reach.
            span = 1.01 * least * (2 ** bits[op] - 1)
            enough = (low, max(high, low + span, span / 2))
            if max(enough) > _ABSURD:
                raise RecipeError(
                    f"{op.name}: no scale that LiteRT's kernels take fits its weights, its input and its output, which "
                    "share one through a concatenation or the like: its weights reach beyond anything trained; train "
                    "the model further, or keep this op in float by a Rule with keep_float()"
                )
            if enough != ranges[output]:  # else another tensor's fixed scale holds this one down
                wider[output] = enough
    return wider


def _least_scale(op: Op, row: Row, weights: np.ndarray | None, sites: Sites) -> float:
    least = _CLAMPS.get(op.option("fusedActivationFunction", 0), 0.0) / _CLAMP_CODE
    if row.weights is None or weights is None:
        return least
    data = float(sites.of_use(op, row.weights.data).scale[0])
    bias = op.inputs[row.weights.bias] if row.weights.bias and row.weights.bias < len(op.inputs) else None
    if bias is not None:  # as the plan will widen them
        params = numerics.widen_for_bias(
            QParams(weights, np.zeros(weights.size), 0 if weights.size > 1 else None), data, bias.values
        )
        weights = params.scale
    return max(least, data * float(weights.max()) / _REQUANTIZATION)


def _least_ratio(op: Op, row: Row, bits: int, sites: Sites) -> float:
    if bits not in row.finest:
        return 0.0
    operands = (index for index in range(len(op.inputs)) if row.input_role(index) == "a")  # a damaged file has more
    larger = max(float(sites.of_use(op, index).scale[0]) for index in operands)
    return 1.01 * larger * row.finest[bits]


def _weight_scales(op: Op, row: Row, scheme: Scheme) -> np.ndarray | None:
    assert row.weights is not None
    tensor = op.inputs[row.weights.index]
    if tensor is None or not tensor.is_constant or scheme.weights is None:
        return None
    axis = row.weights.axis if scheme.per_channel else None
    return numerics.weight_params(tensor.values, scheme.weights, axis).scale
