"""The public verbs, in prose: load, convert, quantize, and the variants that the demo and `octavo compare` make."""

from __future__ import annotations

import glob
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo import frontends, tflite
from octavo.algorithms.refine import equalize_layers, needs, ranges, refine
from octavo.calibrate.data import count_hint
from octavo.calibrate.run import Needs, Statistics, collect
from octavo.calibrate.sequences import reads_once
from octavo.errors import ConversionError, DataError, RecipeError, RunError
from octavo.graph import Op, Program
from octavo.graph.queries import is_trained, quantization_kind, quantized_tensors, recorded_ranges
from octavo.model import Model
from octavo.passes.apply import apply
from octavo.passes.channels_last import channels_last as move_channels_last
from octavo.passes.dequantize import dequantize as dequantize_program
from octavo.passes.fake_quant_marks import fake_quant_marks
from octavo.passes.fix_shapes import fix_shapes as fix_program_shapes
from octavo.passes.fold_scaling import check_codes
from octavo.passes.level_channels import level_channels
from octavo.passes.pipeline import normalise
from octavo.passes.soften_masks import soften_masks
from octavo.plan import Plan, plan
from octavo.qtypes import INT8, INT8_WEIGHT
from octavo.ranges import spread
from octavo.recipe import IO, Recipe, Rule, Scheme, dynamic_range, float16, integer, weight_only
from octavo.remedy import ENOUGH, Judge, borrow, in_db, sensitive
from octavo.text import printable

if TYPE_CHECKING:
    from octavo.targets.rules import Target

Shapes = Mapping[str, Sequence[int]] | Sequence[int]
_Known = tuple[list[Op], Plan]


def load(source: str | os.PathLike[str] | bytes) -> Model:
    """Read a `.tflite` model from a path or from bytes.

    Raises:
      ModelFileError: the file is missing, damaged, or of another format.
    """
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    return Model(tflite.read(source), path=path)


def fix_shapes(model: Model | str | os.PathLike[str] | bytes, shapes: Shapes) -> Model:
    """The model with sizes for its dynamic dimensions; what is computed from shapes becomes constant.

    Args:
      model: a model.
      shapes: input name -> shape, or one shape for a model with one input.

    Raises:
      RecipeError: an unknown input, a shape that doesn't fit it, or a dynamic input without one.
      RunError: the model can't run with these shapes.
    """
    model = model if isinstance(model, Model) else load(model)
    program = model.program.clone()
    notes = fix_program_shapes(program, shapes)
    return Model(program, notes=(*model.notes, *notes), path=model.path)


def dequantize(model: Model | str | os.PathLike[str] | bytes) -> Model:
    """A quantized model as a float one: the numbers that its integers stand for. The ranges of activations are kept.

    Raises:
      RecipeError: an op can't be brought back; names it.
    """
    model = model if isinstance(model, Model) else load(model)
    program = model.program.clone()
    notes = dequantize_program(program)
    return Model(program, notes=(*model.notes, *notes), path=model.path)


_back_to_float = dequantize  # where a parameter has that name


def convert(
    source: Any,
    *,
    inputs: Any = None,
    batch: int | None = 1,
    imports: Sequence[str] = (),
    channels_last: bool = False,
) -> Model:
    """Make a float `.tflite` model.

    Args:
      source: a Keras 3 model (on any backend), a `.keras` or `.h5` file, a PyTorch module or `.pt2` file, a Flax NNX
        module, a JAX function, an `.onnx` file, a `.tflite` file or its bytes.
      inputs: for a JAX function, a Flax or a PyTorch module: a list of shapes, (shape, dtype) pairs, arrays or tensors,
        or a dict of them by name.
      batch: size of the batch dimension; None keeps it dynamic where the model allows.
      imports: names of modules that define classes and functions of your own, for a saved Keras model.
      channels_last: from PyTorch: images go in and out as (batch, height, width, channels) instead of (batch,
        channels, height, width), which saves a transpose at each border.

    Raises:
      ConversionError: the source can't be converted; says which part and what to do.
      MissingDependencyError: the framework isn't installed; says how to install it.
    """
    if isinstance(source, Model):
        return source
    if channels_last and not frontends.is_channels_first(source):
        raise ConversionError("channels_last is for PyTorch, which puts channels first; leave it out")
    program = frontends.to_program(source, inputs=inputs, batch=batch, imports=imports)
    notes = fake_quant_marks(program)
    if channels_last:
        notes += move_channels_last(program)
    return Model(program, notes=tuple(notes))


def quantize(
    model: Model | str | os.PathLike[str] | bytes,
    recipe: Recipe | Scheme | None = None,
    calibration: Any = None,
    *,
    target: str | Target | None = None,
    shapes: Shapes | None = None,
    dequantize: bool = False,
    progress: bool = False,
) -> Model:
    """Make a smaller model; the given one stays as it is.

    Args:
      model: a float model.
      recipe: `octavo.float16()`, `dynamic_range()`, `weight_only()`, `integer()`, or a `Recipe` with rules. May be left
        out where a target is given, which then chooses.
      calibration: representative samples, for integer schemes (others round better with them): an array (samples
        first), a list of samples, a generator or a function that makes one, dicts by input name, or batches of (x, y).
        A model from quantization-aware training (`octavo.qat`) brings its ranges along and needs none. A model with
        several signatures takes a dict of such data by signature.
      target: where it has to run in full, such as "edgetpu" (see `octavo.check`): the target adds the exceptions that
        it needs to the recipe. What it can't take is refused before anything is calibrated.
      shapes: sizes for dynamic dimensions: input name -> shape, or one shape for a model with one input.
      dequantize: bring a model that is quantized already back to float first.
      progress: show a progress bar.

    Raises:
      TargetError: the model can't run in full on the target, whatever the samples, or not with this recipe.
      NotIntegerError: integer-only was asked for and some ops can't be; lists each and why.
      DataError: unusable samples; names the input and the sample.
      RecipeError: the request contradicts itself, or the model is quantized already.
    """
    source = model if isinstance(model, Model) else load(model)
    source = _back_to_float(source) if dequantize else source
    prepared = prepare(source if shapes is None else fix_shapes(source, shapes))
    if target is not None:
        from octavo.targets import find
        from octavo.targets.fit import quantize_for

        return quantize_for(prepared, find(target), recipe, calibration, progress)[1]
    if recipe is None:
        raise RecipeError("say what to make: pass a recipe such as octavo.integer(), or a target")
    wanted = Recipe.of(recipe)
    if not wanted.needs_ranges and calibration is None:
        return carry_out(prepared, wanted, None)
    seen = observe(prepared, wanted, calibration, progress)
    return fitting(prepared, wanted, seen, calibration, progress)


def variants(
    model: Model, calibration: Any, *, io: str | IO = "uint8", progress: bool = False, skip: Container[str] = ()
) -> Iterator[tuple[str, Model]]:
    """The model in every precision, calibrated once: the rows of `octavo demo` and `octavo compare`.

    Args:
      model: a float model.
      calibration: as in `quantize`.
      io: types of inputs and outputs of the integer-only variant.
      progress: show progress bars.
      skip: names of variants to leave out.

    Yields:
      (name, model): float32, float16, dynamic_range, integer_float_io, integer_only.

    Raises:
      NotIntegerError: at the last variant, if some op can't be integer.
    """
    prepared = prepare(model)
    recipes = {
        "float16": Recipe(float16()),
        "dynamic_range": Recipe(dynamic_range()),
        "integer_float_io": Recipe(integer()),
        "integer_only": Recipe(integer(fallback=False, io=io)),
    }
    seen = None
    if "float32" not in skip:
        yield "float32", prepared
    for name, recipe in recipes.items():
        if name in skip:
            continue
        if recipe.needs_ranges:
            seen = observe(prepared, Recipe(integer()), calibration, progress) if seen is None else seen
            yield name, fitting(prepared, recipe, seen, calibration, progress)
        else:
            yield name, carry_out(prepared, recipe, None)


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


def fitting(prepared: Model, recipe: Recipe, seen: Statistics, calibration: Any, progress: bool) -> Model:
    """What `recipe` makes of `prepared`, or something better where that is poor; see `octavo.remedy`.

    The samples are read again for this, so data that can be read only once leave it as it is.
    """
    made, known = _carry_out(prepared, recipe, seen)
    scheme = recipe.scheme
    eight = scheme.kind == "integer" and scheme.activations is not None and scheme.activations.bits == 8
    if not eight or scheme.effort == "fast" or calibration is None or is_trained(prepared.program):
        return made
    if reads_once(calibration):
        note = "the samples can be read only once, so it wasn't measured whether 8 bits are enough: pass a function"
        return Model(made.program, made.decisions, (*made.notes, note), made.path)
    try:
        judge = Judge.of(prepared.program, calibration)
        best = in_db(judge.noise(made.program))
    except (RunError, DataError):  # a custom op, or samples by signature: nothing can be measured
        return made
    if best < ENOUGH and scheme.per_channel:
        leveled = level(prepared, calibration, progress)
        if leveled is not prepared:
            seen_leveled = observe(leveled, recipe, calibration, progress)
            other, its_plan = _carry_out(leveled, recipe, seen_leveled)
            if (quality := in_db(judge.noise(other.program))) > best:
                made, known, prepared, seen, best = other, its_plan, leveled, seen_leveled, quality
    if best < ENOUGH and scheme.fallback:
        made = _spared(made, known, prepared, recipe, seen, judge)
    return made


def level(prepared: Model, calibration: Any, progress: bool) -> Model:
    """The prepared model with its channels scaled to suit 8-bit activations; itself if there is nothing to scale."""
    seen = collect(prepared.program, calibration, progress, Needs(channels=True)).channels
    program = prepared.program.clone()
    twins = dict(zip(prepared.program.tensors(), program.tensors(), strict=True))
    bounds = {twins[tensor]: found.known for tensor, found in seen.items() if found.known is not None}
    notes = level_channels(program, bounds, INT8, INT8_WEIGHT)
    return Model(program, notes=(*prepared.notes, *notes), path=prepared.path) if notes else prepared


def _spared(made: Model, known: _Known, prepared: Model, recipe: Recipe, seen: Statistics, judge: Judge) -> Model:
    """`made`, or the same with the most sensitive ops in float, if that is better."""
    program, decided = _decide(prepared, recipe, seen, known)
    may = {op for op in program.main.ops if recipe.scheme_of(op.keys) is recipe.scheme}
    may = {op for op in may if decided.decisions[op].precision == "int8"}
    built: dict[frozenset[Op], Model] = {}

    def without(ops: set[Op]) -> Model:
        """Weights and biases are borrowed: choosing them is most of the work, and they don't change."""
        rules = tuple(Rule(weight_only(), op.keys[0][0], glob.escape(op.keys[0][1])) for op in may if op in ops)
        if frozenset(ops) not in built:
            asked = replace(recipe, rules=recipe.rules + rules)
            built[frozenset(ops)] = _carry_out(prepared, asked, seen, known)[0]
        return built[frozenset(ops)]

    kept = sensitive(program, decided, may, judge, lambda ops: judge.noise(without(ops).program))
    better = without(kept)
    if in_db(judge.noise(better.program)) <= in_db(judge.noise(made.program)):
        return made
    names = {op.name for op in kept}
    reason = "measured: rounding to 8 bits here costs the outputs too much"
    decisions = tuple(replace(d, reason=reason) if d.op in names else d for d in better.decisions)
    return Model(better.program, decisions, better.notes)


def observe(prepared: Model, recipe: Recipe, calibration: Any, progress: bool) -> Statistics:
    """What the samples show; the ranges that training recorded take the place of observed ones.

    A model from quantization-aware training has learned to live with rounding to nearest: no other is looked for.

    Raises:
      RecipeError: neither samples nor recorded ranges.
    """
    recorded = recorded_ranges(prepared.program)
    if calibration is not None:
        wanted = Needs() if is_trained(prepared.program) else needs(prepared.program, recipe, count_hint(calibration))
        return replace(collect(prepared.program, calibration, progress, wanted), recorded=recorded)
    if not is_trained(prepared.program):
        raise RecipeError("integer quantization needs representative data: pass calibration=samples (100 are enough)")
    for graph in prepared.program.graphs:
        recorded = spread(graph, recorded)
    return Statistics(recorded=recorded)


def _decide(
    prepared: Model, recipe: Recipe, seen: Statistics | None, known: _Known | None = None
) -> tuple[Program, Plan]:
    """A copy of the prepared model, and the plan for it, refined, or with what was refined for a plan that is known."""
    source, program = prepared.program, prepared.program.clone()
    if seen is None:
        decided = plan(program, recipe)
        refine(program, decided, recipe, {})
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
        refine(program, decided, recipe, moments)
        if known is not None:
            borrow(program, decided, *known)
    return program, decided


def carry_out(prepared: Model, recipe: Recipe, seen: Statistics | None) -> Model:
    """Plan on the prepared model, refine, and apply to a copy."""
    return _carry_out(prepared, recipe, seen)[0]


def _carry_out(
    prepared: Model, recipe: Recipe, seen: Statistics | None, known: _Known | None = None
) -> tuple[Model, _Known]:
    """The same, and the plan with the ops that it speaks of; with what was refined for another plan, if it is known."""
    source, (program, decided) = prepared.program, _decide(prepared, recipe, seen, known)
    ops = list(program.ops())
    apply(program, decided)
    if not is_trained(source):
        for wanted, written in zip(source.main.inputs, program.main.inputs, strict=True):
            check_codes(wanted, written)
    return Model(program, tuple(decided.decisions.values()), prepared.notes), (ops, decided)
