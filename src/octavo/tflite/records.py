"""Small steps between the generated objects and the IR, shared by the reader and the writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.errors import ModelFileError
from octavo.graph import Tensor


def decoded(raw: bytes | None) -> str:
    """Names are UTF-8 by convention only; odd bytes survive as surrogates."""
    return "" if raw is None else raw.decode("utf-8", "surrogateescape")


def ints(vector: Any) -> tuple[int, ...]:
    """A vector of numbers as a tuple; empty if the file leaves it out."""
    return () if vector is None else tuple(vector.tolist())


def is_empty(value: Any) -> bool:
    """Left out, or a vector of length 0; few readers tell these apart."""
    return value is None or (isinstance(value, np.ndarray | list) and len(value) == 0)


def leftovers(record: Any, *handled: str) -> dict[str, Any]:
    """The fields of a generated object that aren't `handled` and differ from their defaults (or from empty)."""
    defaults = vars(type(record)())
    rest = {name: value for name, value in vars(record).items() if name not in handled and not is_empty(value)}
    return {
        name: value for name, value in rest.items() if isinstance(value, np.ndarray | list) or value != defaults[name]
    }


def absent(record: Any, *names: str) -> dict[str, Any]:
    """An `extra` entry that tells which of the named fields the file leaves out."""
    missing = tuple(name for name in names if getattr(record, name) is None)
    return {"absent": missing} if missing else {}


def pick(items: list[Any], index: int, what: str) -> Any:
    """`items[index]`.

    Raises:
      ModelFileError: there is no such item.
    """
    if not 0 <= index < len(items):
        raise ModelFileError(f"{what} has index {index}, but the file has {len(items)}")
    return items[index]


def restore(record: Any, extra: dict[str, Any]) -> None:
    """Give a generated object back the fields that `leftovers` put aside."""
    for name, value in extra.items():
        if name in vars(record) and not isinstance(value, Tensor):
            setattr(record, name, value)
