"""A model that crashes LiteRT, or whatever else kills the work, costs the command line one line and nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graphs import Builder
from octavo.cli.guard import culprit, guarded
from octavo.model import Model
from test_cli import octavo_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the command line is one process")

COMMAND = "octavo quantize good.tflite -o small.tflite --recipe never.json"


def network(bias: bool) -> Model:
    """Convolutions; without a bias the depthwise one crashes LiteRT's XNNPACK delegate."""
    build = Builder()
    y = build.conv(build.conv(build.input("image", (1, 8, 8, 4)), "first", 4), "second", 4)
    kernel, offset = build.weights("kernel", 1, 3, 3, 4), build.weights("bias", 4)
    options = {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": 1, "fusedActivationFunction": 0}
    operands = [y, kernel, offset] if bias else [y, kernel]
    y = build.op("DEPTHWISE_CONV_2D", operands, "deep\x1b[31m", (1, 8, 8, 4), "DepthwiseConv2DOptions", **options)
    y = build.reshape(build.conv(y, "third", 4), "flat", (1, 256))
    return Model(build.program(build.dense(y, "scores", 4)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with bad.tflite, good.tflite, data.npz, and a pipe that nobody ever writes to."""
    monkeypatch.chdir(tmp_path)
    network(bias=False).save("bad.tflite")
    network(bias=True).save("good.tflite")
    np.savez("data.npz", x=np.zeros((6, 8, 8, 4), np.float32), y=np.zeros(6, int))
    os.mkfifo("never.json")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["evaluate bad.tflite --data data.npz", "inspect good.tflite bad.tflite --data data.npz"],
)
def test_a_crash_is_one_line(command: str, folder: Path) -> None:
    process = octavo_process(*command.split())
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("octavo: error: ")]
    assert line == err.splitlines()[-1]
    assert line.startswith(
        "octavo: error: bad.tflite: LiteRT crashes (SIGSEGV) at DEPTHWISE_CONV_2D 'deep\\x1b[31m', with its xnnpack"
    )
    assert out == ""


def test_what_crashes_as_it_is_can_be_quantized(folder: Path) -> None:
    process = octavo_process("quantize", "bad.tflite", "--to", "integer", "--data", "data.npz", "-o", "small.tflite")
    assert process.wait(60) == 0  # normal form has a bias
    process = octavo_process("show", "bad.tflite")
    assert process.wait(60) == 0  # runs nothing


def test_the_op_is_found_by_running_it(folder: Path) -> None:
    assert "DEPTHWISE_CONV_2D" in culprit(Path("bad.tflite"))
    assert culprit(Path("good.tflite")) == ""
    assert culprit(Path("data.npz")) == ""


@pytest.fixture
def started(folder: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """A command that waits for ever for its recipe, and the process that does its work."""
    process = octavo_process(*COMMAND.removeprefix("octavo ").split())
    limit, pipe = time.monotonic() + 60, None
    while pipe is None:
        try:
            pipe = os.open("never.json", os.O_WRONLY | os.O_NONBLOCK)  # fails until somebody reads
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.02)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield process, int(worker)
    os.close(pipe)
    process.kill()
    process.communicate()


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_and_told(number: signal.Signals, started: tuple[subprocess.Popen, int]) -> None:
    process, worker = started
    process.send_signal(number)
    assert process.wait(20) == -number
    assert ended(worker)


def test_interrupted(started: tuple[subprocess.Popen, int]) -> None:
    process, worker = started
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "octavo: interrupted"
    assert ended(worker)


def test_killed_for_want_of_memory(started: tuple[subprocess.Popen, int]) -> None:
    process, worker = started
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    want = f"octavo: error: the system killed (SIGKILL) {COMMAND}: it was probably out of memory"
    assert err.splitlines() == [want]


def test_nothing_goes_on_after_kill_9(started: tuple[subprocess.Popen, int]) -> None:
    process, worker = started
    process.kill()
    process.wait()
    limit = time.monotonic() + 20
    while not ended(worker) and time.monotonic() < limit:
        time.sleep(0.02)
    assert ended(worker)


def test_other_crashes_name_the_command() -> None:
    code = "import os; from octavo.cli.guard import guarded; raise SystemExit(guarded(os.abort))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("octavo: error: the process crashed (SIGABRT: Aborted) in octavo")


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_status_is_the_works_own(status: int) -> None:
    code = f"from octavo.cli.guard import guarded; raise SystemExit(guarded(lambda: {status}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == status


def test_threads_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    assert guarded(lambda: 7) == 7
