"""Representative data, in every shape in which people hold it, as one stream of samples.

How data is read, in this order:

1. A function without arguments (as `representative_dataset` of tf.lite) is called, and what it returns is read.
2. One array, a dict name -> array, or for a model with k > 1 inputs a list of k arrays (labels may follow) holds all
   samples at once. A tuple (x, y) does too, if y fits the labels of x and can't be a sample itself.
3. Anything else is iterated, and each element is a sample or a batch of samples: an array; a list or tuple of arrays in
   the order of the model's inputs; a dict name -> array; or one of these followed by labels, and by sample weights,
   which are ignored: (x, y), (x, y, w), (x1, x2, y). A list or tuple of two arrays for a model with one input is
   (x, y); for a model with two inputs it is both inputs, and (x, y) only if x is itself a list, tuple or dict.

How many samples an array holds follows from its rank and the input's shape. An input has a batch dimension if its first
dimension is 1; or -1 and there are more dimensions; or B > 1, the same in all inputs, and some input has more
dimensions. With the input's shape (1, 28, 28): (28, 28) is one sample, (n, 28, 28) are n, and so are (n, 1, 28, 28).
Without a batch dimension, say (16000,): (16000,) is one sample and (n, 16000) are n. Batches are split; if the model
wants batches of B, rows are gathered B at a time, in order and across elements, and an incomplete rest is dropped.

`octavo.shards(...)` is read file by file, and messages about it name the file and count samples within it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from octavo.datasets.sharded import Sharded
from octavo.datasets.shards import Shards
from octavo.errors import DataError, OctavoError


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
      name: the name in the signature where there is one, else the tensor's.
      shape: full shape with the batch dimension; -1 where it is dynamic.
      dtype: element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def samples(data: Any, inputs: Sequence[InputSpec]) -> Iterator[dict[str, np.ndarray]]:
    """Yield one dict per sample: input name -> array of the input's full shape and dtype, owning its memory.

    A dynamic batch dimension becomes 1. Only one element (sample or batch) of `data` is held at a time. Float data is
    cast to the input's float type, integers to its integer type, if the values survive it.

    Args:
      data: see the module's text.
      inputs: the model's inputs, in order.

    Raises:
      DataError: NaN or infinity, no samples, a wrong shape, dtype, name or number of inputs, or data that raises while
        it is read. Messages name the input and the sample, counted from 0.
    """
    layouts = layouts_of(inputs)
    size = layouts[0].batch
    sharded = as_sharded(data, inputs)
    rows = _rows(data, layouts) if sharded is None else _shard_rows(sharded, layouts)
    found = 0
    while len(group := list(itertools.islice(rows, size))) == size:
        found += 1
        yield group.pop() if size == 1 else {k: np.concatenate([row[k] for row in group]) for k in group[0]}
    if not found and group:
        raise DataError(f"the data has {len(group)} sample(s), but the model takes batches of {size}: give more")
    if not found:
        raise DataError(
            "the data has no samples; if it is a generator that was used up, pass the function that makes it"
        )


def count_hint(data: Any, inputs: Sequence[InputSpec] = ()) -> int | None:
    """How many samples data in memory holds, for progress bars; None if only iterating would tell.

    Exact with `inputs`. Without them a guess: an array's first dimension, a list's length.
    """
    if isinstance(data, Shards):
        return len(data) // (layouts_of(inputs)[0].batch if inputs else 1)
    whole = isinstance(data, Mapping) or (_is_array(data) and not isinstance(data, list))
    if not whole and not isinstance(data, list | tuple):
        return None
    if inputs:
        layouts = layouts_of(inputs)
        try:
            counts = [_count(_by_name(item, layouts, 0), layouts, 0) for item in _elements(data, layouts)]
        except DataError:
            return None
        return sum(counts) // layouts[0].batch
    if not whole:
        return len(data)
    shape = _shape(next(iter(data.values()), None) if isinstance(data, Mapping) else data)
    return shape[0] if shape else None


# Data in many files


def as_sharded(data: Any, inputs: Sequence[InputSpec]) -> dict[str, Sharded] | None:
    """Data in many files by input name; None if it is none.

    Raises:
      DataError: the files don't fit the inputs.
    """
    names = [spec.name for spec in inputs]
    if isinstance(data, Shards):
        return data.arrays(inputs)
    if isinstance(data, Sharded) and len(names) == 1:
        return {names[0]: data}
    if not isinstance(data, Mapping) or not data or not all(isinstance(array, Sharded) for array in data.values()):
        return None
    _check_names(data, names, 0)
    return {name: data[name] for name in names}


def rows_each(sharded: dict[str, Sharded], layouts: list[Layout]) -> int:
    """How many rows there are for each step along the arrays' first axis: one, but for stacked batches."""
    counts = {name: len(array) for name, array in sharded.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(f"the inputs differ in their number of samples: {listed}")
    for layout in layouts:
        shape = sharded[layout.spec.name].shape
        rows = layout.rows((2, *shape[1:]))
        if rows is None or rows % 2:
            path = sharded[layout.spec.name].place(0)[0] if shape[0] else "the first file"
            wanted = f"{layout.spec.shape}: {layout.accepted}, samples along the first axis"
            raise DataError(f"{path}: input {layout.spec.name!r}: shape {shape} doesn't fit {wanted}")
    return max(layout.rows((2, *sharded[layout.spec.name].shape[1:])) or 0 for layout in layouts) // 2


def _shard_rows(sharded: dict[str, Sharded], layouts: list[Layout]) -> Iterator[dict[str, np.ndarray]]:
    """Every row of data in files, checked; messages name the file, and count its rows."""
    each = rows_each(sharded, layouts)
    lead = next(iter(sharded.values()))
    for span in lead.spans():
        path, number = lead.place(span.start)
        chunk = {name: array[span] for name, array in sharded.items()}
        try:
            yield from _element_rows(chunk, layouts, number * each)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


# How an array is laid out


@dataclass(frozen=True)
class Layout:
    """How arrays for one input divide into rows; a row is a sample, or 1/batch of one."""

    spec: InputSpec
    batched: bool
    batch: int

    def rows(self, shape: tuple[int, ...]) -> int | None:
        """Number of rows in an array of `shape`; None if it doesn't fit the input."""
        full = self.spec.shape
        if _fits(shape[1:], full) and shape:
            return shape[0] * shape[1] if self.batched else shape[0]
        if not self.batched:
            return 1 if _fits(shape, full) else None
        if _fits(shape[1:], full[1:]) and shape:
            return shape[0]
        return 1 if _fits(shape, full[1:]) else None

    def row(self, value: Any, shape: tuple[int, ...], index: int, where: str) -> np.ndarray:
        """Row `index` with its batch dimension of 1. Slices first and converts then: h5py files stay on disk."""
        extra = len(shape) - len(self.spec.shape)
        if extra == 1:
            outer, inner = divmod(index, shape[1]) if self.batched else (index, 0)
            stacked = _as_array(value[outer : outer + 1], where)[0]
            return stacked[inner : inner + 1] if self.batched else stacked
        if not self.batched:
            return _as_array(value, where)
        return _as_array(value[index : index + 1], where) if extra == 0 else _as_array(value, where)[np.newaxis]

    @property
    def accepted(self) -> str:
        """The shapes that fit, for messages."""
        one = self.spec.shape[1:] if self.batched else self.spec.shape
        several = f"({', '.join(['n', *map(str, one)])})" if one else "(n,)"
        return f"give {one} for one sample or {several} for several"


def layouts_of(inputs: Sequence[InputSpec]) -> list[Layout]:
    """Find each input's batch dimension by the rule in the module's text."""
    if not inputs:
        raise DataError("the model has no inputs, so there is nothing to feed")
    names = [spec.name for spec in inputs]
    if len(set(names)) < len(names):
        raise DataError(f"the model's input names repeat ({', '.join(map(repr, names))}): give each its own")
    first = {spec.shape[0] if spec.shape else None for spec in inputs}
    shared = first.pop() if len(first) == 1 and any(len(spec.shape) > 1 for spec in inputs) else None
    batch = shared if shared is not None and shared > 1 else 1

    def batched(shape: tuple[int, ...]) -> bool:
        return bool(shape) and (shape[0] == 1 or shape[0] == shared or (shape[0] == -1 and len(shape) > 1))

    return [Layout(spec, batched(spec.shape), batch) for spec in inputs]


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, have) for have, want in zip(shape, wanted, strict=True))


# From data to elements, and from elements to rows


def _rows(data: Any, layouts: list[Layout]) -> Iterator[dict[str, np.ndarray]]:
    """Every row of the data, checked. Sample numbers in messages count these."""
    elements = _elements(data, layouts)
    number = 0
    while True:
        try:
            rows = _element_rows(next(elements), layouts, number)
        except StopIteration:
            return
        except OctavoError:
            raise
        except Exception as error:
            reason = _in_one_line(error)
            raise DataError(f"the data raised an error where sample {number} was due ({reason})") from error
        for row in rows:
            yield row
            number += 1


def _elements(data: Any, layouts: list[Layout]) -> Iterator[Any]:
    """The elements of `data`; those that hold all samples at once are a single element."""
    if isinstance(data, str | bytes | os.PathLike):
        raise DataError(f"{data!r} is a path, not data: load it first, for instance with octavo.datasets.npz.load_npz")
    if isinstance(data, Mapping) or _holds_all_inputs(data, layouts):
        yield data
    elif _is_labelled_pair(data, layouts):
        yield data[0]
    elif isinstance(data, list | tuple):
        yield from data
    elif _is_array(data):
        yield data
    elif isinstance(data, Iterable):
        yield from data
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a map-style dataset may never raise IndexError
        yield from (data[index] for index in range(len(data)))
    elif callable(data):
        yield from _elements(data(), layouts)
    else:
        raise DataError(
            f"a {type(data).__name__} is no data: give an array, a list of samples, a dict of arrays, "
            "a generator function, or an iterable of batches"
        )


def _holds_all_inputs(data: Any, layouts: list[Layout]) -> bool:
    """A list [X1, X2, ...] of arrays for a model with several inputs: none of them could be a sample by itself."""
    return (
        isinstance(data, list | tuple)
        and 1 < len(layouts) <= len(data) <= len(layouts) + 1
        and all(_is_array(item) and not isinstance(item, list) for item in data)
    )


def _is_labelled_pair(data: Any, layouts: list[Layout]) -> bool:
    """A tuple (X, y) for a model with one input, where y has one label per row of X and doesn't fit the input."""
    if not isinstance(data, tuple) or len(data) != 2 or len(layouts) > 1:
        return False
    x, y = map(_shape, data)
    if x is None or y is None or len(y) not in (1, 2):
        return False
    return layouts[0].rows(x) == y[0] and layouts[0].rows(y) is None


def _element_rows(element: Any, layouts: list[Layout], number: int) -> Iterator[dict[str, np.ndarray]]:
    """The rows of one sample or batch; `number` is that of its first row."""
    values = _by_name(element, layouts, number)
    for index in range(_count(values, layouts, number)):
        row = {}
        for layout in layouts:
            spec = layout.spec
            where = f"input {spec.name!r}, sample {number + index}"
            value, shape = values[spec.name]
            row[spec.name] = _converted(layout.row(value, shape, index, where), spec, where)
        yield row


_Values = dict[str, tuple[Any, tuple[int, ...]]]  # input name -> array-like that can be sliced, and its shape


def _by_name(element: Any, layouts: list[Layout], number: int, labelled: bool = True) -> _Values:
    """Assign the arrays of one element to the model's inputs; labels, if there can be any, are left out."""
    names = [layout.spec.name for layout in layouts]
    if isinstance(element, Mapping):
        _check_names(element, names, number)
        arrays = [element[name] for name in names]
    elif _is_array(element) and not (isinstance(element, list) and len(names) > 1):
        arrays = [element]
    elif isinstance(element, list | tuple):
        head = next(iter(element), None)
        if labelled and len(element) in (2, 3) and isinstance(head, list | tuple | Mapping) and not _is_array(head):
            return _by_name(head, layouts, number, labelled=False)
        arrays = _without_labels(element, layouts, number) if labelled else list(element)
    else:
        raise DataError(f"sample {number} is a {type(element).__name__}: give an array, a list of arrays, or a dict")
    if len(arrays) != len(names):
        wanted = ", ".join(map(repr, names))
        raise DataError(
            f"sample {number} has {len(arrays)} array(s), but the model has {len(names)} input(s): give a list "
            f"in the order {wanted}, or a dict with these names"
        )
    named = zip(names, arrays, strict=True)
    return {name: _sliceable(array, f"input {name!r}, sample {number}") for name, array in named}


def _check_names(element: Mapping[Any, Any], names: list[str], number: int) -> None:
    given, wanted = ", ".join(map(repr, element)), ", ".join(map(repr, names))
    for name in names:
        if name not in element:
            raise DataError(f"sample {number} has no value for input {name!r}: it names {given or 'nothing'}")
    for name in element:
        if name not in names:
            raise DataError(f"sample {number} names an unknown input {name!r}: the model's inputs are {wanted}")


def _without_labels(element: Sequence[Any], layouts: list[Layout], number: int) -> list[Any]:
    """The inputs' arrays of (x1, ..., xk), (x1, ..., xk, y) or (x1, ..., xk, y, w); all of them if it is neither."""
    count = len(layouts)
    if not 0 < len(element) - count <= 2:
        return list(element)
    for array, layout in zip(element, layouts, strict=False):
        _, shape = _sliceable(array, f"input {layout.spec.name!r}, sample {number}")
        if count > 1 and layout.rows(shape) is None:  # with one input the shape itself is the better complaint
            return list(element)
    return list(element[:count])


def _count(values: _Values, layouts: list[Layout], number: int) -> int:
    """Rows of one element; the same for all inputs."""
    counts = {}
    for layout in layouts:
        name, (_, shape) = layout.spec.name, values[layout.spec.name]
        counts[name] = layout.rows(shape)
        if counts[name] is None:
            wanted = f"{layout.spec.shape}: {layout.accepted}"
            raise DataError(f"input {name!r}, sample {number}: shape {shape} doesn't fit {wanted}")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(f"the inputs differ in their number of samples, from sample {number} on: {listed}")
    return next(iter(counts.values()))


# Arrays of every make


def _is_array(value: Any) -> bool:
    """One tensor: NumPy's, another framework's, a number, or nested lists of numbers."""
    leaf = value
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if isinstance(value, list):
        return isinstance(leaf, Number)
    if isinstance(value, np.ndarray | Number):
        return True
    return any(hasattr(value, name) for name in ("__array__", "__array_interface__", "numpy"))


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape if the object tells it, without reading its values."""
    try:
        return tuple(int(n) for n in value.shape)
    except (AttributeError, TypeError, ValueError):
        return None


def _sliceable(value: Any, where: str) -> tuple[Any, tuple[int, ...]]:
    """The value itself with its shape if it has one, else its conversion to an array."""
    shape = _shape(value)
    if shape is None or not hasattr(value, "__getitem__"):
        value = _as_array(value, where)
        shape = value.shape
    return value, shape


def _as_array(value: Any, where: str) -> np.ndarray:
    try:
        if hasattr(value, "detach"):  # torch: out of the autograd graph, off the accelerator
            value = value.detach().cpu()
        if not hasattr(value, "__array__") and callable(getattr(value, "numpy", None)):
            value = value.numpy()
        return np.asarray(value)
    except Exception as error:
        raise DataError(
            f"{where}: a {type(value).__name__} can't be read as an array ({_in_one_line(error)})"
        ) from error


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _converted(row: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """A copy in the input's dtype, finite; refuses casts that change the meaning or the values."""
    want, have = np.dtype(spec.dtype), row.dtype
    is_float = have.kind == "f" or have.name.startswith(("bfloat16", "float8"))
    if want.kind == "f" and is_float:
        with np.errstate(over="ignore"):
            cast = np.array(row, want, order="C")
        _check_finite(row, where)
        if not np.isfinite(cast).all():
            raise DataError(f"{where}: {have} values beyond the range of {want}")
        return cast
    if want.kind in "iu" and have.kind in "iub":
        limits = np.iinfo(want)
        if row.size and not (limits.min <= int(row.min()) and int(row.max()) <= limits.max):
            raise DataError(f"{where}: values from {row.min()} to {row.max()} don't fit the input's dtype {want}")
        return np.array(row, want, order="C")
    if have == want or (want.kind in "OSU" and have.kind in "OSU"):
        if want.kind == "c":
            _check_finite(row, where)
        return np.array(row, want, order="C")
    advice = "give values of that type"
    if want.kind == "f":
        advice = "cast and scale it as in training, for instance x.astype('float32') / 255"
    raise DataError(f"{where}: dtype {have}, but the model takes {want}: {advice}")


def _check_finite(row: np.ndarray, where: str) -> None:
    finite = np.isfinite(row)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        kind = "NaN" if np.isnan(row[index]) else "infinity"
        raise DataError(f"{where}: {kind} at index {index}")
