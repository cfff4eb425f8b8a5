"""`octavo inspect`: where a small model loses."""

from __future__ import annotations

import json
from pathlib import Path

import click

import octavo
from octavo.cli.models import load_model, load_samples, spread
from octavo.console import PATH, data_option, debug_option, import_option, json_option
from octavo.report.terminal import show as show_result


@click.command(short_help="Find the layers where a small model loses.")
@click.argument("float_model", metavar="FLOAT", type=PATH)
@click.argument("small", type=PATH)
@data_option("Samples.", required=True)
@click.option(
    "--limit", metavar="N", type=click.IntRange(1), default=64, show_default=True, help="Use N samples at most."
)
@import_option
@json_option
@debug_option
def inspect(float_model: Path, small: Path, data: Path, limit: int, as_json: bool) -> None:
    """Print for each layer of SMALL the error that it adds itself and the error that it inherits, the worst first.

    FLOAT is the .tflite, .keras or .h5 file that SMALL was made from.

    \b
    Example:
      octavo inspect model.tflite small.tflite --data test.npz
    """
    loaded = load_model(float_model)
    x, _ = load_samples(data, loaded, "test")
    found = octavo.inspect(loaded, small, spread(x, limit), limit=limit, progress=True)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        show_result(found)
