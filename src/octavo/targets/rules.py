"""What a target takes, as facts, and how one op is held against them. The facts are in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from octavo.graph import DType, Op, Tensor
from octavo.ops import OPS
from octavo.recipe import Scheme
from octavo.versions import Release, first_runtime

# Ops whose form is "input>output": they turn one type into another.
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
# They hand on what their subgraphs make, whose ops are looked at by themselves.
_CONTROL = ("IF", "WHILE", "CALL", "CALL_ONCE")


@dataclass(frozen=True)
class Source:
    """Where facts come from: a title, and where to read it."""

    title: str
    url: str


@dataclass(frozen=True)
class Problem:
    """What of one op a target doesn't take.

    Attributes:
      what: what the op has ("int16 activations").
      why: what the target takes.
      remedy: what to change.
      tensor: name of the tensor that it is about; "" if it is about the op.
    """

    what: str
    why: str
    remedy: str
    tensor: str = ""


@dataclass(frozen=True)
class Limit:
    """A condition on an op beyond its types.

    Attributes:
      rule: what the target takes, in words that go on after "the target takes".
      broken: what an op has instead, and the tensor that it is about (None: the op itself); None if it keeps the rule.
      remedy: what to change.
      scales: it is about scales, which nobody knows before calibration.
    """

    rule: str
    broken: Callable[[Op], tuple[str, Tensor | None] | None]
    remedy: str
    scales: bool = False


@dataclass(frozen=True)
class Facts:
    """What a target takes of one op.

    Attributes:
      forms: the type combinations, each one of
        "int8"         activations; weights in the same type (float32) or in int8 (int8, int16)
        "int8*int4"    activations * weights, where the weights are of another type
        "uint8>int8"   input > output, for ops that convert.
      limits: further conditions.
      version: newest kernel version that it takes; None: any.
      per_channel: whether the weights may have a scale for each channel.
    """

    forms: frozenset[str]
    limits: tuple[Limit, ...] = ()
    version: int | None = None
    per_channel: bool = True


def facts(
    names: str, forms: str, *limits: Limit, version: int | None = None, per_channel: bool = True
) -> dict[str, Facts]:
    """The same facts for several ops; `names` and `forms` are separated by blanks."""
    return {name: Facts(frozenset(forms.split()), limits, version, per_channel) for name in names.split()}


@dataclass(frozen=True)
class Target:
    """A device or a set of kernels.

    Attributes:
      name: as typed after `--target`.
      title: as messages call it.
      ops: what it takes of each op; an op that isn't here it doesn't take.
      sources: where the facts come from.
      scheme: what `quantize` makes for it.
      elsewhere: what becomes of an op that it doesn't take.
      customs: codes of the custom ops that it takes.
      limits: conditions on every op.
      static_shapes: it takes no dynamic sizes; of an open batch the file's own size is taken.
      first_only: whatever comes after the first op that it doesn't take runs elsewhere too.
      newest: the release of TensorFlow Lite that it was built with: kernel versions that came later stop it; None: any.
      cache_bytes: weights beyond this many bytes are fetched anew for every run; None if that is no matter.
    """

    name: str
    title: str
    ops: Mapping[str, Facts]
    sources: tuple[Source, ...]
    scheme: Scheme
    elsewhere: str
    customs: frozenset[str] = field(default_factory=frozenset)
    limits: tuple[Limit, ...] = ()
    static_shapes: bool = True
    first_only: bool = False
    newest: Release | None = None
    cache_bytes: int | None = None

    def forms(self, code: str) -> frozenset[str]:
        """The forms in which it takes an op; none if it doesn't."""
        return self.ops[code].forms if code in self.ops else frozenset()

    def problems(self, op: Op, scales: bool = True) -> Iterator[Problem]:
        """Everything about an op that this target doesn't take; nothing if it takes the op.

        Args:
          op: the op.
          scales: its scales count too; false where they are made up.
        """
        known = self.ops.get(op.code)
        if op.code == "CUSTOM":
            if op.custom_code not in self.customs:
                what = f"custom op {op.custom_code}"
                yield Problem(what, f"{self.title} doesn't have it", "replace it by builtin ops, or supply its kernel")
            return
        if known is None:
            if op.code == "DEQUANTIZE":
                yield Problem(in_words(form_of(op)[0]), f"{self.title} takes integers only", self._float_remedy)
                return
            why = f"{self.title} doesn't have {op.code}"
            yield Problem("the op itself", why, "replace it, or cut the model before it")
            return
        wrong = list(self._types(op, known))
        yield from wrong
        if any(problem.what.startswith("float") for problem in wrong):
            return  # the rest is about an op that will be another one
        first = first_runtime(op.code, op.version)
        too_new = self.newest is not None and first is not None and first > self.newest
        if too_new or (known.version is not None and op.version > known.version):
            release = ".".join(map(str, self.newest or ()))
            limit = f"version {known.version}" if known.version is not None else f"what TensorFlow Lite {release} has"
            yield Problem(
                f"version {op.version}", f"{self.title} takes {op.code} up to {limit}", "an older form of the op"
            )
        for limit in (*self.limits, *known.limits):
            found = limit.broken(op) if scales or not limit.scales else None
            if found is not None:
                what, tensor = found
                yield Problem(what, f"{self.title} takes {limit.rule}", limit.remedy, _name(tensor))

    def _types(self, op: Op, known: Facts) -> Iterator[Problem]:
        form, tensor = form_of(op)
        if form and form not in known.forms:
            taken = ", ".join(in_words(taken) for taken in sorted(known.forms))
            if form == "float32" and not any("float" in taken for taken in known.forms):
                taken = "integers only"
            yield Problem(in_words(form), f"{self.title} takes {taken}", self._change(op, form, known), _name(tensor))
        weights = weights_of(op)
        if not known.per_channel and weights is not None and weights.qparams and weights.qparams.scale.size > 1:
            why = f"{self.title} takes one scale for all weights of {op.code}"
            yield Problem("a scale per channel", why, "quantize with per_channel=False", weights.name)

    def _change(self, op: Op, form: str, known: Facts) -> str:
        """What to do about a form that isn't taken."""
        if op.code in ("QUANTIZE", "DEQUANTIZE") and "float" in form:
            return self._float_remedy
        activations = {taken.partition("*")[0] for taken in known.forms}
        kind, star, _ = form.partition("*")
        if star and kind in known.forms:
            return "quantize its weights to 8 bits"
        if form.startswith("float"):
            return self._float_remedy
        if "int8" in activations:
            return "quantize it to int8"
        return "leave it in float" if "float32" in activations else "another type"

    @property
    def _float_remedy(self) -> str:
        return f"octavo quantize --target {self.name}: integers throughout, inputs and outputs too"


def _name(tensor: Tensor | None) -> str:
    return "" if tensor is None else tensor.name


def in_words(form: str) -> str:
    """A form as messages have it: "int8 with int4 weights", "float32 to int8"."""
    if ">" in form:
        return form.replace(">", " to ")
    activations, star, weights = form.partition("*")
    return f"{activations} with {weights} weights" if star else activations


def form_of(op: Op) -> tuple[str, Tensor | None]:
    """The types of an op as `Facts.forms` has them, and the activation that shows them; "" if it has no activation."""
    if op.code in _CONVERSIONS and op.inputs and op.inputs[0] is not None and op.outputs:
        return f"{op.inputs[0].dtype.value}>{op.outputs[0].dtype.value}", op.inputs[0]
    tensors = [] if op.code in _CONTROL else data_of(op)
    if not tensors:
        return "", None
    kinds = list(dict.fromkeys(tensor.dtype.value for tensor in tensors))
    form, weights = "+".join(kinds), weights_of(op)
    if weights is not None and weights.dtype is not tensors[0].dtype:
        plain = weights.dtype is DType.INT8 and form == "int16"
        form += "" if plain else f"*{weights.dtype.value}"
    return form, tensors[0]


def data_of(op: Op) -> list[Tensor]:
    """The tensors of an op whose types the kernel looks at: activations, not weights, biases, indices or shapes."""
    row = OPS.get(op.code)
    inputs = [(op.inputs[i], row.input_role(i) if row else "a") for i in range(len(op.inputs))]
    outputs = [(tensor, row.output_role(i) if row else "a") for i, tensor in enumerate(op.outputs)]
    weights = weights_of(op)
    found = [t for t, role in [*inputs, *outputs] if t is not None and role in "am" and t is not weights]
    computed = [tensor for tensor in found if not tensor.is_constant or row is not None]
    return [t for t in computed if t.dtype not in (DType.RESOURCE, DType.VARIANT, DType.STRING)]


def weights_of(op: Op) -> Tensor | None:
    """The constant weights of an op (of a recurrent one the first); None if it has none, or computes them."""
    row = OPS.get(op.code)
    if row is None:
        return None
    places = row.hybrid if row.weights is None else (row.weights.index,)
    given = (op.inputs[index] for index in places if index < len(op.inputs))
    return next((tensor for tensor in given if tensor is not None and tensor.is_constant), None)
