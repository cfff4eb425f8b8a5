"""Run a model on real numbers, whatever dtypes its file has."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from octavo.errors import DataError, RunError
from octavo.progress import task
from octavo.runtime.batching import Layout, Samples, layout_of, match
from octavo.runtime.codes import from_file, to_file
from octavo.runtime.session import Kernels, ModelLike, Port, Session
from octavo.runtime.tflm import TflmSession

CHUNK_BYTES = 4 << 20  # of input that is scaled at once: one NumPy call for many samples, little memory

Inputs = Any  # one array, a list or tuple of arrays, or a dict of arrays by input name
Outputs = np.ndarray | dict[str, np.ndarray]


class Runner:
    """A model as a function of real numbers.

        runner = Runner("small.tflite")
        logits = runner(images)

    Quantized inputs are scaled with the file's scale and zero point (rounded half away from zero, saturated), quantized
    outputs are scaled back to float32; so numbers given are always real values, never codes (for codes there is
    `Session`). Integer inputs without a scale, such as token ids, pass as they are after a range check.

    Samples: an array for a model whose input is [1, 28, 28] may be (28, 28), (1, 28, 28) or (N, 28, 28); the outputs'
    first dimension is then N, also for one sample (N = 1). Samples run one after another at the file's own
    batch size; a dynamic batch runs as 1, so that no result depends on its neighbours (a larger one is hardly faster on
    a CPU), and the last batch of a model with a fixed larger one is filled up with the last sample. A
    model without a batch dimension (a scalar input, or inputs that differ in their first dimension) takes its inputs as
    they are, or N of each stacked, and gives N outputs stacked.

    Variable tensors are cleared before every sample: no result depends on the order. To keep state, use `Session`.

    Args:
      model: `.tflite` bytes, a path, or an `octavo.Model`.
      kernels: "xnnpack", "builtin" or "reference" (see `Session`), or "tflm" (see `octavo.runtime.tflm`).
      threads: threads inside one invocation, None is LiteRT's default, one.
      workers: copies of the model that run different samples at the same time. It pays where one invocation takes
        longer than about 0.1 ms.
      signature: which signature to run; None is the main one.
      name: how messages call the model; None takes its file's name.

    Raises:
      ModelFileError, RunError: as `Session`.
    """

    def __init__(
        self,
        model: ModelLike,
        kernels: Kernels | str = "xnnpack",
        threads: int | None = None,
        *,
        workers: int = 1,
        signature: str | None = None,
        name: str | None = None,
    ) -> None:
        if workers < 1:
            raise RunError(f"workers is {workers}: use 1 or more")
        if kernels == "tflm":
            self._sessions: list[Any] = [TflmSession(model, name) for _ in range(workers)]
        else:
            self._sessions = [Session(model, kernels, threads, signature, name) for _ in range(workers)]
        self.name = self._sessions[0].name

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The model's inputs, as the file has them."""
        return self._sessions[0].inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The model's outputs, as the file has them."""
        return self._sessions[0].outputs

    @property
    def arena_bytes(self) -> int | None:
        """Memory that the kernels used, once they have run; only TFLM tells it, None for the others."""
        return getattr(self._sessions[0], "arena_bytes", None)

    def __call__(self, x: Inputs) -> Outputs:
        """Run on one or more samples.

        Args:
          x: an array; for several inputs a list or tuple in the order of `inputs`, or a dict by name.

        Returns:
          the output, or a dict by name if the model has several.

        Raises:
          DataError: an array doesn't fit its input; names the input.
          RunError: LiteRT fails.
        """
        return self.predict(x)

    def predict(self, x: Inputs, progress: bool = False) -> Outputs:
        """Like calling the runner, for many samples: only the outputs are held in memory.

        Arrays that are read in slices (a memory-mapped file) are never loaded as a whole.
        """
        samples = match(self.inputs, self.outputs, self._ordered(x), self.name)
        gathered = Gathered(self.outputs, samples, self.name)
        with task(f"running {self.name}", samples.count, progress) as work:
            for start, results in self._chunks(samples):
                gathered.put(start, results)
                work.advance(min(len(results) * samples.batch, samples.count - start))
        outputs = {p.name: from_file(p, a) for p, a in zip(self.outputs, gathered.arrays, strict=True)}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def first_codes(self, x: Inputs) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What the file itself takes and gives for the first sample: (inputs, outputs), in its own dtypes."""
        session = self._sessions[0]
        samples = match(self.inputs, self.outputs, self._ordered(x), self.name)
        session.resize(samples.shapes)
        inputs = self._codes(session, samples, 0, samples.batch)
        session.reset()
        first = [samples.one(array, 0) for array in inputs]
        return first, session.invoke(first)

    def _ordered(self, x: Inputs) -> list[Any]:
        """One array per input, in the order of `inputs`."""
        names = [p.name for p in self.inputs]
        if isinstance(x, Mapping):
            missing, unknown = [n for n in names if n not in x], [n for n in x if n not in names]
            if missing or unknown:
                wrong = f"missing: {missing}" if missing else f"unknown: {unknown}"
                raise DataError(f"{self.name} has the inputs {names}; {wrong}")
            return [as_array(x[name], name) for name in names]
        if len(names) == 1:
            return [self._single(x)]
        if not isinstance(x, list | tuple) or len(x) != len(names):
            got = f"{len(x)} arrays" if isinstance(x, list | tuple) else type(x).__name__
            raise DataError(f"{self.name} has the inputs {names}: give a list in this order or a dict, not {got}")
        return [as_array(values, name) for values, name in zip(x, names, strict=True)]

    def _single(self, x: Inputs) -> Any:
        """The array for a model with one input; [array] is taken as the list of inputs where it can't be a sample."""
        only = self.inputs[0]
        if isinstance(x, list | tuple) and len(x) == 1:
            inner = as_array(x[0], only.name)
            if inner.ndim >= len(only.shape):
                return inner
        return as_array(x, only.name)

    def _chunks(self, samples: Samples) -> Iterator[tuple[int, list[list[np.ndarray]]]]:
        """Pairs of first sample and results (one list of raw outputs per invocation), in order."""
        for session in self._sessions:
            session.resize(samples.shapes)
        per_chunk = max(1, CHUNK_BYTES // max(1, samples.bytes_each))
        # Split the work evenly over the workers too, in batches that the model takes.
        share = -(-samples.count // (4 * len(self._sessions))) if len(self._sessions) > 1 else samples.count
        step = max(1, min(per_chunk, share) // samples.batch) * samples.batch
        starts = range(0, samples.count, step)
        if len(self._sessions) == 1:
            for start in starts:
                yield start, self._run(self._sessions[0], samples, start, step)
            return
        free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        for session in self._sessions:
            free.put(session)

        def run(start: int) -> list[list[np.ndarray]]:
            session = free.get()
            try:
                return self._run(session, samples, start, step)
            finally:
                free.put(session)

        with ThreadPoolExecutor(len(self._sessions)) as pool:
            yield from zip(starts, pool.map(run, starts), strict=True)

    def _run(self, session: Session, samples: Samples, start: int, step: int) -> list[list[np.ndarray]]:
        arrays = self._codes(session, samples, start, step)
        results = []
        for k in range(0, len(arrays[0]), samples.batch) if arrays else [0]:
            session.reset()
            results.append(session.invoke([samples.one(array, k) for array in arrays]))
        return results

    def _codes(self, session: Session, samples: Samples, start: int, step: int) -> list[np.ndarray]:
        return [
            to_file(p, samples.take(i, start, step), start, samples.stacked, self.name)
            for i, p in enumerate(session.inputs)
        ]


class Gathered:
    """Outputs of many invocations, one array per output, in the file's own dtypes."""

    def __init__(self, ports: Sequence[Port], samples: Samples, name: str) -> None:
        self.arrays: list[np.ndarray] = []
        self._ports, self._samples, self._name = ports, samples, name
        self._layouts: list[Layout] = []

    def put(self, start: int, results: list[list[np.ndarray]]) -> None:
        """Store the results whose first sample is number `start`."""
        if not self.arrays:
            self._layouts = layout_of(results[0], self._samples, [p.name for p in self._ports], self._name)
            count = self._samples.count
            self.arrays = [np.empty((count, *one.shape), one.dtype) for one in self._layouts]
        batch, count = self._samples.batch, self._samples.count
        for k, outputs in enumerate(results):
            first = start + k * batch
            many = min(batch, count - first)
            for array, layout, output, p in zip(self.arrays, self._layouts, outputs, self._ports, strict=True):
                if output.shape != layout.full:
                    raise RunError(
                        f"output {p.name!r} of {self._name} has shape {list(output.shape)} for sample {first} and "
                        f"{list(layout.full)} for sample 0: run the samples one at a time"
                    )
                array[first : first + many] = output[:many] if layout.leads else output


def as_array(values: Any, name: str) -> Any:
    """Something with a shape, a dtype and slices; what has them (a memory map, an HDF5 set) is left as it is."""
    if all(hasattr(values, attribute) for attribute in ("shape", "dtype", "ndim", "__getitem__")):
        return values
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"input {name!r}: the samples have different shapes; run them one at a time") from None
    if array.dtype == object:
        raise DataError(f"input {name!r}: {type(values).__name__} is no array of numbers")
    return array
