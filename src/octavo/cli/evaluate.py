"""`octavo evaluate`: accuracy on the real runtime."""

from __future__ import annotations

import json
from pathlib import Path

import click

import octavo
from octavo.cli.models import load_model, load_samples
from octavo.console import PATH, data_option, debug_option, import_option, json_option
from octavo.errors import DataError


@click.command(short_help="Measure a model's accuracy on LiteRT.")
@click.argument("model", type=PATH)
@data_option("Samples and labels.", required=True)
@click.option(
    "--kernels",
    type=click.Choice(["xnnpack", "builtin", "reference", "tflm"]),
    default="xnnpack",
    show_default=True,
    help="LiteRT's kernels: the CPU's default, the optimized ones without XNNPACK, or the plain ones; or those of "
    "TensorFlow Lite for Microcontrollers (needs octavo[tflm]).",
)
@click.option("--threads", metavar="N", type=click.IntRange(1), help="Threads inside one run of the model.")
@import_option
@json_option
@debug_option
def evaluate(model: Path, data: Path, kernels: str, threads: int | None, as_json: bool) -> None:
    """Run MODEL, a .tflite, .keras or .h5 file, on every sample with LiteRT and print its top-1 accuracy.

    \b
    Example:
      octavo evaluate small.tflite --data test.npz
    """
    loaded = load_model(model)
    x, y = load_samples(data, loaded, "test")
    if y is None:
        raise DataError(f"{data} has no labels: add an array y with the class of each sample")
    result = octavo.evaluate(loaded, x, y, kernels=kernels, threads=threads, progress=True)
    if as_json:
        told = {
            "accuracy": result.accuracy,
            "samples": result.count,
            "metric": result.metric,
            "seconds": result.seconds,
        }
        click.echo(json.dumps(told))
    else:
        click.echo(f"accuracy {result.accuracy:.2%} over {result.count:,} samples")
