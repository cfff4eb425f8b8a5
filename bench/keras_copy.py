"""A network as a list of ops and their weights, from which another process builds it in Keras layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from octavo.graph import Op, Tensor
from octavo.model import Model

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN", "RESHAPE", "MAX_POOL_2D")


def why_not(model: Model) -> str:
    """Why there is no Keras copy of a float model; "" if there is one."""
    graph = model.program.main
    unknown = sorted({op.code for op in graph.ops} - set(KINDS))
    if unknown:
        return f"no Keras layer is known here for {', '.join(unknown)}"
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return "the model has more than one input or output"
    spatial = [op.inputs[1] for op in graph.ops if op.code == "MEAN"]
    if any(axes is None or sorted(axes.values.reshape(-1)) != [1, 2] for axes in spatial):
        return "a mean isn't over height and width"
    groups = [op for op in graph.ops if op.code == "CONV_2D" and _operand(op, 0).shape[3] != _operand(op, 1).shape[3]]
    return "a convolution is grouped" if groups else ""


def write(model: Model, path: Path) -> None:
    """Write the ops to `path` as JSON and the weights beside it, as `path`.npz; `why_not(model)` must be ""."""
    graph = model.program.main
    numbers = {tensor: number for number, tensor in enumerate(graph.tensors)}
    ops, weights = [], {}
    for number, op in enumerate(graph.ops):
        inputs = [tensor for tensor in op.inputs if tensor is not None and not tensor.is_constant]
        code, kernel = op.code, _operand(op, 1).values if op.code in KINDS[:3] else None
        if code == "DEPTHWISE_CONV_2D" and kernel.shape[3] == (op.options or {})["depthMultiplier"]:
            # Of one channel: a plain convolution, as its author wrote it.
            code, kernel = "CONV_2D", kernel.transpose(3, 1, 2, 0)
        ops.append(
            {
                "code": code,
                "options": {key: value for key, value in (op.options or {}).items() if isinstance(value, int)},
                "inputs": [numbers[tensor] for tensor in inputs],
                "output": numbers[op.outputs[0]],
                "shape": list(op.outputs[0].shape),
            }
        )
        if kernel is not None:
            bias = op.inputs[2] if len(op.inputs) > 2 else None
            channels = kernel.shape[3 if code == "DEPTHWISE_CONV_2D" else 0]
            weights[f"{number}/kernel"] = kernel
            weights[f"{number}/bias"] = np.zeros(channels, np.float32) if bias is None else bias.values
    spec: dict[str, Any] = {
        "input": numbers[graph.inputs[0]],
        "output": numbers[graph.outputs[0]],
        "shape": list(graph.inputs[0].shape),
        "ops": ops,
    }
    path.write_text(json.dumps(spec))
    np.savez(f"{path}.npz", **weights)


def _operand(op: Op, index: int) -> Tensor:
    tensor = op.inputs[index]
    assert tensor is not None
    return tensor
