"""`octavo compare`: every variant of a model, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import octavo
from octavo.cli.models import is_keras, load_keras, load_model, load_samples, spread
from octavo.console import (
    PATH,
    check_folder,
    check_output,
    data_option,
    debug_option,
    force_option,
    import_option,
    json_option,
    one_line,
    samples_option,
)
from octavo.errors import NotIntegerError
from octavo.report.terminal import show as show_result

if TYPE_CHECKING:
    import numpy as np

    from octavo.model import Model
    from octavo.runtime.parity import Parity

_PARITY_SAMPLES = 50  # each is run alone, on the reference kernels


@click.command(short_help="Make every variant of a model and print the table.")
@click.argument("model", type=PATH)
@data_option("Samples and labels; some of the samples also calibrate.", required=True)
@click.option("-o", "--out", metavar="DIR", type=PATH, help="Folder for the .tflite files and results.json.")
@click.option("--html", metavar="FILE", type=PATH, help="Write a page that shows what each variant costs, and where.")
@click.option("--metric", type=click.Choice(["top1", "top5", "mean_absolute_error"]), default="top1", show_default=True)
@click.option(
    "--io",
    metavar="SPEC",
    default="uint8",
    show_default=True,
    help="Types of inputs and outputs of the integer-only variant: uint8, int8, or input=uint8,output=int8.",
)
@click.option(
    "--all-kernels",
    is_flag=True,
    help="Also run the integer-only file on LiteRT's builtin and reference kernels, and on TFLM's if it is installed.",
)
@samples_option
@import_option
@json_option
@force_option
@debug_option
def compare(
    model: Path,
    data: Path,
    out: Path | None,
    html: Path | None,
    metric: str,
    io: str,
    all_kernels: bool,
    samples: int,
    as_json: bool,
    force: bool,
) -> None:
    """Make every variant of MODEL, a .tflite, .keras or .h5 file, evaluate each on --data, and print the table.

    Without labels in the file, the variants are compared with the float model only. Variants that are in DIR
    already, made from the same model, samples and versions, are not made again.

    \b
    Example:
      octavo compare model.keras --data test.npz -o compared --html report.html
    """
    if html is not None:
        from octavo.report.render import check_installed

        check_output(html, force)
        check_installed()
    loaded = load_model(model)
    x, y = load_samples(data, loaded, "test")
    made, refused = _variants(loaded, spread(x, samples), io, out, force)
    comparison = octavo.compare(made, x, y, metric, progress=True)
    command = click.get_current_context().command_path
    record: dict[str, Any] = {
        "dataset": data.stem,
        "command": f"{command} {model} --data {data} --io {io} --samples {samples}",
    }
    kernels = _kernels(made, x, y, metric) if all_kernels else {}
    if html is not None:
        comparison.to_html(html, f"{model.name} on {data.name}", kernels, **record)
    if kernels:
        record["kernel_parity"] = {name: found.as_dict() for name, found in kernels.items()}
    if out is not None:
        comparison.to_json(out / "results.json", **record)
    if as_json:
        click.echo(json.dumps(comparison.as_dict(**record), indent=2, allow_nan=False))
    else:
        show_result(comparison)
        for found in kernels.values():
            show_result(found)
        if (certificate := _parity(model, loaded, made.get("integer_only"), x)) is not None:
            show_result(certificate)
        for what, path in (("The .tflite files and results.json are", out), ("The page is", html)):
            if path is not None:
                click.echo(f"{what} in {path}")
    if refused is not None:
        click.echo(f"octavo: integer_only is missing: {one_line(refused)}", err=True)


def _kernels(made: dict[str, Model], x: dict[str, np.ndarray], y: Any, metric: str) -> dict[str, Parity]:
    """The integer-only file on every set of kernels that is here."""
    from octavo.runtime.parity import parity

    name = "integer_only"
    return {name: parity(made[name], x, y, metric, progress=True)} if name in made else {}


def _variants(
    loaded: Model, calibration: dict[str, np.ndarray], io: str, out: Path | None, force: bool
) -> tuple[dict[str, Model], NotIntegerError | None]:
    """Make the variants that aren't in `out` yet; also why integer-only is missing, if it is."""
    from octavo.api import variants
    from octavo.resume import Folder

    made: dict[str, Model] = {}
    try:
        if out is None:
            made.update(variants(loaded, calibration, io=io, progress=True))
            return made, None
        folder = Folder(out, loaded, calibration, io)
        check_folder(out, force or folder.is_same_work)
        for name, variant, was_there in folder.make(progress=True):
            made[name] = variant
            if was_there:
                click.echo(f"octavo: {name} is in {out} already, made from the same inputs", err=True)
    except NotIntegerError as error:  # integer-only comes last, and the others are worth their table
        if out is not None:
            (out / "integer_only.tflite").unlink(missing_ok=True)  # of an earlier run
        return made, error
    except KeyboardInterrupt:
        if out is not None:
            listed = ", ".join(made) or "nothing"
            click.echo(f"octavo: finished in {out}: {listed}; the same command goes on from there", err=True)
        raise
    return made, None


def _parity(path: Path, loaded: Model, small: Any, x: dict[str, np.ndarray]) -> Any:
    """For a model from quantization-aware training: whether the file computes what the model does, layer by layer."""
    from octavo.graph.queries import recorded_ranges

    if small is None or not is_keras(path) or not recorded_ranges(loaded.program):
        return None
    return octavo.qat.parity(load_keras(path), small, {name: array[:_PARITY_SAMPLES] for name, array in x.items()})
