"""`tensorflow_model_optimization` by its own names: quantization-aware training, on `octavo.qat`.

from octavo.compat import tfmot

q_aware_model = tfmot.quantization.keras.quantize_model(model)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.compat.tfmot import quantization

_NOT_HERE = {
    "sparsity": "octavo doesn't prune; prune with another tool, and quantize the model that remains",
    "clustering": "octavo doesn't cluster weights; 4-bit weights (octavo.integer(weights=4)) are the nearest",
    "experimental": "combinations of pruning and clustering aren't here",
}

__all__ = ["quantization"]


def __getattr__(name: str) -> Any:
    if name == "quantization":
        return importlib.import_module("octavo.compat.tfmot.quantization")
    hint = f": {_NOT_HERE[name]}" if name in _NOT_HERE else "; it has quantization.keras"
    raise AttributeError(f"octavo.compat.tfmot has no {name!r}{hint}")
