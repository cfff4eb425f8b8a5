"""Where a model is rounded: at every tensor that the device stores as codes, and nowhere else.

The facts come from the ops' rows (`octavo.ops`), as they do when the file is made: which ops fuse what follows them,
which tie the scales of their tensors, which give the scale of their output. So training rounds where the file will.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras

from octavo.ops import Row, Tie
from octavo.qat.kinds import copies_codes, fuses_activation, is_clamp
from octavo.qat.trace import Step, Trace, Value
from octavo.recipe import Recipe, Scheme


@dataclass(eq=False)
class Site:
    """Tensors that share one scale.

    Attributes:
      values: the tensors.
      scheme: how they are quantized.
      observed: those of them whose values are new: they are rounded, and the range is learned from them.
      tied: those that are rounded again, to codes of the same scale (what an average pool makes).
      fixed: (scale, zero point) where the kernel gives them.
    """

    values: list[Value]
    scheme: Scheme | None = None
    observed: list[Value] = field(default_factory=list)
    tied: list[Value] = field(default_factory=list)
    fixed: tuple[float, int] | None = None


@dataclass(eq=False)
class Placement:
    """The answer.

    Attributes:
      sites: the site of each tensor that is rounded.
      made_fixed: (scale, zero point) of each tensor whose kernel gives the scale, though its site has another.
      weights: the steps whose weights are rounded, with their schemes.
      folded: the steps into whose weights a batch normalization goes.
      in_float: steps that the device computes in float.
    """

    sites: dict[Value, Site]
    made_fixed: dict[Value, tuple[float, int]]
    weights: dict[Step, Scheme]
    folded: list[Step]
    in_float: list[Step]


def place(traced: Trace, recipe: Recipe) -> Placement:
    """Decide for every tensor of the model whether and how it is rounded."""
    heads, inner = _fuse(traced)
    integer = {step: scheme for step in traced.steps if (scheme := _scheme(step, heads, recipe)) is not None}
    makers = {value: step for step in traced.steps for value in step.outputs}
    parents: dict[Value, Value] = {}
    touched: dict[Value, Scheme] = {}
    for step, scheme in integer.items():
        head = heads.get(step, step)
        row = head.part.kind.row
        assert row is not None
        ends = [v for v in (*step.inputs, *step.outputs) if v.is_float and v not in inner]
        touched.update((value, scheme) for value in ends)
        if row.tie is Tie.SAME and head is step:
            for value in ends[1:]:
                _join(parents, ends[0], value)
    sites = _sites(parents, touched)
    rows = {value: _row(makers.get(value), heads, integer) for value in sites}
    made_fixed = _fill(sites, rows, touched)
    weights = {step: scheme for step, scheme in integer.items() if step.part.kind.weights}
    folded = [head for step, head in heads.items() if isinstance(step.part.layer, keras.layers.BatchNormalization)]
    return Placement(sites, made_fixed, weights, folded, [s for s in traced.steps if s not in integer])


def _scheme(step: Step, heads: dict[Step, Step], recipe: Recipe) -> Scheme | None:
    """The integer scheme of a step, None if it computes in float."""
    head = heads.get(step, step)
    row = head.part.kind.row
    if row is None or not any(value.is_float for value in head.inputs):
        return None
    scheme = recipe.scheme_for(row.name, head.name)
    if scheme.kind != "integer" or scheme.activations is None or row.version(scheme.activations.bits) is None:
        return None
    return scheme


# ---------------------------------------------------------------- what fuses


def _fuse(traced: Trace) -> tuple[dict[Step, Step], set[Value]]:
    """Steps that fuse into an earlier one -> that one; and the tensors in between, which the device never stores."""
    readers: dict[Value, list[Step]] = {}
    for step in traced.steps:
        for value in step.inputs:
            readers.setdefault(value, []).append(step)
    outputs = set(traced.outputs)
    heads: dict[Step, Step] = {}
    inner: set[Value] = set()

    def only_reader(value: Value) -> Step | None:
        found = readers.get(value, [])
        return found[0] if len(found) == 1 and value not in outputs and found[0].inputs == [value] else None

    for head in traced.steps:
        row = head.part.kind.row
        if row is None or head in heads or len(head.outputs) != 1 or _has_activation(head):
            continue
        last = head
        follower = only_reader(last.outputs[0])
        if follower is not None and _folds(row, head, follower):
            inner.add(last.outputs[0])
            heads[follower], last = head, follower
            follower = only_reader(last.outputs[0])
        if follower is not None and fuses_activation(row) and row.tie is Tie.FREE and _clamps(follower):
            inner.add(last.outputs[0])
            heads[follower] = head
    return heads, inner


def _has_activation(step: Step) -> bool:
    activation = getattr(step.part.layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear and bool(step.part.kind.weights)


def _folds(row: Row, head: Step, follower: Step) -> bool:
    """Whether a batch normalization goes into the weights and bias of the layer before it."""
    layer = follower.part.layer
    if not isinstance(layer, keras.layers.BatchNormalization) or row.weights is None or row.weights.bias is None:
        return False
    channels_first = getattr(head.part.layer, "data_format", "") == "channels_first"
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    return bool(head.part.kind.weights) and (axis == 1 if channels_first else axis in (-1, _rank(head) - 1))


def _rank(step: Step) -> int:
    spec = getattr(step.part.layer, "rank", None)
    return -1 if spec is None else spec + 2


def _clamps(step: Step) -> bool:
    row = step.part.kind.row
    return row is not None and is_clamp(row)


# ---------------------------------------------------------------- what shares a scale


def _root(parents: dict[Value, Value], value: Value) -> Value:
    while (parent := parents.get(value, value)) is not value:
        value = parent
    return value


def _join(parents: dict[Value, Value], a: Value, b: Value) -> None:
    a, b = _root(parents, a), _root(parents, b)
    if a is not b:
        parents[b] = a


def _sites(parents: dict[Value, Value], touched: dict[Value, Scheme]) -> dict[Value, Site]:
    sites: dict[Value, Site] = {}
    found: dict[Value, Site] = {}
    for value, scheme in touched.items():
        site = sites.setdefault(_root(parents, value), Site([], scheme))
        site.values.append(value)
        found[value] = site
    return found


def _row(maker: Step | None, heads: dict[Step, Step], integer: dict[Step, Scheme]) -> Row | None:
    """The row of the op that makes a tensor on the device, None for inputs and for what is computed in float."""
    if maker is None or maker not in integer:
        return None
    return heads.get(maker, maker).part.kind.row


def _fill(
    sites: dict[Value, Site], rows: dict[Value, Row | None], touched: dict[Value, Scheme]
) -> dict[Value, tuple[float, int]]:
    """Say for each site what is observed in it; returns the tensors that have a kernel's scale and need another."""
    fixed: dict[Value, tuple[float, int]] = {}
    for value, site in sites.items():
        row, scheme = rows[value], touched[value]
        assert scheme.activations is not None
        if row is not None and copies_codes(row):
            continue
        if row is not None and row.tie is Tie.SAME:
            site.tied.append(value)
            continue
        site.observed.append(value)
        if row is not None and row.tie is Tie.FIXED:
            fixed[value] = row.fixed[scheme.activations.bits]
    mixed: dict[Value, tuple[float, int]] = {}
    for site in dict.fromkeys(sites.values()):
        scales: list[Any] = [fixed.get(value) for value in site.observed]
        if scales and scales[0] is not None and all(scale == scales[0] for scale in scales):
            site.fixed = scales[0]
        else:
            mixed.update((value, fixed[value]) for value in site.observed if value in fixed)
    return mixed
