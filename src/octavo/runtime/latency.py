"""How long one invocation takes, fairly between variants of a model; and how much of it XNNPACK takes over.

LiteRT's Python interface has no per-op profile, so there is none here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from octavo.errors import DataError
from octavo.runtime.session import Kernels, ModelLike, Port, Session
from octavo.statistics import median_interval


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one invocation at the file's own batch size: copy inputs in, run, copy outputs out.

    Attributes:
      median, p10, p90: quantiles over `runs` timed invocations.
      runs: how many were timed; fewer than asked for if the time budget ran out.
      low, high: 95 % confidence interval of the median.
      delegation: what XNNPACK took over; None where LiteRT doesn't tell.
    """

    median: float
    p10: float
    p90: float
    runs: int
    low: float
    high: float
    delegation: Delegation | None = None


@dataclass(frozen=True)
class Delegation:
    """How many ops of the main subgraph there are, how many XNNPACK runs, and which kinds it leaves to LiteRT."""

    ops: int
    delegated: int
    left: Mapping[str, int] = field(default_factory=dict)  # kind -> how many

    @property
    def share(self) -> float:
        return self.delegated / self.ops if self.ops else 0.0


# A model that has waited finds the caches full of others' data. So short invocations are timed in bursts, after one
# that isn't timed; for those over a millisecond it doesn't matter.
SHORT = 1e-3  # seconds
BURST = 10  # invocations


@dataclass
class _Contestant:
    session: Session
    inputs: list[np.ndarray]
    times: list[int] = field(default_factory=list)  # nanoseconds
    spent: float = 0.0  # seconds, warm-up included
    latest: float = 0.0  # seconds of the latest invocation

    def invoke(self) -> int:
        """Run once; returns the nanoseconds it took."""
        start = time.perf_counter_ns()
        self.session.invoke(self.inputs)
        took = time.perf_counter_ns() - start
        self.latest = took / 1e9
        self.spent += self.latest
        return took

    def warm(self, warmup: int, seconds: float) -> None:
        for _ in range(warmup):
            self.invoke()
            if self.spent > seconds:
                return

    def turn(self, runs: int) -> None:
        """Time one invocation, or a burst of short ones; `runs` in all at most."""
        many = 1
        if self.latest < SHORT:
            self.invoke()
            many = min(BURST, runs - len(self.times))
        self.times += [self.invoke() for _ in range(many)]


def measure(
    models: Mapping[str, ModelLike],
    runs: int = 200,
    warmup: int = 10,
    threads: int | None = 1,
    kernels: Kernels | str = "xnnpack",
    budget: float = 2.0,
    seed: int = 0,
) -> dict[str, Latency]:
    """Time the invocations of several models.

    The models take turns, in an order that rotates, so that whatever else the machine does falls on all alike.

    Args:
      models: name -> model.
      runs: timed invocations of each model.
      warmup: invocations before that; they count for a quarter of the budget at most.
      threads: threads inside an invocation, None is LiteRT's default.
      kernels: see `Session`.
      budget: seconds for each model, loading excluded; at least three invocations are timed whatever it says.
      seed: of the random inputs.

    Returns:
      name -> latency, in the order of `models`.

    Raises:
      DataError: `runs` is less than 1.
      RunError: LiteRT refuses a model.
    """
    if runs < 1:
        raise DataError(f"runs is {runs}: time at least one invocation")
    contestants = {name: _enter(name, model, kernels, threads, seed) for name, model in models.items()}
    for contestant in contestants.values():
        contestant.warm(warmup, budget / 4)
    waiting = deque(contestants.values())
    while waiting:
        for contestant in waiting:
            contestant.turn(runs)
        waiting = deque(c for c in waiting if len(c.times) < runs and (c.spent < budget or len(c.times) < 3))
        waiting.rotate(1)
    return {name: _summary(contestant) for name, contestant in contestants.items()}


def random_input(port: Port, rng: np.random.Generator) -> np.ndarray:
    """An input that every model can take.

    Floats are uniform in [0, 1), codes uniform over their type. Integers without a scale are indices or lengths more
    often than not: 0 is the one value that is always inside.
    """
    if port.dtype.kind == "f":
        return rng.random(port.shape).astype(port.dtype)
    if port.qparams is not None:
        limits = np.iinfo(port.dtype)
        return rng.integers(limits.min, limits.max, port.shape, port.dtype, endpoint=True)
    return np.zeros(port.shape, port.dtype)


def _enter(name: str, model: ModelLike, kernels: Kernels | str, threads: int | None, seed: int) -> _Contestant:
    session = Session(model, kernels, threads, name=name)
    session.resize([p.shape for p in session.inputs])
    rng = np.random.default_rng(seed)
    return _Contestant(session, [random_input(p, rng) for p in session.inputs])


def _summary(contestant: _Contestant) -> Latency:
    took = np.array(contestant.times) / 1e6
    p10, median, p90 = np.quantile(took, [0.1, 0.5, 0.9])
    interval = median_interval(took)
    return Latency(
        float(median), float(p10), float(p90), took.size, interval.low, interval.high, delegation(contestant.session)
    )


def delegation(session: Session) -> Delegation | None:
    """Which share of the ops XNNPACK took over; None where LiteRT doesn't tell.

    LiteRT lists the file's ops and, behind them, one op for each part that it gave away, with the tensors that go in
    and come out. The ops in between, found backwards from what comes out, are that part.
    """
    details = getattr(session.interpreter, "_get_ops_details", None)
    if details is None:
        return None
    listed = [(op["op_name"], list(op["inputs"]), list(op["outputs"])) for op in details()]
    makers = {tensor: i for i, (name, _, out) in enumerate(listed) if name != "DELEGATE" for tensor in out}
    taken: set[int] = set()
    for name, inputs, outputs in listed:
        if name != "DELEGATE":
            continue
        borders, waiting = set(inputs), list(outputs)
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is not None and maker not in taken:
                taken.add(maker)
                waiting += [tensor for tensor in listed[maker][1] if tensor not in borders]
    kinds = [name for i, (name, _, _) in enumerate(listed) if name != "DELEGATE" and i not in taken]
    return Delegation(len(kinds) + len(taken), len(taken), Counter(kinds))
