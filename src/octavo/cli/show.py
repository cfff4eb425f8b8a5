"""`octavo show`: a model's graph as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import octavo
from octavo.cli.models import load_model
from octavo.console import PATH, debug_option, import_option, json_option, one_line
from octavo.errors import ModelFileError
from octavo.report.terminal import show as show_result

if TYPE_CHECKING:
    from octavo.model import Model


@click.command(short_help="Print a model's graph as a table.")
@click.argument("model", type=PATH)
@import_option
@json_option
@debug_option
def show(model: Path, as_json: bool) -> None:
    """Print the graph of MODEL, a .tflite, .keras or .h5 file: each op with its name, shapes, types and scales.
    Before it stands what the file says of itself (TFLite Metadata).

    \b
    Example:
      octavo show small.tflite
    """
    loaded = load_model(model)
    table = loaded.describe()
    if as_json:
        titles = [column.title for column in table.columns]
        click.echo(json.dumps([dict(zip(titles, row, strict=True)) for row in table.rows], indent=2))
    else:
        click.echo(_said(loaded), nl=False)
        show_result(table)


def _said(model: Model) -> str:
    """What the file says of itself, with an empty line behind it; damaged metadata is no reason to show nothing."""
    try:
        said = octavo.read_metadata(model)
    except ModelFileError as error:
        return f"{one_line(error)}\n\n"
    return "" if said is None else f"{said}\n\n"
