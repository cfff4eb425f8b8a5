"""What the benchmarks share: the peers' environments, whole processes timed, and the tables in docs/benchmarks.md."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


def environment(name: str, packages: Sequence[str]) -> str:
    """A Python that has `packages`, in an environment of its own under bench/.peers; installs it the first time."""
    folder = HERE / ".peers" / name
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        print(f"Installing {', '.join(packages)} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return str(python)


@dataclass(frozen=True)
class Process:
    """What a whole process took: wall-clock and CPU seconds, and its peak memory in MB; what it printed last."""

    seconds: float
    cpu: float
    megabytes: float
    said: str


def run(command: Sequence[str], settings: Mapping[str, str] | None = None) -> Process:
    """Run a command to its end; leaves the benchmark with the command's last line if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(settings or {})}
    )
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines() or ["no output"]
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:3])} ... failed: {lines[-1]}")
    return Process(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, lines[-1])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_section(marker: str, text: str, file: Path = PAGE) -> None:
    """Print `text` and put it between the markers of that name in docs/benchmarks.md, or in another page."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    page = file.read_text() if file.exists() else "# Benchmarks\n"
    if begin not in page:
        page = f"{page.rstrip()}\n\n{begin}{end}\n"
    head, _, rest = page.partition(begin)
    file.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
    print(text)
