"""Quantization-aware training for Keras 3, on any backend, that computes what the device will compute.

    aware = octavo.qat.quantize_model(model)      # compile, fit, save and load it as any Keras model
    small = octavo.quantize(octavo.convert(aware), octavo.integer(fallback=False, io="uint8"))
    print(octavo.qat.parity(aware, small, samples))

Names are imported when they are first used, as in `octavo` itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.qat.build import quantize_model
    from octavo.qat.calibration import calibrate
    from octavo.qat.certificate import Parity, parity
    from octavo.qat.freeze import Freeze
    from octavo.qat.layers import BatchNormalization, FakeQuant, FixedQuant, QuantizedWeights

_HOME = {
    "BatchNormalization": "layers",
    "FakeQuant": "layers",
    "FixedQuant": "layers",
    "Freeze": "freeze",
    "Parity": "certificate",
    "QuantizedWeights": "layers",
    "calibrate": "calibration",
    "parity": "certificate",
    "quantize_model": "build",
}

__all__ = [
    "BatchNormalization",
    "FakeQuant",
    "FixedQuant",
    "Freeze",
    "Parity",
    "QuantizedWeights",
    "calibrate",
    "parity",
    "quantize_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'octavo.qat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"octavo.qat.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
