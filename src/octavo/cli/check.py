"""`octavo check`: will this model run in full on that target?"""

from __future__ import annotations

import json
from pathlib import Path

import click

import octavo
from octavo.cli.models import load_model
from octavo.console import PATH, debug_option, json_option, target_option


@click.command(short_help="Tell whether a model runs on a target, and what stands in the way.")
@click.argument("model", type=PATH)
@target_option
@click.option("--runtime", metavar="2.x", help="Oldest TensorFlow Lite or LiteRT that it has to run on.")
@click.option("--all", "every", is_flag=True, help="A line for every op, not for every reason.")
@json_option
@debug_option
def check(model: Path, target: str | None, runtime: str | None, every: bool, as_json: bool) -> int:
    """Hold MODEL, a .tflite or .keras file, against what a target takes, op by op, without running it.

    Prints one line per reason: how many ops, which, what they have, why that won't run, and what to change. Of a float
    model also what would be left after `octavo quantize --target`.

    \b
    tflm                          TensorFlow Lite for Microcontrollers
    edgetpu                       Coral Edge TPU
    ethosu55, ethosu65, ethosu85  Arm Ethos-U
    xnnpack                       LiteRT's fast kernels on CPUs
    gpu                           LiteRT's GPU delegate
    hexagon                       Qualcomm DSPs

    \b
    Examples:
      octavo check small.tflite --target edgetpu
      octavo check small.tflite --target tflm --all
      octavo check small.tflite --runtime 2.14

    Exit status: 0 it runs in full, 1 it doesn't.
    """
    if target is None and runtime is None:
        raise click.UsageError("Say what to check for: --target, --runtime, or both.")
    found = octavo.check(load_model(model), target, runtime)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.text(every))
    return 0 if found.ok else 1
