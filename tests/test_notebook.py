"""What Jupyter shows of octavo's results: HTML in which names from model files are text."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from types import ModuleType

import numpy as np
import pytest

import octavo
from octavo import progress
from octavo.model import Model, Summary
from octavo.plan import Decision
from octavo.report.terminal import Column, Table
from test_cli import dense_model

HOSTILE = "<script>alert('x')</script>&\u202e"


class Tags(HTMLParser):
    """Collects tags, and complains if they don't close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def shown(value: object) -> Tags:
    found = Tags(value._repr_html_())  # type: ignore[attr-defined]
    assert "script" not in found.seen
    return found


def test_a_table_keeps_titles_sides_and_rows() -> None:
    table = Table([Column("name"), Column("bytes", right=True)], [("a", 1), (None, 22)], title="Sizes <b>")
    found = shown(table)
    assert found.seen.count("tr") == 3
    assert found.seen.count("td") == 4
    assert "Sizes <b>" in found.text and "- " in found.text
    assert '<td style="text-align: right">22</td>' in table._repr_html_()
    assert "div" not in found.seen
    assert "div" in shown(Table(["n"], [(i,) for i in range(100)])).seen, "a long table scrolls"


def named(name: str) -> Model:
    model = dense_model()
    for tensor in model.program.main.tensors:
        tensor.name = f"{name}{tensor.name}"
    model.program.source = name
    return model


def test_names_from_files_are_escaped_everywhere() -> None:
    model = named(HOSTILE)
    x = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    small = octavo.quantize(model, octavo.integer(), calibration=x)
    models = {HOSTILE: model, "int8": small}
    found = (
        model,
        model.describe(),
        small,
        octavo.compare(models, x, latency=False),
        octavo.inspect(model, small, x),
        Summary((Decision(HOSTILE, "ADD", "float32", HOSTILE, HOSTILE),), (HOSTILE,)),
    )
    for value in found:
        text = shown(value).text
        assert "<script>" in text, type(value)
        assert "\\u202e" in text and "\u202e" not in text


def test_a_model_tells_size_and_borders() -> None:
    model = dense_model()
    text = shown(model).text
    assert f"{model.nbytes:,} bytes" in text
    assert re.search(r"input\s+x\s+1x64\s+float32", text)
    assert re.search(r"output\s+y\s+1x24\s+float32", text)


def test_a_summary_tells_the_same_in_text_and_html() -> None:
    model = dense_model()
    assert "not quantized by octavo" in shown(model.summary()).text
    x = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    summary = octavo.quantize(model, octavo.integer(), calibration=x).summary()
    assert str(summary).splitlines()[0] in shown(summary).text


@pytest.mark.parametrize(
    ("modules", "widgets", "bars"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_bars_in_a_notebook_that_can_redraw(monkeypatch, modules, widgets, bars) -> None:
    if modules:
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object() if widgets else None)
    assert progress._in_notebook() is bars
