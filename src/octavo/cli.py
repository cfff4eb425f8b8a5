"""The command line: reads arguments, calls the library, prints. No decision about models is made here.

Libraries that take long to import are imported inside the commands, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import octavo
from octavo.console import (
    PATH,
    Batch,
    Commands,
    check_folder,
    check_output,
    data_option,
    debug_option,
    force_option,
    json_option,
    one_line,
    output_option,
    prepared,
    preparing_options,
    run,
    samples_option,
)
from octavo.errors import DataError, MissingDependencyError, NotIntegerError
from octavo.report.terminal import show as show_result

if TYPE_CHECKING:
    import numpy as np

    from octavo.model import Model
    from octavo.recipe import Recipe, Scheme
    from octavo.runtime.parity import Parity

    Shapes = Sequence[tuple[str, tuple[int, ...]]]

PAGE = "report.html"

# --to and the function of octavo.recipe that makes its scheme.
_PARITY_SAMPLES = 50  # each is run alone, on the reference kernels
_SCHEMES = {
    "float16": "float16",
    "dynamic-range": "dynamic_range",
    "weight-only": "weight_only",
    "integer": "integer",
    "integer-only": "integer",
}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(octavo.__version__, prog_name="octavo")
@debug_option
def cli() -> None:
    """Quantize models to small integer .tflite files, and see what it cost.

    \b
    Start with
      octavo demo                train, quantize and compare on MNIST
      octavo COMMAND --help      what a command does, with an example

    Exit status: 0 done, 1 the input or the request was wrong, 2 usage.
    """


@cli.command(short_help="Train on MNIST, quantize each way, and compare.")
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


@cli.command(short_help="Turn a .keras file into a float .tflite file.")
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
@preparing_options
@json_option
@debug_option
def convert(
    source: Path, output: Path, batch: int | None, shapes: Shapes, dequantize: bool, as_json: bool, force: bool
) -> None:
    """Turn SOURCE, a .keras or .tflite file, into a float .tflite file.

    \b
    Example:
      octavo convert model.keras -o model.tflite
    """
    check_output(output, force)
    model = prepared(octavo.convert(source, batch=batch), shapes, dequantize)
    if as_json:
        model.save(output)
        click.echo(json.dumps({"file": str(output), "bytes": model.nbytes, "ops": len(model.describe().rows)}))
    else:
        _save(model, output)


@cli.command(short_help="Make a model smaller.")
@click.argument("model", type=PATH)
@output_option
@click.option("--to", type=click.Choice(list(_SCHEMES)), help="What to make; see above.")
@click.option("--recipe", metavar="FILE", type=PATH, help="Do what a recipe file says, instead of --to.")
@click.option("--weights", type=click.Choice(["8", "4"]), help="Bits of the weights; 8 by default.")
@click.option("--effort", type=click.Choice(["fast", "balanced", "best"]), help="Balanced by default.")
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=click.FloatRange(0),
    help="Search for the smallest integer file whose accuracy on --data is at most this many percentage points lower.",
)
@click.option("--save-recipe", metavar="FILE", type=PATH, help="Write down what was done, to be edited and used again.")
@data_option("Representative samples, for integer and integer-only; with labels for --max-drop.")
@samples_option
@click.option(
    "--io",
    metavar="SPEC",
    help="Types of inputs and outputs: uint8, int8, float32, or input=uint8,output=float32. "
    "By default float32 for integer, and int8 for integer-only.",
)
@preparing_options
@json_option
@debug_option
def quantize(
    model: Path,
    output: Path,
    to: str | None,
    recipe: Path | None,
    weights: str | None,
    effort: str | None,
    max_drop: float | None,
    save_recipe: Path | None,
    data: Path | None,
    samples: int,
    io: str | None,
    shapes: Shapes,
    dequantize: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Make MODEL, a .tflite or .keras file, smaller, and print what became of its ops.

    \b
    --to float16        float16 weights: half the bytes
    --to dynamic-range  int8 weights, activations quantized at run time
    --to weight-only    int8 weights, float arithmetic
    --to integer        int8 weights and activations; an op that can't be
                        int8 stays in float, and the summary says why
    --to integer-only   the same, but such an op is an error

    \b
    Examples:
      octavo quantize model.keras -o small.tflite --to dynamic-range
      octavo quantize model.tflite -o small.tflite --to integer --data train.npz
      octavo quantize model.tflite -o small.tflite --to float16 --shape input=1,224,224,3
      octavo quantize model.tflite -o small.tflite --max-drop 0.5 --data test.npz
    """
    settings = {"io": io, "weights": weights, "effort": effort}
    request = _request(to, recipe, max_drop, {name: value for name, value in settings.items() if value is not None})
    if (max_drop is not None or (request.needs_ranges and not dequantize)) and data is None:
        asked = "--max-drop" if max_drop is not None else f"--to {to}" if to else f"--recipe {recipe}"
        raise click.UsageError(f"{asked} needs representative samples: give --data FILE.npz")
    check_output(output, force)
    loaded = prepared(_load(model), shapes, dequantize)
    x, y = (None, None) if data is None else _samples(data, loaded, "train")
    calibration = None if x is None else _spread(x, samples)
    if max_drop is None:
        small = octavo.quantize(loaded, request, calibration, progress=True)
    else:
        found = octavo.search(loaded, calibration, max_drop, evaluation=(x, y), scheme=request.scheme, progress=True)
        request, small = found.recipe, found.model
    if save_recipe is not None:
        octavo.save_recipe(request, save_recipe)
    if as_json:
        small.save(output)
        decisions = [asdict(decision) for decision in small.decisions]
        told = {"file": str(output), "bytes": small.nbytes, "ops": small.summary().counts, "decisions": decisions}
        click.echo(json.dumps({**told, "notes": small.notes}, indent=2))
        return
    show_result(small.summary())
    _save(small, output)


@cli.command(short_help="Measure a model's accuracy on LiteRT.")
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
@json_option
@debug_option
def evaluate(model: Path, data: Path, kernels: str, threads: int | None, as_json: bool) -> None:
    """Run MODEL, a .tflite or .keras file, on every sample with LiteRT and print its top-1 accuracy.

    \b
    Example:
      octavo evaluate small.tflite --data test.npz
    """
    loaded = _load(model)
    x, y = _samples(data, loaded, "test")
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


@cli.command(short_help="Make every variant of a model and print the table.")
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
    """Make every variant of MODEL, a .tflite or .keras file, evaluate each on --data, and print the table.

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
    loaded = _load(model)
    x, y = _samples(data, loaded, "test")
    made, refused = _variants(loaded, _spread(x, samples), io, out, force)
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


@cli.command(short_help="Find the layers where a small model loses.")
@click.argument("float_model", metavar="FLOAT", type=PATH)
@click.argument("small", type=PATH)
@data_option("Samples.", required=True)
@click.option(
    "--limit", metavar="N", type=click.IntRange(1), default=64, show_default=True, help="Use N samples at most."
)
@json_option
@debug_option
def inspect(float_model: Path, small: Path, data: Path, limit: int, as_json: bool) -> None:
    """Print for each layer of SMALL the error that it adds itself and the error that it inherits, the worst first.

    FLOAT is the .tflite or .keras file that SMALL was made from.

    \b
    Example:
      octavo inspect model.tflite small.tflite --data test.npz
    """
    loaded = _load(float_model)
    x, _ = _samples(data, loaded, "test")
    found = octavo.inspect(loaded, small, _spread(x, limit), limit=limit, progress=True)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        show_result(found)


@cli.command(short_help="Print a model's graph as a table.")
@click.argument("model", type=PATH)
@json_option
@debug_option
def show(model: Path, as_json: bool) -> None:
    """Print the graph of MODEL, a .tflite or .keras file: each op with its name, shapes, types and scales.

    \b
    Example:
      octavo show small.tflite
    """
    table = _load(model).describe()
    if as_json:
        titles = [column.title for column in table.columns]
        click.echo(json.dumps([dict(zip(titles, row, strict=True)) for row in table.rows], indent=2))
    else:
        show_result(table)


def _request(to: str | None, file: Path | None, max_drop: float | None, settings: dict[str, str]) -> Recipe:
    """The recipe that the options of `quantize` ask for."""
    if max_drop is not None and file is None:
        to = to or "integer"
    if (to is None) == (file is None):
        raise click.UsageError("Give one of --to, --recipe and --max-drop.")
    if file is not None:
        if settings or max_drop is not None:
            raise click.UsageError(f"--recipe {file} says everything: leave out the other options, or edit the file.")
        return octavo.load_recipe(file)
    assert to is not None
    if max_drop is not None and not to.startswith("integer"):
        raise click.UsageError(f"--max-drop chooses among integer precisions: leave out --to {to}.")
    return octavo.Recipe(_scheme(to, **settings))


def _scheme(to: str, io: str | None = None, weights: str | None = None, effort: str | None = None) -> Scheme:
    """The scheme that --to and its settings ask for."""
    from octavo import recipe

    make = getattr(recipe, _SCHEMES[to])
    bits = {} if weights is None else {"weights": int(weights)}
    if make is recipe.integer:
        return make(fallback=to == "integer", io=io, effort=effort or "balanced", **bits)
    if io is not None:
        raise click.UsageError(f"--to {to} keeps inputs and outputs in float: leave out --io")
    if effort is not None:
        raise click.UsageError(f"--effort is for integer: leave it out with --to {to}")
    if bits and make is recipe.float16:
        raise click.UsageError("--to float16 has no integer weights: leave out --weights")
    return make(**bits)


def _load(path: Path) -> Model:
    return octavo.convert(path) if path.suffix == ".keras" else octavo.load(path)


def _samples(path: Path, model: Model, split: Literal["test", "train"]) -> tuple[dict[str, np.ndarray], Any]:
    """Samples by input name, and the labels or None, from an .npz file."""
    from octavo.datasets.npz import load_npz_inputs

    return load_npz_inputs(path, [port.name for port in octavo.Runner(model).inputs], split)


def _spread(x: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` samples, evenly spread: the first ones of a file that is sorted by class would all be alike."""
    import numpy as np

    def pick(array: np.ndarray) -> np.ndarray:
        return array if len(array) <= count else array[np.arange(count) * len(array) // count]

    return {name: pick(array) for name, array in x.items()}


def _parity(path: Path, loaded: Model, small: Any, x: dict[str, np.ndarray]) -> Any:
    """For a model from quantization-aware training: whether the file computes what the model does, layer by layer."""
    from octavo.graph.queries import recorded_ranges

    if small is None or path.suffix != ".keras" or not recorded_ranges(loaded.program):
        return None
    from octavo.frontends.keras import load

    return octavo.qat.parity(load(path), small, {name: array[:_PARITY_SAMPLES] for name, array in x.items()})


def _save(model: Model, path: Path) -> None:
    model.save(path)
    click.echo(f"{path}: {model.nbytes:,} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `octavo`; see `octavo.console.run`."""
    return run(cli, arguments)
