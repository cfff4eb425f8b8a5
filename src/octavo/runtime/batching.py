"""How the arrays that people have match the shape that a model takes. Shapes only; nothing runs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import DataError, RunError
from octavo.runtime.session import Port


@dataclass(frozen=True)
class Samples:
    """Arrays for a model, one per input, cut into samples.

    Attributes:
      arrays: what was given, each with a leading dimension of `count` samples.
      count: number of samples.
      batch: samples per invocation.
      shapes: the inputs' shapes for one invocation.
      stacked: the model has no batch dimension; the leading one was added by stacking whole inputs.
    """

    arrays: tuple[Any, ...]
    count: int
    batch: int
    shapes: list[tuple[int, ...]]
    stacked: bool

    @property
    def bytes_each(self) -> int:
        """Bytes of one sample as given, all inputs together."""
        return sum(int(np.prod(a.shape[1:], dtype=np.int64)) * a.dtype.itemsize for a in self.arrays)

    def take(self, which: int, start: int, step: int) -> np.ndarray:
        """Samples start..start+step of one input, filled up to whole batches by repeating the last one."""
        chunk = np.asarray(self.arrays[which][start : start + step])
        short = -len(chunk) % self.batch
        return np.concatenate([chunk, np.repeat(chunk[-1:], short, axis=0)]) if short else chunk

    def one(self, chunk: np.ndarray, k: int) -> np.ndarray:
        """The input of the invocation that starts at sample k of a chunk."""
        return chunk[k] if self.stacked else chunk[k : k + self.batch]


@dataclass(frozen=True)
class Layout:
    """One output: its shape per sample and per invocation, and whether samples lead in the latter."""

    shape: tuple[int, ...]
    full: tuple[int, ...]
    dtype: np.dtype
    leads: bool


def match(ports: Sequence[Port], outputs: Sequence[Port], arrays: Sequence[Any], model: str) -> Samples:
    """Find the sample dimension of each array.

    Args:
      ports: the model's inputs.
      outputs: its outputs: they tell whether a leading dimension that the inputs share counts samples.
      arrays: one for each input.
      model: what messages call the model.

    Raises:
      DataError: an array fits no reading, there are no samples, or the inputs have different numbers of them.
    """
    if not ports:
        return Samples((), 1, 1, [], stacked=True)
    batch = _batch_size(ports, outputs)
    view = _with_batch if batch is not None else _stacked
    fitted = [view(p, array, model) for p, array in zip(ports, arrays, strict=True)]
    counts = {p.name: len(array) for p, array in zip(ports, fitted, strict=True)}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {n}" for name, n in counts.items())
        raise DataError(f"the inputs of {model} have different numbers of samples: {listed}")
    count = next(iter(counts.values()))
    if count == 0:
        raise DataError(f"input {ports[0].name!r} of {model} has no samples")
    if batch is None:
        return Samples(tuple(fitted), count, 1, [a.shape[1:] for a in fitted], stacked=True)
    return Samples(tuple(fitted), count, batch, [(batch, *a.shape[1:]) for a in fitted], stacked=False)


def shapes_for(ports: Sequence[Port], outputs: Sequence[Port], count: int) -> list[tuple[int, ...]]:
    """The shapes of arrays that hold `count` samples, one for each input; dynamic dimensions are 1."""
    stacked = _batch_size(ports, outputs) is None
    return [(count, *(p.shape if stacked else p.shape[1:])) for p in ports]


def layout_of(outputs: Sequence[np.ndarray], samples: Samples, names: Sequence[str], model: str) -> list[Layout]:
    """How the outputs of one invocation are cut into samples.

    Raises:
      RunError: the model takes several samples at once and an output doesn't have as many.
    """
    layouts = []
    for output, name in zip(outputs, names, strict=True):
        leads = not samples.stacked and output.ndim > 0 and output.shape[0] == samples.batch
        if not leads and samples.batch > 1:
            raise RunError(
                f"output {name!r} of {model} has shape {list(output.shape)}, which isn't one row for each of the "
                f"{samples.batch} samples that the model takes at once: use octavo.runtime.Session for this model"
            )
        layouts.append(Layout(output.shape[1:] if leads else output.shape, output.shape, output.dtype, leads))
    return layouts


def _batch_size(ports: Sequence[Port], outputs: Sequence[Port]) -> int | None:
    """Samples per invocation, or None if the model has no batch dimension. A dynamic one runs as 1."""
    if any(not p.shape for p in ports):
        return None
    leading = {1 if p.shape_signature[0] < 0 else p.shape_signature[0] for p in ports}
    if len(leading) > 1:
        return None
    batch = leading.pop()
    led = all(p.shape_signature and p.shape_signature[0] in (batch, -1) for p in outputs)
    return batch if batch == 1 or led else None


def _with_batch(p: Port, array: Any, model: str) -> Any:
    each = p.shape_signature[1:]
    if array.ndim == len(each) + 1 and _fits(array.shape[1:], each):
        return array
    if array.ndim == len(each) and _fits(array.shape, each):
        return np.asarray(array)[None]
    raise _wrong_shape(p, array, model, f"(N, {', '.join(_show(each))})" if each else "(N,)")


def _stacked(p: Port, array: Any, model: str) -> Any:
    whole = p.shape_signature
    if array.ndim == len(whole) and _fits(array.shape, whole):
        return np.asarray(array)[None]
    if array.ndim == len(whole) + 1 and _fits(array.shape[1:], whole):
        return array
    raise _wrong_shape(p, array, model, f"({', '.join(_show(whole))})")


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return all(w in (h, -1) for h, w in zip(have, want, strict=True))


def _show(shape: tuple[int, ...]) -> list[str]:
    return ["any" if n < 0 else str(n) for n in shape]


def _wrong_shape(p: Port, array: Any, model: str, want: str) -> DataError:
    return DataError(f"input {p.name!r} of {model} takes arrays of shape {want}, got {tuple(array.shape)}")
