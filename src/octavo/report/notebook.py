"""Tables and lines as HTML, for `_repr_html_`: what Jupyter shows. Every name is escaped; styles are the notebook's."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from octavo.text import printable

if TYPE_CHECKING:
    from octavo.report.terminal import Table

_LONG = 25  # rows; a longer table scrolls


def table_html(table: Table) -> str:
    """A table with its title as caption."""
    sides = ["right" if column.right else "left" for column in table.columns]

    def row(tag: str, cells: Iterable[str]) -> str:
        made = (
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    caption = f'<caption style="text-align: left">{escape(table.title)}</caption>' if table.title else ""
    head = row("th", (column.title for column in table.columns))
    body = "".join(row("td", cells) for cells in table.rows)
    drawn = f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div style="max-height: 40em; overflow: auto">{drawn}</div>' if len(table.rows) > _LONG else drawn


def lines_html(lines: Iterable[str]) -> str:
    """A paragraph for each line."""
    return "".join(f"<p>{escape(printable(line))}</p>" for line in lines)
