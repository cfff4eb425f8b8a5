"""From a float model to a smaller one, step by step: prepare, observe, carry out, and see whether it is good enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from octavo.algorithms.refine import equalize_layers, needs, ranges, refine
from octavo.calibrate.data import count_hint
from octavo.calibrate.probes import PROBES
from octavo.calibrate.run import Needs, Statistics, collect
from octavo.calibrate.sequences import reads_once
from octavo.errors import DataError, RecipeError, RunError
from octavo.graph import Op, Program
from octavo.graph.queries import is_trained, quantization_kind, quantized_tensors, recorded_ranges
from octavo.model import Model
from octavo.passes.apply import apply
from octavo.passes.fold_scaling import check_codes
from octavo.passes.level_channels import level_channels
from octavo.passes.pipeline import normalise
from octavo.passes.soften_masks import soften_masks
from octavo.passes.spell_out_int16 import spell_out_int16
from octavo.plan import Plan, plan
from octavo.qtypes import INT8, INT8_WEIGHT
from octavo.ranges import spread
from octavo.recipe import Recipe, Rule, Scheme, weight_only
from octavo.remedy import ENOUGH, WORTH, Judge, borrow, in_db, sensitive
from octavo.text import printable

_Known = tuple[list[Op], Plan]


@dataclass(frozen=True)
class Terms:
    """What a result has to keep to besides its recipe. These are nobody's; `octavo.targets.fit` has those of a target.

    Attributes:
      amend: what has to be asked for instead, given the float program, the recipe and what it made of the program.
      floats: the scheme of an op that is to stay in float; None: it mustn't.
      keeps: whether a program keeps to them.
    """

    amend: Callable[[Program, Recipe, Program], Recipe] = lambda program, recipe, made: recipe
    floats: Callable[[Op], Scheme | None] = lambda op: weight_only()
    keeps: Callable[[Program], bool] = lambda program: True


_NO_TERMS = Terms()


def prepare(model: Model) -> Model:
    """A float model in normal form, as a copy.

    Raises:
      RecipeError: its activations are quantized already.
    """
    program = model.program.clone()
    notes = normalise(program)
    quantized = quantized_tensors(program)
    if quantized:
        raise RecipeError(
            f"{model.name or 'the model'} is quantized already: {quantization_kind(program) or 'some constants are'} "
            f"(such as {printable(quantized[0].name)!r}); start from its float version, or bring it back to float with "
            "dequantize=True (--dequantize)"
        )
    return Model(program, notes=(*model.notes, *notes), path=model.path)


def spelled(prepared: Model, recipe: Recipe, lacks: Callable[[Op], bool] = lambda op: False) -> Model:
    """The prepared model with the ops spelled out for which the recipe's widths have no kernel, or that a target lacks.

    Args:
      prepared: the model.
      recipe: tells the widths.
      lacks: whether an op is lacking.
    """
    program = prepared.program.clone()
    found = spell_out_int16(program, recipe, lacks)
    return Model(program, notes=prepared.notes, path=prepared.path) if found else prepared


def fitting(
    prepared: Model, recipe: Recipe, seen: Statistics, calibration: Any, progress: bool, terms: Terms = _NO_TERMS
) -> tuple[Recipe, Model]:
    """What `recipe`, as the terms amend it, makes of `prepared`, or something better where that is poor.

    See `octavo.remedy`. To level channels the samples are read again, so it isn't tried if they can be read only once.
    """
    recipe, made, known = _amended(prepared, recipe, seen, terms, progress)
    return recipe, _improved(made, known, prepared, recipe, seen, calibration, progress, terms)


def _amended(
    prepared: Model, recipe: Recipe, seen: Statistics, terms: Terms, progress: bool
) -> tuple[Recipe, Model, _Known]:
    made, known = _carried(prepared, recipe, seen, progress=progress)
    wanted = terms.amend(prepared.program, recipe, made.program)
    if wanted is not recipe:
        made, known = _carried(prepared, wanted, seen, progress=progress)
    return wanted, made, known


def _improved(
    made: Model,
    known: _Known,
    prepared: Model,
    recipe: Recipe,
    seen: Statistics,
    calibration: Any,
    progress: bool,
    terms: Terms,
) -> Model:
    scheme = recipe.scheme
    # Who asks for four bits knows that they are few, and wants their bytes.
    eight = scheme.kind == "integer" and all(
        kind is not None and kind.bits == 8 for kind in (scheme.activations, scheme.weights)
    )
    if not eight or scheme.effort == "fast" or calibration is None:
        return made
    trained = is_trained(prepared.program)  # to live with the ranges that it has: they are measured, and left alone
    once = reads_once(calibration)
    if once and seen.probes is None:
        note = "the samples can be read only once, so it wasn't measured whether 8 bits are enough: pass a function"
        return Model(made.program, made.decisions, (*made.notes, note), made.path)
    try:
        judge = Judge.of(prepared.program, calibration, seen.probes)
        first = best = in_db(judge.noise(made.program))
    except (RunError, DataError):  # a custom op, or samples by signature: nothing can be measured
        return made
    if best < ENOUGH and scheme.per_channel and not once and not trained:
        leveled = level(prepared, calibration, progress)
        if leveled is not prepared:
            seen_leveled = observe(leveled, recipe, calibration, progress)
            _, other, its_plan = _amended(leveled, recipe, seen_leveled, terms, progress)
            if terms.keeps(other.program) and (quality := in_db(judge.noise(other.program))) > best:
                made, known, prepared, seen, best = other, its_plan, leveled, seen_leveled, quality
    if best < ENOUGH and scheme.fallback and not trained:
        made, best = _spared(made, best, known, prepared, recipe, seen, judge, terms)
    if first >= ENOUGH:
        return made
    found = f"8 bits leave the worst output {first:.1f} dB on {len(judge.rows)} of the samples"
    told = f"with channels scaled or ops in float: {best:.1f} dB" if best > first else "octavo inspect tells where"
    if once and not trained:
        told += "; the samples can be read only once, so scaling channels wasn't tried: pass a function"
    return Model(made.program, made.decisions, (*made.notes, f"{found}; {told}"), made.path)


def level(prepared: Model, calibration: Any, progress: bool) -> Model:
    """The prepared model with its channels scaled to suit 8-bit activations; itself if there is nothing to scale."""
    seen = collect(prepared.program, calibration, progress, Needs(channels=True)).channels
    program = prepared.program.clone()
    twins = dict(zip(prepared.program.tensors(), program.tensors(), strict=True))
    bounds = {twins[tensor]: found.known for tensor, found in seen.items() if found.known is not None}
    notes = level_channels(program, bounds, INT8, INT8_WEIGHT)
    return Model(program, notes=(*prepared.notes, *notes), path=prepared.path) if notes else prepared


def _spared(
    made: Model,
    best: float,
    known: _Known,
    prepared: Model,
    recipe: Recipe,
    seen: Statistics,
    judge: Judge,
    terms: Terms,
) -> tuple[Model, float]:
    """`made`, of `best` dB, or the same with the most sensitive ops in float, if that is better; and its dB."""
    program, decided = _decide(prepared, recipe, seen, known)
    may = {op for op in program.main.ops if recipe.scheme_of(op.keys) is recipe.scheme}
    may = {op for op in may if decided.decisions[op].precision == "int8"}
    floats = {op: scheme for op in may if (scheme := terms.floats(op)) is not None}
    built: dict[frozenset[Op], tuple[Model, np.ndarray]] = {}

    def without(ops: set[Op]) -> tuple[Model, np.ndarray]:
        """The model with these ops in float, and its noise.

        Weights and biases are borrowed: choosing them is most of the work, and they don't change.
        """
        rules = tuple(Rule.exactly(floats[op], op.keys[0]) for op in program.main.ops if op in ops)
        if frozenset(ops) not in built:
            asked = replace(recipe, rules=recipe.rules + rules)
            tried = _carried(prepared, asked, seen, known)[0]
            built[frozenset(ops)] = tried, judge.noise(tried.program)
        return built[frozenset(ops)]

    kept = sensitive(program, decided, set(floats), judge, lambda ops: without(ops)[1])
    better, noise = without(kept)
    if (quality := in_db(noise)) < best + WORTH or not terms.keeps(better.program):
        return made, best
    names = {op.name for op in kept}
    reason = "measured: rounding to 8 bits here costs the outputs too much"
    decisions = tuple(replace(d, reason=reason) if d.op in names else d for d in better.decisions)
    return Model(better.program, decisions, better.notes), quality


def observe(prepared: Model, recipe: Recipe, calibration: Any, progress: bool) -> Statistics:
    """What the samples show; the ranges that training recorded take the place of observed ones.

    A model from quantization-aware training has learned to live with rounding to nearest: no other is looked for.

    Raises:
      RecipeError: neither samples nor recorded ranges.
    """
    recorded = recorded_ranges(prepared.program)
    if calibration is not None:
        trained = is_trained(prepared.program)
        wanted = Needs(probes=PROBES) if trained else needs(prepared.program, recipe, count_hint(calibration))
        return replace(collect(prepared.program, calibration, progress, wanted), recorded=recorded)
    if not is_trained(prepared.program):
        raise RecipeError("integer quantization needs representative data: pass calibration=samples (100 are enough)")
    for graph in prepared.program.graphs:
        recorded = spread(graph, recorded)
    return Statistics(recorded=recorded)


def _decide(
    prepared: Model, recipe: Recipe, seen: Statistics | None, known: _Known | None = None, progress: bool = False
) -> tuple[Program, Plan]:
    """A copy of the prepared model, and the plan for it, refined, or with what was refined for a plan that is known."""
    source, program = prepared.program, prepared.program.clone()
    if seen is None:
        decided = plan(program, recipe)
        refine(program, decided, recipe, {}, progress)
    else:
        tensors = dict(zip(source.tensors(), program.tensors(), strict=True))
        ops = dict(zip(source.ops(), program.ops(), strict=True))
        chosen = ranges(source, recipe, seen)
        chosen, observed = ({tensors[t]: bounds for t, bounds in found.items()} for found in (chosen, seen.ranges))
        soften_masks(program, chosen, observed)
        moments = {ops[op]: known for op, known in seen.moments.items()}
        channels = {tensors[tensor]: bounds for tensor, bounds in seen.channels.items()}
        equalize_layers(program, recipe, moments, chosen, observed, channels)
        decided = plan(program, recipe, chosen, observed)
        if known is not None:
            moments = {op: found for op, found in moments.items() if decided.decisions[op].precision != "int8"}
        refine(program, decided, recipe, moments, progress)
        if known is not None:
            borrow(program, decided, *known)
    return program, decided


def carry_out(prepared: Model, recipe: Recipe, seen: Statistics | None, progress: bool = False) -> Model:
    """Plan on the prepared model, refine, and apply to a copy."""
    return _carried(prepared, recipe, seen, progress=progress)[0]


def _carried(
    prepared: Model, recipe: Recipe, seen: Statistics | None, known: _Known | None = None, progress: bool = False
) -> tuple[Model, _Known]:
    """The same, and the plan with the ops that it speaks of; with what was refined for another plan, if it is known."""
    source, (program, decided) = prepared.program, _decide(prepared, recipe, seen, known, progress)
    ops = list(program.ops())
    apply(program, decided)
    if not is_trained(source):
        for wanted, written in zip(source.main.inputs, program.main.inputs, strict=True):
            check_codes(wanted, written)
    return Model(program, tuple(decided.decisions.values()), prepared.notes), (ops, decided)
