"""Damaged files of every kind are taken, or refused in one line, soon and in little memory; see tools/fuzz.py."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import fuzz_seeds
from octavo.errors import ModelFileError

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


fuzz = load_tool()
KINDS = fuzz.kinds(fuzz_seeds)
# About a second each; `make fuzz` makes more.
FILES = {"tflite": 200, "npz": 250, "recipe": 300, "metadata": 300, "keras": 15}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str) -> None:
    kind = KINDS[name]
    tally = fuzz.run(name, kind, range(FILES[name]), kind.seeds())
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.files == FILES[name]
    assert tally.refused > tally.files / 4  # damage is damage


@pytest.mark.parametrize("name", FILES)
def test_undamaged_files_are_taken(name: str, tmp_path: Path) -> None:
    for data in KINDS[name].seeds().values():
        KINDS[name].attempt(data, tmp_path)


def _attempt(attempt):
    kind = fuzz.Kind(dict, lambda data, rng, others: data, lambda data, folder: attempt())
    return fuzz.run("made up", kind, range(1), {"seed": b"x"})


def test_what_the_run_counts_as_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that found nothing would say nothing, if it could find nothing."""

    def raises(error: BaseException) -> None:
        raise error

    monkeypatch.setattr(fuzz, "SECONDS", 0.4)
    monkeypatch.setattr(fuzz, "MEMORY", 1 << 26)
    assert "IndexError: oops" in _attempt(lambda: raises(IndexError("oops"))).failures[0]
    assert "one line" in _attempt(lambda: raises(ModelFileError("two\nlines"))).failures[0]
    assert "longer than" in _attempt(lambda: time.sleep(5)).failures[0]
    assert "MemoryError" in _attempt(lambda: bytearray(1 << 40)).failures[0]
    assert "took" in _attempt(lambda: bytearray(os.urandom(1 << 20) * 100)).failures[0]
    assert _attempt(lambda: raises(ModelFileError("one line"))).refused == 1


@pytest.mark.parametrize("name", FILES)
def test_cases_can_be_made_again(name: str) -> None:
    data = next(iter(KINDS[name].seeds().values()))
    first, again, other = (KINDS[name].damage(data, random.Random(f"{name} {n}"), [data]) for n in (5, 5, 6))
    assert first == again != other
