"""Every code block of README.md and docs/*.md runs.

The blocks of one file run in order, in one new process and one temporary folder: ```python blocks share a namespace,
and the `octavo` commands of ```console and ```bash blocks find the files that the blocks before them wrote. Only
commands that install or build may stand aside, marked by the line `<!-- not run: reason -->` before their block.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

import octavo
from octavo import qat

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = {"python", "py"}
SHELL = {"bash", "console", "sh", "shell"}
TEXT = {"", "text", "json", "toml", "yaml", "mermaid", "makefile", "diff"}
NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->")
MAY_BE_LEFT_OUT = ("make", "git", "cd", "pip", "pipx", "python -m pip", "python -m venv", "python3 -m venv")
COMMAND_SECONDS = 600

# A page with this line needs PyTorch: `make test-torch` runs it, in an environment of its own.
NEEDS_TORCH = "<!-- needs PyTorch -->"
RUNS = [
    pytest.param(page, marks=pytest.mark.torch) if NEEDS_TORCH in page.read_text(encoding="utf-8") else page
    for page in PAGES
]


@dataclass(frozen=True)
class Block:
    """A fenced code block: `line` is where its code starts, `not_run` the reason why it stands aside."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    before, number = "", 0
    while number < len(lines):
        fence = re.match(r"(\s*)(```+|~~~+)\s*([\w+-]*)", lines[number])
        if fence is None:
            before = lines[number].strip() or before
            number += 1
            continue
        indent, ticks, language = fence.groups()
        start = number + 1
        number = start
        while number < len(lines) and lines[number].strip() != ticks:
            number += 1
        assert number < len(lines), f"{page.name}:{start}: this code block has no end"
        code = "\n".join(line.removeprefix(indent) for line in lines[start:number])
        mark = NOT_RUN.fullmatch(before)
        yield Block(page, start + 1, language.lower(), code, mark[1] if mark else None)
        before, number = "", number + 1


def commands(block: Block) -> list[str]:
    """The commands of a shell block: the lines after `$ ` if it has any, else all lines less comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    prompted = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
    plain = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return prompted or plain


def reader_environment() -> dict[str, str]:
    """What a reader has: octavo can be imported, and Keras wasn't told its backend."""
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parent.parent)}
    environment.pop("KERAS_BACKEND", None)
    return environment


def run_command(command: str, place: str) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] == "octavo", f"{place}: {words[0]!r} isn't run here: mark the block, or write an octavo command"
    run = subprocess.run(
        [sys.executable, "-m", "octavo", *words[1:]],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=reader_environment(),
        check=False,
    )
    assert run.returncode == 0, f"{place}: {command}: exit status {run.returncode}\n{run.stdout}{run.stderr}"


def run_page(page: Path, text: str) -> int:
    """Run all blocks of a page in the current folder; returns how many ran."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for block in blocks(page, text):
        if block.not_run is not None or block.language in TEXT:
            continue
        if block.language in PYTHON:
            # The empty lines make a traceback name the page's own line.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
        else:
            for command in commands(block):
                run_command(command, block.place)
        count += 1
    return count


@pytest.mark.parametrize("page", RUNS, ids=lambda page: page.name)
def test_blocks_run(page, tmp_path):
    run = subprocess.run(
        [sys.executable, __file__, page],
        cwd=tmp_path,
        env=reader_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_languages_are_known(page):
    found = {block.place: block.language for block in blocks(page, page.read_text(encoding="utf-8"))}
    unknown = {place: language for place, language in found.items() if language not in PYTHON | SHELL | TEXT}
    assert unknown == {}, "neither run nor known to be text"


def test_readme_shows_code_and_commands():
    readme = [block for block in blocks(PAGES[0], PAGES[0].read_text(encoding="utf-8")) if block.not_run is None]
    assert any(block.language in PYTHON for block in readme)
    assert any(block.language in SHELL for block in readme)


def test_only_installing_and_building_stands_aside():
    aside = [block for page in PAGES for block in blocks(page, page.read_text(encoding="utf-8")) if block.not_run]
    for block in aside:
        print(f"{block.place}: not run: {block.not_run}")
        assert block.language in SHELL, f"{block.place}: only commands may be left out"
        for command in commands(block):
            allowed = any(command == name or command.startswith(f"{name} ") for name in MAY_BE_LEFT_OUT)
            assert allowed, f"{block.place}: {command!r} must run"


# ---------------------------------------------------------------- the site: mkdocs.yml, and links between pages

DOCS = ROOT / "docs"
ELSEWHERE = ("http://", "https://", "mailto:")


def links_and_anchors(text: str) -> tuple[list[str], set[str]]:
    """Targets of a page's links and pictures, and the anchors of its headings (named as GitHub and MkDocs do)."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inline = [token for token in tokens if token.type == "inline"]
    parts = [part for token in inline for part in token.children or ()]
    links = [str(part.attrGet("href") or part.attrGet("src")) for part in parts if part.type in ("link_open", "image")]
    headings = [after for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    return links, {anchor(heading) for heading in headings}


def anchor(heading: Token) -> str:
    words = "".join(part.content for part in heading.children or ())
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip().lower())


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in links_and_anchors(page.read_text(encoding="utf-8"))[0]:
        if link.startswith(ELSEWHERE):
            continue
        name, _, wanted = link.partition("#")
        target = page.parent / name if name else page
        if not target.is_file():
            broken.append(f"{page.name}: {link}: no such file")
        elif wanted and wanted not in links_and_anchors(target.read_text(encoding="utf-8"))[1]:
            broken.append(f"{page.name}: {link}: no such heading")
    return broken


def nav_pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in nav_pages(part)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# `two` words: (here)\n", encoding="utf-8")
    page = tmp_path / "a.md"
    page.write_text(
        "[x](b.md#two-words-here) [x](b.md#other) ![x](c.svg) [x](https://example.org/d)\n", encoding="utf-8"
    )
    assert broken_links(page) == ["a.md: b.md#other: no such heading", "a.md: c.svg: no such file"]


def test_pages_link_to_nothing_outside_of_docs():
    """MkDocs has no pages for files elsewhere in the repository."""
    for page in PAGES[1:]:
        links, _ = links_and_anchors(page.read_text(encoding="utf-8"))
        assert [link for link in links if link.startswith(("..", "/"))] == [], page.name


def test_navigation_names_every_page_once():
    named = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_reference_has_every_public_name():
    named = re.findall(
        r"^::: ([\w.]+)\n    options:\n      heading: ([\w.]+)$", (DOCS / "api.md").read_text(), re.MULTILINE
    )
    public = {f"octavo.{name}": getattr(octavo, name) for name in octavo.__all__ if name[0] != "_"}
    public |= {f"octavo.qat.{name}": getattr(qat, name) for name in qat.__all__}
    assert sorted(heading for _, heading in named) == sorted(public)
    homes = {heading: home for home, heading in named}
    assert homes == {name: f"{value.__module__}.{value.__qualname__}" for name, value in public.items()}


SAMPLE = """\
# A page

```python
x = 6
```

1. In a list:

   ```python
   with open("x.txt", "w") as file:
       file.write(str(x * 7))
   ```

<!-- not run: installs packages -->

```bash
make demo
```

```text
not code
```

```console
$ octavo --version
octavo, version 9
$ octavo show \\
    --help
```
"""


def test_sample_page_is_read():
    found = list(blocks(Path("page.md"), SAMPLE))
    assert [(block.language, block.line, block.not_run) for block in found] == [
        ("python", 4, None),
        ("python", 10, None),
        ("bash", 17, "installs packages"),
        ("text", 21, None),
        ("console", 25, None),
    ]
    assert [command.split() for command in commands(found[4])] == [
        ["octavo", "--version"],
        ["octavo", "show", "--help"],
    ]
    assert commands(found[2]) == ["make demo"]


def test_sample_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(Path("page.md"), SAMPLE) == 3
    assert (tmp_path / "x.txt").read_text() == "42"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError, "division"),
        ("```console\n$ octavo show missing.tflite\n```\n", AssertionError, "page.md:2: octavo show.*exit status 1"),
        ("```bash\nrm -r x\n```\n", AssertionError, "page.md:2: 'rm' isn't run here"),
        ("```python\nx = 1\n", AssertionError, "page.md:1: this code block has no end"),
    ],
)
def test_wrong_page_fails(text, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run_page(Path("page.md"), text)


if __name__ == "__main__":
    run_page(Path(sys.argv[1]), Path(sys.argv[1]).read_text(encoding="utf-8"))
