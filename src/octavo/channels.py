"""Which channels must be scaled alike, if one of them is scaled at all.

A channel is an index of a tensor's last dimension. Ops that work channel by channel and commute with a positive factor
(RELU, pools, resizing, the ADD of two tensors, ...) tie the channels of what they read to those of what they make:
along a residual trunk, a channel is the same one from end to end. An op with weights ends a tie on both sides: a factor
on its output goes into its weights and bias, the inverse of one on its input into its weights. What ends nowhere is
pinned, which means that its factor is 1: inputs and outputs of the graph, and what ops that don't commute read or
make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, int_values
from octavo.graph.queries import recorded_range
from octavo.ops import OPS

_COMMUTE = (0, 1, 3)  # ActivationFunctionType in the schema: none, RELU, RELU6 (below its bound)
_MASKS = ("ellipsisMask", "newAxisMask", "shrinkAxisMask")


class Channels:
    """The channels of one subgraph, tied.

    Attributes:
      editor: of the subgraph.
      ids: the number of each channel of each float tensor that ops compute or read.
      sources: ops whose weights can take a factor of their output.
      sinks: ops whose weights can take one of their input, with the channel that each column of the weights reads.
      offsets: (op, index) of constants that are added to channels or compared with them.
    """

    def __init__(self, program: Program, graph: Graph) -> None:
        self.editor = Editor(program, graph)
        self.ids: dict[Tensor, np.ndarray] = {}
        self.sources: list[Op] = []
        self.sinks: dict[Op, np.ndarray] = {}
        self.offsets: list[tuple[Op, int]] = []
        count = 0
        for tensor in dict.fromkeys(t for op in graph.ops for t in [*op.inputs, *op.outputs] if t is not None):
            if tensor.dtype is DType.FLOAT32 and not tensor.is_constant and tensor.shape:
                self.ids[tensor] = np.arange(count, count + tensor.shape[-1])
                count += tensor.shape[-1]
        self._parent = np.arange(count)
        self._pinned = np.zeros(count, bool)
        for tensor in self.ids:
            open_ended = (tensor.shape_signature or ())[-1:] == (-1,)
            if self.editor.is_border(tensor) or recorded_range(tensor) is not None or open_ended:
                self._pin(tensor)
        for op in graph.ops:
            if not self._tied(op):
                for tensor in [*op.inputs, *op.outputs]:
                    self._pin(tensor)
        while (self._parent != (up := self._parent[self._parent])).any():
            self._parent = up

    def roots(self, tensor: Tensor) -> np.ndarray:
        """For each channel of `tensor`, the number of that to which it is tied."""
        return self._parent[self.ids[tensor]]

    @property
    def count(self) -> int:
        return len(self._parent)

    @property
    def free(self) -> np.ndarray:
        """The roots that may be scaled, in order: made by weights, and pinned nowhere."""
        made = np.zeros(self.count, bool)
        for op in self.sources:
            made[self.roots(op.outputs[0])] = True
        made[self._parent[self._pinned]] = False
        return np.flatnonzero(made)

    def _pin(self, tensor: Tensor | None) -> None:
        if tensor in self.ids:
            self._pinned[self.ids[tensor]] = True

    def _tie(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Tie channels one to one (union-find)."""
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            x, y = self._root(x), self._root(y)
            self._parent[max(x, y)] = min(x, y)
        return True

    def _root(self, x: int) -> int:
        parent = self._parent
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = int(parent[x])
        return x

    # ------------------------------------------------------------ op by op: tie what it ties; False to pin it

    def _tied(self, op: Op) -> bool:
        fused = op.option("fusedActivationFunction", 0)
        if fused not in _COMMUTE or not op.outputs or any(tensor not in self.ids for tensor in op.outputs):
            return False
        row = OPS.get(op.code)
        if row is not None and row.weights is not None and row.weights.axis is not None:
            return self._weighted(op)
        handler = _HANDLERS.get(op.code)
        return handler is not None and handler(self, op)

    def _weighted(self, op: Op) -> bool:
        facts = OPS[op.code].weights
        assert facts is not None and facts.axis is not None
        data, kernel = op.inputs[facts.data], op.inputs[facts.index]
        bias = op.inputs[facts.bias] if facts.bias is not None and facts.bias < len(op.inputs) else None
        if data is None or data not in self.ids or kernel is None or float_values(kernel) is None:
            return False
        if op.option("weightsFormat") or self.editor.readers(kernel) != [op]:
            return False
        if op.outputs[0].shape[-1] != kernel.shape[facts.axis] or (bias is not None and float_values(bias) is None):
            return False
        self.sources.append(op)
        columns = _columns(op, kernel, data.shape[-1])
        if columns is None:
            self._pin(data)
        else:
            self.sinks[op] = columns
        return True

    def _along(self, op: Op) -> bool:
        """One operand, whose channels repeat in a longer last dimension or fall together in a shorter one."""
        source, made = op.inputs[0], op.outputs[0]
        if source is None or source not in self.ids:
            return False
        a, b = source.shape[-1], made.shape[-1]
        if min(a, b) == 0 or max(a, b) % min(a, b):
            return False
        longer = np.arange(max(a, b))
        return self._tie(self.ids[source][longer % a], self.ids[made][longer % b])

    def _kept(self, op: Op) -> bool:
        source = op.inputs[0]
        return source is not None and source.shape[-1:] == op.outputs[0].shape[-1:] and self._along(op)

    def _reduce(self, op: Op) -> bool:
        source, axes = op.inputs[0], int_values(op.inputs[1])
        if source is None or axes is None:
            return False
        return all(int(axis) % len(source.shape) != len(source.shape) - 1 for axis in axes.flat) and self._kept(op)

    def _pad(self, op: Op) -> bool:
        """By zeros, or by what stands at the edge; channels that are added are zero whatever their factor."""
        source, amounts = op.inputs[0], int_values(op.inputs[1])
        value = float_values(op.inputs[2]) if len(op.inputs) > 2 else np.zeros(1)
        if source is None or source not in self.ids or amounts is None or value is None or value.any():
            return False
        before, after = (int(n) for n in amounts.reshape(-1, 2)[-1])
        if op.code == "MIRROR_PAD" and (before or after):
            return False
        return self._tie(self.ids[source], self.ids[op.outputs[0]][before : before + source.shape[-1]])

    def _add(self, op: Op) -> bool:
        made = op.outputs[0]
        for index, tensor in enumerate(op.inputs):
            if tensor is None or not (tensor in self.ids or float_values(tensor) is not None):
                return False
            if tensor.shape[-1:] != made.shape[-1:] and not (tensor.is_constant and tensor.shape[-1:] in ((), (1,))):
                return False
            if tensor.is_constant:
                self.offsets.append((op, index))
            else:
                self._tie(self.ids[tensor], self.ids[made])
        return True

    def _mul(self, op: Op) -> bool:
        """One operand carries the factor: the larger of two that are computed."""
        first, second = op.inputs
        if first is None or second is None or first is second:
            return False
        first_carries = not first.is_constant and (second.is_constant or first.size >= second.size)
        carrier, other = (first, second) if first_carries else (second, first)
        if carrier not in self.ids or carrier.shape[-1] != op.outputs[0].shape[-1]:
            return False
        self._pin(other)
        return self._tie(self.ids[carrier], self.ids[op.outputs[0]])

    def _prelu(self, op: Op) -> bool:
        return float_values(op.inputs[1]) is not None and self._kept(op)

    def _concatenation(self, op: Op) -> bool:
        made = op.outputs[0]
        parts = [self.ids[tensor] for tensor in op.inputs if tensor is not None and tensor in self.ids]
        if len(parts) != len(op.inputs):
            return False
        if op.option("axis", 0) % len(made.shape) == len(made.shape) - 1:
            return self._tie(np.concatenate(parts), self.ids[made])
        return all(self._tie(part, self.ids[made]) for part in parts)

    def _split(self, op: Op) -> bool:
        source, axis = op.inputs[1], int_values(op.inputs[0])
        if source is None or source not in self.ids or axis is None:
            return False
        parts = [self.ids[tensor] for tensor in op.outputs]
        if int(axis.flat[0]) % len(source.shape) == len(source.shape) - 1:
            return self._tie(self.ids[source], np.concatenate(parts))
        return all(self._tie(self.ids[source], part) for part in parts)

    def _transpose(self, op: Op) -> bool:
        order = int_values(op.inputs[1])
        return order is not None and int(order.flat[-1]) % order.size == order.size - 1 and self._kept(op)

    def _strided_slice(self, op: Op) -> bool:
        steps = int_values(op.inputs[3])
        whole = steps is not None and int(steps.flat[-1]) == 1 and not any(op.option(mask) for mask in _MASKS)
        return whole and self._kept(op)


def _columns(op: Op, kernel: Tensor, channels: int) -> np.ndarray | None:
    """The input channel that each column of the weights reads; None if that isn't one each (grouped convolutions)."""
    if op.code == "DEPTHWISE_CONV_2D":
        multiplier, rest = divmod(kernel.shape[3], channels)
        return None if rest else np.arange(kernel.shape[3]) // multiplier
    if op.code == "FULLY_CONNECTED":  # flattens what it reads
        return None if kernel.shape[1] % channels else np.arange(kernel.shape[1]) % channels
    return np.arange(channels) if kernel.shape[-1] == channels else None


_KEPT = (
    "RELU", "RELU6", "LEAKY_RELU", "ABS", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SLICE",
)  # fmt: skip
_HANDLERS: Mapping[str, Callable[[Channels, Op], bool]] = {
    **dict.fromkeys(_KEPT, Channels._kept),
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), Channels._along),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), Channels._reduce),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), Channels._pad),
    **dict.fromkeys(("ADD", "SUB", "MAXIMUM", "MINIMUM"), Channels._add),
    "MUL": Channels._mul,
    "PRELU": Channels._prelu,
    "CONCATENATION": Channels._concatenation,
    "SPLIT": Channels._split,
    "TRANSPOSE": Channels._transpose,
    "STRIDED_SLICE": Channels._strided_slice,
}
