"""What to make of a model, as options say it: a scheme with its settings, a target, a recipe file or a budget."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import octavo

if TYPE_CHECKING:
    from octavo.recipe import Recipe, Scheme
    from octavo.targets.rules import Target

Command = TypeVar("Command", bound=Callable[..., Any])

# --to, the function of octavo.recipe that makes its scheme, and what is settled by the name.
SCHEMES: dict[str, tuple[str, dict[str, bool]]] = {
    "float16": ("float16", {}),
    "dynamic-range": ("dynamic_range", {}),
    "weight-only": ("weight_only", {}),
    "integer": ("integer", {"fallback": True}),
    "integer-only": ("integer", {"fallback": False}),
}
# Why a scheme doesn't take a setting.
_WHY = {
    "io": "its inputs and outputs are float",
    "activations": "its activations are float",
    "per_channel": "its weights have one scale per channel",
    "effort": "effort is for integer",
    "weights": "its weights are no integers",
    "block": "LiteRT has kernels for blocks with --to dynamic-range only",
}


def _bits(name: str, *widths: str, of: str) -> Callable[[Command], Command]:
    def number(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
        return None if value is None else int(value)

    return click.option(f"--{name}", type=click.Choice(widths), callback=number, help=of)


def scheme_options(command: Command) -> Command:
    """--io and the other settings of schemes, each None unless it was given."""
    options = (
        click.option(
            "--io",
            metavar="SPEC",
            help="Types of inputs and outputs: uint8, int8, float32, or input=uint8,output=float32. "
            "By default float32 for integer, and int8 for integer-only.",
        ),
        _bits("weights", "8", "4", of="Bits of the weights; 8 by default."),
        _bits("activations", "8", "16", of="Bits of the activations; 8 by default."),
        _bits(
            "block",
            "32",
            "64",
            "128",
            "256",
            of="With --to dynamic-range and --weights 4: so many input features share a scale.",
        ),
        click.option("--per-tensor", "per_channel", flag_value=False, default=None, help="One scale for all channels."),
        click.option("--effort", type=click.Choice(["fast", "balanced", "best"]), help="Balanced by default."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def scheme(to: str, **settings: Any) -> Scheme:
    """The scheme that --to and its settings ask for.

    Raises:
      click.UsageError: a setting that the scheme hasn't got.
    """
    from octavo import recipe

    name, settled = SCHEMES[to]
    make = getattr(recipe, name)
    for setting in settings:
        if setting not in inspect.signature(make).parameters:
            flag = "--per-tensor" if setting == "per_channel" else f"--{setting}"
            raise click.UsageError(f"leave out {flag} with --to {to}: {_WHY[setting]}.")
    return make(**settled, **settings)


def request(to: str | None, file: Path | None, max_drop: float | None, settings: dict[str, Any]) -> Recipe:
    """The recipe that the options of `quantize` ask for."""
    if max_drop is not None and file is None:
        to = to or "integer"
    if (to is None) == (file is None):
        raise click.UsageError("Give one of --to, --target, --recipe and --max-drop.")
    if file is not None:
        if settings or max_drop is not None:
            raise click.UsageError(f"--recipe {file} says everything: leave out the other options, or edit the file.")
        return octavo.load_recipe(file)
    assert to is not None
    if max_drop is not None and not to.startswith("integer"):
        raise click.UsageError(f"--max-drop chooses among integer precisions: leave out --to {to}.")
    return octavo.Recipe(scheme(to, **settings))


def place(
    name: str | None, to: str | None, recipe: Path | None, max_drop: float | None, settings: dict[str, Any]
) -> Target | None:
    """The target that --target names; where it alone says what to make, with the settings of the other options."""
    if name is None:
        return None
    from octavo.targets import find

    target = find(name)
    if max_drop is not None:
        raise click.UsageError(f"--max-drop mixes precisions, and --target {name} needs its own: give one of them.")
    if to is not None or recipe is not None or not settings:
        return target
    own = target.scheme
    kind = "integer-only" if own.kind == "integer" and not own.fallback else own.kind.replace("_", "-")
    defaults = {"io": f"input={own.io.input},output={own.io.output}"} if own.kind == "integer" else {}
    return replace(target, scheme=scheme(kind, **{**defaults, **settings}))
