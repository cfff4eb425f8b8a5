"""Work on many samples or variants, here or on many workers: the one place that knows how.

Work begins in this process. If what is left would take much longer than starting processes, it moves to one process per
core; in `joblib.parallel_config(backend=...)` it goes to whatever workers that names, Dask's and Ray's among them.
Results are merged in the order in which they come: a `Work` must see to it that the order doesn't matter, nor where one
worker's share ends.

The data is sent in batches, and only as fast as it is worked off, so memory doesn't grow with the data. What was with a
worker that died is done again by another.
"""

from __future__ import annotations

import itertools
import os
import pickle
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from octavo.errors import OctavoError, RunError
from octavo.progress import task

WORTH_SECONDS = 5.0  # to be saved; starting a process that imports octavo and opens a model takes about two
MEMORY = 2 << 30  # bytes that all local workers may hold together
_BATCH_SECONDS = (0.5, 30.0)  # work that is sent at a time: enough to pay for the way, little enough to be lost
_BATCH_BYTES = 64 << 20
_STALLED_SECONDS = 600.0  # without any result: joblib doesn't always hear of a worker's death
_RESTART_SECONDS = 30  # at most, that a cluster may take to start a worker in place of one that died
_TRIES = 3


class Unit(Protocol):
    """A small piece of work, in the data's own order."""

    @property
    def count(self) -> int:
        """How much it is, in samples or whatever the bar counts."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes to send."""
        ...

    def place(self, index: int = 0) -> str:
        """Where it comes from, for messages."""
        ...


U = TypeVar("U", bound=Unit)
S = TypeVar("S")
V = TypeVar("V", bound=Unit, contravariant=True)


class Work(Protocol[V, S]):
    """What to do with each unit. Is sent to workers once, pickled; one thread at a time uses a copy.

    A state is a result so far; what `pack` makes of it can be pickled, and understood by another copy.
    """

    @property
    def nbytes(self) -> int:
        """Memory that a copy takes, about."""
        ...

    def start(self) -> S:
        """The result of nothing."""
        ...

    def add(self, state: S, unit: V) -> None:
        """Do one unit and add it to a result."""
        ...

    def pack(self, state: S) -> Any:
        """A finished result, to be sent."""
        ...

    def merge(self, state: S, packed: Any) -> None:
        """Add to a result one that was packed elsewhere."""
        ...


def reduce(
    work: Work[U, S],
    units: Iterable[U],
    total: int | None = None,
    description: str = "",
    progress: bool = False,
    moves: bool = True,
) -> S:
    """The merged result of all units.

    Args:
      work: what to do.
      units: read lazily, in this process.
      total: sum of their counts, if it is known.
      description: what the progress bar says.
      progress: show it.
      moves: whether local processes can do it faster; false for work that uses all cores as it is.

    Raises:
      OctavoError: whatever `work` or `units` raise.
      RunError: workers die each time over the same units; says which.
    """
    state = work.start()
    source = iter(units)
    with task(description, total, progress) as shown:
        pace = _Pace(work, total, moves)
        for unit in source:
            work.add(state, unit)
            shown.advance(unit.count)
            if pace.leaves(unit.count):
                break
        else:
            return state
        for packed, count in _elsewhere(work, source, pace):
            work.merge(state, packed)
            shown.advance(count)
    return state


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spare_cores() -> int:
    """Cores that one piece of work may use: one on a worker, whose neighbours use the others."""
    return 1 if getattr(_own, "busy", False) else usable_cores()


def configured() -> bool:
    """Whether the caller said, with `joblib.parallel_config`, where work is to be done."""
    return "joblib" in sys.modules and not getattr(_own, "busy", False) and _active() is not None


# ---------------------------------------------------------------- where, and how much at a time


def _active() -> int | None:
    """The number of jobs that `parallel_config` asks for, -1 for all workers; None outside of one.

    Raises:
      RunError: a backend that can't work.
    """
    from joblib.parallel import BACKENDS, DEFAULT_BACKEND, get_active_backend

    found: Any = get_active_backend()
    backend, n_jobs = found
    if type(backend) is BACKENDS.get("multiprocessing"):
        raise RunError(
            "joblib's backend 'multiprocessing' forks this process, which LiteRT's threads don't survive: use 'loky'"
        )
    if n_jobs is None and type(backend) is BACKENDS[DEFAULT_BACKEND]:
        return None
    return -1 if n_jobs is None else int(n_jobs)


class _Pace:
    """Watches how fast work goes here, and tells whether and in what portions to give it away."""

    def __init__(self, work: Work[Any, Any], total: int | None, moves: bool) -> None:
        busy = getattr(_own, "busy", False)
        self.n_jobs = None if busy or "joblib" not in sys.modules else _active()
        local = min(usable_cores(), max(1, MEMORY // max(1, work.nbytes)))
        self.workers = 1 if busy or self.n_jobs == 1 or not moves else local
        self._total = total
        self._done = 0
        self._start = time.perf_counter()

    def leaves(self, count: int) -> bool:
        """Whether to go elsewhere with what is left, now that `count` more samples are done."""
        self._done += count
        if self.n_jobs not in (None, 1):
            return True
        if self.workers == 1:
            return False
        left = self._seconds_each * (self._done if self._total is None else self._total - self._done)
        return left * (1 - 1 / self.workers) > WORTH_SECONDS

    @property
    def _seconds_each(self) -> float:
        return (time.perf_counter() - self._start) / max(self._done, 1)

    def batches(self, units: Iterable[U], workers: int) -> Iterator[list[U]]:
        """Units in portions of a sensible time and size."""
        each = max(self._seconds_each, 1e-7)
        left = 4 * _BATCH_SECONDS[0] / each if self._total is None else max(self._total - self._done, 1) / (4 * workers)
        most = float(np.clip(left, _BATCH_SECONDS[0] / each, _BATCH_SECONDS[1] / each))
        held: list[U] = []
        for unit in units:
            held.append(unit)
            if sum(u.count for u in held) >= most or sum(u.nbytes for u in held) >= _BATCH_BYTES:
                yield held
                held = []
        if held:
            yield held


# ---------------------------------------------------------------- on the workers


class _Failed(Exception):  # noqa: N818
    """Carries an exception of the work itself, to be told from those of the machinery around it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Here(Exception):  # noqa: N818
    """joblib works in the process that asks where a cluster has but one worker left."""


def _this_process() -> str:
    return f"{platform.node()} {os.getpid()}"


_own = threading.local()  # of each thread of a worker: the work that it has a copy of


def _carry_out(key: str, payload: np.ndarray, number: int, units: list[Any], avoid: str) -> tuple[int, Any]:
    """One batch on a worker, which isn't the process `avoid`."""
    if _this_process() == avoid:
        raise _Here
    if getattr(_own, "key", None) != key:
        _own.key, _own.work = None, None  # first let go of the last one's model
        _own.key, _own.work = key, pickle.loads(payload.tobytes())
    before, _own.busy = getattr(_own, "busy", False), True
    try:
        state = _own.work.start()
        for unit in units:
            _own.work.add(state, unit)
        return number, _own.work.pack(state)
    except Exception as error:
        raise _Failed(_portable(error)) from error
    finally:
        _own.busy = before


def _portable(error: Exception) -> Exception:
    """The exception itself if it survives pickling, else its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(str(error)) if isinstance(error, OctavoError) else RuntimeError(repr(error))
    return error


# ---------------------------------------------------------------- from here


@dataclass
class _Dispatch:
    """One piece of work on its way to the workers."""

    payload: np.ndarray
    n_jobs: int
    workers: int
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def results(self, batches: Iterable[tuple[int, list[Any]]], avoid: str = "") -> Iterator[tuple[int, Any]]:
        """(number, result) of each batch, as they are done. Raises what the work raises, or anything that joblib does.

        The batches are read in joblib's threads, some ahead of the work. The process `avoid` gets none.
        """
        import joblib
        from joblib.parallel import get_active_backend

        work = joblib.delayed(_carry_out)
        calls = (work(self.key, self.payload, number, batch, avoid) for number, batch in batches)
        ways: dict[str, Any] = {"batch_size": 1, "timeout": _STALLED_SECONDS}
        backend: Any = get_active_backend()[0]
        if backend.supports_return_generator:
            run: Any = joblib.Parallel(self.n_jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs", **ways)
            yield from run(calls)
            return
        while window := list(itertools.islice(calls, 4 * self.workers)):  # Ray gives results only all at once
            run = joblib.Parallel(self.n_jobs, pre_dispatch="all", **ways)
            yield from run(window)

    def again(self, batch: list[U], error: Exception) -> Iterator[tuple[list[U], Any]]:
        """(units, packed result) of what lost workers had, by itself, and in ever smaller parts if it is lost again.

        So whatever kills its worker is found.

        Raises:
          RunError: a single unit kills its worker each time; says which.
        """
        tries, waits = _TRIES - 1 if len(batch) == 1 else 1, _RESTART_SECONDS
        while tries and waits:
            try:
                ((_, packed),) = self.results([(0, batch)], _this_process())
            except (_Failed, OctavoError):
                raise
            except _Here:  # whatever killed a worker had better not come near this process
                waits -= 1
                time.sleep(1)
            except Exception as latest:
                tries, error = tries - 1, latest
            else:
                yield batch, packed
                return
        if len(batch) > 1:
            middle = len(batch) // 2
            for part in (batch[:middle], batch[middle:]):
                yield from self.again(part, error)
            return
        first, last = batch[0].place(), batch[0].place(batch[0].count - 1)
        where = first if first == last else f"{first} to {last}"
        reason = str(error).partition("\n")[0].rstrip(" .") or type(error).__name__
        raise RunError(
            f"{where}: every worker that had this was lost ({reason}): they may be out of memory, or the runtime "
            "crashes on these samples"
        ) from error


def _elsewhere(work: Work[U, Any], units: Iterator[U], pace: _Pace) -> Iterator[tuple[Any, int]]:
    """(packed result, count) of batches of units, in whatever order workers finish them."""
    import cloudpickle
    import joblib

    n_jobs = pace.n_jobs or pace.workers
    workers = max(1, joblib.effective_n_jobs(n_jobs))
    payload = np.frombuffer(cloudpickle.dumps(work), np.uint8)
    dispatch = _Dispatch(payload, n_jobs, workers)
    fresh = enumerate(pace.batches(units, workers))
    waiting: dict[int, list[U]] = {}
    unread: list[Exception] = []
    lock = threading.Lock()

    def due() -> Iterator[tuple[int, list[U]]]:
        while True:
            with lock:
                try:
                    number, batch = next(fresh)
                except StopIteration:
                    return
                except Exception as error:  # raised in joblib's thread, it would end in a mess there
                    unread.append(error)
                    return
                waiting[number] = batch
            yield number, batch

    try:
        while True:
            try:
                for number, packed in dispatch.results(due()):
                    yield packed, sum(unit.count for unit in waiting.pop(number))
                if unread:
                    raise _Failed(unread[0])
                return
            except (_Failed, OctavoError):
                raise
            except Exception as error:
                if not waiting:
                    raise RunError(f"joblib's workers can't be used: {type(error).__name__}: {error}") from error
                for number in sorted(waiting):
                    for part, packed in dispatch.again(waiting.pop(number), error):
                        yield packed, sum(unit.count for unit in part)
    except _Failed as failed:
        raise failed.error from None
