"""A runner that uses the whole machine where that pays, and other machines where joblib is told of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from octavo import parallel
from octavo.datasets.sharded import Sharded
from octavo.datasets.shards import Shards
from octavo.errors import DataError, RunError
from octavo.parallel import usable_cores
from octavo.runtime.batching import Samples, match
from octavo.runtime.latency import random_input
from octavo.runtime.runner import Outputs, Runner
from octavo.runtime.session import Kernels, ModelLike, Session, model_bytes

WORTH = 2e-4  # seconds of one invocation; below, handing samples to threads costs as much as it saves
MEMORY = 2 << 30  # bytes of model copies at most: each worker unpacks the weights for itself
_SHARE_SAMPLES = 256
_SHARE_BYTES = 16 << 20


class Score(Protocol):
    """A number for each sample, from outputs and labels; `octavo.metrics.PerSample` has one."""

    def __call__(self, outputs: Outputs, y: np.ndarray, /) -> np.ndarray: ...


class ManyRunner(Runner):
    """A `Runner` whose samples go to the workers that `joblib.parallel_config` names. Made by `runner_for_many`."""

    def __init__(
        self, model: ModelLike, kernels: Kernels | str, threads: int | None, workers: int, name: str | None
    ) -> None:
        super().__init__(model, kernels, threads, workers=workers, name=name)
        self._job = _Running(model_bytes(model), str(kernels), threads, self.name)

    def predict(self, x: Any, progress: bool = False) -> Outputs:
        """As `Runner.predict`, also of `octavo.shards`."""
        x = arrays_of(self, x)
        if not parallel.configured():
            return super().predict(x, progress)
        parts = self._spread(x, None, None, progress)
        joined = {p.name: np.concatenate([part[p.name] for part in parts]) for p in self.outputs}
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def scores(self, x: Any, y: np.ndarray, score: Score, progress: bool = False) -> np.ndarray:
        """The score of each sample, (N,); outputs are let go of as soon as they have been looked at.

        Args:
          x: samples, as for `predict`.
          y: one label for each.
          score: what to make of outputs and labels.
          progress: show a progress bar.

        Raises:
          DataError: samples or labels don't fit the model.
          RunError: LiteRT fails.
        """
        return np.concatenate(self._spread(arrays_of(self, x), y, score, progress))

    def _spread(self, x: Any, y: np.ndarray | None, score: Score | None, progress: bool) -> list[Any]:
        """What each share of the samples gave, in order."""
        samples = match(self.inputs, self.outputs, self._ordered(x), self.name)
        job = replace(self._job, score=score)
        job.__dict__["runner"] = self  # here there is no need for another
        parts = parallel.reduce(job, _shares(samples, y), samples.count, f"running {self.name}", progress, False)
        return [part for _, part in sorted(parts, key=lambda found: found[0])]


def arrays_of(runner: Runner, x: Any) -> Any:
    """`octavo.shards` as arrays by input name, read on demand; anything else as it is."""
    return x.arrays([replace(p, shape=p.shape_signature) for p in runner.inputs]) if isinstance(x, Shards) else x


def runner_for_many(
    model: ModelLike, kernels: Kernels | str = "xnnpack", threads: int | None = None, name: str | None = None
) -> ManyRunner:
    """A runner for many samples: on all cores, one sample each, if one invocation takes long enough.

    In `joblib.parallel_config(...)` samples go to the workers that it names.

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
        or parallel.configured()
        or _seconds(Session(named, kernels, 1, name=name)) < WORTH
    ):
        return ManyRunner(named, kernels, threads, 1, name)
    return ManyRunner(named, kernels, 1, cores, name)


@dataclass(frozen=True)
class _Share:
    """Samples that follow each other: a `parallel.Unit`."""

    first: int
    count: int
    arrays: list[Any]
    labels: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays if isinstance(array, np.ndarray))

    def place(self, index: int = 0) -> str:
        lead = self.arrays[0]
        if not isinstance(lead, Sharded):
            return f"sample {self.first + index}"
        path, number = lead.place(index)
        return f"{path}, sample {number}"


def _shares(samples: Samples, y: np.ndarray | None) -> Iterator[_Share]:
    each = max(1, min(_SHARE_SAMPLES, _SHARE_BYTES // max(1, samples.bytes_each)) // samples.batch) * samples.batch
    for first in range(0, samples.count, each):
        rows = slice(first, min(first + each, samples.count))
        cut = [a.choose(rows) if isinstance(a, Sharded) else np.asarray(a[rows]) for a in samples.arrays]
        yield _Share(first, rows.stop - first, cut, None if y is None else y[rows])


@dataclass(frozen=True)
class _Running:
    """Runs a model on shares: a `parallel.Work` whose result is (number of the first sample, outputs or scores)."""

    model: bytes
    kernels: str
    threads: int | None
    name: str
    score: Score | None = None

    @cached_property
    def runner(self) -> Runner:
        return Runner(self.model, self.kernels, self.threads, name=self.name)

    @property
    def nbytes(self) -> int:
        return 2 * len(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "runner"}

    def start(self) -> list[tuple[int, Any]]:
        return []

    def add(self, state: list[tuple[int, Any]], unit: _Share) -> None:
        try:
            found = Runner.predict(self.runner, unit.arrays if len(unit.arrays) > 1 else unit.arrays[0])
            state.append((unit.first, self._of(found, unit)))
        except (DataError, RunError) as error:
            kind = DataError if isinstance(error, DataError) else RunError
            raise kind(f"from {unit.place()} on: {error}") from error

    def pack(self, state: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return state

    def merge(self, state: list[tuple[int, Any]], packed: list[tuple[int, Any]]) -> None:
        state.extend(packed)

    def _of(self, found: Outputs, unit: _Share) -> Any:
        if self.score is not None and unit.labels is not None:
            return self.score(found, unit.labels)
        return found if isinstance(found, Mapping) else {self.runner.outputs[0].name: found}


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
