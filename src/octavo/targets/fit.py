"""From a target to a recipe: the granularity, the types and the exceptions that it needs, and what it can't take.

Before anything is calibrated, the recipe is carried out on the model with made-up ranges, and what comes out is held
against the target: types, granularity, versions and the conversions in between are those of the real file, only the
scales aren't.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from octavo.errors import NotIntegerError, TargetError
from octavo.graph import DType, Op, Program, Tensor
from octavo.making import Terms, carry_out, fitting, observe, spelled
from octavo.model import Model
from octavo.passes.apply import apply
from octavo.passes.fix_shapes import dynamic_inputs, fix_shapes, held_shapes
from octavo.passes.spell_out_int16 import PIECES, spell_out_int16
from octavo.plan import Decision, plan, why_not_integer
from octavo.recipe import Recipe, Rule, Scheme, keep_float
from octavo.targets.check import Finding, grouped, target_findings
from octavo.targets.rules import Target, data_of, form_of

_Range = tuple[float, float]
# Above zero, so that no op is held to magnify the rounding of its input (`octavo.judgement`).
_MADE_UP = (0.5, 1.0)
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


def fit(program: Program, target: Target, request: Recipe | Scheme | None = None) -> Recipe:
    """The recipe for a float program on a target.

    Args:
      program: a float model, normalised.
      target: what it has to run on.
      request: None: the target's own scheme. A scheme is kept as it is, and the target adds the exceptions that it
        needs; a recipe with rules is taken as it is.

    Raises:
      TargetError: what the recipe makes wouldn't run in full on the target; lists every reason.
    """
    recipe = request if isinstance(request, Recipe) and request.rules else adapted(program, target, request)
    _raise(_left_over(program, target, recipe), f"{program.source or 'the model'} can't be quantized for {target.name}")
    return recipe


def quantize_for(
    model: Model, target: Target, request: Recipe | Scheme | None, calibration: Any = None, progress: bool = False
) -> tuple[Recipe, Model]:
    """Quantize a prepared model so that it runs in full on a target; returns the recipe that did it, too.

    Ops whose scales turn out to be none that the target's integer kernels take stay in float, where it takes that.

    Raises:
      TargetError: it can't be done; as far as types and sizes tell, before anything is calibrated.
    """
    model = spelled(_closed(model, target), Recipe.of(request or target.scheme), _lacking(target))
    recipe = fit(model.program, target, request)
    if recipe.needs_ranges or calibration is not None:
        seen = observe(model, recipe, calibration, progress)
        recipe, made = fitting(model, recipe, seen, calibration, progress, _terms(target))
    else:
        made = carry_out(model, recipe, None)
    found = [finding for _, finding in target_findings(made.program, target)]
    _raise(found, f"{model.name or 'the model'}, quantized, doesn't run in full on {target.name}")
    return recipe, made


def _terms(target: Target) -> Terms:
    """What a result has to keep to, so that a target runs it in full."""

    def amend(program: Program, recipe: Recipe, made: Program) -> Recipe:
        floats = _floats(program, made, target) if recipe.scheme.fallback else ()
        return replace(recipe, rules=(*recipe.rules, *floats)) if floats else recipe

    return Terms(
        amend,
        floats=lambda op: keep_float() if "float32" in target.forms(op.code) else None,
        keeps=lambda program: not any(target_findings(program, target)),
    )


def _closed(model: Model, target: Target) -> Model:
    """The model with the batch that its file holds, where the target takes no open one; other open sizes stay."""
    shapes = held_shapes(model.program)
    beyond = any(-1 in (tensor.shape_signature or ())[1:] for tensor in model.program.tensors())
    if not target.static_shapes or not shapes or beyond:
        return model
    program = model.program.clone()
    before = dynamic_inputs(program)
    notes = fix_shapes(program, shapes)
    return Model(program, notes=(*(note for note in model.notes if note not in before), *notes), path=model.path)


def left_over(program: Program, target: Target) -> tuple[Finding, ...]:
    """What would stand in the way of a float program, quantized for a target."""
    program = program.clone()
    spell_out_int16(program, Recipe(target.scheme), _lacking(target))
    return _left_over(program, target, adapted(program, target))


def _lacking(target: Target) -> Callable[[Op], bool]:
    """Whether a target hasn't got an op, and has all that it can be spelled in."""
    spellable = {code for code, pieces in PIECES.items() if code not in target.ops and pieces <= target.ops.keys()}
    return lambda op: op.code in spellable


def _floats(program: Program, made: Program, target: Target) -> tuple[Rule, ...]:
    """Rules that leave in float the ops of `program` that a target takes in float only as they were made integer."""
    before, after = ([op for op in p.ops() if op.code not in _CONVERSIONS] for p in (program, made))
    broken = {op for op, _ in target_findings(made, target) if "float" not in (form_of(op)[0] if op else "float")}
    # Tensors may have been renamed on the way, ops stand in the order in which they stood.
    keys = [op.keys[0] for op, other in zip(before, after, strict=True) if other in broken]
    return tuple(Rule.exactly(keep_float(), key) for key in keys if "float32" in target.forms(key[0]))


def _raise(findings: Sequence[Finding], what: str) -> None:
    if not findings:
        return
    reasons = []
    for group in grouped(findings):
        first, more = group[0], f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        reasons.append(f"{first.op or first.tensor}{more}: {first.what}, but {first.why}; {first.change}")
    raise TargetError(what, findings, reasons)


def adapted(program: Program, target: Target, request: Recipe | Scheme | None = None) -> Recipe:
    """The request, or the target's own scheme, with rules for the ops that the target takes in another form only."""
    scheme = target.scheme if request is None else Recipe.of(request).scheme
    if scheme.kind != "integer" or scheme.activations is None:
        return Recipe(scheme)
    kind = f"int{scheme.activations.bits}"
    ranges = _made_up(program)
    ops = [op for op in program.ops() if any(tensor.dtype.is_float for tensor in data_of(op))]
    # A width that the target takes nowhere, or integer-only, is a contradiction, which isn't for rules to solve.
    solvable = (request is None or scheme.fallback) and any(kind in known.forms for known in target.ops.values())
    floats = {op.code for op in ops if solvable and _in_float_only(op, target, kind)}
    whole = {op.code for op in ops if op.code in target.ops and not target.ops[op.code].per_channel} - floats
    stays = floats or any(
        why_not_integer(op, scheme.activations.bits, ranges) and "float32" in target.forms(op.code) for op in ops
    )
    if request is None and stays:
        scheme = replace(scheme, fallback=True)
    rules = [Rule(keep_float(), kind=code) for code in sorted(floats)]
    if scheme.per_channel:
        rules += [Rule(replace(scheme, per_channel=False), kind=code) for code in sorted(whole)]
    return Recipe(scheme, tuple(rules))


def _in_float_only(op: Op, target: Target, kind: str) -> bool:
    forms = target.forms(op.code)
    return kind not in forms and "float32" in forms


def _made_up(program: Program) -> dict[Tensor, _Range]:
    return {
        tensor: _MADE_UP for tensor in program.tensors() if tensor.dtype is DType.FLOAT32 and not tensor.is_constant
    }


def rehearse(program: Program, recipe: Recipe) -> tuple[Program, dict[Op, Decision]]:
    """What a recipe makes of a float program, with made-up ranges, and what became of each op of the program.

    An op of the result that `recipe` was asked about stands in the decisions; a conversion in between doesn't.

    Raises:
      NotIntegerError: integer-only was asked for and some op can't be.
    """
    copy = program.clone()
    decided = plan(copy, recipe, _made_up(copy))
    apply(copy, decided)
    return copy, decided.decisions


def _left_over(program: Program, target: Target, recipe: Recipe) -> tuple[Finding, ...]:
    """What a target wouldn't take of what a recipe makes of a float program."""
    ranges = _made_up(program)
    refused = [found for op in program.ops() if (found := _refusal(op, target, recipe, ranges)) is not None]
    if refused:
        recipe = replace(recipe, scheme=replace(recipe.scheme, fallback=True))
    try:
        made, decisions = rehearse(program, recipe)
    except NotIntegerError as error:  # an op that has no activation, so that nothing above looked at it
        return tuple(Finding(left.op, left.op.partition(" ")[0], "", "float32", left.reason, left.remedy)
                     for left in error.refusals)  # fmt: skip
    found = list(refused)
    for op, finding in target_findings(made, target, scales=False):
        # Around a refused op others stay in float, and conversions stand in between: no reasons of their own.
        consequence = refused and op is not None and (op not in decisions or decisions[op].reason)
        if not consequence:
            name = decisions[op].op if op in decisions else finding.op  # as the source calls it
            found.append(replace(finding, op=name))
    return tuple(found)


def _refusal(op: Op, target: Target, recipe: Recipe, ranges: dict[Tensor, _Range]) -> Finding | None:
    """Why an op that has to be integer can't be."""
    scheme = recipe.scheme_of(op.keys)
    if scheme.activations is None or not any(tensor.dtype.is_float for tensor in data_of(op)):
        return None
    why = why_not_integer(op, scheme.activations.bits, ranges)
    if why is None or (recipe.scheme.fallback and "float32" in target.forms(op.code)):
        return None
    reason, remedy = why
    return Finding(op.name, op.code, "", "float32", reason, remedy or "replace it, or cut the model before it")
