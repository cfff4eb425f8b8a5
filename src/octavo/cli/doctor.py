"""`octavo doctor`: what is installed, what is missing for which command, and whether the core works."""

from __future__ import annotations

import json

import click

from octavo.console import debug_option, json_option
from octavo.report.terminal import Column, Table
from octavo.report.terminal import show as show_result


@click.command(short_help="Tell what is installed, what is missing, and what works.")
@json_option
@debug_option
def doctor(as_json: bool) -> int:
    """Say what is installed, what is missing for which command, and whether octavo works on this machine.

    \b
    Example:
      octavo doctor
      octavo doctor --json    for a bug report

    Exit status: 0 if octavo's core works; 1 if not. A missing extra is no fault.
    """
    from octavo import doctor as library

    found = library.examine()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return 0 if found.healthy else 1
    machine = found.machine
    click.echo(f"octavo {found.versions['octavo']} on Python {found.versions['python']}, {machine['system']}")
    features = ", ".join(machine["features"]) or "no features known"
    click.echo(f"{machine['processor']}: {machine['usable_cores']} of {machine['cores']} cores; {features}\n")
    columns = [Column("package", style="bold"), Column("version"), Column("needed"), Column("extra")]
    rows = [(p.name, p.version or "missing", p.needed or None, p.extra or "core") for p in found.packages]
    show_result(Table(columns, rows))
    missing = found.missing()
    for extra in missing:
        click.echo(f"\nmissing for {library.PURPOSES[extra]}\n  {library.command_for(extra)}")
    for name, path in found.programs.items():
        if path is None:
            purpose, command = library.PROGRAMS[name]
            click.echo(f"\nmissing for {purpose}\n  {command}")
    click.echo()
    for note in found.notes:
        click.echo(f"note: {note}")
    for problem in found.problems:
        click.echo(f"octavo doesn't work here: {problem}")
    if found.healthy:
        click.echo("octavo works: a model ran on LiteRT")
    return 0 if found.healthy else 1
