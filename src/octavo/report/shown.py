"""Results that are a table and some remarks, on a terminal, as text, and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.report.terminal import Table


class Shown:
    """Shows `_table()` and then the lines of `_remarks()`."""

    def _table(self) -> Table:
        raise NotImplementedError

    def _remarks(self) -> Sequence[str]:
        return ()

    def __str__(self) -> str:
        return "\n".join([str(self._table()), *self._remarks()])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text  # text, not markup: "[red]" in a tensor's name is a name

        return Group(self._table().__rich__(), *map(Text, self._remarks()))

    def _repr_html_(self) -> str:
        from octavo.report.notebook import lines_html

        return self._table()._repr_html_() + (lines_html(self._remarks()) if self._remarks() else "")
