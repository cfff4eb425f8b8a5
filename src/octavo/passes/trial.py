"""Run a few ops of a graph by themselves on LiteRT, to see what they compute: for passes that recognise by result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from octavo.errors import OctavoError
from octavo.graph import DType, Graph, Op, Program, Tensor


def run_alone(ops: Sequence[Op], given: Mapping[Tensor, np.ndarray], result: Tensor) -> np.ndarray | None:
    """What LiteRT's builtin kernels make of `ops`.

    Args:
      ops: in an order in which they can run; what they read is constant, made by one of them, or given.
      given: values of what they read from outside, or of constants in place of their own. Their shapes may differ from
        those in the graph: the kernels work out the rest.
      result: what to give out.

    Returns:
      the value of `result`, None if LiteRT refuses.
    """
    from octavo.runtime.session import Session
    from octavo.tflite import write

    twins: dict[Tensor, Tensor] = {}
    for op in ops:
        for tensor in [*op.inputs, *op.outputs]:
            if tensor is not None and tensor not in twins:
                twins[tensor] = tensor.copy(extra={}, shape_signature=None)
    fed = []
    for tensor, values in given.items():
        twin = twins[tensor]
        if twin.is_constant:
            twin.set_values(values)
        else:
            twin.dtype, twin.shape = DType(values.dtype.name), values.shape
            fed.append((twin, values))
    copies = [
        Op(op.code, [None if t is None else twins[t] for t in op.inputs], [twins[t] for t in op.outputs],
           op.options, op.options_type, op.version)
        for op in ops
    ]  # fmt: skip
    graph = Graph("main", list(twins.values()), [twin for twin, _ in fed], [twins[result]], copies)
    try:
        return Session(write(Program([graph])), kernels="builtin").invoke([values for _, values in fed])[0]
    except OctavoError:
        return None
