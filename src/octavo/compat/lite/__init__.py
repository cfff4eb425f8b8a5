"""`tf.lite` by its own names, without TensorFlow.

    from octavo.compat import lite

    converter = lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [lite.Optimize.DEFAULT]
    tflite_model = converter.convert()
    interpreter = lite.Interpreter(model_content=tflite_model)

`Interpreter` is LiteRT's own. Element types may be NumPy's, strings or TensorFlow's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    from octavo.compat.lite import experimental
    from octavo.compat.lite.converter import TFLiteConverter
    from octavo.compat.lite.settings import OpsSet, Optimize, RepresentativeDataset, TargetSpec

_HOME = {
    "Interpreter": "ai_edge_litert.interpreter",
    "OpsSet": "octavo.compat.lite.settings",
    "Optimize": "octavo.compat.lite.settings",
    "RepresentativeDataset": "octavo.compat.lite.settings",
    "TFLiteConverter": "octavo.compat.lite.converter",
    "TargetSpec": "octavo.compat.lite.settings",
}

__all__ = [
    "Interpreter",
    "OpsSet",
    "Optimize",
    "RepresentativeDataset",
    "TFLiteConverter",
    "TargetSpec",
    "experimental",
]


def __getattr__(name: str) -> Any:
    if name == "experimental":
        return importlib.import_module("octavo.compat.lite.experimental")
    if name not in _HOME:
        raise AttributeError(f"octavo.compat.lite has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
