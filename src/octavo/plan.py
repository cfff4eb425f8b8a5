"""From graph, recipe and ranges to a `Plan`: what each tensor becomes, and in words why an op stays in float.

Planning edits nothing. It runs in three steps: decide a precision for every op of every subgraph (`_decide`), tie the
scales of the integer ops of a subgraph together into sites (`octavo.sites`), and write down in which form each tensor
is stored and in which form each op wants it (`_forms`). `passes.apply` then puts a conversion wherever the two differ,
and only there, so QUANTIZE and DEQUANTIZE stand at real borders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from octavo import calls, numerics, recurrent
from octavo.errors import NotIntegerError, RecipeError, Refusal
from octavo.floors import loadable_sites
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.constants import bounds
from octavo.judgement import better_in_float
from octavo.ops import OPS, Row, Tie
from octavo.qtypes import INT8_WEIGHT, INT32_BIAS, INT64_BIAS, UINT8, QParams, QType
from octavo.ranges import spread
from octavo.recipe import DYNAMIC_MIN_ELEMENTS, IO, Recipe, Scheme
from octavo.recurrent import LAYOUTS
from octavo.sites import Range, Sites
from octavo.variables import rows as variable_rows
from octavo.variables import variables

# Beyond this a constant stands for infinity (masks, padding of a max-pool): no useful scale holds it.
_INFINITE = 1e30


@dataclass(frozen=True)
class Form:
    """How a tensor's values are stored: a dtype, and scale and zero point if it is quantized.

    Attributes:
      block: so many neighbours share a scale: `qparams` is for the values as (blocks, block). 0: no blocks.
    """

    dtype: DType
    qparams: QParams | None = None
    qtype: QType | None = None
    block: int = 0


FLOAT = Form(DType.FLOAT32)
FLOAT16 = Form(DType.FLOAT16)


@dataclass(frozen=True)
class Decision:
    """What became of one op.

    Attributes:
      op: the op's name for messages.
      kind: its kind ("CONV_2D").
      precision: "int8", "int16", "dynamic", "float16", "weight_only", "float32", or "as is" for ops without floats.
      reason: why an op that was to be quantized stays in float; "" otherwise.
      remedy: what the user can do about it; "" if nothing.
      weights: how its weights are stored, where that isn't told by the precision: "int4", or "4 bits in int8" where
        no kernel takes int4.
    """

    op: str
    kind: str
    precision: str
    reason: str = ""
    remedy: str = ""
    weights: str = ""


@dataclass
class Plan:
    """What `passes.apply` carries out; algorithms may refine `codes` and `wants` in between.

    Attributes:
      decisions: one per op, in order.
      stores: form in which a tensor stands in the file, for every tensor that doesn't stay as it is.
      wants: form in which an op reads operand i, for every (op, i) that doesn't take the tensor as stored.
      outputs: form in which a graph gives out a tensor, where it isn't as stored.
      options: options that an op's precision needs.
      intermediates: dtype, scale and zero point of each tensor inside a recurrent op.
      codes: integers of a constant, as an op reads it or as it is stored, where an algorithm chose better ones than
        rounding gives.
    """

    decisions: dict[Op, Decision] = field(default_factory=dict)
    stores: dict[Tensor, Form] = field(default_factory=dict)
    wants: dict[tuple[Op, int], Form] = field(default_factory=dict)
    outputs: dict[tuple[Graph, Tensor], Form] = field(default_factory=dict)
    options: dict[Op, dict[str, object]] = field(default_factory=dict)
    intermediates: dict[Op, list[Form]] = field(default_factory=dict)
    codes: dict[tuple[Op, int] | Tensor, np.ndarray] = field(default_factory=dict)


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
    bits = {op: width for draft in drafts for op, width in _bits(draft.decisions).items()}
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


# ---------------------------------------------------------------- step 1: a precision for every op


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
    decisions = {op: _decide(op, scheme, ranges) for op, scheme in schemes.items()}
    if recipe.scheme.fallback:
        given_out = recipe.scheme.io.output == "float32"
        for op, reason in better_in_float(graph, _bits(decisions), observed, given_out).items():
            decisions[op] = _in_float(op, schemes[op], reason)
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
                draft.decisions[op] = _in_float(op, draft.schemes[op], f"its variable is kept in float: {why}")


def _hand_over_integers(program: Program, drafts: list[_Draft]) -> None:
    """Let IF and WHILE hand integers to their subgraphs, where those make integers of all that they give back."""
    drafted = {draft.graph: draft for draft in drafts}
    for draft in drafts:
        for op in draft.graph.ops:
            activations, decision = draft.schemes[op].activations, draft.decisions[op]
            if op.code not in calls.CODES or decision.precision != "float32" or activations is None:
                continue
            known = {tensor: bounds for each in drafts for tensor, bounds in each.ranges.items()}
            makers = {draft.graph: _bits(draft.decisions) for draft in drafts}
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
        form = _activation(numerics.activation_params(low, high, scheme.activations), scheme.activations)
        if slot.operand is not None:
            result.wants[op, slot.operand] = form
        if slot.result is not None:
            result.stores[slot.result] = form
        result.stores.update(dict.fromkeys((t for t in slot.parameters if not t.is_constant), form))
        result.outputs.update(dict.fromkeys(slot.returned, form))


def _settle(draft: _Draft, rows: Mapping[Op, Row], result: Plan) -> None:
    """Steps 2 and 3 for one subgraph."""
    graph, decisions, schemes, scheme = draft.graph, draft.decisions, draft.schemes, draft.recipe.scheme
    _drop_islands(graph, decisions, _integer_borders(graph, scheme))
    bits = _bits(decisions)
    integer = {op: rows[op] for op in bits}
    sites = loadable_sites(graph, integer, schemes, bits, draft.ranges)
    result.decisions.update(decisions)
    _integer_forms(graph, integer, schemes, sites, result)
    for op in integer:
        if op.code in LAYOUTS:
            _recurrent_forms(op, schemes[op], draft.ranges, result)
    _float_forms(graph, decisions, schemes, result)
    _border_forms(graph, scheme, sites, result)


def _bits(decisions: Mapping[Op, Decision]) -> dict[Op, int]:
    """The integer ops, with the width of their activations."""
    widths = {"int8": 8, "int16": 16}
    return {op: widths[made.precision] for op, made in decisions.items() if made.precision in widths}


def _decide(op: Op, scheme: Scheme, ranges: Mapping[Tensor, Range]) -> Decision:
    if not any(tensor.dtype.is_float for tensor in _operands(op)):
        return Decision(op.name, op.code, "as is")
    if scheme.kind == "integer":
        assert scheme.activations is not None
        precision = f"int{scheme.activations.bits}"
        why = why_not_integer(op, scheme.activations.bits, ranges)
        return Decision(op.name, op.code, precision) if why is None else _in_float(op, scheme, *why[1:])
    if scheme.kind == "dynamic_range":
        return _decide_dynamic(op, scheme)
    if scheme.kind in ("float16", "weight_only") and any(_storable(t, scheme) for t in _constants(op)):
        return Decision(op.name, op.code, scheme.kind)
    return Decision(op.name, op.code, "float32")


def _in_float(op: Op, scheme: Scheme, reason: str, remedy: str = "") -> Decision:
    """It computes in float, but its weights needn't take four bytes each."""
    weights = _weights(op, OPS.get(op.code))
    small = any(tensor.size >= DYNAMIC_MIN_ELEMENTS and _storable(tensor, scheme) for tensor in weights)
    return Decision(op.name, op.code, "weight_only" if small else "float32", reason, remedy)


def _decide_dynamic(op: Op, scheme: Scheme) -> Decision:
    row = OPS.get(op.code)
    weights = max(_weights(op, row), key=lambda tensor: tensor.size, default=None)
    if row is None or weights is None:
        return Decision(op.name, op.code, "float32")
    if row.dynamic is None:
        reason = row.because.get("dynamic", "LiteRT has no kernel for float activations with int8 weights")
        return Decision(op.name, op.code, "float32", reason, "weight_only() makes it small")
    if not all(_finite(tensor) for tensor in _weights(op, row)):
        return Decision(op.name, op.code, "float32", f"its weights {weights.name!r} hold infinity or NaN")
    if weights.size < scheme.min_elements:
        return Decision(op.name, op.code, "float32", f"its weights have fewer than {scheme.min_elements} elements")
    return Decision(op.name, op.code, "dynamic")


def why_not_integer(op: Op, bits: int, ranges: Mapping[Tensor, Range]) -> tuple[str, str, str] | None:
    """("float32", reason, remedy) if `op` has no right integer form, else None."""

    def stay(reason: str, remedy: str = "") -> tuple[str, str, str]:
        return "float32", reason, remedy

    row = OPS.get(op.code)
    if row is None:
        kind = "a custom op" if op.code == "CUSTOM" else "not an op that octavo can make integer"
        return stay(kind, "replace it, or allow float for it with integer(fallback=True)")
    if row.version(bits) is None:
        default = f"LiteRT has no int{bits} kernel for it"
        return stay(row.because.get(f"int{bits}", default), "replace it by ops that have one")
    if why := recurrent.why_not_integer(op, ranges):
        return stay(why)
    if op.option("fusedActivationFunction", 0) in (4, 5) and op.code not in LAYOUTS:
        return stay("its fused activation (tanh or sign) has no integer kernel", "apply the activation as its own op")
    problem = _operand_problem(op, row, ranges)
    return stay(problem) if problem else None


def _operand_problem(op: Op, row: Row, ranges: Mapping[Tensor, Range]) -> str:
    for index, tensor in enumerate(op.inputs):
        role = row.input_role(index)
        if tensor is None or role == ".":
            continue
        if tensor.dtype is not DType.FLOAT32:
            return f"its operand {tensor.name!r} is {tensor.dtype.value}, not float32"
        if role in "wb" and not tensor.is_constant:
            return f"its {'weights' if role == 'w' else 'bias'} {tensor.name!r} are computed, not constant"
        if tensor.is_constant and not _finite(tensor):
            return f"its constant {tensor.name!r} holds infinity, NaN or values beyond {_INFINITE:g}"
        if not tensor.is_constant and (why := _range_problem(tensor, ranges)):
            return why
    for index, tensor in enumerate(op.outputs):
        if row.output_role(index) == "a" and tensor.dtype is DType.FLOAT32 and (why := _range_problem(tensor, ranges)):
            return why
    return ""


def _range_problem(tensor: Tensor, ranges: Mapping[Tensor, Range]) -> str:
    if tensor not in ranges:
        return f"no calibration data reached {tensor.name!r}"
    low, high = ranges[tensor]
    if not (-_INFINITE < low <= high < _INFINITE):
        return f"calibration saw infinity, NaN or values beyond {_INFINITE:g} in {tensor.name!r}"
    return ""


def _finite(tensor: Tensor) -> bool:
    low, high = bounds(tensor.values)
    return -_INFINITE < low <= high < _INFINITE


def _integer_borders(graph: Graph, scheme: Scheme) -> set[Tensor]:
    """Inputs and outputs that are integers in the written file."""
    if scheme.kind != "integer":
        return set()
    inputs = graph.inputs if scheme.io.input != "float32" else []
    outputs = graph.outputs if scheme.io.output != "float32" else []
    return {*inputs, *outputs}


def _drop_islands(graph: Graph, decisions: dict[Op, Decision], borders: set[Tensor]) -> None:
    """Ops that only move values between float ops stay in float: two conversions to copy something gain nothing."""
    producers, consumers = graph.producers(), graph.consumers()
    moves = {op for op in graph.ops if decisions[op].precision in ("int8", "int16") and OPS[op.code].tie is Tie.SAME}

    def neighbours(op: Op) -> list[Op]:
        before = [producers[t] for t in op.inputs if t is not None and t in producers]
        after = [reader for t in op.outputs for reader in consumers.get(t, [])]
        return [other for other in before + after if decisions[other].precision != "as is"]

    seen: set[Op] = set()
    for start in graph.ops:
        if start not in moves or start in seen:
            continue
        island, frontier, anchored = [], [start], False
        seen.add(start)
        while frontier:
            op = frontier.pop()
            island.append(op)
            for other in neighbours(op):
                if other in moves and other not in seen:
                    seen.add(other)
                    frontier.append(other)
                anchored |= other not in moves and decisions[other].precision in ("int8", "int16")
        touches_border = any(t in borders for op in island for t in [*op.inputs, *op.outputs] if t is not None)
        if not anchored and not touches_border:
            for op in island:
                decisions[op] = Decision(op.name, op.code, "float32", "it only moves values between float ops")


# ---------------------------------------------------------------- step 3: forms


def _integer_forms(
    graph: Graph, integer: Mapping[Op, Row], schemes: Mapping[Op, Scheme], sites: Sites, result: Plan
) -> None:
    for op, row in integer.items():
        scheme = schemes[op]
        assert scheme.activations is not None
        for index, tensor in enumerate(op.inputs):
            if tensor is None or tensor.dtype is not DType.FLOAT32:
                continue
            role = row.input_role(index)
            if role == "a" or (role == "m" and not tensor.is_constant):
                result.wants[op, index] = _activation(sites.of_use(op, index), scheme.activations)
        for index, tensor in enumerate(op.outputs):
            if row.output_role(index) == "a" and tensor.dtype is DType.FLOAT32:
                result.stores[tensor] = _activation(sites.of_tensor(tensor), scheme.activations)
        if row.weights is not None:
            _weight_forms(op, row, scheme, result)


def _recurrent_forms(op: Op, scheme: Scheme, ranges: Mapping[Tensor, Range], result: Plan) -> None:
    """State and weights of a recurrent op, and the tensors inside of it."""
    layout, data, made = LAYOUTS[op.code], result.wants[op, 0].qparams, result.stores[op.outputs[0]].qparams
    state = op.inputs[layout.state]
    assert data is not None and made is not None and state is not None and scheme.weights is not None
    for index, format_ in layout.formats(op, data, made, ranges[state], scheme.weights).items():
        tensor = op.inputs[index]
        assert tensor is not None
        if tensor.is_constant:
            result.wants[op, index] = Form(*format_)
        else:
            result.stores[tensor] = Form(*format_)
    result.intermediates[op] = [Form(*inside) for inside in layout.intermediates(made)]


def _activation(qparams: QParams, qtype: QType) -> Form:
    return Form(DType.INT8 if qtype.bits == 8 else DType.INT16, qparams, qtype)


def _weight_forms(op: Op, row: Row, scheme: Scheme, result: Plan) -> None:
    facts, qtype = row.weights, scheme.weights
    assert facts is not None and qtype is not None
    tensor = op.inputs[facts.index]
    if tensor is None or not tensor.is_constant:
        return  # a computed matrix: an activation, already planned
    axis = facts.axis if scheme.per_channel else None
    rescale_weights(op, scheme, result, numerics.weight_params(tensor.values, qtype, axis))


def rescale_weights(op: Op, scheme: Scheme, result: Plan, qparams: QParams) -> None:
    """Plan the weights of an integer op with these scales, widened where its bias needs it, and the bias to match."""
    row = OPS[op.code]
    facts, qtype = row.weights, scheme.weights
    assert facts is not None and qtype is not None
    bias = op.inputs[facts.bias] if facts.bias is not None and facts.bias < len(op.inputs) else None
    data = result.wants[op, facts.data].qparams
    assert data is not None
    qparams = numerics.widen_for_bias(qparams, float(data.scale[0]), None if bias is None else bias.values)
    result.wants[op, facts.index] = Form(_weight_storage(op, scheme, result), qparams, qtype)
    if bias is not None and facts.bias is not None:
        result.wants[op, facts.bias] = _bias_form(op, row, scheme, data, qparams, bias, result)


def _weight_storage(op: Op, scheme: Scheme, result: Plan) -> DType:
    """int8; int4 for four bits where the kernel takes it; notes which in the plan."""
    assert scheme.weights is not None
    if scheme.weights.bits != 4:
        return DType.INT8
    bits = scheme.activations.bits if scheme.activations else 32
    row = OPS[op.code]
    table = op.inputs[row.hybrid[0]] if row.hybrid_axis is not None else None
    odd = table is not None and table.shape[-1] % 2 == 1  # rows that begin in the middle of a byte are read wrongly
    packed = bits in row.int4 and not odd
    result.decisions[op] = replace(result.decisions[op], weights="int4" if packed else "4 bits in int8")
    return DType.INT4 if packed else DType.INT8


def _bias_form(op: Op, row: Row, scheme: Scheme, data: QParams, weights: QParams, bias: Tensor, result: Plan) -> Form:
    """int32 with int8 activations; with int16 ones int32 where no sum can overflow it (4 times faster), else int64."""
    assert scheme.activations is not None and scheme.weights is not None and row.weights is not None
    params = numerics.bias_params(float(data.scale[0]), weights.scale)
    if scheme.activations.bits == 8:
        return Form(DType.INT32, params, INT32_BIAS)
    kernel = op.inputs[row.weights.index]
    assert kernel is not None
    if row.int16_bias32 is not None and row.weights.axis is not None:
        codes = result.codes.get((op, row.weights.index))
        codes = numerics.quantize(kernel.values, weights, scheme.weights) if codes is None else codes
        bias_codes = numerics.quantize_bias(bias.values, params, INT64_BIAS)
        if numerics.accumulator_fits_int32(codes, row.weights.axis, scheme.activations, 0, bias_codes):
            result.options[op] = {"quantizedBiasType": 2}  # TensorType.INT32
            return Form(DType.INT32, params, INT32_BIAS)
    result.options.pop(op, None)
    return Form(DType.INT64, params, INT64_BIAS)


def _float_forms(graph: Graph, decisions: Mapping[Op, Decision], schemes: Mapping[Op, Scheme], result: Plan) -> None:
    """Ops whose activations stay float: what they read as float, and how their constants are stored."""
    for op in graph.ops:
        decision, scheme = decisions[op], schemes[op]
        if decision.precision in ("int8", "int16", "as is"):
            continue
        for index, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.dtype is DType.FLOAT32:
                result.wants[op, index] = FLOAT
        row = OPS.get(op.code)
        looks_up = decision.precision == "weight_only" and row is not None and row.hybrid_axis is not None
        if decision.precision == "dynamic" or looks_up:  # rows come out of their table as floats
            _dynamic_form(op, scheme, result)
        elif decision.precision in ("float16", "weight_only"):
            kept = _weights(op, OPS.get(op.code)) if scheme.kind == "integer" else _constants(op)
            for tensor in kept:
                if _storable(tensor, scheme):
                    result.stores[tensor] = FLOAT16 if scheme.kind == "float16" else _stored_weights(op, tensor, scheme)


def _dynamic_form(op: Op, scheme: Scheme, result: Plan) -> None:
    row = OPS[op.code]
    assert scheme.weights is not None
    axis = _weight_axis(row) if row.dynamic_per_channel else None
    weights = _weights(op, row)
    for index, tensor in enumerate(op.inputs):
        if tensor in weights and index in _weight_operands(row):
            dtype = _weight_storage(op, scheme, result)
            whole = row.blocks and scheme.block > 0 and tensor.shape[-1] % scheme.block == 0
            if whole:
                qparams = numerics.block_params(tensor.values, scheme.weights, scheme.block)
            else:
                qparams = numerics.weight_params(tensor.values, scheme.weights, axis)
            result.wants[op, index] = Form(dtype, qparams, scheme.weights, scheme.block if whole else 0)
            if scheme.block and row.hybrid[:1] in ((), (index,)):  # once for each op
                _note_blocks(op, row, scheme.block, whole, result)
    if row.options_type is not None:
        result.options[op] = dict(row.dynamic_options)


def _note_blocks(op: Op, row: Row, block: int, whole: bool, result: Plan) -> None:
    made = result.decisions[op]
    why = f"whose width isn't a multiple of {block}" if row.blocks else "whose kernel takes none"
    kept = f"{made.weights} in blocks of {block}" if whole else f"{made.weights}, without blocks for an op {why}"
    result.decisions[op] = replace(made, weights=kept)


def _stored_weights(op: Op, tensor: Tensor, scheme: Scheme) -> Form:
    """Integers in the file, float32 in use. Per channel along the op's weight axis where it has one.

    Four bits are for weights: other constants, without a scale per channel, would lose too much.
    """
    assert scheme.weights is not None
    row = OPS.get(op.code)
    if row is None or (row.weights is None and row.hybrid_axis is None) or tensor not in _weights(op, row):
        return Form(DType.INT8, numerics.weight_params(tensor.values, INT8_WEIGHT, None), INT8_WEIGHT)
    dtype = DType.INT4 if scheme.weights.bits == 4 else DType.INT8
    return Form(dtype, numerics.weight_params(tensor.values, scheme.weights, _weight_axis(row)), scheme.weights)


def _border_forms(graph: Graph, scheme: Scheme, sites: Sites, result: Plan) -> None:
    if scheme.kind != "integer":
        return
    for tensor in graph.inputs:
        if tensor.dtype is DType.FLOAT32 and scheme.io.input != "float32" and sites.has(tensor):
            result.stores[tensor] = _io_form(sites.of_tensor(tensor), scheme.io.input)
    for tensor in graph.outputs:
        if tensor.dtype is not DType.FLOAT32:
            continue
        quantized = scheme.io.output != "float32" and sites.has(tensor)
        result.outputs[graph, tensor] = _io_form(sites.of_tensor(tensor), scheme.io.output) if quantized else FLOAT


def _io_form(qparams: QParams, dtype: str) -> Form:
    if dtype == "uint8":
        return Form(DType.UINT8, QParams(qparams.scale, qparams.zero_point + 128), UINT8)
    return Form(DType(dtype), qparams)


# ---------------------------------------------------------------- small questions about ops


def _operands(op: Op) -> list[Tensor]:
    return [tensor for tensor in op.inputs if tensor is not None] + op.outputs


def _constants(op: Op) -> list[Tensor]:
    return [t for t in op.inputs if t is not None and t.is_constant and t.dtype is DType.FLOAT32]


def _weight_operands(row: Row) -> tuple[int, ...]:
    return row.hybrid if row.weights is None else (row.weights.index,)


def _weight_axis(row: Row) -> int | None:
    return row.hybrid_axis if row.weights is None else row.weights.axis


def _weights(op: Op, row: Row | None) -> list[Tensor]:
    """The op's float weights, if all of them are constant; else none."""
    operands = () if row is None else _weight_operands(row)
    present = [op.inputs[index] for index in operands if index < len(op.inputs)]
    found = [tensor for tensor in present if tensor is not None]
    return found if all(tensor.is_constant and tensor.dtype is DType.FLOAT32 for tensor in found) else []


def _storable(tensor: Tensor, scheme: Scheme) -> bool:
    """Whether a constant gains from smaller storage: big enough, and within the range of the smaller type."""
    if tensor.size < scheme.min_elements or tensor.extra.get("sparsity") is not None:
        return False
    limit = 65504.0 if scheme.kind == "float16" else _INFINITE
    low, high = bounds(tensor.values)
    return -limit <= low <= high <= limit
