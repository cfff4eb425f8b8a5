"""Image scaling goes into the model's input: a camera's bytes are the input's codes.

A model was trained on x = (image - mean) / std, image values from 0 to 255. Algebra:

| mean and std                    | what becomes of them |
|---------------------------------|---|
| one whole mean, one std         | a range for the input, (0 - mean) / std to (255 - mean) / std: of 256 codes the scale is then 1 / std and the zero point mean, so that code and image value are one number |
| per channel, or a mean with a fraction | W x + b = (W / std) image + (b - the sum of W mean / std): folded into the op behind the input, whose range becomes 0 to 255 |

In the first case the model still takes x, as real numbers; its integer file takes images, as codes. In the second it
takes image values both ways.

Refuses, in the second case: an input that isn't read by one CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED or
TRANSPOSE_CONV with constant weights of its own; and a mean other than 0 where zeros are added around x (SAME padding,
TRANSPOSE_CONV): these stand for image = mean, which no code stands for. In both cases: scaling that the model does
itself and that hasn't gone into its weights, for the same reasons.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octavo.errors import RecipeError
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values
from octavo.graph.queries import record_range, recorded_range
from octavo.passes.fold_scales import fold_scales

LEVELS = 255  # the largest image value
_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_VALID = 1  # Padding in the schema

Numbers = float | Sequence[float]


def is_pinned(mean: Numbers, std: Numbers) -> bool:
    """Whether scale and zero point alone can express the scaling: one whole mean from 0 to 255, and one std."""
    means, stds = np.unique(np.asarray(mean, np.float64)), np.unique(np.asarray(std, np.float64))
    return means.size == stds.size == 1 and means[0] == np.round(means[0]) and 0 <= means[0] <= LEVELS


def fold_scaling(program: Program, mean: Numbers, std: Numbers, name: str | None = None) -> tuple[Tensor, list[str]]:
    """Edit a normalised `program` in place; gives the input, and says what it takes now.

    Args:
      program: a float model.
      mean: one number, or one for each channel, which is the input's last dimension.
      std: likewise, above 0.
      name: which input; None where there is one.

    Raises:
      RecipeError: it can't be exact; says why and what to do.
    """
    tensor = _input(program, name)
    _check_numbers(tensor, mean, std)
    if is_pinned(mean, std):
        first, last = (float((level - np.max(mean)) / np.max(std)) for level in (0, LEVELS))
        note = f"input {tensor.name!r}: its integer codes are image values, its real numbers (image - mean) / std"
    else:
        _fold(program, tensor, mean, std)
        first, last = 0.0, float(LEVELS)
        note = f"input {tensor.name!r}: it takes image values from 0 to {LEVELS} now, as codes and as real numbers"
    _check_front(program, tensor)
    record_range(tensor, first, last)
    return tensor, [note]


def check_codes(wanted: Tensor, written: Tensor) -> None:
    """That an input's codes are what its range asked for; an input that stays float is left alone.

    Raises:
      RecipeError: an op behind the input forced another scale on it.
    """
    known = recorded_range(wanted)
    if known is None or written.qparams is None or written.dtype not in (DType.INT8, DType.UINT8):
        return
    low, high = known
    scale, zero_point = float(written.qparams.scale[0]), float(written.qparams.zero_point[0])
    first = zero_point + (128 if written.dtype is DType.INT8 else 0)
    if not np.isclose(scale * LEVELS, high - low, rtol=1e-5) or first != round(-low / (high - low) * LEVELS):
        raise RecipeError(
            f"input {wanted.name!r} can't take image values as codes: an op behind it needs the scale {scale:.6g} and "
            f"the zero point {zero_point:.0f}; put a convolution or a dense layer first"
        )


def _input(program: Program, name: str | None) -> Tensor:
    graph = program.main
    named = {tensor.name: tensor for tensor in graph.inputs}
    for signature in program.signatures:
        if signature.graph is graph:
            named.update(signature.inputs)
    if name is None and len(graph.inputs) == 1:
        tensor = graph.inputs[0]
    elif name in named:
        tensor = named[name]
    else:
        listed = ", ".join(map(repr, named))
        raise RecipeError(f"which input takes images? name one of {listed}" + (f", not {name!r}" if name else ""))
    if tensor.dtype is not DType.FLOAT32:
        raise RecipeError(f"input {tensor.name!r} is {tensor.dtype.value}: only a float32 input has a scale to choose")
    return tensor


def _check_numbers(tensor: Tensor, mean: Numbers, std: Numbers) -> None:
    channels = tensor.shape[-1] if tensor.shape else 1
    for what, given in (("mean", mean), ("std", std)):
        values = np.asarray(given, np.float64).reshape(-1)
        if values.size not in (1, channels):
            raise RecipeError(
                f"input mean and std are one number or {channels}, one for each channel of input {tensor.name!r}; "
                f"{what} has {values.size}"
            )
        if not np.isfinite(values).all() or (what == "std" and not (values > 0).all()):
            raise RecipeError(f"input {what} {given}: give finite numbers" + (" above 0" if what == "std" else ""))


def _fold(program: Program, tensor: Tensor, mean: Numbers, std: Numbers) -> None:
    """Put (image - mean) / std in front of the input's reader, and fold it there."""
    editor = Editor(program, program.main)
    reader = _linear_reader(editor, tensor)
    channels = tensor.shape[-1]
    factor = np.broadcast_to(1 / np.asarray(std, np.float64), channels)
    offset = -np.broadcast_to(np.asarray(mean, np.float64), channels) * factor
    if offset.any() and reader.code != "FULLY_CONNECTED" and reader.option("padding") != _VALID:
        raise RecipeError(
            f"input mean {mean}, std {std} can't be exact: the zeros that {reader.name} adds around its input stand "
            "for the mean, and no code does; use one whole number as mean and one std (128 and 128 in place of 127.5), "
            "or 'valid' padding in the first layer"
        )
    plain = {"fusedActivationFunction": 0}
    moved = tensor
    for code, values in (("MUL", factor), ("ADD", offset)) if offset.any() else (("MUL", factor),):
        made = editor.tensor_like(tensor, f"{tensor.name}/{code.lower()}")
        constant = editor.constant(f"{made.name}/const", np.ascontiguousarray(values.astype(np.float32)))
        editor.insert_before(reader, Op(code, [moved, constant], [made], dict(plain), f"{code.title()}Options"))
        moved = made
    editor.set_input(reader, reader.inputs.index(tensor), moved)
    editor.finish()
    fold_scales(program)


def _linear_reader(editor: Editor, tensor: Tensor) -> Op:
    readers = editor.readers(tensor)
    reader = readers[0] if len(readers) == 1 and tensor not in editor.graph.outputs else None
    if reader is None or reader.code not in _LINEAR or reader.inputs.count(tensor) != 1 or not tensor.shape:
        found = ", ".join(op.name for op in readers) or "nothing"
        raise RecipeError(
            f"input mean and std per channel, or a mean with a fraction, fold into one convolution or dense layer "
            f"behind the input, but {tensor.name!r} is read by {found}; use one whole number as mean and one std"
        )
    return reader


def _check_front(program: Program, tensor: Tensor) -> None:
    """That no arithmetic with constants stands behind the input any longer."""
    editor = Editor(program, program.main)
    for op in editor.readers(tensor):
        others = [other for other in op.inputs if other is not tensor]
        affine = op.code in ("MUL", "ADD", "SUB", "DIV") and len(others) == 1 and float_values(others[0]) is not None
        one_by_one = op.code == "DEPTHWISE_CONV_2D" and op.origins and op.origins[0][0] in ("MUL", "ADD")
        if affine or one_by_one:
            raise RecipeError(
                f"input {tensor.name!r}: {op.name} scales it and can't go into the weights behind: they aren't its "
                "own, or zeros that are added around stand for another value; take the Rescaling or Normalization "
                "layer out, and give its mean and std"
            )
