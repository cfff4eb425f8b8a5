"""Progress of long work on stderr: a bar with the time left on a terminal and in notebooks, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from octavo.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

BAR_INTERVAL = 0.1  # seconds between two redraws of a bar
LINE_INTERVAL = 5.0  # seconds between two plain lines

# The bars on the screen now. rich draws one group of bars at a time, so work inside work joins the group that is open.
_open_bars: ContextVar[Progress | None] = ContextVar("octavo_open_bars", default=None)


class _Display(Protocol):
    """Where a task shows how far it is."""

    interval: float

    def show(self, done: int, total: int | None) -> None: ...


class _Hidden:
    interval = float("inf")

    def show(self, done: int, total: int | None) -> None:
        pass


class _Bar:
    interval = BAR_INTERVAL

    def __init__(self, bars: Progress, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def show(self, done: int, total: int | None) -> None:
        self._bars.update(self._bar, completed=done, total=total)


class _Lines:
    interval = LINE_INTERVAL

    def __init__(self, description: str) -> None:
        self._description = description

    def show(self, done: int, total: int | None) -> None:
        _say(f"{self._description}: {_count(done, total)}")


class Task:
    """Work of `total` steps (None if unknown). Made by `task`.

    Attributes:
      done: steps done so far.
      total: steps in all, None if unknown; may be set once it is known.
    """

    def __init__(self, display: _Display, total: int | None) -> None:
        self.done = 0
        self.total = total
        self._display = display
        self._shown = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """`n` more steps are done."""
        self.update(self.done + n)

    def update(self, done: int) -> None:
        """`done` steps are done in all."""
        self.done = done
        now = time.monotonic()
        if now - self._shown >= self._display.interval:
            self._shown = now
            self._display.show(done, self.total)


def track(iterable: Iterable[T], description: str, total: int | None = None, enabled: bool = True) -> Iterator[T]:
    """Yield the items of `iterable` and show how many are done.

    Args:
      iterable: anything to loop over; it is read lazily.
      description: what the work is, shown before the numbers.
      total: number of items; asked of `len(iterable)` if it has one.
      enabled: show nothing if false.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # pyright: ignore[reportArgumentType]
    with task(description, total, enabled) as work:
        for item in iterable:
            yield item
            work.advance()


def task(description: str, total: int | None = None, enabled: bool = True) -> AbstractContextManager[Task]:
    """Show the progress of work whose steps the caller counts.

        with task("quantizing", total=len(ops)) as work:
            for op in ops:
                ...
                work.advance()

    Tasks may nest. On a terminal each is a bar with the time left; without one, each writes a line when it starts,
    one every few seconds, and one when it ends.
    """
    description = printable(description)
    if not enabled or sys.stderr is None:
        return _hidden(total)
    bars = _open_bars.get()
    if bars is not None:
        return _inner_bar(bars, description, total)
    bars = _new_bars() if sys.stderr.isatty() or _in_notebook() else None
    return _outer_bar(bars, description, total) if bars is not None else _lines(description, total)


@contextmanager
def _hidden(total: int | None) -> Iterator[Task]:
    yield Task(_Hidden(), total)


@contextmanager
def _lines(description: str, total: int | None) -> Iterator[Task]:
    display = _Lines(description)
    start = time.monotonic()
    work = Task(display, total)
    display.show(0, total)
    verb = "stopped after"
    try:
        yield work
        verb = "done in"
    finally:
        seconds = time.monotonic() - start
        _say(f"{description}: {_count(work.done, work.total)} {verb} {seconds:.1f} s")


@contextmanager
def _outer_bar(bars: Progress, description: str, total: int | None) -> Iterator[Task]:
    with bars:
        token = _open_bars.set(bars)
        try:
            with _inner_bar(bars, description, total, keep=True) as work:
                yield work
        finally:
            _open_bars.reset(token)


@contextmanager
def _inner_bar(bars: Progress, description: str, total: int | None, keep: bool = False) -> Iterator[Task]:
    """One bar of a group; it goes away when its work ends, unless it is to be kept."""
    display = _Bar(bars, bars.add_task(description, total=total))
    work = Task(display, total)
    try:
        yield work
        display.show(work.done, work.done if work.total is None else work.total)
    finally:
        if not keep:
            bars.remove_task(display._bar)


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel that can redraw: rich draws its bars with ipywidgets, and warns without."""
    return "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None


def _new_bars() -> Progress | None:
    """A group of bars on stderr; None on a terminal that can't redraw a line."""
    from rich import progress as rich_progress
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    # markup=False: descriptions may hold names from model files.
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left", style="dim"),
        rich_progress.TimeRemainingColumn(),
        console=console,
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _count(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"
