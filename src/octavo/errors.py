"""Everything that octavo refuses, as one tree of exceptions.

Each message says what is wrong, where (file, op and tensor by name), and what to do about it. The command line
prints the message on one line and exits with 1; whoever calls the library catches `OctavoError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class OctavoError(Exception):
    """Root of every error that octavo raises on purpose."""


class ModelFileError(OctavoError):
    """A model file can't be read or written: missing, truncated, of another format, or inconsistent."""


class ConversionError(OctavoError):
    """A Keras model or a JAX function can't be turned into a `.tflite` model."""


class GraphError(OctavoError):
    """A graph breaks an invariant (see `octavo.graph.verify`)."""


class DataError(OctavoError):
    """Samples or labels are unusable: wrong shape or dtype, NaN, none at all. Names the input and the sample."""


class RecipeError(OctavoError):
    """A quantization request contradicts itself, or asks for what no kernel can do."""


class RunError(OctavoError):
    """The runtime refused to load or to run a model."""


class MissingDependencyError(OctavoError):
    """An optional package is needed; the message says how to install it."""


@dataclass(frozen=True)
class Refusal:
    """One op that can't become integer: which, why, and what the user can do."""

    op: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.op}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


class NotIntegerError(RecipeError):
    """Integer-only was asked for and some op can't be integer.

    Attributes:
      refusals: every op that stands in the way, not only the first.
      where: the model.
    """

    def __init__(
        self,
        refusals: Sequence[Refusal],
        where: str = "the model",
        remedy: str = "Use integer(fallback=True) to leave them in float, or replace them.",
    ) -> None:
        self.refusals, self.where = tuple(refusals), where
        listed = "; ".join(str(refusal) for refusal in self.refusals)
        super().__init__(
            f"{where} can't be integer-only: {len(self.refusals)} op(s) have no integer form: {listed}. {remedy}"
        )


class TargetError(RecipeError):
    """A model can't be quantized so that it runs in full on its target.

    Attributes:
      findings: everything that stands in the way (`octavo.targets.check.Finding`).
    """

    def __init__(self, what: str, findings: Sequence[Any], reasons: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{what}: {'. '.join(reasons)}")
