"""The names that people's code already uses, on top of octavo: an import line changes, the rest stays.

    from octavo.compat import lite     # tf.lite
    from octavo.compat import tfmot    # tensorflow_model_optimization
    from octavo.compat import tf       # tf.lite, tf.keras and the little else that code about quantization touches

A setting means here what it means there. One that octavo can't honour is an error, never ignored.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.compat import lite, tf, tfmot

_MODULES = ("lite", "tf", "tfmot")

__all__ = ["lite", "tf", "tfmot"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'octavo.compat' has no attribute {name!r}; it has {', '.join(_MODULES)}")
    return importlib.import_module(f"octavo.compat.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
