"""The mark of `octavo.fake_quant` in PyTorch: a custom op, `octavo::fake_quant`.

One op, so that it stays whole in an exported program, and `octavo.frontends.torch_ops` can lower it as the composite
that `octavo.passes.fake_quant_marks` reads. Importing this module imports PyTorch and registers the op; a `.pt2` file
that holds the op can be loaded from then on.
"""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from octavo.marks import step


def _rounded(x: torch.Tensor, low: float, high: float, bits: int, symmetric: bool, name: str) -> torch.Tensor:
    """Values of any shape, rounded to the codes of a range whose ends are multiples of the step."""
    size = step(low, high, bits, symmetric)
    return torch.round(torch.clamp(x, low, high) / size) * size


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, low, high, *_ = inputs
    ctx.save_for_backward((x >= low) & (x <= high))


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Straight through the rounding, 0 where the value was cut off (Bengio et al. 2013, arXiv:1308.3432)."""
    (inside,) = ctx.saved_tensors
    return gradient * inside, None, None, None, None, None


fake_quant: Any = torch.library.custom_op("octavo::fake_quant", _rounded, mutates_args=())
fake_quant.register_fake(lambda x, low, high, bits, symmetric, name: torch.empty_like(x))
fake_quant.register_autograd(_backward, setup_context=_setup)
