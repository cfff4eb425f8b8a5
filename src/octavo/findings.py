"""What `inspect` tells: layers with their errors, and operands that suffer from a shared scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """How often the float model's values of one layer fell where.

    Attributes:
      low, high: ends of the first and last bin.
      counts: of equal bins.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One op of the small model, against the float model.

    Attributes:
      index: its place among the ops of the small file.
      kind: "CONV_2D".
      name: the float model's name for what it makes.
      layer: the Keras or PyTorch layer: the path that `name` starts with; `name` itself where there is none.
      dtype: of what it makes, as stored ("int8").
      own: error that it adds itself, relative (see `octavo.inspect`).
      inherited: error that reaches its output from the layers before it.
      total: both, as they add up.
      rounding: the part of its own error that rounding its inputs alone brings.
      own_steps: root mean square of its own error in steps of its output's scale; None if that isn't quantized.
      max_error: largest total error of a value.
      low, high: range of the float values.
      scale, zero_point: of its output, None if that isn't quantized.
      clipped: share of the float values outside of what its output's scale can hold.
      codes_used: how many steps of its output's scale the float values span.
      weights: relative error of its weights, None if it has none that can be compared.
      histogram: of the float values, for the worst layers.
    """

    index: int
    kind: str
    name: str
    layer: str
    dtype: str
    own: float
    inherited: float
    total: float
    rounding: float
    own_steps: float | None
    max_error: float
    low: float
    high: float
    scale: float | None
    zero_point: int | None
    clipped: float
    codes_used: float | None
    weights: float | None
    histogram: Histogram | None = None

    @property
    def cause(self) -> str:
        """The likeliest reason for its own error, in words; "" if nothing stands out."""
        if self.weights is not None and self.weights > 0.03 and self.weights > 0.3 * self.own:
            return f"its weights are off by {100 * self.weights:.1f} %"
        if self.clipped > 0.001:
            return f"its scale clips {100 * self.clipped:.1f} % of the values"
        if self.codes_used is not None and self.codes_used < 32:
            return f"its values span only {self.codes_used:.0f} steps of its scale"
        if self.rounding > 0.01 and self.rounding > 0.7 * self.own:
            return f"rounding its input brings {100 * self.rounding:.1f} %"
        return ""


@dataclass(frozen=True)
class Operand:
    """One of the operands that share a scale: its range in the float model, and how many steps that spans."""

    name: str
    low: float
    high: float
    steps: float


@dataclass(frozen=True)
class TieFinding:
    """Operands of very different ranges that an op forces onto one scale, such as the heads of a detector."""

    kind: str
    name: str
    operands: tuple[Operand, ...]

    @property
    def advice(self) -> str:
        narrow = min(self.operands, key=lambda operand: operand.steps)
        return (
            f"{self.kind} {self.name!r} keeps all its operands on one scale: {narrow.name!r} spans only "
            f"{narrow.steps:.0f} of its steps. Give the operands out separately and join them after the model, or "
            f"keep this op in float: Rule(octavo.keep_float(), name={self.name!r})"
        )
