"""`tensorflow_model_optimization.quantization`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.compat.tfmot.quantization import keras

__all__ = ["keras"]


def __getattr__(name: str) -> Any:
    if name == "keras":
        from octavo.frontends.keras import import_keras

        import_keras()  # on JAX, unless the user chose another backend
        return importlib.import_module("octavo.compat.tfmot.quantization.keras")
    raise AttributeError(f"octavo.compat.tfmot.quantization has no {name!r}; it has keras")
