"""What every command shares: options, how it refuses, and how it fails. The commands themselves are in `cli`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from octavo.errors import ModelFileError, OctavoError

if TYPE_CHECKING:
    from octavo.model import Model

# What --shape collects: pairs of an input's name and its sizes.
Shapes = Sequence[tuple[str, tuple[int, ...]]]

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Run:
    """What `run` must know of the arguments when a command fails, and what is the same for all models of a command.

    Attributes:
      debug: --debug.
      imports: --import.
      pixels: --pixels.
    """

    debug: bool = False
    pixels: tuple[float, float] | None = None
    imports: tuple[str, ...] = ()


class Commands(click.Group):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Batch(click.ParamType):
    """A positive number, or "none" for a dynamic batch."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value).lower()
        if text == "none":
            return None
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{value!r} is neither a number above 0 nor 'none'.", param, ctx)
        return int(text)


class Pixels(click.ParamType):
    """Two numbers: LOW,HIGH."""

    name = "LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no pair of numbers: write 0,1", param, ctx)
        return low, high


# Whether a path exists is left to the library: its messages say more, and a missing file is no mistake of usage.
PATH = click.Path(path_type=Path)


def debug_option(command: Command) -> Command:
    """The flag --debug, which may stand before or after a command's name."""

    def note(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        run = ctx.ensure_object(Run)
        run.debug = run.debug or value

    what = "Show the traceback of an error."
    return click.option("--debug", is_flag=True, expose_value=False, is_eager=True, callback=note, help=what)(command)


def import_option(command: Command) -> Command:
    """The option --import MODULE, which `cli.models` reads."""

    def note(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
        ctx.ensure_object(Run).imports = value

    what = "A module that defines layers of your own, for a .keras or .h5 file. Repeatable."
    return click.option(
        "--import", "imports", metavar="MODULE", multiple=True, expose_value=False, callback=note, help=what
    )(command)


def data_option(purpose: str, required: bool = False) -> Callable[[Command], Command]:
    """The options --data, and --pixels, which `cli.models` reads."""

    def note(ctx: click.Context, _: click.Parameter, value: tuple[float, float] | None) -> None:
        ctx.ensure_object(Run).pixels = value

    what = (
        f"{purpose} An .npz file with arrays x and y; several inputs each by its name. Or many files, read on demand: "
        "a folder, or a pattern such as 'train-*.npz'; of images, in a folder for each class, too."
    )
    scale = "What 0 and 255 of image files become: 0,1 or -1,1 or 0,255, as in training."
    pixels = click.option("--pixels", metavar="LOW,HIGH", type=Pixels(), expose_value=False, callback=note, help=scale)
    data = click.option("--data", metavar="FILE.npz", type=PATH, required=required, help=what)
    return lambda command: data(pixels(command))


def samples_option(command: Command) -> Command:
    """The option --samples."""
    what = "Calibrate with N samples, spread evenly over --data."
    number = click.IntRange(1)
    return click.option("--samples", metavar="N", type=number, default=100, show_default=True, help=what)(command)


def output_option(command: Command) -> Command:
    """The options --output and --force of a command that writes one file."""
    what = "The .tflite file to write."
    return click.option("-o", "--output", metavar="OUT", type=PATH, required=True, help=what)(force_option(command))


def force_option(command: Command) -> Command:
    """The flag --force."""
    return click.option("--force", is_flag=True, help="Overwrite what exists.")(command)


def target_option(command: Command) -> Command:
    """The option --target."""
    what = "Where it has to run in full: tflm, edgetpu, ethosu55, ethosu65, ethosu85, xnnpack, gpu or hexagon."
    return click.option("--target", metavar="T", help=what)(command)


def json_option(command: Command) -> Command:
    """The flag --json."""
    what = "Print the result as JSON, for programs."
    return click.option("--json", "as_json", is_flag=True, help=what)(command)


class Shape(click.ParamType):
    """NAME=1,224,224,3, or 1,224,224,3 for a model with one input: a pair of name ("" if left out) and sizes."""

    name = "NAME=N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, _, sizes = value.rpartition("=")
        try:
            return name, tuple(int(size) for size in sizes.split(","))
        except ValueError:
            self.fail(f"{value!r} is no shape: write input=1,224,224,3", param, ctx)


def preparing_options(command: Command) -> Command:
    """--shape and --dequantize, passed on as `shapes` and `dequantize`; see `prepared`."""
    shape = click.option(
        "--shape",
        "shapes",
        metavar=Shape.name,
        type=Shape(),
        multiple=True,
        help="Sizes for an input with dynamic dimensions; NAME= may be left out where there is one input. Repeatable.",
    )
    what = "Bring a model that is quantized already back to float first."
    return shape(click.option("--dequantize", is_flag=True, help=what)(command))


def prepared(model: Model, shapes: Shapes, dequantize: bool) -> Model:
    """The model as --shape and --dequantize want it."""
    import octavo

    model = octavo.dequantize(model) if dequantize else model
    named = dict(shapes)
    return octavo.fix_shapes(model, named.get("", named)) if named else model


def check_output(path: Path, force: bool) -> None:
    """Find that a file can't be written before the work, not after it.

    Raises:
      ModelFileError: it exists and `force` is false, it is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise ModelFileError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise ModelFileError(f"{path} exists: give another name, or --force to overwrite it")


def check_folder(path: Path, force: bool) -> None:
    """The same for a folder of several files, which may be new or empty."""
    if path.exists() and not path.is_dir():
        raise ModelFileError(f"{path} is a file: name a folder")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise ModelFileError(f"{path} isn't empty: name another folder, or --force to overwrite files in it")


def run(commands: click.Group, arguments: Sequence[str] | None) -> int:
    """Run a command line, printing what went wrong on one line.

    Args:
      commands: the command line.
      arguments: what follows the program's name; None takes them from `sys.argv`.

    Returns:
      exit status: 0 done, 1 the input or the request was wrong, 2 usage, 130 interrupted.
    """
    state = Run()
    try:
        status = commands.main(args=arguments, prog_name="octavo", obj=state, standalone_mode=False)
        sys.stdout.flush()  # here, where a closed pipe is caught
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        if state.debug:
            traceback.print_exc()
        return _report(error)


def one_line(error: BaseException) -> str:
    """The message of an error, on one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        message = f"out of memory: {error}".rstrip(": ")
    elif not isinstance(error, OctavoError):
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where; please report it)"
    return " ".join(message.split())


def _report(error: BaseException) -> int:
    """Tell the user what went wrong; returns the exit status."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("octavo: interrupted", err=True)
        return 130
    if isinstance(error, BrokenPipeError):  # the reader (`| head`) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return 1
    click.echo(f"octavo: error: {one_line(error)}", err=True)
    return 1
