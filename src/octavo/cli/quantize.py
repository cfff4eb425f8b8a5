"""`octavo quantize`: one model, one scheme or budget, one smaller file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import octavo
from octavo.cli.device import described, metadata_options, scaled, scaling_options
from octavo.cli.models import calibration as calibration_of
from octavo.cli.models import load_by_signature, load_model, load_samples, save_model
from octavo.cli.schemes import SCHEMES, given, place, request, scheme_options
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


@click.command(short_help="Make a model smaller.")
@click.argument("model", type=PATH)
@output_option
@click.option("--to", type=click.Choice(list(SCHEMES)), help="What to make; see above.")
@target_option
@click.option("--recipe", metavar="FILE", type=PATH, help="Do what a recipe file says, instead of --to.")
@scheme_options
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
    max_drop: float | None,
    save_recipe: Path | None,
    data: Path | None,
    samples: int,
    steps: int | None,
    shapes: Shapes,
    dequantize: bool,
    as_json: bool,
    force: bool,
    **options: Any,
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
    settings = given(options)
    where = place(target, to, recipe, max_drop, settings)
    asked = request(to, recipe, max_drop, settings) if where is None or to or recipe else octavo.Recipe(where.scheme)
    if (max_drop is not None or (asked.needs_ranges and not dequantize)) and data is None:
        said = {"--to": to, "--target": target, "--recipe": recipe}
        named = (f"{name} {value}" for name, value in said.items() if value is not None)
        what = "--max-drop" if max_drop is not None else next(named)
        raise click.UsageError(f"{what} needs representative samples: give --data FILE.npz")
    check_output(output, force)
    loaded = prepared(load_model(model), shapes, dequantize)
    parts = {} if data is None or max_drop is not None else load_by_signature(data, loaded)
    x, y = (None, None) if data is None or parts else load_samples(data, loaded, "train")
    loaded, x = scaled(described(loaded), x, asked.scheme)
    calibration = None if x is None else calibration_of(x, samples, steps)
    if parts:
        calibration = {key: calibration_of(part, samples, steps) for key, part in parts.items()}
    if where is not None:
        from octavo.making import prepare
        from octavo.targets.fit import quantize_for

        own = asked if to or recipe else None
        asked, small = quantize_for(prepare(loaded), where, own, calibration, progress=True)
    elif max_drop is None:
        small = octavo.quantize(loaded, asked, calibration, progress=True)
    else:
        found = octavo.search(loaded, calibration, max_drop, evaluation=(x, y), scheme=asked.scheme, progress=True)
        asked, small = found.recipe, found.model
    if save_recipe is not None:
        octavo.save_recipe(asked, save_recipe)
    if as_json:
        small.save(output)
        decisions = [asdict(decision) for decision in small.decisions]
        told = {"file": str(output), "bytes": small.nbytes, "ops": small.summary().counts, "decisions": decisions}
        click.echo(json.dumps({**told, "notes": small.notes}, indent=2))
        return
    show_result(small.summary())
    save_model(small, output)
