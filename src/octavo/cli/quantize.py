"""`octavo quantize`: one model, one scheme or budget, one smaller file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import octavo
from octavo.cli.device import described, metadata_options, scaled, scaling_options
from octavo.cli.models import calibration as calibration_of
from octavo.cli.models import load_by_signature, load_model, load_samples, save_model
from octavo.console import (
    PATH,
    Shapes,
    check_output,
    data_option,
    debug_option,
    import_option,
    json_option,
    output_option,
    prepared,
    preparing_options,
    samples_option,
    target_option,
)
from octavo.report.terminal import show as show_result

if TYPE_CHECKING:
    from octavo.recipe import Recipe, Scheme
    from octavo.targets.rules import Target

# --to and the function of octavo.recipe that makes its scheme.
_SCHEMES = {
    "float16": "float16",
    "dynamic-range": "dynamic_range",
    "weight-only": "weight_only",
    "integer": "integer",
    "integer-only": "integer",
}


@click.command(short_help="Make a model smaller.")
@click.argument("model", type=PATH)
@output_option
@click.option("--to", type=click.Choice(list(_SCHEMES)), help="What to make; see above.")
@target_option
@click.option("--recipe", metavar="FILE", type=PATH, help="Do what a recipe file says, instead of --to.")
@click.option("--weights", type=click.Choice(["8", "4"]), help="Bits of the weights; 8 by default.")
@click.option("--effort", type=click.Choice(["fast", "balanced", "best"]), help="Balanced by default.")
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=click.FloatRange(0),
    help="Search for the smallest integer file whose accuracy on --data is at most this many percentage points lower.",
)
@click.option("--save-recipe", metavar="FILE", type=PATH, help="Write down what was done, to be edited and used again.")
@data_option("Representative samples, for integer and integer-only; with labels for --max-drop.")
@samples_option
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(1),
    help="Every N samples of --data follow on each other: a model with state keeps it from one to the next.",
)
@click.option(
    "--io",
    metavar="SPEC",
    help="Types of inputs and outputs: uint8, int8, float32, or input=uint8,output=float32. "
    "By default float32 for integer, and int8 for integer-only.",
)
@scaling_options
@metadata_options
@preparing_options
@import_option
@json_option
@debug_option
def quantize(
    model: Path,
    output: Path,
    to: str | None,
    target: str | None,
    recipe: Path | None,
    weights: str | None,
    effort: str | None,
    max_drop: float | None,
    save_recipe: Path | None,
    data: Path | None,
    samples: int,
    steps: int | None,
    io: str | None,
    shapes: Shapes,
    dequantize: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Make MODEL, a .tflite, .keras or .h5 file, smaller, and print what became of its ops.

    \b
    --to float16        float16 weights: half the bytes
    --to dynamic-range  int8 weights, activations quantized at run time
    --to weight-only    int8 weights, float arithmetic
    --to integer        int8 weights and activations; an op that can't be
                        int8 stays in float, and the summary says why
    --to integer-only   the same, but such an op is an error

    \b
    --target T          what that target runs in full, or an error that says
                        why it can't; see octavo check

    \b
    Examples:
      octavo quantize model.keras -o small.tflite --to dynamic-range
      octavo quantize model.tflite -o small.tflite --to integer --data train.npz
      octavo quantize model.tflite -o small.tflite --target edgetpu --data train.npz
      octavo quantize model.tflite -o small.tflite --to float16 --shape input=1,224,224,3
      octavo quantize model.tflite -o small.tflite --max-drop 0.5 --data test.npz
    """
    settings = {"io": io, "weights": weights, "effort": effort}
    settings = {name: value for name, value in settings.items() if value is not None}
    place = _place(target, to, recipe, max_drop, settings)
    request = _request(to, recipe, max_drop, settings) if place is None or to or recipe else octavo.Recipe(place.scheme)
    if (max_drop is not None or (request.needs_ranges and not dequantize)) and data is None:
        given = {"--to": to, "--target": target, "--recipe": recipe}
        named = (f"{name} {value}" for name, value in given.items() if value is not None)
        asked = "--max-drop" if max_drop is not None else next(named)
        raise click.UsageError(f"{asked} needs representative samples: give --data FILE.npz")
    check_output(output, force)
    loaded = prepared(load_model(model), shapes, dequantize)
    parts = {} if data is None or max_drop is not None else load_by_signature(data, loaded)
    x, y = (None, None) if data is None or parts else load_samples(data, loaded, "train")
    loaded, x = scaled(described(loaded), x, request.scheme)
    calibration = None if x is None else calibration_of(x, samples, steps)
    if parts:
        calibration = {key: calibration_of(part, samples, steps) for key, part in parts.items()}
    if place is not None:
        from octavo.making import prepare
        from octavo.targets.fit import quantize_for

        asked = request if to or recipe else None
        request, small = quantize_for(prepare(loaded), place, asked, calibration, progress=True)
    elif max_drop is None:
        small = octavo.quantize(loaded, request, calibration, progress=True)
    else:
        found = octavo.search(loaded, calibration, max_drop, evaluation=(x, y), scheme=request.scheme, progress=True)
        request, small = found.recipe, found.model
    if save_recipe is not None:
        octavo.save_recipe(request, save_recipe)
    if as_json:
        small.save(output)
        decisions = [asdict(decision) for decision in small.decisions]
        told = {"file": str(output), "bytes": small.nbytes, "ops": small.summary().counts, "decisions": decisions}
        click.echo(json.dumps({**told, "notes": small.notes}, indent=2))
        return
    show_result(small.summary())
    save_model(small, output)


def _place(
    name: str | None, to: str | None, recipe: Path | None, max_drop: float | None, settings: dict[str, str]
) -> Target | None:
    """The target that --target names; where it alone says what to make, with the settings of the other options."""
    if name is None:
        return None
    from octavo.targets import find

    target = find(name)
    if max_drop is not None:
        raise click.UsageError(f"--max-drop mixes precisions, and --target {name} needs its own: give one of them.")
    if to is not None or recipe is not None or not settings:
        return target
    kind = {"integer": "integer" if target.scheme.fallback else "integer-only", "float16": "float16"}
    sides = target.scheme.io
    defaults = {"io": f"input={sides.input},output={sides.output}"} if target.scheme.kind == "integer" else {}
    return replace(target, scheme=_scheme(kind[target.scheme.kind], **{**defaults, **settings}))


def _request(to: str | None, file: Path | None, max_drop: float | None, settings: dict[str, str]) -> Recipe:
    """The recipe that the options of `quantize` ask for."""
    if max_drop is not None and file is None:
        to = to or "integer"
    if (to is None) == (file is None):
        raise click.UsageError("Give one of --to, --target, --recipe and --max-drop.")
    if file is not None:
        if settings or max_drop is not None:
            raise click.UsageError(f"--recipe {file} says everything: leave out the other options, or edit the file.")
        return octavo.load_recipe(file)
    assert to is not None
    if max_drop is not None and not to.startswith("integer"):
        raise click.UsageError(f"--max-drop chooses among integer precisions: leave out --to {to}.")
    return octavo.Recipe(_scheme(to, **settings))


def _scheme(to: str, io: str | None = None, weights: str | None = None, effort: str | None = None) -> Scheme:
    """The scheme that --to and its settings ask for."""
    from octavo import recipe

    make = getattr(recipe, _SCHEMES[to])
    bits = {} if weights is None else {"weights": int(weights)}
    if make is recipe.integer:
        return make(fallback=to == "integer", io=io, effort=effort or "balanced", **bits)
    if io is not None:
        raise click.UsageError(f"--to {to} keeps inputs and outputs in float: leave out --io")
    if effort is not None:
        raise click.UsageError(f"--effort is for integer: leave it out with --to {to}")
    if bits and make is recipe.float16:
        raise click.UsageError("--to float16 has no integer weights: leave out --weights")
    return make(**bits)
