"""Random small models for hypothesis: layers, joins, moves, activations, shared weights, several outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphs import Builder
from octavo.graph import Program, Tensor

Draw = Callable[[st.SearchStrategy[Any]], Any]
_ACTIVATIONS = ("RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH")


class _Random(Builder):
    """Every method takes tensors made before and adds one op; images are (1, height, width, channels)."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw(st.integers(0, 2**32 - 1)))
        self.draw = draw
        self.kernels: list[Tensor] = []

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def spread(self, name: str, *shape: int, axis: int) -> Tensor:
        """Weights whose channels differ in size by up to a hundred times."""
        sizes = [-1] if axis == 0 else [1]
        sizes = [*sizes, *[1] * (len(shape) - 2), -1 if axis else 1]
        factors = 10 ** self.rng.uniform(-1.5, 0.5, shape[axis])
        fan = np.sqrt(np.prod(shape) / shape[axis])
        return self.const(name, (self.rng.normal(size=shape) / fan * factors.reshape(sizes)).astype(np.float32))

    def bias(self, name: str, channels: int) -> list[Tensor]:
        return [self.weights(name, channels)] if self.pick(True, False) else []

    def window(self, x: Tensor) -> tuple[dict[str, Any], tuple[int, int], tuple[int, int]]:
        """Options, kernel and output size of something that slides over an image."""
        padding, stride = self.pick(0, 1), self.pick(1, 2)
        kernel = tuple(min(self.pick(1, 2, 3), side) for side in x.shape[1:3])
        spans = [side if padding == 0 else side - size + 1 for side, size in zip(x.shape[1:3], kernel, strict=True)]
        options = {"padding": padding, "strideW": stride, "strideH": stride}
        height, width = (-(-span // stride) for span in spans)
        return options, (kernel[0], kernel[1]), (height, width)

    def convolution(self, x: Tensor, name: str) -> Tensor:
        options, (height, width), size = self.window(x)
        channels = self.pick(1, 3, 4, 8)
        shape = (channels, height, width, x.shape[3])
        equal = [kernel for kernel in self.kernels if kernel.shape == shape]
        kernel = equal[0] if equal and self.pick(True, False) else self.spread(f"{name}/kernel", *shape, axis=0)
        self.kernels.append(kernel)
        options |= {"fusedActivationFunction": self.pick(0, 1, 3), "dilationWFactor": 1, "dilationHFactor": 1}
        operands = [x, kernel, *self.bias(f"{name}/bias", channels)]
        return self.op("CONV_2D", operands, name, (1, *size, channels), "Conv2DOptions", **options)

    def depthwise(self, x: Tensor, name: str) -> Tensor:
        options, kernel, size = self.window(x)
        multiplier = self.pick(1, 1, 2)
        channels = x.shape[3] * multiplier
        weights = self.spread(f"{name}/kernel", 1, *kernel, channels, axis=3)
        options |= {"fusedActivationFunction": self.pick(0, 1, 3), "depthMultiplier": multiplier}
        options |= {"dilationWFactor": 1, "dilationHFactor": 1}
        operands = [x, weights, self.weights(f"{name}/bias", channels)]
        return self.op("DEPTHWISE_CONV_2D", operands, name, (1, *size, channels), "DepthwiseConv2DOptions", **options)

    def pool(self, x: Tensor, name: str) -> Tensor:
        options, (height, width), size = self.window(x)
        options |= {"filterHeight": height, "filterWidth": width, "fusedActivationFunction": self.pick(0, 0, 1)}
        code = self.pick("AVERAGE_POOL_2D", "MAX_POOL_2D")
        return self.op(code, [x], name, (1, *size, x.shape[3]), "Pool2DOptions", **options)

    def join(self, x: Tensor, name: str, others: list[Tensor]) -> Tensor:
        """ADD, SUB or MUL with an image of the same shape, with itself, or with a constant per channel."""
        code = self.pick("ADD", "SUB", "MUL")
        alike = [t for t in others if t.shape == x.shape]
        other = self.pick(*alike, self.weights(f"{name}/constant", x.shape[3]))
        options = {"fusedActivationFunction": self.pick(0, 0, 1)}
        return self.op(code, [x, other], name, x.shape, f"{code.capitalize()}Options", **options)

    def concatenation(self, x: Tensor, name: str, others: list[Tensor]) -> Tensor:
        other = self.pick(*[t for t in others if t.shape[:3] == x.shape[:3]])
        shape = (*x.shape[:3], x.shape[3] + other.shape[3])
        return self.op("CONCATENATION", [x, other], name, shape, "ConcatenationOptions", axis=3)

    def pad(self, x: Tensor, name: str) -> Tensor:
        pads = np.array([[0, 0], [1, self.pick(0, 1)], [self.pick(0, 2), 1], [0, 0]], np.int32)
        shape = tuple(side + int(sum(pair)) for side, pair in zip(x.shape, pads, strict=True))
        return self.op("PAD", [x, self.const(f"{name}/pads", pads)], name, shape, "PadOptions")

    def activation(self, x: Tensor, name: str) -> Tensor:
        code = self.pick(*_ACTIVATIONS, "LEAKY_RELU")
        if code == "LEAKY_RELU":
            return self.op(code, [x], name, x.shape, "LeakyReluOptions", alpha=self.pick(0.1, 0.25))
        return self.op(code, [x], name, x.shape, "HardSwishOptions" if code == "HARD_SWISH" else None)

    def turn(self, x: Tensor, name: str) -> Tensor:
        """Height and width swapped, by TRANSPOSE, or laid out anew, by RESHAPE."""
        shape = (1, x.shape[2], x.shape[1], x.shape[3])
        if self.pick(True, False):
            return self.reshape(x, name, shape)
        order = self.const(f"{name}/order", np.array([0, 2, 1, 3], np.int32))
        return self.op("TRANSPOSE", [x, order], name, shape, "TransposeOptions")

    def halves(self, x: Tensor, name: str) -> Tensor:
        """SPLIT, and the halves added: both are read."""
        if x.shape[3] % 2:
            return self.activation(x, name)
        shape = (*x.shape[:3], x.shape[3] // 2)
        first = self.op("SPLIT", [self.const(f"{name}/axis", np.array(3, np.int32)), x], f"{name}/0", shape,
                        "SplitOptions", numSplits=2)  # fmt: skip
        second = self.graph.add_tensor(first.copy(name=f"{name}/1"))
        self.graph.ops[-1].outputs.append(second)
        return self.op("ADD", [first, second], name, shape, "AddOptions", fusedActivationFunction=0)

    def head(self, x: Tensor, name: str) -> Tensor:
        """MEAN or RESHAPE, a dense layer, and perhaps SOFTMAX."""
        if self.pick(True, False):
            axes = self.const(f"{name}/axes", np.array([1, 2], np.int32))
            flat = self.op("MEAN", [x, axes], f"{name}/mean", (1, x.shape[3]), "ReducerOptions", keepDims=False)
        else:
            flat = self.reshape(x, f"{name}/flat", (1, x.size))
        units = self.pick(2, 5, 16)
        kernel = self.spread(f"{name}/kernel", units, flat.shape[1], axis=0)
        operands = [flat, kernel, *self.bias(f"{name}/bias", units)]
        scores = self.op("FULLY_CONNECTED", operands, f"{name}/scores", (1, units), "FullyConnectedOptions",
                         fusedActivationFunction=self.pick(0, 1))  # fmt: skip
        if self.pick(True, False):
            return scores
        return self.op("SOFTMAX", [scores], name, scores.shape, "SoftmaxOptions", beta=1.0)


@st.composite
def programs(draw: Draw) -> Program:
    """Two to seven ops on one image, then a head; one to three outputs."""
    made = _Random(draw)
    images = [made.input("image", (1, made.pick(3, 5, 6), made.pick(4, 5), made.pick(1, 3, 4)))]
    for index in range(made.draw(st.integers(2, 7))):
        x, name = made.pick(*images[-3:]), f"op{index}"
        kind = made.pick("convolution", "convolution", "depthwise", "pool", "join", "concatenation", "pad",
                         "activation", "turn", "halves")  # fmt: skip
        extra = [images] if kind in ("join", "concatenation") else []
        images.append(getattr(made, kind)(x, name, *extra))
    outputs = [made.head(images[-1], "head")]
    read = {t for op in made.graph.ops for t in op.inputs}
    outputs += [image for image in images[1:-1] if image not in read][:2]
    return made.program(*outputs)


@st.composite
def samples(draw: Draw, shape: tuple[int, ...], count: int = 6) -> np.ndarray:
    """Inputs of a drawn size, centre and spread: (count, *shape)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, centre = 10.0 ** draw(st.integers(-2, 2)), draw(st.sampled_from((0.0, 0.0, 0.8, -3.0)))
    return ((rng.normal(size=(count, *shape)) + centre) * size).astype(np.float32)
