"""`octavo.datasets.npz`: which arrays are taken, and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octavo.datasets.npz import load_npz, load_npz_inputs
from octavo.errors import DataError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.arange(4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


@pytest.mark.parametrize(
    ("x_key", "y_key"),
    [
        ("x", "y"),
        ("X", "Y"),
        ("x", "labels"),
        ("x_test", "y_test"),
        ("x_train", "y_train"),
        ("X_test", "Y_test"),
        ("images", "labels"),
        ("inputs", "targets"),
        ("data", "labels"),
        ("features", "labels"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_recognised_keys(path: Path, save: Callable[..., None], x_key: str, y_key: str) -> None:
    save(path, **{x_key: X, y_key: Y, "unrelated": np.zeros(9)})
    x, y = load_npz(path)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    assert x.dtype == X.dtype
    named, y = load_npz_inputs(str(path), ["serving_input"])
    assert list(named) == ["serving_input"]
    np.testing.assert_array_equal(named["serving_input"], X)
    np.testing.assert_array_equal(y, Y)


def test_labels_may_be_missing(path: Path) -> None:
    np.savez(path, x=X)
    assert load_npz(path)[1] is None
    np.savez(path, x_test=X, y_train=Y)  # another split's labels are none
    assert load_npz(path)[1] is None


def test_split_chooses_between_test_and_train(path: Path) -> None:
    np.savez(path, x_train=X, y_train=Y, x_test=X[:2] + 1, y_test=Y[:2])
    assert len(load_npz(path)[0]) == 2
    assert len(load_npz(path, "train")[0]) == 4
    assert len(load_npz_inputs(path, ["image"], "train")[0]["image"]) == 4


def test_lower_case_wins(path: Path) -> None:
    np.savez(path, X=X[:1], x=X)
    assert len(load_npz(path)[0]) == 4


def test_one_array_per_input(path: Path) -> None:
    np.savez(path, right=X + 1, left=X, y=Y, x=X[:1])
    x, y = load_npz_inputs(path, ["left", "right"])
    assert list(x) == ["left", "right"]
    np.testing.assert_array_equal(x["right"], X + 1)
    np.testing.assert_array_equal(y, Y)


def test_an_input_may_be_called_as_the_labels_are(path: Path) -> None:
    np.savez(path, x=X, y=X)
    x, labels = load_npz_inputs(path, ["x", "y"])
    assert list(x) == ["x", "y"]
    assert labels is None


def test_only_the_arrays_asked_for_are_read(path: Path) -> None:
    np.savez(path, x=X, y=Y, notes=np.array([{"pickled": True}], dtype=object))
    np.testing.assert_array_equal(load_npz(path)[0], X)


def test_missing_file(path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.npz can't be read: No such file"):
        load_npz(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read: Is a directory"):
        load_npz(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"PK\x03\x04 cut short"])
def test_not_an_npz_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz is not an \.npz file, or is cut short"):
        load_npz(path)


def test_a_single_array_file_is_not_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match=r"x\.npy is not an \.npz file"):
        load_npz(tmp_path / "x.npy")


def test_truncated_file(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"not an \.npz file, or is cut short"):
        load_npz(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bytes(path: Path, save: Callable[..., None]) -> None:
    save(path, x=np.random.default_rng(0).normal(size=1000))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: array 'x' is damaged: "):
        load_npz(path)


def test_pickled_arrays(path: Path) -> None:
    np.savez(path, x=np.array([[1], [1, 2]], dtype=object))
    with pytest.raises(DataError, match=r"data\.npz: array 'x' is pickled Python objects; octavo doesn't run pickles"):
        load_npz(path)


def test_members_that_are_no_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
    with pytest.raises(DataError, match="'x' is no array"):
        load_npz(path)


def test_no_recognised_keys(path: Path) -> None:
    np.savez(path, arr_0=X, arr_1=Y)
    with pytest.raises(
        DataError, match=r"data\.npz has no samples under a known key \(x, x_test, .*\'arr_0', 'arr_1'$"
    ):
        load_npz(path)
    with pytest.raises(DataError, match="known key"):
        load_npz_inputs(path, ["image"])
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(DataError, match="it has no arrays at all"):
        load_npz(path)


def test_an_input_without_an_array(path: Path) -> None:
    np.savez(path, left=X)
    with pytest.raises(DataError, match=r"data\.npz has no array for input 'right'; it has 'left'"):
        load_npz_inputs(path, ["left", "right"])


def test_lengths_that_differ(path: Path) -> None:
    np.savez(path, x=X, y=Y[:3])
    with pytest.raises(DataError, match=r"data\.npz: arrays differ in their number of samples: 'x' has 4, 'y' has 3"):
        load_npz(path)
    np.savez(path, left=X, right=X[:2])
    with pytest.raises(DataError, match="'left' has 4, 'right' has 2"):
        load_npz_inputs(path, ["left", "right"])


def test_single_numbers_are_no_samples(path: Path) -> None:
    np.savez(path, x=X, y=np.int64(3))
    with pytest.raises(DataError, match="array 'y' is a single number"):
        load_npz(path)
