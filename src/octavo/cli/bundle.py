"""`octavo bundle`: a model as C++ for a microcontroller."""

from __future__ import annotations

import json
from pathlib import Path

import click

import octavo
from octavo.cli.device import scaled, scaling_options
from octavo.cli.models import load_model, load_samples, spread
from octavo.console import (
    PATH,
    Shapes,
    data_option,
    debug_option,
    force_option,
    json_option,
    prepared,
    preparing_options,
    samples_option,
)


@click.command(short_help="Write a model as C++ for a microcontroller.")
@click.argument("model", type=PATH)
@click.option("-o", "--output", metavar="DIR", type=PATH, required=True, help="The folder to write.")
@data_option("Representative samples: they quantize a float model, and the first is the golden input.")
@samples_option
@click.option(
    "--io", metavar="SPEC", help="Types of inputs and outputs of a float model: int8 by default, as in 'quantize'."
)
@click.option(
    "--effort", type=click.Choice(["fast", "balanced", "best"]), help="As in 'quantize'; balanced by default."
)
@click.option("--name", metavar="NAME", help="C++ namespace; by default the folder's name.")
@scaling_options
@preparing_options
@force_option
@json_option
@debug_option
def bundle(
    model: Path,
    output: Path,
    data: Path | None,
    samples: int,
    io: str | None,
    effort: str | None,
    name: str | None,
    shapes: Shapes,
    dequantize: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Write MODEL as C++ for TensorFlow Lite for Microcontrollers: the model as an array, a resolver for exactly its
    ops, the measured arena, and a main that checks the device against an output computed here.

    A float MODEL is quantized to integers first, with --data. A quantized one is taken as it is. Needs octavo[tflm].

    \b
    Example:
      octavo bundle model.tflite -o firmware/model --data train.npz
    """
    loaded = prepared(load_model(model), shapes, dequantize)
    recipe = octavo.integer(fallback=False, io=io, effort=effort or "balanced")
    loaded, x = scaled(loaded, None if data is None else load_samples(data, loaded, "train")[0], recipe)
    x = None if x is None else spread(x, samples)
    asked = io is not None or effort is not None
    made = octavo.bundle(loaded, output, x, recipe=recipe if asked else None, name=name, overwrite=force, progress=True)
    click.echo(json.dumps(made.as_dict(), indent=2) if as_json else str(made))
