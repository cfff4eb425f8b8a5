"""Options of commands that make a file for a device: image scaling in the input, and metadata.

They don't reach the command as arguments: `scaled` and `described` read them where they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import octavo
from octavo.console import PATH, Command

if TYPE_CHECKING:
    import numpy as np

    from octavo.model import Model
    from octavo.recipe import Scheme

_KEY = "octavo.cli.device"


class Numbers(click.ParamType):
    """127.5, or 123.7,116.3,103.5 for a channel each; NAME=... for one of several inputs."""

    name = "[NAME=]N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, _, numbers = value.rpartition("=")
        try:
            return name, tuple(float(number) for number in numbers.split(","))
        except ValueError:
            self.fail(f"{value!r} is no number and no list of numbers: write 127.5 or 123.7,116.3,103.5", param, ctx)


@dataclass
class _Asked:
    """What the options say; None where one wasn't given."""

    input_mean: tuple[str, tuple[float, ...]] | None = None
    input_std: tuple[str, tuple[float, ...]] | None = None
    labels: Path | None = None
    description: str | None = None


def _option(name: str, what: str, kind: Any, metavar: str) -> Any:
    def note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        setattr(ctx.meta.setdefault(_KEY, _Asked()), str(param.name), value)

    return click.option(name, metavar=metavar, type=kind, expose_value=False, callback=note, help=what)


def scaling_options(command: Command) -> Command:
    """The options --input-mean and --input-std; see `scaled`."""
    mean = "Fold x = (image - mean) / std into the input, so that it takes an image's bytes: the mean, 0 by default."
    std = "The std to --input-mean; 1 by default."
    number = Numbers()
    command = _option("--input-std", std, number, number.name)(command)
    return _option("--input-mean", mean, number, number.name)(command)


def metadata_options(command: Command) -> Command:
    """The options --labels and --description; see `described`."""
    labels = "A text file with the names of the classes, one a line, to pack into the file (TFLite Metadata)."
    command = _option("--description", "What the model does, to write into the file.", str, "TEXT")(command)
    return _option("--labels", labels, PATH, "FILE")(command)


def _asked() -> _Asked:
    return click.get_current_context().meta.get(_KEY) or _Asked()


def scaled(model: Model, x: dict[str, np.ndarray] | None, scheme: Scheme) -> tuple[Model, dict[str, np.ndarray] | None]:
    """The model that takes images as --input-mean and --input-std say, and its samples.

    Args:
      model: a float model.
      x: samples for it.
      scheme: what it will be quantized with.
    """
    asked = _asked()
    if asked.input_mean is None and asked.input_std is None:
        return model, x
    if scheme.kind != "integer" or scheme.io.input == "float32":
        raise click.UsageError("--input-mean and --input-std are for integer inputs: add --io uint8 (or int8).")
    name, mean = asked.input_mean or ("", (0.0,))
    other, std = asked.input_std or (name, (1.0,))
    if name and other and name != other:
        raise click.UsageError(f"--input-mean is for {name!r} and --input-std for {other!r}: name one input.")
    from octavo.scaling import to_images

    made = octavo.fold_scaling(model, mean, std, name or other or None)
    if x is None:
        return made, None
    first = name or other or next(iter(x))
    return made, {key: to_images(array, mean, std) if key == first else array for key, array in x.items()}


def described(model: Model) -> Model:
    """The model with the metadata that --labels and --description ask for."""
    asked = _asked()
    if asked.labels is None and asked.description is None:
        return model
    return octavo.write_metadata(model, labels=asked.labels, description=asked.description)
