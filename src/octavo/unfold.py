"""Every op with constant weights, seen as matrix products: the one place that knows their layouts.

A weighted op computes, for each of its groups g and each position p, the outputs W[g] @ x[p, g] + bias. W has the shape
(groups, outputs, features): a plain convolution is one group whose features are the taps of its window times the input
channels; a depthwise convolution has one group per input channel, with the taps as features; a fully connected layer
has one group. What an algorithm needs to know about the inputs are then moments of the vectors x[p, g].

Layouts: CONV_2D (out, h, w, in / groups), DEPTHWISE_CONV_2D (1, h, w, in * multiplier) with output channel
c * multiplier + m, FULLY_CONNECTED (out, in), TRANSPOSE_CONV (out, h, w, in), BATCH_MATMUL (..., in, out), or
(..., out, in) with adjY. SAME padding as in LiteRT's `kernels/padding.h`: half of it, rounded down, comes first.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Tensor
from octavo.ops import OPS, Weights

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


def weights_of(op: Op) -> Weights | None:
    """Where the op's constant float weights are, None if it has none or this module has no view of them."""
    row = OPS.get(op.code)
    if op.code not in KINDS or row is None or row.weights is None or row.weights.index >= len(op.inputs):
        return None
    tensor = op.inputs[row.weights.index]
    data = op.inputs[row.weights.data]
    if tensor is None or data is None or tensor.dtype is not DType.FLOAT32 or not tensor.is_constant:
        return None
    if data.dtype is not DType.FLOAT32 or data.is_constant or tensor.size == 0:
        return None
    if op.code == "BATCH_MATMUL" and (op.option("adjX", False) or not _plain_batches(op)):
        return None
    return row.weights


def _plain_batches(op: Op) -> bool:
    """The right side has no batch dimensions, or the very same as the left: then each batch is a group."""
    left, right = op.inputs[0], op.inputs[1]
    assert left is not None and right is not None
    batches = right.shape[:-2]
    return len(right.shape) >= 2 and (int(np.prod(batches)) == 1 or left.shape[:-2] == batches)


def data_of(op: Op) -> Tensor:
    """The activation that the op's weights multiply."""
    facts = weights_of(op)
    assert facts is not None
    data = op.inputs[facts.data]
    assert data is not None
    return data


def to_matrix(op: Op, weights: np.ndarray) -> np.ndarray:
    """The weights (or anything of their shape) as (groups, outputs per group, features)."""
    if op.code == "CONV_2D":
        groups = _groups(op)
        return weights.reshape(groups, weights.shape[0] // groups, -1)
    if op.code == "DEPTHWISE_CONV_2D":
        taps = weights.shape[1] * weights.shape[2]
        channels = _channels(op)
        return weights.reshape(taps, channels, -1).transpose(1, 2, 0)
    if op.code == "BATCH_MATMUL":
        stacked = weights.reshape(-1, *weights.shape[-2:])
        return stacked if op.option("adjY", False) else stacked.transpose(0, 2, 1)
    return weights.reshape(1, weights.shape[0], -1)


def from_matrix(op: Op, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_matrix` for weights of `shape`."""
    if op.code == "DEPTHWISE_CONV_2D":
        return np.ascontiguousarray(matrix.transpose(2, 0, 1)).reshape(shape)
    if op.code == "BATCH_MATMUL" and not op.option("adjY", False):
        return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)
    return np.ascontiguousarray(matrix).reshape(shape)


def scale_matrix(op: Op, scale: np.ndarray) -> np.ndarray:
    """A scale per channel, or one for all, as something that broadcasts against `to_matrix`: (groups or 1, outputs, 1).

    Channel numbers run through the groups in order, for all kinds.
    """
    if scale.size == 1:
        return scale.reshape(1, 1, 1)
    groups = _groups(op) if op.code == "CONV_2D" else _channels(op) if op.code == "DEPTHWISE_CONV_2D" else 1
    return scale.reshape(groups, -1, 1)


def input_channels(op: Op) -> np.ndarray:
    """(groups, features): the channel of the op's data (an index of its last dimension) that each feature is of."""
    groups, _, features = matrix_shape(op)
    if op.code == "DEPTHWISE_CONV_2D":
        return np.arange(groups)[:, None].repeat(features, axis=1)
    channels = data_of(op).shape[-1] // (groups if op.code == "CONV_2D" else 1)
    within = np.arange(features) % channels
    return within + channels * np.arange(groups)[:, None] if op.code == "CONV_2D" else np.tile(within, (groups, 1))


def matrix_shape(op: Op) -> tuple[int, int, int]:
    """(groups, outputs per group, features), without touching the weights."""
    facts = weights_of(op)
    assert facts is not None
    tensor = op.inputs[facts.index]
    assert tensor is not None
    view = to_matrix(op, np.broadcast_to(np.int8(0), tensor.shape))
    return view.shape[0], view.shape[1], view.shape[2]


def input_rows(op: Op, x: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """The vectors x[p, g] at all positions, or at `limit` random ones if there are more: (positions, groups, features).

    Args:
      op: an op for which `weights_of` gives something.
      x: its data operand.
      limit: greatest number of positions.
      rng: draws them.
    """
    if op.code == "FULLY_CONNECTED":
        rows = x.reshape(-1, matrix_shape(op)[2])
        return rows[_drawn(len(rows), limit, rng)][:, None]
    if op.code == "BATCH_MATMUL":
        groups = matrix_shape(op)[0]
        rows = x.reshape(groups, -1, x.shape[-1]) if groups > 1 else x.reshape(1, -1, x.shape[-1])
        return rows[:, _drawn(rows.shape[1], limit, rng)].transpose(1, 0, 2)
    windows = _transposed_windows(op, x, limit, rng) if op.code == "TRANSPOSE_CONV" else _windows(op, x, limit, rng)
    positions, height, width, channels = windows.shape
    if op.code == "TRANSPOSE_CONV":
        return windows.reshape(positions, 1, -1)
    groups = _groups(op) if op.code == "CONV_2D" else channels
    split = windows.reshape(positions, height * width, groups, channels // groups)
    return split.transpose(0, 2, 1, 3).reshape(positions, groups, -1)


def _groups(op: Op) -> int:
    data, kernel = op.inputs[0], op.inputs[1]
    assert data is not None and kernel is not None
    return data.shape[3] // kernel.shape[3]


def _channels(op: Op) -> int:
    """Input channels; the multiplier is the kernel's share of them."""
    assert op.inputs[0] is not None
    return op.inputs[0].shape[3]


def _drawn(count: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= limit else rng.integers(0, count, limit)


def _kernel_size(op: Op) -> tuple[int, int]:
    kernel = op.inputs[1]
    assert kernel is not None
    return kernel.shape[1], kernel.shape[2]


def _windows(op: Op, x: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Windows of a convolution, zeros where they reach over the edge: (positions, height, width, channels)."""
    batch, *size = x.shape[:3]
    taps = _kernel_size(op)
    stride = (int(op.option("strideH", 1)), int(op.option("strideW", 1)))
    dilation = (int(op.option("dilationHFactor", 1)), int(op.option("dilationWFactor", 1)))
    same = op.option("padding", 0) == 0
    out, before = [0, 0], [0, 0]
    for d in (0, 1):
        reach = (taps[d] - 1) * dilation[d] + 1
        out[d] = -(-size[d] // stride[d]) if same else -(-(size[d] - reach + 1) // stride[d])
        before[d] = max((out[d] - 1) * stride[d] + reach - size[d], 0) // 2 if same else 0
    image, y, x_ = np.unravel_index(_drawn(batch * out[0] * out[1], limit, rng), (batch, out[0], out[1]))
    lines = (y * stride[0] - before[0])[:, None] + np.arange(taps[0]) * dilation[0]
    columns = (x_ * stride[1] - before[1])[:, None] + np.arange(taps[1]) * dilation[1]
    return _gather(x, image, lines, columns)


def _transposed_windows(op: Op, x: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """For sampled outputs of a transposed convolution, the input that each tap multiplies (zero if there is none).

    Output line o takes tap k from input line (o + before - k) / stride where that is whole.
    """
    batch, *size = x.shape[:3]
    taps = _kernel_size(op)
    stride = (int(op.option("strideH", 1)), int(op.option("strideW", 1)))
    out = op.outputs[0].shape[1:3]
    before = (0, 0)
    if op.option("padding", 0) == 0:
        before = tuple(max((size[d] - 1) * stride[d] + taps[d] - out[d], 0) // 2 for d in (0, 1))
    image, *at = np.unravel_index(_drawn(batch * out[0] * out[1], limit, rng), (batch, *out))
    sources = []
    for d in (0, 1):
        offset = at[d][:, None] + before[d] - np.arange(taps[d])
        sources.append(np.where(offset % stride[d] == 0, offset // stride[d], -1))
    return _gather(x, image, sources[0], sources[1])


def _gather(x: np.ndarray, image: np.ndarray, lines: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """x[image, line, column] for all pairs of a position's lines and columns; zero outside."""
    height, width = x.shape[1:3]
    inside = ((lines >= 0) & (lines < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    found = x[image[:, None, None], lines.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]]
    return found if inside.all() else found * inside[..., None]
