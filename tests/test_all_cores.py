"""Threads inside an invocation are used where they change no bit, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import Builder
from octavo import parallel
from octavo.runtime import all_cores
from octavo.runtime.session import Session
from octavo.tflite import write

RNG = np.random.default_rng(5)


def image_model(foreign: bool) -> bytes:
    """Convolutions that XNNPACK takes; `foreign` adds an op that it leaves to LiteRT."""
    b = Builder()
    x = b.conv(b.conv(b.input("x", (1, 24, 24, 8)), "one", 32), "two", 48)
    return write(b.program(b.unary("LOG_SOFTMAX", x, "foreign") if foreign else x))


@pytest.mark.parametrize(("foreign", "threads"), [(False, 4), (True, None)])
def test_only_a_model_that_is_xnnpacks_altogether_runs_on_several_threads(
    foreign: bool, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 4)
    session = all_cores.on_all_cores(image_model(foreign))
    assert session._threads == threads


def test_threads_change_no_bit() -> None:
    x = RNG.normal(size=(1, 24, 24, 8)).astype(np.float32)
    results = [Session(image_model(False), threads=threads).invoke([x])[0] for threads in (1, 2, 4)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_a_worker_uses_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel._own, "busy", True, raising=False)
    assert parallel.spare_cores() == 1
    assert all_cores.on_all_cores(image_model(False))._threads is None
