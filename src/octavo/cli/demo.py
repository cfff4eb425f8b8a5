"""`octavo demo`: the first story, from training to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from octavo.console import PATH, debug_option, json_option, one_line
from octavo.errors import MissingDependencyError
from octavo.report.terminal import show as show_result

PAGE = "report.html"


@click.command(short_help="Train on MNIST, quantize each way, and compare.")
@click.option(
    "--out",
    metavar="DIR",
    type=PATH,
    default=Path("octavo-demo"),
    show_default=True,
    help="Folder for the files; those of an earlier run are replaced.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the training: on one machine the same seed gives the same files.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=PATH,
    help="Folder that holds MNIST. By default the repository's copy; without one, Keras downloads it.",
)
@json_option
@debug_option
def demo(out: Path, seed: int, data: Path | None, as_json: bool) -> None:
    """Train a small model on MNIST, quantize it each way, and compare the files on the 10,000 test images.

    Writes the .tflite files, results.json and, with octavo[report], report.html. Takes a minute or so on two cores, and
    needs octavo[keras].

    \b
    Example:
      octavo demo --out octavo-demo --seed 0
    """
    from octavo import demo as story

    comparison = story.run(out, seed, data, True)
    record: dict[str, Any] = {"dataset": "mnist", "seed": seed, "command": f"octavo demo --seed {seed}"}
    try:
        written = (
            f"The .tflite files and results.json are in {out}, and the page {comparison.to_html(out / PAGE, **record)}"
        )
    except MissingDependencyError as error:
        (out / PAGE).unlink(missing_ok=True)  # of an earlier run
        written = f"The .tflite files and results.json are in {out}; {one_line(error)}"
    if as_json:
        click.echo(json.dumps(comparison.as_dict(**record), indent=2, allow_nan=False))
    else:
        show_result(comparison)
        click.echo(written)
