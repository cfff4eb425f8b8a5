"""`octavo check`: will this model run in full on that target?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import octavo
from octavo.cli.models import load_model, load_samples, spread
from octavo.console import PATH, data_option, debug_option, json_option, target_option

if TYPE_CHECKING:
    from octavo.measure import TflmRun
    from octavo.model import Model
    from octavo.runtime.vela import VelaReport

_RUN_SAMPLES = 100  # of --data, for --run


@click.command(short_help="Tell whether a model runs on a target, and what stands in the way.")
@click.argument("model", type=PATH)
@target_option
@click.option("--runtime", metavar="2.x", help="Oldest TensorFlow Lite or LiteRT that it has to run on.")
@click.option("--all", "every", is_flag=True, help="A line for every op, not for every reason.")
@click.option("--run", "really", is_flag=True, help="Run it too: tflm and Ethos-U, with octavo[tflm] or octavo[vela].")
@data_option("Samples for --run with tflm; random numbers by default.")
@json_option
@debug_option
def check(
    model: Path, target: str | None, runtime: str | None, every: bool, really: bool, data: Path | None, as_json: bool
) -> int:
    """Hold MODEL, a .tflite or .keras file, against what a target takes, op by op. With --run also let the target's
    own software run or compile it: memory, cycles, and whether it computes the same.

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
      octavo check small.tflite --target ethosu55 --run

    Exit status: 0 it runs in full, 1 it doesn't.
    """
    if target is None and runtime is None:
        raise click.UsageError("Say what to check for: --target, --runtime, or both.")
    if really and target is None:
        raise click.UsageError("--run needs a --target.")
    if data is not None and not really:
        raise click.UsageError("--data is for --run.")
    loaded = load_model(model)
    found = octavo.check(loaded, target, runtime)
    if not as_json:
        click.echo(found.text(every))
    run = None if target is None or not really else _run(loaded, target, data)
    if as_json:
        told = found.as_dict()
        click.echo(json.dumps(told if run is None else {**told, "run": run.as_dict()}, indent=2))
    elif run is not None:
        click.echo(f"\n{run}")
    return 0 if found.ok and not getattr(run, "on_cpu", ()) else 1


def _run(model: Model, target: str, data: Path | None) -> TflmRun | VelaReport:
    x = None if data is None else spread(load_samples(data, model, "test")[0], _RUN_SAMPLES)
    return octavo.measure(model, target, x, progress=True)
