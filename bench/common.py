"""What the benchmarks share: the peers' environments, whole processes timed, and the tables in docs/benchmarks.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
# What pip installs into the environment of that name.
PACKAGES = {
    "ai-edge-quantizer": ("ai-edge-quantizer==0.10.0",),
    "tensorflow": ("tensorflow==2.21.0",),
    "onnx2tf": ("onnx2tf==1.29.24",),
    "mct": ("model-compression-toolkit==2.6.1", "tensorflow==2.15.1"),
    "qat": (
        "tensorflow-model-optimization==0.8.1",
        "tensorflow==2.21.0",
        "tf_keras==2.21.0",
        "six",
        "setuptools<81",
    ),
    "speed": ("tensorflow==2.21.0", "ai-edge-quantizer==0.10.0", "keras==3.15.1"),
}


class Failed(SystemExit):
    """Something that a benchmark needs failed: it ends with this message, unless it can do without and catches it."""


def environment(name: str, pythons: Sequence[str] = ()) -> str:
    """A Python with PACKAGES[name], in an environment of its own under bench/.peers; installs it the first time.

    `pythons` are the versions that the packages are for, if they aren't for all: ("3.11", "3.12").
    """
    packages = PACKAGES[name]
    folder = HERE / ".peers" / name
    python, done = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        print(f"Installing {', '.join(packages)} into {folder}", flush=True)
        run([interpreter(name, pythons), "-m", "venv", "--clear", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", *packages])
        done.write_text(wanted)
    return str(python)


def interpreter(name: str, versions: Sequence[str]) -> str:
    """A Python of one of these versions: the one that runs, or one on the path; any, if no version is given."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not versions or running in versions:
        return sys.executable
    for version in versions:
        found = shutil.which(f"python{version}")
        if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            return found
    raise Failed(f"{name} needs Python {' or '.join(versions)}")


@dataclass(frozen=True)
class Process:
    """What a whole process took: wall-clock and CPU seconds, and its peak memory in MB; what it printed last."""

    seconds: float
    cpu: float
    megabytes: float
    said: str


def run(command: Sequence[str], settings: Mapping[str, str] | None = None) -> Process:
    """Run a command to its end; raises `Failed` with the command's last line if it fails."""
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
        raise Failed(f"{' '.join(command[:3])} ... failed: {lines[-1]}")
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
