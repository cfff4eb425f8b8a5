"""The notebooks of examples/ run, cell by cell as Jupyter runs them, and what they show is HTML.

This is the part of Jupyter that matters here: code cells share a namespace, and the value of a cell's last line is
shown, by `_repr_html_` where it has one. A kernel would bring 38 packages more.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import octavo

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run_cells(path: Path) -> list[str]:
    """Run the code cells in the current folder; returns the HTML that they show."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        place = f"{path.name}#{cell['id']}"
        tree = ast.parse(source, place)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
        exec(compile(tree, place, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), namespace)
            if hasattr(value, "_repr_html_"):
                shown.append(f"{type(value).__name__} {value._repr_html_()}")
    return shown


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, __file__, path], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}"
    assert {"Model", "Summary", "Comparison", "Inspection"} <= {
        line.split()[0] for line in run.stdout.splitlines() if "<" in line
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


if __name__ == "__main__":
    print(*run_cells(Path(sys.argv[1])), sep="\n")
