"""From graph, recipe and ranges to a `Plan`, subgraph by subgraph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from octavo import calls, numerics
from octavo.errors import NotIntegerError, RecipeError, Refusal
from octavo.floors import loadable_sites
from octavo.graph import Graph, Op, Program, Tensor
from octavo.judgement import better_in_float
from octavo.ops import OPS, Row
from octavo.plan.decide import decide, drop_islands, in_float, integer_borders
from octavo.plan.forms import activation_form, border_forms, float_forms, integer_forms, recurrent_forms
from octavo.plan.records import Decision, Plan, integer_bits
from octavo.ranges import spread
from octavo.recipe import IO, Recipe, Scheme
from octavo.recurrent import LAYOUTS
from octavo.sites import Range
from octavo.variables import rows as variable_rows
from octavo.variables import variables


def plan(
    program: Program,
    request: Recipe | Scheme,
    ranges: Mapping[Tensor, Range] | None = None,
    observed: Mapping[Tensor, Range] | None = None,
) -> Plan:
    """Decide what every tensor of `program` becomes.

    Args:
      program: a float model, normalised.
      request: a recipe or a scheme.
      ranges: lowest and highest value that each float tensor is to hold, as calibrated; needed by integer schemes. A
        subgraph without any (the body of a loop) stays in float.
      observed: lowest and highest value that were seen, where `ranges` are better ones than these.

    Raises:
      NotIntegerError: integer-only was asked for and some op has no integer form; lists every such op.
      RecipeError: a rule matches no op, or an integer scheme comes without ranges.
    """
    recipe = Recipe.of(request)
    _check_rules(program, recipe)
    if ranges is None and recipe.needs_ranges:
        raise RecipeError("integer quantization needs ranges: pass representative data as calibration=")
    result = Plan()
    entries = {program.main, *(signature.graph for signature in program.signatures)}
    # Who calls a branch or a body hands it floats, whatever the file gives and takes, until shown otherwise.
    inside = replace(recipe, scheme=replace(recipe.scheme, io=IO()))
    drafts = [
        _draft(graph, recipe if graph in entries else inside, ranges or {}, observed or ranges or {})
        for graph in program.graphs
    ]
    _agree_on_variables(program, drafts)
    for _ in drafts:  # what an inner loop hands over, the next one out may too
        _hand_over_integers(program, drafts)
    bits = {op: width for draft in drafts for op, width in integer_bits(draft.decisions).items()}
    known = {tensor: bounds for draft in drafts for tensor, bounds in draft.ranges.items()}
    integer = {**{op: OPS[op.code] for op in bits}, **variable_rows(program, bits, known)}
    for draft in drafts:
        _settle(draft, integer, result)
    for draft in drafts:
        for op in (op for op in draft.graph.ops if op in bits and op.code in calls.CODES):
            _call_forms(program, op, draft.schemes[op], known, result)
    if recipe.scheme.kind == "integer" and not recipe.scheme.fallback:
        _refuse_floats(program, result)
    return result


def _check_rules(program: Program, recipe: Recipe) -> None:
    keys = [key for op in program.ops() for key in op.keys]
    for rule in recipe.rules:
        if not any(rule.matches(kind, name) for kind, name in keys):
            raise RecipeError(
                f"a rule matches no op: kind={rule.kind!r}, name={rule.name!r}; "
                "octavo.load(...).describe() lists the kinds and names"
            )


def _refuse_floats(program: Program, result: Plan) -> None:
    refusals = [
        Refusal(decision.op, decision.reason, decision.remedy)
        for decision in result.decisions.values()
        if decision.precision not in ("int8", "int16", "as is")
    ]
    if refusals:
        raise NotIntegerError(refusals, program.source or "the model")


@dataclass
class _Draft:
    """What is known of one subgraph before the others are: its recipe, every op's scheme and precision, its ranges."""

    graph: Graph
    recipe: Recipe
    schemes: dict[Op, Scheme]
    ranges: dict[Tensor, Range]
    decisions: dict[Op, Decision]


def _draft(graph: Graph, recipe: Recipe, ranges: Mapping[Tensor, Range], observed: Mapping[Tensor, Range]) -> _Draft:
    schemes = {op: recipe.scheme_of(op.keys) for op in graph.ops}
    ranges = spread(graph, ranges)
    decisions = {op: decide(op, scheme, ranges) for op, scheme in schemes.items()}
    if recipe.scheme.fallback:
        given_out = recipe.scheme.io.output == "float32"
        for op, reason in better_in_float(graph, integer_bits(decisions), observed, given_out).items():
            decisions[op] = in_float(op, schemes[op], reason)
    return _Draft(graph, recipe, schemes, ranges, decisions)


def _agree_on_variables(program: Program, drafts: list[_Draft]) -> None:
    """A variable is integer for all that read or assign it, with the same bits, or for none."""
    drafted = {op: draft for draft in drafts for op in draft.graph.ops}
    for variable in variables(program):
        made = [(drafted[op], op, drafted[op].decisions[op]) for op, _ in variable.uses]
        if len({decision.precision for *_, decision in made}) == 1 and variable.name:
            continue
        known = "not all agree on its precision" if variable.name else "it is handed over as an argument"
        why = next((decision.reason for *_, decision in made if decision.reason), known)
        for draft, op, decision in made:
            if decision.precision in ("int8", "int16"):
                draft.decisions[op] = in_float(op, draft.schemes[op], f"its variable is kept in float: {why}")


def _hand_over_integers(program: Program, drafts: list[_Draft]) -> None:
    """Let IF and WHILE hand integers to their subgraphs, where those make integers of all that they give back."""
    drafted = {draft.graph: draft for draft in drafts}
    for draft in drafts:
        for op in draft.graph.ops:
            activations, decision = draft.schemes[op].activations, draft.decisions[op]
            if op.code not in calls.CODES or decision.precision != "float32" or activations is None:
                continue
            known = {tensor: bounds for each in drafts for tensor, bounds in each.ranges.items()}
            makers = {draft.graph: integer_bits(draft.decisions) for draft in drafts}
            why = calls.problem(program, op, known, makers)
            if why:
                draft.decisions[op] = replace(decision, reason=why)
                continue
            draft.decisions[op] = Decision(op.name, op.code, f"int{activations.bits}")
            for slot in calls.slots(program, op):
                for tensor in (t for t in slot.tensors(op) if not t.is_constant):
                    owner = next(each for each in drafts if tensor in each.graph.tensors)
                    owner.ranges[tensor] = slot.range(op, known)
            for graph in calls.called(program, op):
                callee, io = drafted[graph], f"int{activations.bits}"
                callee.recipe = replace(callee.recipe, scheme=replace(callee.recipe.scheme, io=IO(io, io)))


def _call_forms(program: Program, op: Op, scheme: Scheme, ranges: Mapping[Tensor, Range], result: Plan) -> None:
    """One form on both sides of a call, whatever either side's own ops want."""
    assert scheme.activations is not None
    for slot in calls.slots(program, op):
        low, high = slot.range(op, ranges)
        form = activation_form(numerics.activation_params(low, high, scheme.activations), scheme.activations)
        if slot.operand is not None:
            result.wants[op, slot.operand] = form
        if slot.result is not None:
            result.stores[slot.result] = form
        result.stores.update(dict.fromkeys((t for t in slot.parameters if not t.is_constant), form))
        result.outputs.update(dict.fromkeys(slot.returned, form))


def _settle(draft: _Draft, rows: Mapping[Op, Row], result: Plan) -> None:
    """Steps 2 and 3 for one subgraph."""
    graph, decisions, schemes, scheme = draft.graph, draft.decisions, draft.schemes, draft.recipe.scheme
    drop_islands(graph, decisions, integer_borders(graph, scheme))
    bits = integer_bits(decisions)
    integer = {op: rows[op] for op in bits}
    sites = loadable_sites(graph, integer, schemes, bits, draft.ranges)
    result.decisions.update(decisions)
    integer_forms(integer, schemes, sites, result)
    for op in integer:
        if op.code in LAYOUTS:
            recurrent_forms(op, schemes[op], draft.ranges, result)
    float_forms(graph, decisions, schemes, result)
    border_forms(graph, scheme, sites, result)
