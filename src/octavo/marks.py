"""How a trained range reaches the file: `fake_quant`, a function of JAX or PyTorch, lowered as a named composite.

`jax.lax.composite` keeps the call whole through StableHLO, and the converter keeps it as one STABLEHLO_COMPOSITE op on
exactly the tensor it belongs to. `octavo.passes.fake_quant_marks` reads it there. Run by the framework itself, the
function computes what it says: values rounded to the codes of its range, with a gradient that passes straight through
the rounding (Bengio et al. 2013, arXiv:1308.3432). PyTorch's half is `octavo.marks_torch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from octavo import numerics
from octavo.qtypes import QParams, QType

NAME = "octavo.fake_quant"

_marking: ContextVar[bool] = ContextVar("octavo_marking", default=False)


@contextmanager
def marking() -> Iterator[None]:
    """While this is open, octavo's layers leave marks instead of computing: the model is being converted."""
    token = _marking.set(True)
    try:
        yield
    finally:
        _marking.reset(token)


def is_marking() -> bool:
    """Whether the model is being converted."""
    return _marking.get()


def fake_quant(x: Any, low: float, high: float, bits: int = 8, symmetric: bool = False, name: str = "") -> Any:
    """Round an array to the codes of a range, and tell `octavo.convert` that this tensor has that range.

    Gradients pass where the value is within the range, as if nothing had been rounded.

    Args:
      x: a JAX array or a PyTorch tensor of any shape, float.
      low: where the range starts; the range is widened to contain 0, and moved so that 0 has a code of its own.
      high: where it ends.
      bits: width of the codes, 8 or 16.
      symmetric: the zero point is 0 (as for 16 bits).
      name: what the tensor is called in the file; "" leaves the converter's name.

    Raises:
      ValueError: a range of NaN or infinite ends, or low > high.
    """
    qtype = QType(bits, symmetric=symmetric)
    low, high = ends(numerics.activation_params(low, high, qtype), qtype)
    if type(x).__module__.partition(".")[0] == "torch":
        from octavo import marks_torch

        return marks_torch.fake_quant(x, low, high, bits, symmetric, name)
    import jax

    @jax.custom_jvp  # a composite has no derivative of its own
    def marked(x: Any) -> Any:
        composite = jax.lax.composite(_decomposition, NAME)
        return composite(x, low=np.float32(low), high=np.float32(high), bits=bits, symmetric=symmetric, name=name)

    @marked.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return marked(*primals), tangents[0] * ((primals[0] >= low) & (primals[0] <= high))

    return marked(x)


def _decomposition(x: Any, *, low: Any, high: Any, bits: int, symmetric: bool, name: str) -> Any:
    """What the composite computes where nobody knows its name."""
    import jax.numpy as jnp

    del name
    scale = step(low, high, bits, symmetric)
    return jnp.round(jnp.clip(x, low, high) / scale) * scale


def step(low: Any, high: Any, bits: int, symmetric: bool) -> Any:
    """The scale of a range whose ends are those of its codes (see `ends`)."""
    return high / ((1 << (bits - 1)) - 1) if symmetric else (high - low) / ((1 << bits) - 1)


def ends(qparams: QParams, qtype: QType) -> tuple[float, float]:
    """The lowest and highest value that codes can stand for: the range after 0 has got its code.

    `numerics.activation_params` makes the same scale and zero point of these as of the range they came from, and no
    rounding can change that: the zero point of these ends is a whole number to begin with.
    """
    scale, zero_point = float(qparams.scale[0]), int(qparams.zero_point[0])
    return (qtype.qmin - zero_point) * scale, (qtype.qmax - zero_point) * scale
