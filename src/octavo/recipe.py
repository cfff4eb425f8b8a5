"""What the user asks for: a scheme for every op, and rules that give single ops another one.

A `Recipe` is data: frozen, comparable, printable. A scheme alone is a recipe without rules, so
`octavo.quantize(model, octavo.float16())` and `octavo.quantize(model, Recipe(octavo.integer(), rules=(...)))` both read
as meant.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from octavo.errors import RecipeError
from octavo.qtypes import INT4_WEIGHT, INT8, INT8_WEIGHT, INT16, QType

EFFORTS = ("fast", "balanced", "best")
IO_TYPES = ("float32", "uint8", "int8", "int16")

BLOCKS = (0, 32, 64, 128, 256)

# TensorFlow's converter leaves smaller constants in float: below this, the saving isn't worth a run-time conversion.
DYNAMIC_MIN_ELEMENTS = 1024
# A float16 constant costs a DEQUANTIZE op and a second tensor in the file: about 200 bytes.
FLOAT16_MIN_ELEMENTS = 128


@dataclass(frozen=True)
class IO:
    """Types of the model's float inputs and outputs in the written file."""

    input: str = "float32"
    output: str = "float32"

    def __post_init__(self) -> None:
        for side, value in (("input", self.input), ("output", self.output)):
            if value not in IO_TYPES:
                raise RecipeError(f"io {side}={value!r}: choose one of {', '.join(IO_TYPES)}")

    @classmethod
    def parse(cls, text: str | IO | Mapping[str, str]) -> IO:
        """From "uint8" (both sides), "input=uint8,output=float32", a mapping with these keys, or an `IO`.

        Raises:
          RecipeError: an unknown side or type.
        """
        if isinstance(text, IO):
            return text
        if isinstance(text, str):
            if "=" not in text:
                return cls(text.strip(), text.strip())
            pairs = [part.partition("=") for part in text.split(",")]
            text = {side.strip(): value.strip() for side, _, value in pairs}
        unknown = sorted(set(text) - {"input", "output"})
        if unknown:
            raise RecipeError(f"io side {unknown[0]!r} is unknown: write 'uint8' or 'input=uint8,output=float32'")
        return cls(**text)


@dataclass(frozen=True)
class Scheme:
    """How ops are quantized. Made by the functions below rather than by hand.

    Attributes:
      kind: "float32" (left alone), "float16", "dynamic_range", "weight_only" or "integer".
      weights: format of the weights, None where they stay float.
      activations: format of the activations, None where they stay float.
      per_channel: one weight scale per output channel where the kernel takes it; else one per tensor.
      fallback: an op without an integer kernel stays in float; if False it is an error (integer-only).
      io: types of inputs and outputs.
      min_elements: constants with fewer elements stay in float.
      effort: "fast" (observed ranges, rounding to nearest), "balanced" or "best" (see docs/accuracy.md).
      block: input features that share a scale, where the kernel takes that; 0: one scale for all of a channel's.
    """

    kind: str
    weights: QType | None = None
    activations: QType | None = None
    per_channel: bool = True
    fallback: bool = True
    io: IO = field(default_factory=IO)
    min_elements: int = 0
    effort: str = "fast"
    block: int = 0


def _weight_type(bits: int) -> QType:
    types = {8: INT8_WEIGHT, 4: INT4_WEIGHT}
    if bits not in types:
        raise RecipeError(f"weights={bits}: LiteRT has kernels for weights of 8 and 4 bits")
    return types[bits]


def keep_float() -> Scheme:
    """Leave ops as they are."""
    return Scheme("float32")


def float16(min_elements: int = FLOAT16_MIN_ELEMENTS) -> Scheme:
    """Constants as float16, arithmetic in float32: half the bytes, nearly no loss.

    Args:
      min_elements: smaller constants stay float32 (their conversion would cost more bytes than it saves).
    """
    return Scheme("float16", min_elements=min_elements)


def dynamic_range(min_elements: int = DYNAMIC_MIN_ELEMENTS, weights: int = 8, block: int = 0) -> Scheme:
    """Weights as int8; activations stay float in the file and are quantized at run time, batch by batch.

    Args:
      min_elements: smaller weights stay float32.
      weights: 8 or 4 bits. Four need samples (`calibration=`) to be rounded well.
      block: 32, 64, 128 or 256: that many input features of four-bit weights share a scale (FULLY_CONNECTED and
        EMBEDDING_LOOKUP; other ops, and widths that aren't a multiple, keep one scale per channel). 0 for no blocks.

    Raises:
      RecipeError: another width or block, or blocks of eight-bit weights.
    """
    if block not in BLOCKS:
        raise RecipeError(f"block={block}: LiteRT has kernels for blocks of {', '.join(map(str, BLOCKS[1:]))} features")
    if block and weights != 4:
        raise RecipeError(f"block={block} with weights={weights}: LiteRT's kernels take blocks of 4-bit weights only")
    kept = _weight_type(weights)
    return Scheme("dynamic_range", kept, min_elements=min_elements, effort="balanced", block=block)


def weight_only(min_elements: int = DYNAMIC_MIN_ELEMENTS, weights: int = 8) -> Scheme:
    """Weights as int8 in the file, turned back into float32 before use: a quarter of the bytes, float arithmetic.

    Args:
      min_elements: smaller weights stay float32. 256 saves up to a fifth of files under 1 MB; in larger ones next to
        nothing, and rounded depthwise kernels can cost 12 dB.
      weights: 8 or 4 bits. Four need samples (`calibration=`) to be rounded well.
    """
    return Scheme("weight_only", _weight_type(weights), min_elements=min_elements, effort="balanced")


def integer(
    fallback: bool = True,
    io: str | IO | Mapping[str, str] | None = None,
    activations: int = 8,
    per_channel: bool = True,
    effort: str = "balanced",
    weights: int = 8,
) -> Scheme:
    """Weights as int8 and activations as int8 (or int16), with ranges from representative data.

    Args:
      fallback: ops without an integer kernel stay in float, and the summary says which and why. False means
        integer-only: such an op is an error, and no float tensor is left in the file.
      io: "uint8", "int8", "int16", "float32", or "input=uint8,output=float32". By default float32 with fallback,
        int8 (int16 for 16-bit activations) without.
      activations: 8 or 16 bits.
      per_channel: one weight scale per output channel where the kernel takes it.
      effort: "fast": observed ranges, rounding to nearest. "balanced": ranges, scales, rounding and biases with the
        least error, in seconds. "best": more statistics, and rounding gone over again.
      weights: 8 or 4 bits. Four are stored as int4 where the kernel takes it, else as int8; the summary says which.

    Raises:
      RecipeError: another effort or width, or int16 inputs for 8-bit activations and the like.
    """
    if activations not in (8, 16):
        raise RecipeError(f"activations={activations}: LiteRT has kernels for 8 and 16 bits")
    if effort not in EFFORTS:
        raise RecipeError(f"effort={effort!r}: choose one of {', '.join(EFFORTS)}")
    if io is None:
        io = "float32" if fallback else f"int{activations}"
    parsed = IO.parse(io)
    allowed = {8: ("float32", "uint8", "int8"), 16: ("float32", "int16")}[activations]
    for side, value in (("input", parsed.input), ("output", parsed.output)):
        if value not in allowed:
            raise RecipeError(f"io {side}={value} with {activations}-bit activations: choose {', '.join(allowed)}")
    return Scheme(
        "integer",
        weights=_weight_type(weights),
        activations=INT8 if activations == 8 else INT16,
        per_channel=per_channel,
        fallback=fallback,
        io=parsed,
        effort=effort,
    )


@dataclass(frozen=True)
class Rule:
    """Gives `scheme` to the ops that it matches.

    Attributes:
      scheme: what those ops get.
      kind: the op's kind, such as "SOFTMAX"; None matches every kind.
      name: shell-style pattern for the name of the tensor that the op makes, such as "block_1/*"; None matches all.
    """

    scheme: Scheme
    kind: str | None = None
    name: str | None = None

    @classmethod
    def exactly(cls, scheme: Scheme, key: tuple[str, str]) -> Rule:
        """For the ops of this kind and this very name, whatever characters it has."""
        kind, name = key
        return cls(scheme, kind, glob.escape(name))

    def matches(self, kind: str, name: str) -> bool:
        return (self.kind is None or self.kind == kind) and (self.name is None or fnmatch.fnmatchcase(name, self.name))


@dataclass(frozen=True)
class Recipe:
    """A scheme for all ops, and rules for some. The last rule that matches an op wins.

    Attributes:
      scheme: the default; its `io` and `fallback` hold for the whole model.
      rules: exceptions. A rule that matches no op is an error when the recipe is applied.
    """

    scheme: Scheme
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, request: Recipe | Scheme) -> Recipe:
        if isinstance(request, Recipe):
            return request
        if isinstance(request, Scheme):
            return cls(request)
        raise RecipeError(f"{request!r} is no recipe: pass octavo.integer(), octavo.float16(), ... or a Recipe")

    @property
    def needs_ranges(self) -> bool:
        """Whether some op needs calibrated activation ranges."""
        return any(scheme.kind == "integer" for scheme in (self.scheme, *(rule.scheme for rule in self.rules)))

    def scheme_for(self, kind: str, name: str) -> Scheme:
        return self.scheme_of([(kind, name)])

    def scheme_of(self, keys: Iterable[tuple[str, str]]) -> Scheme:
        """The scheme of an op that goes by any of these kinds and names."""
        keys = tuple(keys)
        for rule in reversed(self.rules):
            if any(rule.matches(*key) for key in keys):
                return rule.scheme
        return self.scheme
