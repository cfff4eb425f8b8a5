"""What a user gives as `inputs=` -> names, shapes and dtypes: the same words for every framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import ConversionError

_ENTRY = "a shape, (shape, dtype), a jax.ShapeDtypeStruct, an array or a tensor"


@dataclass(frozen=True)
class Input:
    """One argument of the function.

    Attributes:
      name: its name in the signature.
      shape: batch first; None there is the batch that `batch=` decides.
      dtype: NumPy's name of the element type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        dims = ", ".join("None" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} {self.dtype}[{dims}]"


def input_specs(fn: Callable[..., Any], inputs: Any, where: str) -> tuple[list[Input], bool]:
    """The inputs of `convert` as a list; and whether they go to the function by keyword."""
    if inputs is None:
        raise ConversionError(f"{where}: give inputs=[...], one entry per argument: {_ENTRY}")
    if isinstance(inputs, Mapping):
        entries, names, by_keyword = list(inputs.values()), [str(key) for key in inputs], True
    else:
        entries = [inputs] if is_single(inputs) else list(inputs)
        names, by_keyword = _argument_names(fn, len(entries)), False
    if not entries:
        raise ConversionError(f"{where}: inputs is empty; give one entry per argument: {_ENTRY}")
    _check_arguments(fn, names, by_keyword, where)
    return [parse_input(argument, entry, where) for argument, entry in zip(names, entries, strict=True)], by_keyword


def parse_input(name: str, entry: Any, where: str) -> Input:
    """One entry of `inputs` (see `convert`)."""
    if isinstance(entry, Input):
        return entry
    if _is_shape(entry):
        return Input(name, _dims(entry))
    if hasattr(entry, "shape") and hasattr(entry, "dtype") and all(isinstance(dim, int) for dim in entry.shape):
        return Input(name, tuple(entry.shape), _dtype_name(name, entry.dtype, where))
    if isinstance(entry, Sequence) and len(entry) == 2 and _is_shape(entry[0]):
        return Input(name, _dims(entry[0]), _dtype_name(name, entry[1], where))
    raise ConversionError(f"{where}: input {name!r} must be {_ENTRY}, not {entry!r:.80}")


def _dtype_name(name: str, dtype: Any, where: str) -> str:
    """NumPy's name of NumPy's, JAX's or PyTorch's type; PyTorch's prints as `torch.float32`."""
    try:
        return np.dtype(str(dtype).removeprefix("torch.") if str(dtype).startswith("torch.") else dtype).name
    except TypeError as error:
        raise ConversionError(f"{where}: input {name!r} has no usable dtype: {dtype!r}") from error


def is_single(inputs: Any) -> bool:
    """Whether `inputs` is one entry rather than a list of entries: a shape of sizes, or an array."""
    return hasattr(inputs, "shape") or (_is_shape(inputs) and len(inputs) > 0)


def _is_shape(entry: Any) -> bool:
    return isinstance(entry, tuple | list) and all(
        dim is None or (isinstance(dim, int | np.integer) and not isinstance(dim, bool)) for dim in entry
    )


def _dims(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(None if dim is None else int(dim) for dim in shape)


def _argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """The names of the first `count` positional arguments; `x_0`, `x_1` for `*x`, `input_0` where there is no name."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # builtins and some wrapped functions have no signature
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "input")
    start = 0 if rest == "input" else len(names)
    return [names[i] if i < len(names) else f"{rest}_{i - start}" for i in range(count)]


def _check_arguments(fn: Callable[..., Any], names: Sequence[str], by_keyword: bool, where: str) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**dict.fromkeys(names)) if by_keyword else signature.bind(*names)
    except TypeError as error:
        raise ConversionError(f"{where}{signature} doesn't take the inputs {', '.join(names)}: {error}") from error
