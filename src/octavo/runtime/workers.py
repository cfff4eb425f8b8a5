"""A runner that uses the whole machine where that pays."""

from __future__ import annotations

import os
import time

import numpy as np

from octavo.errors import RunError
from octavo.runtime.latency import random_input
from octavo.runtime.runner import Runner
from octavo.runtime.session import Kernels, ModelLike, Session, model_bytes

WORTH = 2e-4  # seconds of one invocation; below, handing samples to threads costs as much as it saves
MEMORY = 2 << 30  # bytes of model copies at most: each worker unpacks the weights for itself


def runner_for_many(
    model: ModelLike, kernels: Kernels | str = "xnnpack", threads: int | None = None, name: str | None = None
) -> Runner:
    """A runner for many samples: on all cores, one sample each, if one invocation takes long enough.

    Args:
      model, kernels, name: as `Runner`.
      threads: threads inside one invocation; if given, samples run one after another.

    Raises:
      ModelFileError, RunError: as `Session`.
    """
    data = model_bytes(model)
    named = model if name is None and not isinstance(model, bytes) else data
    cores = min(usable_cores(), max(1, MEMORY // max(1, len(data))))
    if (
        threads is not None
        or cores == 1
        or kernels == "tflm"
        or _seconds(Session(named, kernels, 1, name=name)) < WORTH
    ):
        return Runner(named, kernels, threads, name=name)
    return Runner(named, kernels, 1, workers=cores, name=name)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _seconds(session: Session) -> float:
    """Of the faster one of two invocations; 0 if the model doesn't run on random numbers."""
    rng = np.random.default_rng(0)
    inputs = [random_input(p, rng) for p in session.inputs]
    took = []
    try:
        session.resize([array.shape for array in inputs])
        for _ in range(2):
            start = time.perf_counter()
            session.invoke(inputs)
            took.append(time.perf_counter() - start)
    except RunError:  # real samples may do better; if they don't, the error comes from them
        return 0.0
    return min(took)
