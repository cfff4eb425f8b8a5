"""The public verbs, in prose: load, convert, quantize, and the variants that the demo and `octavo compare` make."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo import frontends, tflite
from octavo.errors import ConversionError, RecipeError
from octavo.making import carry_out, fitting, observe, prepare, spelled
from octavo.model import Model
from octavo.passes.channels_last import channels_last as move_channels_last
from octavo.passes.dequantize import dequantize as dequantize_program
from octavo.passes.fake_quant_marks import fake_quant_marks
from octavo.passes.fix_shapes import fix_shapes as fix_program_shapes
from octavo.recipe import IO, Recipe, Scheme, dynamic_range, float16, integer

if TYPE_CHECKING:
    from octavo.targets.rules import Target

Shapes = Mapping[str, Sequence[int]] | Sequence[int]


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
    prepared = spelled(prepared, wanted)
    seen = observe(prepared, wanted, calibration, progress)
    return fitting(prepared, wanted, seen, calibration, progress)[1]


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
            yield name, fitting(prepared, recipe, seen, calibration, progress)[1]
        else:
            yield name, carry_out(prepared, recipe, None)
