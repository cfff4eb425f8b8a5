"""MNIST's files, the idx reader, and the demo's model."""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from octavo import demo
from octavo.datasets import mnist
from octavo.errors import DataError

DATA = Path(__file__).parents[1] / "data" / "mnist"


@pytest.fixture(scope="module")
def digits() -> mnist.MNIST:
    return mnist.load()


def idx(shape: tuple[int, ...], fill: int = 0, magic: int | None = None) -> bytes:
    head = struct.pack(f">{1 + len(shape)}I", 0x800 | len(shape) if magic is None else magic, *shape)
    return head + bytes([fill]) * int(np.prod(shape))


def test_shapes_and_labels(digits: mnist.MNIST) -> None:
    assert digits.x_train.shape == (60000, 28, 28) and digits.x_train.dtype == np.uint8
    assert digits.x_test.shape == (10000, 28, 28) and digits.x_test.dtype == np.uint8
    assert digits.y_train.dtype == digits.y_test.dtype == np.int64
    assert digits.y_test[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.bincount(digits.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert round(float(digits.x_train.mean()) / 255, 4) == 0.1307  # the mean that everyone normalizes MNIST by


def test_files_are_what_the_readme_says() -> None:
    stated = dict(re.findall(r"\| `(\S+-ubyte)` \| [\d,]+ \| `(\w{64})` \|", (DATA / "README.md").read_text()))
    assert len(stated) == 4
    for name, digest in stated.items():
        assert hashlib.sha256(gzip.decompress((DATA / f"{name}.gz").read_bytes())).hexdigest() == digest


def test_given_folder_may_be_the_parent_and_uncompressed(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in DATA.glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for given in (tmp_path, str(folder)):
        assert np.array_equal(mnist.load(given).y_test[:4], [7, 2, 1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx((5,)), "5 values, MNIST has 4"),
        (idx((4,))[:-1], "truncated: 11 bytes instead of 12"),
        (idx((4,)) + b"\0", "too long"),
        (idx((4,), magic=0x803), "starts with 0x00000803"),
        (b"\0\0", "truncated: 2 bytes"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"labels: .*{message}"):
        mnist.read_idx(path, (4,))


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx((4,)))
    for content in (whole[:-6], b"not gzip", whole[:12] + b"\xff" * 8):
        (tmp_path / "labels.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"labels\.gz: not a whole gzip file"):
            mnist.read_idx(tmp_path / "labels.gz", (4,))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        mnist.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing"):
        mnist.load(tmp_path)


def test_label_that_is_no_digit(tmp_path: Path) -> None:
    for path in DATA.glob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx((10000,), fill=10)))
    with pytest.raises(DataError, match="label 10 of sample 0 is no digit"):
        mnist.load(tmp_path)


def test_without_checkout_and_network_the_error_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keras = demo.import_keras()
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "site-packages" / "octavo" / "datasets" / "mnist.py"))

    def offline() -> None:
        raise Exception("URL fetch failure on https://storage.googleapis.com: None -- no route to host")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    with pytest.raises(DataError, match=r"can't download it .*no route to host.*pass the folder"):
        mnist.load()


def test_model_is_the_tutorials() -> None:
    model = demo.build_model()
    assert model.count_params() == 20_410
    assert [layer.name for layer in model.layers] == ["reshape", "conv", "pool", "flatten", "logits"]
    assert model.input_shape == (None, 28, 28) and model.output_shape == (None, 10)


def test_training_learns_repeats_and_reports(digits: mnist.MNIST) -> None:
    few = mnist.MNIST(digits.x_train[:3000], digits.y_train[:3000], digits.x_test[:500], digits.y_test[:500])
    steps: list[tuple[int, int]] = []
    first = demo.train(few, seed=3, epochs=2, progress=lambda done, total: steps.append((done, total)))
    again = demo.train(few, seed=3, epochs=2)
    other = demo.train(few, seed=4, epochs=1)
    weights = [[w.tobytes() for w in model.get_weights()] for model in (first, again, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert steps == [(done, 188) for done in range(1, 189)]
    predicted = np.asarray(first(demo.scaled(few.x_test))).argmax(1)
    assert (predicted == few.y_test).mean() > 0.8
