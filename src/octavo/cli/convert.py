"""`octavo convert`: a float `.tflite` file from a model of another kind."""

from __future__ import annotations

import json
from pathlib import Path

import click

import octavo
from octavo.cli.device import described, metadata_options
from octavo.cli.models import imports, save_model
from octavo.console import (
    PATH,
    Batch,
    Shapes,
    check_output,
    debug_option,
    import_option,
    json_option,
    output_option,
    prepared,
    preparing_options,
)


@click.command(short_help="Turn a .keras, .h5, .pt2 or .onnx file into a float .tflite file.")
@click.argument("source", type=PATH)
@output_option
@click.option(
    "--batch",
    metavar="N|none",
    type=Batch(),
    default=1,
    show_default=True,
    help="Batch size in the file; 'none' keeps it dynamic where the model allows.",
)
@click.option(
    "--channels-last", is_flag=True, help="From PyTorch: images as (batch, height, width, channels), channels last."
)
@metadata_options
@preparing_options
@import_option
@json_option
@debug_option
def convert(
    source: Path,
    output: Path,
    batch: int | None,
    channels_last: bool,
    shapes: Shapes,
    dequantize: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Turn SOURCE, a .keras, .h5, .pt2, .onnx or .tflite file, into a float .tflite file.

    \b
    Examples:
      octavo convert model.keras -o model.tflite
      octavo convert model.keras -o model.tflite --import my_layers
      octavo convert model.pt2 -o model.tflite --channels-last
    """
    check_output(output, force)
    model = octavo.convert(source, batch=batch, imports=imports(source), channels_last=channels_last)
    model = prepared(model, shapes, dequantize)
    model = described(model)
    if as_json:
        model.save(output)
        click.echo(json.dumps({"file": str(output), "bytes": model.nbytes, "ops": len(model.describe().rows)}))
    else:
        save_model(model, output)
