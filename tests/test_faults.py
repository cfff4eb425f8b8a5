"""Killed at any moment, a full disk, a folder that can't be written, no memory.

What is at the destination is whole, the message names the cause, and the same command run again goes on and clears up.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import octavo
from octavo.errors import ModelFileError, OctavoError
from octavo.firmware.folder import write_folder
from octavo.firmware.sources import FILES
from octavo.tflite.files import left_behind, temporary_name, write_whole
from test_cli import FEATURES, dense_model, octavo_process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")

# Each command that writes, and what stands at its destination when it is done.
COMMANDS = {
    name: f"{name} model.tflite -o {{out}}{more}"
    for name, more in (
        ("quantize", ".tflite --to integer --data data.npz --effort fast --save-recipe r.json"),
        ("convert", ".tflite"),
        ("compare", " --data data.npz"),
        ("bundle", " --data data.npz --effort fast"),
    )
}
# Runs a command line whose process is killed when it calls a function of `os` for the nth time.
KILLED_AT = """
import os, signal, sys
from octavo.cli import main
name, nth, *arguments = sys.argv[1:]
calls, real = [], getattr(os, name)
def kill(*rest, **more):
    calls.append(rest)
    if len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*rest, **more)
setattr(os, name, kill)
sys.exit(main(arguments))
"""
RANDOM_KILLS = 25  # of each command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with model.tflite and data.npz."""
    monkeypatch.chdir(tmp_path)
    dense_model().save("model.tflite")
    x = np.random.default_rng(0).normal(size=(12, FEATURES)).astype(np.float32)
    np.savez("data.npz", x=x, y=np.zeros(12, int))
    return tmp_path


def hidden(folder: Path) -> list[str]:
    """Temporary files."""
    return sorted(path.name for path in folder.rglob(".*"))


def check_destinations() -> None:
    """Everything that has the name of a result is a whole one."""
    for path in (*Path().glob("out.tflite"), *Path().glob("out/*.tflite")):
        octavo.load(path).describe()
    if Path("r.json").exists():
        octavo.load_recipe("r.json")
    for path in Path("out").glob("*.json"):
        json.loads(path.read_text())
    if Path("out/model.tflite").exists():
        assert sorted(path.name for path in Path("out").iterdir()) == sorted(FILES)


def run(command: str, **options: object) -> tuple[int, str]:
    """Exit status and stderr of a command line."""
    process = octavo_process(*command.split(), **options)
    _, err = process.communicate(timeout=100)
    return process.returncode, err


def run_again(command: str, folder: Path) -> None:
    status, err = run(command)
    if status:  # part of it is done: octavo asks before it overwrites
        assert "--force" in err, err
        status, err = run(f"{command} --force")
    assert status == 0, err
    check_destinations()
    assert hidden(folder) == []


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_killed_while_it_writes(name: str, nth: int, folder: Path) -> None:
    """The worst moments: before all is on the disk, and before it gets its name."""
    command = "quantize model.tflite -o out.tflite --to float16 --save-recipe r.json"
    arguments = [sys.executable, "-c", KILLED_AT, name, str(nth), *command.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parent.parent)}
    status = subprocess.run(arguments, env=environment, capture_output=True, timeout=60).returncode
    assert status == -9
    assert [path.suffix for path in folder.glob(".*")] == [".tmp"]
    assert Path("r.json").exists() == (nth == 2)
    assert not Path("out.tflite").exists()
    check_destinations()
    run_again(command, folder)


@pytest.mark.parametrize("name", ["fsync", "rename"])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_it_writes_a_folder(name: str, nth: int, tmp_path: Path) -> None:
    files = {"a": b"new", "b": b"new too"}
    write_folder(tmp_path / "out", {"a": b"old", "b": b"old too"})
    if (child := os.fork()) == 0:  # nothing but Python runs in the child, until it is killed
        real, calls = getattr(os, name), []

        def kill(*rest: object) -> None:
            calls.append(rest)
            if len(calls) == nth:
                os.kill(os.getpid(), 9)
            real(*rest)

        setattr(os, name, kill)
        write_folder(tmp_path / "out", files)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
    there = tmp_path / "out"
    assert there.exists() == (name == "fsync" or nth == 1)  # between two renames the old one stands aside
    if there.exists():
        assert (there / "a").read_bytes() == b"old"
    assert hidden(tmp_path)
    write_folder(there, files)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == files
    assert hidden(tmp_path) == []


def test_a_folder_that_stood_aside_comes_back(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", {"a": b"old"})
    (tmp_path / "out").rename(dead(temporary_name(tmp_path / "out", "old")))
    with pytest.raises(ModelFileError, match="holds other files"):  # 'a' is none of its files
        write_folder(tmp_path / "out", {"b": b"new"})
    assert (tmp_path / "out" / "a").read_bytes() == b"old"


def dead(path: Path) -> Path:
    """The same temporary name, of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))


def test_only_what_nobody_writes_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "m.tflite"
    running, foreign = temporary_name(target, "tmp"), tmp_path / ".m.tflite.00000000-1-aa.tmp"
    kept = [running, foreign, tmp_path / ".m.tflite.txt", dead(temporary_name(tmp_path / "other.tflite", "tmp"))]
    stale = dead(temporary_name(target, "tmp"))
    for path in (*kept, stale):
        path.write_bytes(b"x")
    assert left_behind(target, "tmp") == [stale]
    write_whole(target, [b"done"], overwrite=False)
    assert all(path.exists() for path in kept)
    assert not stale.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random(name: str, folder: Path) -> None:
    rng, seconds, killed = random.Random(name), 60.0, 0
    command = COMMANDS[name].format(out="out").split()
    for _ in range(8 * RANDOM_KILLS):
        for path in ("out", "out.tflite", "r.json"):
            shutil.rmtree(path, ignore_errors=True)
            Path(path).unlink(missing_ok=True)
        start, process = time.monotonic(), octavo_process(*command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(0.3, 1) * seconds)
        process.kill()
        process.communicate()
        if process.returncode == 0:  # how fast it is depends on what else the machine does
            seconds = time.monotonic() - start
        killed += process.returncode == -9
        time.sleep(0.1)  # until the fork has followed
        check_destinations()
        if killed == RANDOM_KILLS:
            break
    assert killed == RANDOM_KILLS
    run_again(COMMANDS[name].format(out="out"), folder)


@pytest.mark.slow
def test_demo_killed_at_random(folder: Path) -> None:
    rng = random.Random(0)
    for _ in range(6):
        process = octavo_process("demo", "--out", "out")
        time.sleep(rng.uniform(3, 60))
        process.kill()
        process.communicate()
        time.sleep(0.1)
        check_destinations()
    run_again("demo --out out", folder)


def limited(kind: int, size: int) -> Callable[[], None]:
    """For a process that is started: it may use no more than this."""
    return lambda: resource.setrlimit(kind, (size, size))


@pytest.mark.parametrize("name", ["quantize", "convert", "compare"])
def test_files_that_may_not_grow(name: str, folder: Path) -> None:
    status, err = run(COMMANDS[name].format(out="out"), preexec_fn=limited(resource.RLIMIT_FSIZE, 600))
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith("octavo: error: ")
    assert last.endswith("can't be written: File too large")
    assert "out" in last or "r.json" in last
    assert hidden(folder) == []
    check_destinations()
    run_again(COMMANDS[name].format(out="out"), folder)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 KiB. Only root can make one; what octavo does about it is tested for all by RLIMIT_FSIZE."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_disk_full(full_disk: Path) -> None:
    target = full_disk / "m.tflite"
    target.write_bytes(b"before")
    for write in (dense_model().save, lambda path: write_folder(path.with_name("out"), {"a": bytes(9000)})):
        with pytest.raises(ModelFileError, match="can't be written: No space left on device"):
            write(target)
        assert [path.name for path in full_disk.iterdir()] == ["m.tflite"]
    assert target.read_bytes() == b"before"


def unwritable() -> Path:
    """A folder in which nobody, not even root, can make a file."""
    return Path("/sys" if sys.platform == "linux" else "/dev/fd")


@pytest.mark.parametrize("name", ["quantize", "convert", "compare"])
def test_folder_that_cannot_be_written(name: str, folder: Path) -> None:
    place = unwritable()
    status, err = run(COMMANDS[name].format(out=place / "out"))
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith("octavo: error: ")
    assert str(place) in last
    assert "Permission denied" in last or "Read-only file system" in last or "Operation not permitted" in last


def test_out_of_memory(folder: Path) -> None:
    np.savez_compressed("data.npz", x=np.zeros((1_000_000, FEATURES), np.float32), y=np.zeros(1_000_000, int))
    status, err = run("evaluate model.tflite --data data.npz", preexec_fn=limited(resource.RLIMIT_AS, 500 << 20))
    assert status == 1
    assert err.splitlines()[-1].startswith("octavo: error: out of memory")
    assert "Traceback" not in err


def test_a_generator_that_raises_half_way(folder: Path) -> None:
    def samples() -> Iterator[np.ndarray]:
        yield from np.zeros((5, 1, FEATURES), np.float32)
        raise ValueError("the camera is gone")

    with pytest.raises(OctavoError, match=r"sample 5.*the camera is gone"):
        octavo.quantize(dense_model(), octavo.integer(), samples())
