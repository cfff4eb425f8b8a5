"""`octavo show`: a model's graph as a table."""

from __future__ import annotations

import json
from pathlib import Path

import click

from octavo.cli.models import load_model
from octavo.console import PATH, debug_option, import_option, json_option
from octavo.report.terminal import show as show_result


@click.command(short_help="Print a model's graph as a table.")
@click.argument("model", type=PATH)
@import_option
@json_option
@debug_option
def show(model: Path, as_json: bool) -> None:
    """Print the graph of MODEL, a .tflite, .keras or .h5 file: each op with its name, shapes, types and scales.

    \b
    Example:
      octavo show small.tflite
    """
    table = load_model(model).describe()
    if as_json:
        titles = [column.title for column in table.columns]
        click.echo(json.dumps([dict(zip(titles, row, strict=True)) for row in table.rows], indent=2))
    else:
        show_result(table)
