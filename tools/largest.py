"""Lists the longest files and functions of src/octavo: a room that grew too full shows here first."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "octavo"
SHOWN = 10


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Length in lines and dotted name of each function or method in a file, less its docstring."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from visit(child, prefix)
                continue
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield length(child), name
            yield from visit(child, f"{name}.")

    yield from visit(ast.parse(path.read_text()), "")


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def main() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    if not paths:
        sys.exit(f"no Python files under {SOURCE}")
    files = [(len(path.read_text().splitlines()), str(path.relative_to(SOURCE))) for path in paths]
    longest = [(lines, f"{path.relative_to(SOURCE)}: {name}") for path in paths for lines, name in functions(path)]
    for title, rows in ("files", files), ("functions", longest):
        print(f"longest {title}, in lines")
        for lines, name in sorted(rows, reverse=True)[:SHOWN]:
            print(f"{lines:6} {name}")


if __name__ == "__main__":
    main()
