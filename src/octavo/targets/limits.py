"""Conditions that several targets put on ops, as makers of `Limit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from octavo.graph import DType, Op, Tensor
from octavo.ops import OPS
from octavo.targets.rules import Limit, data_of, weights_of

_Broken = tuple[str, Tensor | None] | None
_SAME, _VALID = 0, 1
_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


def size(tensor: Tensor | None) -> str:
    """The sizes of a tensor as messages have them: "1x28x28x1"."""
    return "" if tensor is None else "x".join(map(str, tensor.shape)) or "a scalar"


def operand(op: Op, index: int) -> Tensor | None:
    """Input `index` of an op, None if it is left out."""
    return op.inputs[index] if index < len(op.inputs) else None


def constant(op: Op, index: int) -> list[int] | None:
    """The values of an integer constant among the inputs, flat; None if it is computed or left out."""
    tensor = operand(op, index)
    if tensor is None or not tensor.is_constant or tensor.dtype.numpy is None:
        return None
    return [int(value) for value in np.asarray(tensor.values).ravel()]


def data_input(op: Op) -> Tensor | None:
    """The first activation that an op reads."""
    row = OPS.get(op.code)
    if row is not None and row.weights is not None:
        return operand(op, row.weights.data)
    return next((tensor for tensor in data_of(op) if tensor in op.inputs), None)


def fused(*allowed: str) -> Limit:
    """No fused activation but these; names as in the schema ("RELU6")."""
    codes = {0, *(_ACTIVATIONS.index(name) for name in allowed)}

    def broken(op: Op) -> _Broken:
        code = op.option("fusedActivationFunction", 0)
        name = _ACTIVATIONS[code] if code in range(len(_ACTIVATIONS)) else f"activation {code}"
        return None if code in codes else (f"fused {name}", None)

    rule = f"no fused activation but {', '.join(allowed)}" if allowed else "no fused activation"
    return Limit(rule, broken, "apply the activation as its own op")


def strides(most: int) -> Limit:
    """Strides of at most `most`."""

    def broken(op: Op) -> _Broken:
        found = op.option("strideH", 1), op.option("strideW", 1)
        return (f"strides {found[0]}x{found[1]}", None) if max(found) > most else None

    return Limit(f"strides of at most {most}", broken, "use smaller strides, several times")


def dilation(op: Op) -> tuple[int, int]:
    """(height, width) of an op's dilation."""
    return op.option("dilationHFactor", 1), op.option("dilationWFactor", 1)


def _dilated(holds: Callable[[Op], bool], rule: str) -> Limit:
    def broken(op: Op) -> _Broken:
        height, width = dilation(op)
        return None if holds(op) else (f"dilation {height}x{width}", None)

    return Limit(rule, broken, "use a larger kernel in place of the dilation")


NO_DILATION = _dilated(lambda op: dilation(op) == (1, 1), "no dilation")
SQUARE_DILATION = _dilated(lambda op: len(set(dilation(op))) == 1, "the same dilation in height and width")
DILATION_OR_STRIDE = _dilated(
    lambda op: dilation(op) == (1, 1) or max(op.option("strideH", 1), op.option("strideW", 1)) == 1,
    "dilation only where the strides are 1",
)


def constants(*indices: int) -> Limit:
    """These operands are constant, where they are given."""

    def broken(op: Op) -> _Broken:
        for index in indices:
            tensor = operand(op, index)
            if tensor is not None and not tensor.is_constant:
                return f"operand {index} is computed", tensor
        return None

    named = " and ".join(map(str, indices))
    return Limit(f"operand{'s' * (len(indices) > 1)} {named} constant", broken, "make it constant (--shape may)")


def rank(most: int, least: int = 0) -> Limit:
    """Tensors of `least` to `most` dimensions."""

    def broken(op: Op) -> _Broken:
        for tensor in data_of(op):
            if not least <= len(tensor.shape) <= most:
                return f"{len(tensor.shape)} dimensions ({size(tensor)})", tensor
        return None

    rule = f"at most {most} dimensions" if least == 0 else f"{least} to {most} dimensions" if least < most else ""
    return Limit(rule or f"{most} dimensions", broken, "reshape it")


def inner_dimensions(count: int) -> Limit:
    """Only the innermost `count` dimensions have more than one element: no batch of images, no 4-D data."""

    def broken(op: Op) -> _Broken:
        for tensor in data_of(op):
            if any(n > 1 for n in tensor.shape[: max(0, len(tensor.shape) - count)]):
                return f"size {size(tensor)}", tensor
        return None

    return Limit(
        f"only the innermost {count} dimensions larger than 1", broken, "use batch 1, or reshape to fewer dimensions"
    )


def axes(op: Op, index: int = 1) -> list[int] | None:
    """The axes that a constant names, counted from the front; None if they are computed."""
    named, tensor = constant(op, index), data_input(op)
    if named is None or tensor is None:
        return None
    return [axis % len(tensor.shape) for axis in named] if tensor.shape else named


def reduced_axes(allowed: Callable[[list[int], Tensor], bool], rule: str, remedy: str) -> Limit:
    """A condition on the axes that a reduction sums up, and on the tensor that it reads."""

    def broken(op: Op) -> _Broken:
        tensor, named = data_input(op), axes(op)
        # Axes that aren't there are for `check_operands` and LiteRT to refuse.
        named = None if tensor is None or named is None else [axis for axis in named if axis < len(tensor.shape)]
        if tensor is None or named is None or allowed(named, tensor):
            return None
        return f"reduces axes {', '.join(map(str, sorted(named)))} of {size(tensor)}", tensor

    return Limit(rule, broken, remedy)


NO_BATCH_REDUCTION = reduced_axes(
    lambda named, tensor: len(tensor.shape) < 2 or 0 not in named, "no reduction over the batch", "reduce other axes"
)


def _on_axis(axis_of: Callable[[Op], int | None], rule: str) -> Limit:
    def broken(op: Op) -> _Broken:
        axis, tensor = axis_of(op), data_input(op) or (op.outputs[0] if op.outputs else None)
        if axis is None or tensor is None or len(tensor.shape) < 2 or axis % len(tensor.shape) != 0:
            return None
        return f"axis 0 of {size(tensor)}", tensor

    return Limit(rule, broken, "use another axis")


NO_BATCH_PACK = _on_axis(lambda op: op.option("axis", 0), "no packing along the batch")
NO_BATCH_SPLIT = _on_axis(lambda op: (constant(op, 0) or [None])[0], "no splitting along the batch")


def _padded(op: Op) -> _Broken:
    padding = constant(op, 1)
    return ("pads the batch", operand(op, 1)) if padding is not None and any(padding[:2]) else None


NO_BATCH_PAD = Limit("no padding of the batch", _padded, "pad height, width or channels only")


def _masked(op: Op) -> _Broken:
    for mask in ("ellipsisMask", "newAxisMask"):
        if op.option(mask, 0):
            return f"{mask} set", None
    return None


NO_MASKS = Limit("no ellipsis mask and no new-axis mask", _masked, "slice with plain begins and ends")


def _shrinks(op: Op) -> _Broken:
    return ("shrinkAxisMask set", None) if op.option("shrinkAxisMask", 0) else None


NO_SHRINKING = Limit("no shrink-axis mask", _shrinks, "slice, then RESHAPE")


def _steps(op: Op) -> _Broken:
    steps = constant(op, 3)
    return (f"strides {steps}", operand(op, 3)) if steps is not None and any(step != 1 for step in steps) else None


UNIT_STEPS = Limit("strides of 1", _steps, "use SLICE, or a pooling op with strides")


def option(name: str, allowed: Iterable[float], rule: str, remedy: str, default: float = 0) -> Limit:
    """An option has one of these values."""
    values = tuple(allowed)

    def broken(op: Op) -> _Broken:
        value = op.option(name, default)
        return None if value in values else (f"{name} {value}", None)

    return Limit(rule, broken, remedy)


UNIT_BETA = option("beta", (1.0,), "beta 1", "scale the logits before it", default=0.0)
DEFAULT_WEIGHTS_FORMAT = option("weightsFormat", (0,), "weights in the default layout", "convert the model anew")


def window_of(op: Op) -> tuple[int, int]:
    """(height, width) of the window of a pooling op or the weights of a convolution."""
    if "filterHeight" in (op.options or {}):
        return op.option("filterHeight", 1), op.option("filterWidth", 1)
    weights = weights_of(op)
    return (1, 1) if weights is None or len(weights.shape) != 4 else (weights.shape[1], weights.shape[2])


def kernel(holds: Callable[[int, int, bool], bool], rule: str) -> Limit:
    """A condition on height and width of the window and on whether the padding is VALID."""

    def broken(op: Op) -> _Broken:
        height, width = window_of(op)
        return (
            None if holds(height, width, op.option("padding", _SAME) == _VALID) else (f"window {height}x{width}", None)
        )

    return Limit(rule, broken, "use smaller windows, several times")


def resize(holds: Callable[[float, float, Op], bool], rule: str, remedy: str) -> Limit:
    """A condition on the factors by which height and width grow; (n-1)/(m-1) where corners are aligned.

    Nothing is asked of an image of 1x1.
    """

    def broken(op: Op) -> _Broken:
        image, result = data_input(op), op.outputs[0] if op.outputs else None
        if image is None or result is None or len(image.shape) != 4 or len(result.shape) != 4:
            return None
        if image.shape[1:3] == (1, 1):
            return None
        less = 1 if op.option("alignCorners", False) else 0
        pairs = zip(result.shape[1:3], image.shape[1:3], strict=True)
        high, wide = ((made - less) / (given - less) if given > less else 1.0 for made, given in pairs)
        return None if holds(high, wide, op) else (f"{size(image)} to {size(result)}", image)

    return Limit(rule, broken, remedy)


def output_size(most: int) -> Limit:
    """Height and width of the output are at most `most`."""

    def broken(op: Op) -> _Broken:
        result = op.outputs[0] if op.outputs else None
        if result is None or len(result.shape) != 4 or max(result.shape[1:3]) <= most:
            return None
        return f"output {size(result)}", result

    return Limit(f"output of at most {most}x{most}", broken, "resize in smaller images")


def same_quantization() -> Limit:
    """Both inputs have the output's scale and zero point."""

    def broken(op: Op) -> _Broken:
        result = op.outputs[0] if op.outputs else None
        for tensor in op.inputs:
            if tensor is not None and result is not None and tensor.qparams != result.qparams:
                return "another scale than the output's", tensor
        return None

    return Limit("one scale for inputs and output", broken, "quantize with octavo, which ties them", scales=True)


def _scale(tensor: Tensor | None) -> float | None:
    if tensor is None or tensor.qparams is None or tensor.dtype not in (DType.INT8, DType.UINT8):
        return None
    return float(tensor.qparams.scale[0])


def scales(low: float, high: float, product: bool = False) -> Limit:
    """Each input's scale (or the product of them) over the output's is in [low, high)."""

    def broken(op: Op) -> _Broken:
        made = _scale(op.outputs[0]) if op.outputs else None
        given = [(_scale(tensor), tensor) for tensor in op.inputs]
        if made is None or any(scale is None for scale, _ in given):
            return None
        known = [(scale, tensor) for scale, tensor in given if scale is not None]
        ratios = [(math.prod(scale for scale, _ in known) / made, None)] if product else []
        for ratio, tensor in ratios or [(scale / made, tensor) for scale, tensor in known]:
            if not low <= ratio < high:
                return f"a ratio of {ratio:.3g}", tensor
        return None

    what = "product of the inputs' scales" if product else "inputs' scales"
    rule = f"{what} from {low:.3g} to {high:.3g} times the output's"
    return Limit(rule, broken, "leave the op in float (a rule for it in a recipe)", scales=True)


def bias_types(*types: DType) -> Limit:
    """A bias is constant and of one of these types, if there is one."""

    def broken(op: Op) -> _Broken:
        row = OPS.get(op.code)
        bias = operand(op, row.weights.bias) if row and row.weights and row.weights.bias is not None else None
        if bias is None:
            return None
        if not bias.is_constant:
            return "a computed bias", bias
        return None if bias.dtype in types else (f"a {bias.dtype.value} bias", bias)

    named = " or ".join(kind.value for kind in types)
    return Limit(f"a constant bias of {named}", broken, "quantize it with octavo")


BIAS = Limit(
    "a bias",
    lambda op: None if operand(op, 2) is not None else ("no bias", None),
    "add a bias of zeros (octavo quantize does)",
)


# What an LSTM may have beyond its four gates: operands of UNIDIRECTIONAL_SEQUENCE_LSTM.
_PEEPHOLES, _PROJECTION, _NORMS = (9, 10, 11), (16, 17), (20, 21, 22, 23)
_INPUT_GATE = (1, 5)


def _extras(op: Op) -> _Broken:
    for what, places in (("peepholes", _PEEPHOLES), ("a projection", _PROJECTION), ("layer normalization", _NORMS)):
        found = next((tensor for place in places if (tensor := operand(op, place)) is not None), None)
        if found is not None:
            return what, found
    return None if all(operand(op, place) is not None for place in _INPUT_GATE) else ("no input gate", None)


PLAIN_LSTM = Limit(
    "an LSTM of four gates, without peepholes, projection and layer normalization", _extras, "use a plain LSTM"
)
