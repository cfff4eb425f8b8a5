"""Tables on a terminal: in colour there, plain and aligned when piped. Plain data in, text out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from octavo.text import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NOTHING = "-"  # stands in a cell that has no value
GAP = "  "  # between two columns of a plain table


@dataclass(frozen=True)
class Column:
    """A column: its title, whether cells stand at the right (numbers do), and its colour in a terminal."""

    title: str
    right: bool = False
    style: str = ""


class Table:
    """Rows of any values under titles. `str()` is the plain table; rich draws the coloured one.

    Args:
      columns: titles, or columns.
      rows: one value for each column: None is shown as "-", everything else as `str` has it. Control characters, which
        names from model files may hold, are written as escapes.
      title: a line above.

    Raises:
      ValueError: a row has more or fewer cells than there are columns.
    """

    def __init__(self, columns: Sequence[Column | str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
        made = (c if isinstance(c, Column) else Column(c) for c in columns)
        self.columns = tuple(replace(c, title=printable(c.title)) for c in made)
        self.rows = tuple(tuple(NOTHING if cell is None else printable(str(cell)) for cell in row) for row in rows)
        self.title = printable(title)
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    def __str__(self) -> str:
        from rich.cells import cell_len  # columns of East Asian names take two places

        lines = [tuple(column.title for column in self.columns), *self.rows]
        widths = [max(cell_len(line[i]) for line in lines) for i in range(len(self.columns))]

        def line(cells: Iterable[str]) -> str:
            padded = []
            for cell, width, column in zip(cells, widths, self.columns, strict=True):
                space = " " * (width - cell_len(cell))
                padded.append(space + cell if column.right else cell + space)
            return GAP.join(padded).rstrip()

        drawn = [line(lines[0]), line("-" * width for width in widths), *map(line, self.rows)]
        return "\n".join([self.title, *drawn] if self.title else drawn)

    def _repr_html_(self) -> str:
        from octavo.report.notebook import table_html

        return table_html(self)

    def __rich__(self) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text  # text, not markup: "[red]" in a tensor's name is a name

        drawn = RichTable(box=box.SIMPLE_HEAD, title=Text(self.title) if self.title else None, title_justify="left")
        for column in self.columns:
            justify = "right" if column.right else "left"
            drawn.add_column(Text(column.title), justify=justify, style=column.style or None, overflow="fold")
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        return drawn


def show(drawing: Any, file: IO[str] | None = None) -> None:
    """Print a table, or anything with `__rich__` and `__str__`: coloured on a terminal, plain elsewhere.

    Args:
      drawing: what to print.
      file: stdout if None.
    """
    out = file or sys.stdout
    if not out.isatty():
        print(drawing, file=out)
        return
    from rich.console import Console

    Console(file=out).print(drawing)


def variants_table(rows: Sequence[Mapping[str, Any]], reference: str | None = None, title: str = "") -> Table:
    """The table of variants: size, accuracy and latency of each, against the reference.

    Args:
      rows: as `Comparison.as_dict()["variants"]` has them; of several models, in the order to show.
      reference: name of the variant that the others are compared with; the first if None.
      title: a line above.
    """
    base = next((row for row in rows if row["name"] == reference), rows[0] if rows else {})
    columns = [Column("variant", style="bold"), Column("bytes", True), Column("smaller", True)]
    cells = [[row["name"], f"{row['bytes']:,}", _ratio(base["bytes"], row["bytes"])] for row in rows]

    def add(column: Column, values: Sequence[str | None]) -> None:
        """Add a column unless it is empty."""
        if any(value is not None for value in values):
            columns.append(column)
            for line, value in zip(cells, values, strict=True):
                line.append(value)

    add(Column("accuracy", True, "green"), [_number(row.get("accuracy"), "{:.2f} %", 100) for row in rows])
    add(Column("points", True), [None if row is base else _difference(row, base) for row in rows])
    add(Column("p", True), [_number(row.get("p_value"), "{:.2g}") for row in rows])
    add(Column("SQNR", True), [_number(row.get("sqnr_db"), "{:.1f} dB") for row in rows])
    add(Column("agrees", True), [_number(row.get("agreement"), "{:.2f} %", 100) for row in rows])
    add(Column("latency", True, "cyan"), [_number(row.get("latency_ms_median"), "{:.3f} ms") for row in rows])
    add(Column("input"), [row.get("input_dtype") for row in rows])
    add(Column("output"), [row.get("output_dtype") for row in rows])
    add(Column("integer only"), [_yes(row.get("integer_only")) for row in rows])
    return Table(columns, cells, title)


def layers_table(rows: Sequence[Mapping[str, Any]], limit: int = 20) -> Table:
    """The layers of an inspection, in the order given; at most `limit` of them."""
    columns = [
        Column("layer", style="bold"), Column("op"), Column("own error", True, "red"), Column("inherited", True),
        Column("total", True), Column("range", True), Column("why"),
    ]  # fmt: skip
    cells = [
        (
            row["layer"],
            row["kind"],
            _number(row["own"], "{:.2f} %", 100),
            _number(row["inherited"], "{:.2f} %", 100),
            _number(row["total"], "{:.2f} %", 100),
            f"{row['low']:.3g} to {row['high']:.3g}",
            row["cause"] or None,
        )
        for row in rows[:limit]
    ]
    more = f", the worst {limit} of {len(rows)}" if len(rows) > limit else ""
    return Table(columns, cells, f"Error of each layer, relative to its output{more}")


def parity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One file on several sets of kernels."""
    columns = [
        Column("kernels", style="bold"), Column("accuracy", True, "green"), Column("largest difference", True, "red"),
        Column("samples that differ", True), Column("other class", True), Column("arena", True), Column("refused"),
    ]  # fmt: skip

    def largest(row: Mapping[str, Any]) -> str | None:
        steps = row["largest_steps"]
        if steps is None:
            return _number(row["largest_error"], "{:.3g}")
        return "1 step" if steps == 1 else f"{steps:.0f} steps"

    cells = [
        (
            row["kernels"],
            _number(row["accuracy"], "{:.2f} %", 100),
            largest(row),
            _number(row["differing"], "{:.2f} %", 100),
            _number(row["disagreeing"], "{:.2f} %", 100),
            _number(row["arena_bytes"], "{:,}"),
            row["refused"] or None,
        )
        for row in rows
    ]
    shown = [i for i in range(len(columns)) if i == 0 or any(cell[i] is not None for cell in cells)]
    return Table([columns[i] for i in shown], [[cell[i] for i in shown] for cell in cells])


def _number(value: float | None, form: str, factor: float = 1) -> str | None:
    return None if value is None else form.format(value * factor)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _ratio(base: int, size: int) -> str:
    return f"{base / size:.2f} x" if size else NOTHING


def _difference(row: Mapping[str, Any], base: Mapping[str, Any]) -> str | None:
    mine, its = row.get("accuracy"), base.get("accuracy")
    return None if mine is None or its is None else f"{100 * (mine - its):+.2f}"
