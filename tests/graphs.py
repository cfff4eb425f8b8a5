"""A small builder for test models: `Builder` collects ops, `program()` gives the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Signature, Tensor


class Builder:
    """Builds one subgraph, op by op. Shapes are given, never inferred."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("main")

    def input(self, name: str, shape: tuple[int, ...], dtype: DType = DType.FLOAT32) -> Tensor:
        tensor = self.graph.add_tensor(Tensor(name, dtype, shape))
        self.graph.inputs.append(tensor)
        return tensor

    def const(self, name: str, values: Any) -> Tensor:
        tensor = self.graph.add_tensor(Tensor(name, DType.FLOAT32, ()))
        tensor.set_values(np.asarray(values))
        return tensor

    def weights(self, name: str, *shape: int, scale: float = 0.3) -> Tensor:
        return self.const(name, (self.rng.normal(size=shape) * scale).astype(np.float32))

    def op(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        name: str,
        shape: tuple[int, ...],
        options_type: str | None = None,
        dtype: DType = DType.FLOAT32,
        **options: Any,
    ) -> Tensor:
        output = self.graph.add_tensor(Tensor(name, dtype, shape))
        self.graph.ops.append(Op(code, list(inputs), [output], options if options_type else None, options_type))
        return output

    def conv(self, x: Tensor, name: str, channels: int, act: int = 0, bias: bool = True) -> Tensor:
        """A 3x3 convolution that keeps height and width."""
        kernel = self.weights(f"{name}/kernel", channels, 3, 3, x.shape[3])
        offset = [self.weights(f"{name}/bias", channels)] if bias else []
        options: dict[str, Any] = {"padding": 0, "strideW": 1, "strideH": 1, "fusedActivationFunction": act}
        return self.op("CONV_2D", [x, kernel, *offset], name, (*x.shape[:3], channels), "Conv2DOptions", **options)

    def dense(self, x: Tensor, name: str, units: int) -> Tensor:
        kernel = self.weights(f"{name}/kernel", units, x.shape[1])
        offset = self.weights(f"{name}/bias", units)
        return self.op("FULLY_CONNECTED", [x, kernel, offset], name, (x.shape[0], units), "FullyConnectedOptions")

    def reshape(self, x: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        target = self.const(f"{name}/shape", np.array(shape, np.int32))
        return self.op("RESHAPE", [x, target], name, shape, "ReshapeOptions")

    def unary(self, code: str, x: Tensor, name: str) -> Tensor:
        return self.op(code, [x], name, x.shape)

    def program(self, *outputs: Tensor, signature: bool = True) -> Program:
        self.graph.outputs = list(outputs)
        named = ([(t.name, t) for t in self.graph.inputs], [(t.name, t) for t in outputs])
        return Program([self.graph], [Signature("serving_default", *named, self.graph)] if signature else [])
