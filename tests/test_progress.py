"""Bars on a terminal, lines without one, silence when asked."""

import contextlib
import io
import subprocess
import sys

import pytest

from octavo import progress
from octavo.progress import task, track


@pytest.fixture
def stderr(capsys):
    """Reads what went to stderr since the last call; no terminal."""
    return lambda: capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """`with on_terminal() as shown:` makes stderr a terminal and keeps what it shows."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return lambda: contextlib.redirect_stderr(Terminal())


def test_lines_at_start_and_end(stderr):
    assert list(track(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    first, last = stderr().splitlines()
    assert first == "reading: 0/3"
    assert last.startswith("reading: 3/3 done in ")


def test_total_comes_from_the_length(stderr):
    list(track([1, 2], "sized"))
    assert stderr().startswith("sized: 0/2\n")
    list(track(iter([1, 2]), "unsized"))
    assert "unsized: 0\nunsized: 2 done" in stderr()


def test_lines_every_few_seconds_only(stderr, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with task("slow", total=100) as work:
        for _ in range(100):
            now[0] += 0.25
            work.advance()
    assert stderr().splitlines() == [
        *(f"slow: {done}/100" for done in (0, 20, 40, 60, 80, 100)),
        "slow: 100/100 done in 25.0 s",
    ]


def test_update_and_late_total(stderr):
    with task("copying") as work:
        work.total = 7
        work.update(7)
    assert work.done == 7
    assert "copying: 7/7 done" in stderr()


def test_an_error_says_where_it_stopped(stderr):
    with contextlib.suppress(ZeroDivisionError), task("dividing", total=5) as work:
        work.advance(2)
        _ = 1 / 0
    assert "dividing: 2/5 stopped after " in stderr()


def test_control_characters_in_names(stderr):
    with task("a\x1b[2Jb\nc", total=0):
        pass
    assert stderr().startswith("a\\x1b[2Jb\\nc: 0/0\n")


def test_disabled_is_silent(stderr, on_terminal):
    def work():
        assert list(track([1, 2], "quiet", enabled=False)) == [1, 2]
        with task("quiet", total=2, enabled=False) as quiet:
            quiet.advance()
            assert (quiet.done, quiet.total) == (1, 2)

    work()
    assert stderr() == ""
    with on_terminal() as shown:
        work()
    assert shown.getvalue() == ""


def test_no_stderr_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track([1, 2], "pythonw")) == [1, 2]


def test_bar_on_a_terminal(on_terminal):
    with on_terminal() as shown, task("[red]quantizing[/]", total=4) as work:
        work.advance(4)
    assert "[red]quantizing[/]" in shown.getvalue()  # a name, not markup
    assert "4/4" in shown.getvalue()
    assert "\x1b[" in shown.getvalue()


def test_bars_nest(on_terminal):
    with on_terminal() as shown:
        for _ in track(range(2), "outer"):
            for _ in track(range(3), "inner"):
                pass
        assert progress._open_bars.get() is None  # the group was closed
        with task("after", total=1) as work:
            work.advance()
    assert "outer" in shown.getvalue()
    assert "2/2" in shown.getvalue()
    assert "after" in shown.getvalue()


def test_bars_close_after_an_error(on_terminal):
    with on_terminal() as shown, pytest.raises(ZeroDivisionError), task("outer", total=1), task("inner", total=1):
        _ = 1 / 0
    assert progress._open_bars.get() is None
    assert shown.getvalue().count("\x1b[?25l") == shown.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_generator_that_is_left_early_lets_go(on_terminal):
    with on_terminal():
        for item in track(range(100), "searching"):
            if item == 3:
                break
        with task("next", total=1) as work:
            work.advance()
    assert progress._open_bars.get() is None


def test_dumb_terminal_gets_lines(on_terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with on_terminal() as shown:
        list(track([1], "plain"))
    assert shown.getvalue().startswith("plain: 0/1\n")


def test_importing_it_loads_no_rich():
    program = "import sys, octavo.progress; print('rich' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
