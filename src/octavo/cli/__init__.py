"""The command line: reads arguments, calls the library, prints. No decision about models is made here.

A command is one file. Libraries that take long to import are imported inside the commands, so that `--help` and
mistakes answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

import octavo
from octavo.cli.bundle import bundle
from octavo.cli.check import check
from octavo.cli.compare import compare
from octavo.cli.convert import convert
from octavo.cli.demo import demo
from octavo.cli.doctor import doctor
from octavo.cli.evaluate import evaluate
from octavo.cli.guard import guarded
from octavo.cli.inspect import inspect
from octavo.cli.quantize import quantize
from octavo.cli.show import show
from octavo.console import Commands, debug_option, run

# In the order in which one needs them, as `--help` lists them.
_COMMANDS = (demo, convert, quantize, evaluate, compare, inspect, show, check, bundle, doctor)


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


for _command in _COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `octavo`; see `octavo.console.run`. What the shell started survives a crash: `octavo.cli.guard`."""
    return guarded(lambda: run(cli, None)) if arguments is None else run(cli, arguments)
