"""`octavo.calibrate.data`: every shape in which people hold samples, and every way in which they can be wrong."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from octavo.calibrate.data import InputSpec, count_hint, samples
from octavo.errors import DataError

F32 = np.dtype(np.float32)
IMAGE = [InputSpec("image", (1, 4, 3), F32)]
PAIR = [InputSpec("left", (1, 3), F32), InputSpec("right", (1, 2), F32)]
TRIPLE = [*PAIR, InputSpec("ids", (1, 2), np.dtype(np.int32))]


def numbered(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


X = numbered(6, 4, 3)
Y = np.arange(6)
LEFT, RIGHT = numbered(6, 3), -numbered(6, 2)
IDS = numbered(6, 2, dtype=np.int32)


class Readable:
    """A foreign tensor that only knows `.numpy()`."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


class Torchlike(Readable):
    """As torch: `.numpy()` refuses while the tensor is in an autograd graph or on an accelerator."""

    def __init__(self, values: np.ndarray, state: str = "grad") -> None:
        super().__init__(values)
        self.state, self.shape = state, values.shape

    def __getitem__(self, index: Any) -> Torchlike:
        return Torchlike(self.values[index], self.state)

    def detach(self) -> Torchlike:
        return Torchlike(self.values, "cuda")

    def cpu(self) -> Torchlike:
        return Torchlike(self.values, "cpu" if self.state == "cuda" else self.state)

    def numpy(self) -> np.ndarray:
        if self.state != "cpu":
            raise RuntimeError(f"can't convert a {self.state} tensor")
        return self.values


class MapStyle:
    """As torch.utils.data.Dataset: a length and items, no iterator, and no IndexError at the end."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index % len(self.items)]


class Batches:
    """As a torch DataLoader or tf.data.Dataset: only an iterator."""

    def __init__(self, *arrays: Any, size: int = 4, wrap: Callable[..., Any] = lambda *parts: parts) -> None:
        self.arrays, self.size, self.wrap = arrays, size, wrap

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.arrays[0]), self.size):
            yield self.wrap(*(array[start : start + self.size] for array in self.arrays))


def generator(items: Any) -> Iterator[Any]:
    yield from items


# Name -> how to make it; made anew for each test, for some can be read only once.
SINGLE: dict[str, Callable[[], Any]] = {
    "array": lambda: X,
    "array with batch 1 each": lambda: X[:, None],
    "float64 array": lambda: X.astype(np.float64),
    "float16 array": lambda: X.astype(np.float16),
    "big-endian array": lambda: X.astype(">f4"),
    "strided array": lambda: np.asfortranarray(X),
    "jax array": lambda: jnp.asarray(X),
    "bfloat16 array": lambda: jnp.asarray(X, jnp.bfloat16),
    "tensor with .numpy()": lambda: Readable(X),
    "torch-like tensor": lambda: Torchlike(X),
    "nested lists": lambda: X.tolist(),
    "list": lambda: list(X),
    "tuple": lambda: tuple(X),
    "list with batch 1": lambda: list(X[:, None]),
    "list of batches": lambda: [X[:4], X[4:]],
    "list of [array]": lambda: [[x] for x in X],
    "list of (array,)": lambda: [(x[None],) for x in X],
    "list of dicts": lambda: [{"image": x} for x in X],
    "list of dicts of lists": lambda: [{"image": x.tolist()} for x in X],
    "list of (x, y)": lambda: list(zip(X, Y, strict=True)),
    "list of torch-like tensors": lambda: [Torchlike(x) for x in X],
    "dict": lambda: {"image": X},
    "dict of jax array": lambda: {"image": jnp.asarray(X)},
    "(X, y)": lambda: (X, Y),
    "(X, one-hot y)": lambda: (X, np.eye(6)),
    "generator": lambda: generator(X),
    "generator of [array]": lambda: generator([x[None]] for x in X),
    "iterator": lambda: iter(list(X)),
    "map": lambda: map(np.asarray, X.tolist()),
    "generator function": lambda: lambda: generator([x] for x in X),
    "function that returns an array": lambda: lambda: X,
    "map-style dataset of (x, y)": lambda: MapStyle(list(zip(X, Y, strict=True))),
    "batches": lambda: Batches(X, wrap=lambda x: x),
    "batches (x,)": lambda: Batches(X),
    "batches (x, y)": lambda: Batches(X, Y),
    "batches [x, y]": lambda: Batches(X, Y, wrap=lambda *parts: list(parts)),
    "batches (x, y, weight)": lambda: Batches(X, Y, Y),
    "batches (x, x) of an autoencoder": lambda: Batches(X, X),
    "batches ({name: x}, y)": lambda: Batches(X, Y, wrap=lambda x, y: ({"image": x}, y)),
    "batches ([x], y)": lambda: Batches(X, Y, wrap=lambda x, y: ([x], y)),
    "batches of lists": lambda: Batches(X, wrap=lambda x: {"image": x.tolist()}),
}


@pytest.mark.parametrize("make", SINGLE.values(), ids=SINGLE.keys())
@pytest.mark.parametrize("leading", [1, -1], ids=["batch 1", "dynamic batch"])
def test_one_input(make: Callable[[], Any], leading: int) -> None:
    found = list(samples(make(), [InputSpec("image", (leading, 4, 3), F32)]))
    assert [list(sample) for sample in found] == [["image"]] * 6
    for sample, x in zip(found, X, strict=True):
        assert sample["image"].dtype == F32
        assert sample["image"].flags.c_contiguous
        np.testing.assert_array_equal(sample["image"], x[None])


DOUBLE: dict[str, Callable[[], Any]] = {
    "dict of arrays": lambda: {"left": LEFT, "right": RIGHT},
    "dict in another order": lambda: {"right": RIGHT, "left": LEFT},
    "[X1, X2]": lambda: [LEFT, RIGHT],
    "(X1, X2, y)": lambda: (LEFT, RIGHT, Y),
    "list of lists": lambda: [[a, b] for a, b in zip(LEFT, RIGHT, strict=True)],
    "list of tuples": lambda: list(zip(LEFT, RIGHT, strict=True)),
    "list of lists of lists": lambda: [[a.tolist(), b.tolist()] for a, b in zip(LEFT, RIGHT, strict=True)],
    "list of dicts": lambda: [{"left": a, "right": b[None]} for a, b in zip(LEFT, RIGHT, strict=True)],
    "generator function": lambda: lambda: generator([a[None], b[None]] for a, b in zip(LEFT, RIGHT, strict=True)),
    "batches (x1, x2)": lambda: Batches(LEFT, RIGHT),
    "batches (x1, x2, y)": lambda: Batches(LEFT, RIGHT, Y),
    "batches (x1, x2, y, weight)": lambda: Batches(LEFT, RIGHT, Y, Y),
    "batches ([x1, x2], y)": lambda: Batches(LEFT, RIGHT, Y, wrap=lambda a, b, y: ([a, b], y)),
    "batches ((x1, x2), y, weight)": lambda: Batches(LEFT, RIGHT, Y, wrap=lambda a, b, y: ((a, b), y, y)),
    "batches ({...}, y)": lambda: Batches(LEFT, RIGHT, Y, wrap=lambda a, b, y: ({"left": a, "right": b}, y)),
    "batches {...}": lambda: Batches(LEFT, RIGHT, wrap=lambda a, b: {"left": a, "right": b}),
}


@pytest.mark.parametrize("make", DOUBLE.values(), ids=DOUBLE.keys())
def test_two_inputs(make: Callable[[], Any]) -> None:
    found = list(samples(make(), PAIR))
    assert len(found) == 6
    for sample, left, right in zip(found, LEFT, RIGHT, strict=True):
        assert list(sample) == ["left", "right"]
        np.testing.assert_array_equal(sample["left"], left[None])
        np.testing.assert_array_equal(sample["right"], right[None])


@pytest.mark.parametrize(
    "data",
    [
        [LEFT, RIGHT, IDS],
        list(zip(LEFT, RIGHT, IDS, strict=True)),
        list(zip(LEFT, RIGHT, IDS, Y, strict=True)),
        [((a, b, i), y, 1.0) for a, b, i, y in zip(LEFT, RIGHT, IDS, Y, strict=True)],
        [((a, b, i), y) for a, b, i, y in zip(LEFT, RIGHT, IDS, Y, strict=True)],
    ],
    ids=["[X1, X2, X3]", "(x1, x2, x3)", "(x1, x2, x3, y)", "((x1, x2, x3), y, w)", "((x1, x2, x3), y)"],
)
def test_three_inputs(data: Any) -> None:
    found = list(samples(data, TRIPLE))
    assert len(found) == 6
    np.testing.assert_array_equal(np.concatenate([s["left"] for s in found]), LEFT)
    np.testing.assert_array_equal(np.concatenate([s["ids"] for s in found]), IDS)


@pytest.mark.parametrize(
    ("shape", "data", "count"),
    [
        ((1, 4, 3), numbered(1, 4, 3), 1),  # exactly the input's shape
        ((1, 4, 3), numbered(4, 3), 1),
        ((1, 4, 3), numbered(5, 2, 4, 3)[:, :1], 5),
        ((1,), numbered(7), 7),
        ((1,), np.float32(1), 1),
        ((1,), [1.0, 2.0], 2),
        ((1, 1), numbered(7, 1), 7),
        ((), np.float32(1), 1),
        ((), numbered(7), 7),
        ((16,), numbered(16), 1),  # no batch dimension
        ((16,), numbered(5, 16), 5),
        ((16,), [numbered(16), numbered(2, 16)], 3),
        ((-1,), numbered(9), 1),
        ((-1,), numbered(4, 9), 4),
        ((-1, -1, 3), numbered(2, 5, 3), 2),
        ((-1, -1, 3), [numbered(5, 3), numbered(2, 7, 3), numbered(2, 3, 1, 3)], 9),
        ((1, -1), [numbered(5), numbered(1, 7), numbered(3, 2)], 5),
    ],
)
def test_rank_decides_what_an_array_holds(shape: tuple[int, ...], data: Any, count: int) -> None:
    spec = InputSpec("x", shape, F32)
    found = [sample["x"] for sample in samples(data, [spec])]
    assert len(found) == count == count_hint(data, [spec])
    leaves = data if isinstance(data, list) else [data]
    np.testing.assert_array_equal(
        np.concatenate([x.reshape(-1) for x in found]), np.concatenate([np.reshape(leaf, -1) for leaf in leaves])
    )
    for x in found:
        assert x.ndim == len(shape)
        assert not shape or x.shape[0] == (shape[0] if shape[0] > 0 else x.shape[0] if len(shape) == 1 else 1)


# A model with a batch of its own


@pytest.mark.parametrize(
    "data",
    [
        numbered(8, 3),
        list(numbered(8, 3)),
        list(numbered(8, 1, 3)),
        [numbered(3, 3), numbered(8, 3)[3:]],
        numbered(2, 4, 3),
        list(numbered(2, 4, 3)),
        [(numbered(8, 3), Y)],
        numbered(11, 3),  # an incomplete rest is dropped
    ],
)
def test_static_batch_gathers_rows_in_order(data: Any) -> None:
    specs = [InputSpec("x", (4, 3), F32)]
    found = [sample["x"] for sample in samples(data, specs)]
    assert len(found) == 2 == count_hint(data, specs)
    np.testing.assert_array_equal(np.stack(found), numbered(2, 4, 3))


def test_static_batch_of_two_inputs() -> None:
    specs = [InputSpec("x", (2, 3), F32), InputSpec("flag", (2,), F32)]
    found = list(samples({"x": LEFT, "flag": numbered(6)}, specs))
    np.testing.assert_array_equal(np.stack([s["x"] for s in found]), LEFT.reshape(3, 2, 3))
    np.testing.assert_array_equal(np.stack([s["flag"] for s in found]), numbered(3, 2))


def test_first_dimensions_that_differ_are_no_batch() -> None:
    specs = [InputSpec("table", (5, 3), F32), InputSpec("x", (1, 2), F32)]
    (found,) = samples({"table": numbered(5, 3), "x": numbered(2)}, specs)
    assert found["table"].shape == (5, 3)
    assert found["x"].shape == (1, 2)


def test_reused_buffers_do_not_leak_into_gathered_rows() -> None:
    buffer = np.zeros(3, np.float32)

    def refill() -> Iterator[np.ndarray]:
        for value in range(4):
            buffer[:] = value
            yield buffer

    (found,) = samples(refill, [InputSpec("x", (4, 3), F32)])
    assert found["x"][:, 0].tolist() == [0, 1, 2, 3]


# Streaming


def test_one_element_is_held_at_a_time() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def batches() -> Iterator[np.ndarray]:
        for _ in range(5):
            gc.collect()
            assert not [ref for ref in alive if ref() is not None]
            batch = np.ones((3, 4, 3), np.float32)
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    assert sum(1 for _ in samples(batches, IMAGE)) == 15
    assert len(alive) == 5


def test_nothing_is_read_before_it_is_asked_for() -> None:
    seen: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            seen.append(len(seen))
            yield X[0]

    stream = samples(endless, IMAGE)
    assert seen == []
    next(stream)
    next(stream)
    assert seen == [0, 1]


def test_a_file_on_disk_is_read_row_by_row(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=X)
        assert count_hint(stored, IMAGE) == 6
        np.testing.assert_array_equal(np.concatenate([s["image"] for s in samples(stored, IMAGE)]), X)
        np.testing.assert_array_equal(np.concatenate([s["image"] for s in samples({"image": stored}, IMAGE)]), X)


def test_a_generator_function_can_be_read_again() -> None:
    def data() -> Iterator[np.ndarray]:
        yield from X

    assert len(list(samples(data, IMAGE))) == len(list(samples(data, IMAGE))) == 6


def test_samples_own_their_memory() -> None:
    x = X.copy()
    (first, *_) = samples(x, IMAGE)
    first["image"][:] = -1
    np.testing.assert_array_equal(x, X)


# Dtypes


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (np.float16, np.float32),
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.int64, np.int32),
        (np.uint8, np.int32),
        (np.int64, np.uint8),
        (np.bool_, np.int32),
        (np.int8, np.int64),
        (np.bool_, np.bool_),
        (np.complex64, np.complex64),
    ],
)
def test_casts_that_keep_the_values(have: Any, want: Any) -> None:
    data = np.array([[0, 1], [1, 1]], have)
    found = [s["x"] for s in samples(data, [InputSpec("x", (1, 2), np.dtype(want))])]
    assert all(x.dtype == want for x in found)
    np.testing.assert_array_equal(np.concatenate(found), data.astype(want))


@pytest.mark.parametrize(
    ("values", "want", "message"),
    [
        (np.array([1, 2], np.uint8), "float32", "dtype uint8, but the model takes float32: cast and scale it as in"),
        (np.array([1, 2]), "float32", "dtype int64, but the model takes float32: cast and scale"),
        (np.array([True, False]), "float32", "dtype bool, but the model takes float32: cast and scale"),
        (np.array([1.0, 2.0]), "int32", "dtype float64, but the model takes int32: give values of that type"),
        (np.array([1, 2]), "bool", "dtype int64, but the model takes bool"),
        (np.array(["a", "b"]), "float32", "dtype <U1, but the model takes float32"),
        (np.array([1j, 2]), "float32", "dtype complex128, but the model takes float32"),
        (np.array([1, 2**40]), "int32", "values from 1 to 1099511627776 don't fit the input's dtype int32"),
        (np.array([-1, 2]), "uint8", "values from -1 to 2 don't fit the input's dtype uint8"),
        (np.array([1.0, 1e39]), "float32", "float64 values beyond the range of float32"),
        (np.array([1e5, 1.0], np.float32), "float16", "float32 values beyond the range of float16"),
        (np.array([1.0, np.nan]), "float32", r"NaN at index \(0, 1\)"),
        (np.array([-np.inf, 1.0]), "float32", r"infinity at index \(0, 0\)"),
        (np.array([1.0, np.nan], np.complex64), "complex64", r"NaN at index \(0, 1\)"),
    ],
)
def test_values_that_are_refused(values: np.ndarray, want: str, message: str) -> None:
    spec = InputSpec("x", (1, 2), np.dtype(want))
    with pytest.raises(DataError, match=rf"^input 'x', sample 2: {message}"):
        list(samples(generator([np.zeros((2, 2), want), values]), [spec]))


# Shapes, names and numbers


@pytest.mark.parametrize(
    "bad", [numbered(3, 4), numbered(4), numbered(4, 3, 1), numbered(2, 3, 4), numbered(2, 2, 4, 3), np.float32(1)]
)
def test_wrong_shape(bad: np.ndarray) -> None:
    message = rf"^input 'image', sample 7: shape {bad.shape} doesn't fit (1, 4, 3): give (4, 3) for one sample"
    pattern = message.replace("(", r"\(").replace(")", r"\)") + r" or \(n, 4, 3\) for several$"
    with pytest.raises(DataError, match=pattern):
        list(samples([X, X[0], bad], IMAGE))


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((), r"give \(\) for one sample or \(n,\) for"), ((5, 2), r"give \(5, 2\) for one sample or \(n, 5, 2\) for")],
)
def test_wrong_shape_without_a_batch_dimension(shape: tuple[int, ...], advice: str) -> None:
    specs = [InputSpec("x", shape, F32), InputSpec("other", (1,), F32)]
    with pytest.raises(DataError, match=rf"^input 'x', sample 0: shape \(7, 8, 9\) doesn't fit .*: {advice}"):
        list(samples({"x": numbered(7, 8, 9), "other": 1.0}, specs))


@pytest.mark.parametrize(
    ("data", "inputs", "message"),
    [
        ([{"img": X[0]}], IMAGE, "sample 0 has no value for input 'image': it names 'img'"),
        ([{}], IMAGE, "sample 0 has no value for input 'image': it names nothing"),
        ({"left": LEFT}, PAIR, "sample 0 has no value for input 'right': it names 'left'"),
        ([{"image": X}, {"image": X[0], "label": 3}], IMAGE, "sample 6 names an unknown input 'label': the model's"),
        (LEFT, PAIR, r"sample 0 has 1 array\(s\), but the model has 2 input\(s\): give a list in the order 'left', 'r"),
        ([LEFT[0]], PAIR, r"sample 0 has 1 array\(s\)"),
        ([[LEFT[0], RIGHT[0]], [LEFT[0]]], PAIR, r"sample 1 has 1 array\(s\)"),
        ([[LEFT[0]] * 5], PAIR, r"sample 0 has 5 array\(s\), but the model has 2"),
        ([[LEFT[0]] * 3], PAIR, r"sample 0 has 3 array\(s\), but the model has 2"),
        ([([X[0], X[1]], 1)], IMAGE, r"sample 0 has 2 array\(s\), but the model has 1 input"),
        ([[]], IMAGE, r"sample 0 has 0 array\(s\)"),
        ([list(X[:5])], IMAGE, r"sample 0 has 5 array\(s\), but the model has 1 input"),
        ([(X[0].T, 1)], IMAGE, r"input 'image', sample 0: shape \(3, 4\) doesn't fit"),
        ([X[0], None], IMAGE, "sample 1 is a NoneType: give an array"),
        ([X[0], "x"], IMAGE, "sample 1 is a str"),
        ([(RIGHT[0], LEFT[0])], PAIR, r"input 'left', sample 0: shape \(2,\) doesn't fit \(1, 3\)"),
        (
            {"left": LEFT, "right": RIGHT[:4]},
            PAIR,
            "the inputs differ in their number of samples, from sample 0 on: 'left",
        ),
        ([[[1.0, 2.0], [3.0]]], IMAGE, "input 'image', sample 0: a list can't be read as an array"),
        (Torchlike(X, "sparse"), [*PAIR[:1]], r"input 'left', sample 0: shape \(6, 4, 3\) doesn't fit"),
    ],
)
def test_wrong_names_and_numbers(data: Any, inputs: list[InputSpec], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        list(samples(data, inputs))


def test_an_unreadable_tensor_keeps_its_cause() -> None:
    class Broken(Readable):
        def numpy(self) -> np.ndarray:
            raise RuntimeError("not on this device\nmore lines")

    with pytest.raises(
        DataError, match=r"a Broken can't be read as an array \(RuntimeError: not on this device\)$"
    ) as e:
        list(samples([X[0], Broken(X[0])], IMAGE))
    assert "sample 1" in str(e.value)
    assert isinstance(e.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "data",
    [[], X[:0], {"image": X[:0]}, iter(()), lambda: iter(()), Batches(X[:0]), [X[:0]]],
    ids=["list", "array", "dict", "iterator", "function", "batches", "empty batch"],
)
def test_no_samples(data: Any) -> None:
    with pytest.raises(DataError, match="the data has no samples"):
        list(samples(data, IMAGE))


def test_a_used_up_generator_says_so() -> None:
    data = generator(X)
    list(samples(data, IMAGE))
    with pytest.raises(DataError, match="pass the function that makes it"):
        list(samples(data, IMAGE))


def test_fewer_rows_than_one_batch() -> None:
    with pytest.raises(DataError, match=r"the data has 3 sample\(s\), but the model takes batches of 4"):
        list(samples(numbered(3, 3), [InputSpec("x", (4, 3), F32)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a NoneType is no data: give an array"),
        (object(), "a object is no data"),
        ("samples.npz", "'samples.npz' is a path, not data"),
        (Path("samples.npz"), "is a path, not data"),
        (b"123", "is a path, not data"),
        (lambda: None, "a NoneType is no data"),
        (lambda x: x, r"the data raised an error where sample 0 was due \(TypeError: .*missing 1 required"),
    ],
)
def test_what_is_no_data(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(samples(data, IMAGE))


def test_a_model_without_inputs() -> None:
    with pytest.raises(DataError, match="no inputs"):
        next(samples(X, []))


def test_input_names_that_repeat() -> None:
    with pytest.raises(DataError, match=r"input names repeat \('left', 'left'\)"):
        next(samples([LEFT, LEFT], [PAIR[0], PAIR[0]]))


@pytest.mark.parametrize("as_function", [True, False])
def test_data_that_raises_half_way(as_function: bool) -> None:
    def fails() -> Iterator[np.ndarray]:
        yield X[:3]
        raise OSError("disk gone\nerrno 5")

    stream = samples(fails if as_function else fails(), IMAGE)
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(DataError, match=r"where sample 3 was due \(OSError: disk gone\)$") as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, OSError)


def test_our_own_errors_pass_unchanged() -> None:
    def fails() -> Iterator[np.ndarray]:
        yield X[0]
        raise DataError("cat.png can't be decoded")

    with pytest.raises(DataError, match=r"^cat\.png can't be decoded$"):
        list(samples(fails, IMAGE))


# Ambiguities, decided as the module says


def test_two_arrays_for_one_input_are_x_and_y() -> None:
    (found,) = samples([[X[0], X[1]]], IMAGE)
    np.testing.assert_array_equal(found["image"], X[:1])


def test_two_arrays_for_two_inputs_are_both_inputs() -> None:
    same = [InputSpec("a", (1, 3), F32), InputSpec("b", (1, 3), F32)]
    (found,) = samples([(LEFT[0], LEFT[1])], same)
    np.testing.assert_array_equal(found["b"], LEFT[1:2])


def test_a_tuple_of_two_samples_is_not_x_and_y() -> None:
    assert len(list(samples((X[0], X[1]), IMAGE))) == 2
    assert len(list(samples((X, X), IMAGE))) == 12
    with pytest.raises(DataError, match="sample 1: shape"):
        list(samples((X[0], X[1].T), IMAGE))


# Hints


@pytest.mark.parametrize(
    ("data", "inputs", "hint"),
    [
        (X, (), 6),
        (X[0], (), 4),  # a guess without inputs
        (X[0], IMAGE, 1),
        (list(X), (), 6),
        ([X[:4], X[4:]], (), 2),
        ([X[:4], X[4:]], IMAGE, 6),
        ({"image": X}, (), 6),
        ({}, (), None),
        (np.float32(1), (), None),
        (jnp.asarray(X), IMAGE, 6),
        ([LEFT, RIGHT], PAIR, 6),
        (X.T, IMAGE, None),
        (iter(X), (), None),
        (lambda: X, IMAGE, None),
        (Batches(X), IMAGE, None),
        (None, (), None),
    ],
)
def test_count_hint(data: Any, inputs: list[InputSpec], hint: int | None) -> None:
    assert count_hint(data, inputs) == hint


def test_count_hint_does_not_consume() -> None:
    data = generator(X)
    assert count_hint(data, IMAGE) is None
    assert len(list(samples(data, IMAGE))) == 6
