"""Data sets in many files: what is read, in which order, how much at a time, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import PIL.Image
import pytest

import graphs
import octavo
from octavo.calibrate.blocks import blocks
from octavo.calibrate.data import InputSpec, count_hint, samples
from octavo.cli import main
from octavo.datasets.shards import is_many
from octavo.errors import DataError
from octavo.model import Model

INPUT = InputSpec("x", (1, 3), np.dtype(np.float32))
PHOTO = InputSpec("photo", (1, 4, 6, 3), np.dtype(np.float32))
COUNTS = (5, 1, 7, 30)


def write_shards(folder: Path, save: Any = np.savez, counts: tuple[int, ...] = COUNTS) -> np.ndarray:
    """train-0.npz, ...; returns all of their rows."""
    rows = np.random.default_rng(0).normal(size=(sum(counts), 3)).astype(np.float32)
    for number, part in enumerate(np.split(rows, np.cumsum(counts)[:-1])):
        save(folder / f"train-{number}.npz", x=part, y=np.arange(len(part)) + 100 * number)
    return rows


def write_image(path: Path, values: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(path)


def photos(folder: Path, count: int = 4) -> np.ndarray:
    """Images that need no resizing; returns them."""
    images = np.random.default_rng(1).integers(0, 256, (count, 4, 6, 3), np.uint8)
    for number, image in enumerate(images):
        write_image(folder / f"{number}.png", image)
    return images


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_shards_are_one_data_set(tmp_path, save):
    rows = write_shards(tmp_path, save)
    shards = octavo.shards(tmp_path / "train-*.npz")
    assert len(shards) == count_hint(shards) == count_hint(shards, [INPUT]) == len(rows)
    np.testing.assert_array_equal([s["x"][0] for s in samples(shards, [INPUT])], rows)
    labels = shards.labels(["x"])
    assert labels is not None and labels[:7].tolist() == [0, 1, 2, 3, 4, 100, 200]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "rows", [slice(4, 8), slice(0, 43), slice(None, None, 7), np.array([42, 0, 5, 5, 6]), np.array([], int), -1, 6]
)
def test_rows_are_those_of_one_array(tmp_path, save, rows):
    expected = write_shards(tmp_path, save)
    array = octavo.shards(tmp_path).arrays([INPUT])["x"]
    assert (array.shape, array.dtype, array.ndim, len(array)) == (expected.shape, expected.dtype, 2, 43)
    np.testing.assert_array_equal(array[rows], expected[rows])
    np.testing.assert_array_equal(np.asarray(array), expected)


def test_chosen_rows_are_read_later_and_elsewhere(tmp_path):
    expected = write_shards(tmp_path)
    array = octavo.shards(tmp_path).arrays([INPUT])["x"]
    rows = np.array([40, 3, 4, 5, 12])
    chosen = pickle.loads(pickle.dumps(array.choose(rows)))
    np.testing.assert_array_equal(np.asarray(chosen), expected[rows])
    np.testing.assert_array_equal(chosen.choose(slice(1, 4))[:], expected[[3, 4, 5]])
    assert [chosen.place(i) for i in (0, 3)] == [
        (str(tmp_path / "train-3.npz"), 27),
        (str(tmp_path / "train-1.npz"), 0),
    ]
    assert len(pickle.dumps(array.choose(slice(0, 2)))) < len(pickle.dumps(array))


def test_fortran_order_is_read(tmp_path):
    rows = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    np.savez(tmp_path / "a.npz", x=rows)
    np.testing.assert_array_equal(octavo.shards(tmp_path).arrays([INPUT])["x"][1:3], rows[1:3])


def test_blocks_are_the_same_samples(tmp_path):
    rows = write_shards(tmp_path)
    for spec in (INPUT, InputSpec("x", (4, 3), np.dtype(np.float32))):
        made = list(blocks(octavo.shards(tmp_path), [spec]))
        found = [sample["x"] for block in made for sample, _ in block.steps([spec])]
        np.testing.assert_array_equal(found, [s["x"] for s in samples(rows, [spec])])
        assert sum(block.count for block in made) == len(found)
        assert [block.first for block in made] == np.cumsum([0, *(block.count for block in made[:-1])]).tolist()
        assert all(block.nbytes == 0 for block in made)
    assert made[0].place(1) == f"{tmp_path / 'train-0.npz'}, sample 4"


def test_several_inputs(tmp_path):
    for number in range(2):
        np.savez(
            tmp_path / f"{number}.npz", a=np.full((3, 2), number, np.float32), b=np.arange(3) + number, y=np.ones(3)
        )
    specs = [InputSpec("a", (1, 2), np.dtype(np.float32)), InputSpec("b", (1,), np.dtype(np.int64))]
    shards = octavo.shards(str(tmp_path / "*.npz"))
    assert [(s["a"][0, 0], s["b"][0]) for s in samples(shards, specs)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (1, 3),
    ]
    assert shards.labels(["a", "b"]) is not None


def test_images_fit_the_model(tmp_path):
    images = photos(tmp_path)
    write_image(tmp_path / "5.png", np.full((40, 60), 255, np.uint8))  # grey, and larger
    found = [s["photo"] for s in samples(octavo.shards(tmp_path, pixels=(-1, 1)), [PHOTO])]
    np.testing.assert_allclose(np.concatenate(found[:4]), images / 127.5 - 1, atol=1e-6)
    assert found[4].shape == (1, 4, 6, 3) and (found[4] == 1).all()


def test_images_as_the_model_has_them(tmp_path):
    images = photos(tmp_path)
    spec = InputSpec("photo", (1, 4, 6, 1), np.dtype(np.uint8))
    (first, *_) = samples(octavo.shards(tmp_path), [spec])
    grey = np.asarray(PIL.Image.fromarray(images[0]).convert("L"))
    np.testing.assert_array_equal(first["photo"][0, :, :, 0], grey)


def test_preprocess_decides_alone(tmp_path):
    write_image(tmp_path / "a.png", np.full((50, 20, 3), 100, np.uint8))
    seen = []

    def preprocess(image: np.ndarray) -> np.ndarray:
        seen.append((image.shape, image.dtype))
        return image.mean((0, 1)).astype(np.float32)

    (found,) = samples(octavo.shards(tmp_path, preprocess=preprocess), [INPUT])
    assert found["x"].tolist() == [[100, 100, 100]] and set(seen) == {((50, 20, 3), np.dtype(np.uint8))}


def test_folders_are_classes(tmp_path):
    for name in ("dog", "cat", "ape"):
        photos(tmp_path / name, 2)
    shards = octavo.shards(tmp_path, pixels=(0, 1))
    assert shards.classes == ("ape", "cat", "dog")
    labels = shards.labels()
    assert labels is not None and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert octavo.shards(tmp_path / "dog").labels() is None


def test_what_many_files_are(tmp_path):
    write_shards(tmp_path)
    assert is_many(tmp_path) and is_many(tmp_path / "train-*.npz")
    assert not is_many(tmp_path / "train-0.npz") and not is_many(tmp_path / "absent.npz")
    odd = tmp_path / "odd[1].npz"
    np.savez(odd, x=np.zeros((1, 3)))
    assert not is_many(odd) and len(octavo.shards(odd)) == 1
    assert octavo.shards([tmp_path / "train-1.npz", tmp_path / "train-0.npz"]).files[0].endswith("train-0.npz")


# What is refused, naming the file


def refused(source: Any, spec: InputSpec = INPUT, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(samples(octavo.shards(source, **options), [spec]))
    return str(caught.value)


def test_a_bad_sample_is_named_with_its_file(tmp_path):
    rows = write_shards(tmp_path)[13:].copy()
    rows[20, 1] = np.nan
    np.savez(tmp_path / "train-3.npz", x=rows)
    assert refused(tmp_path) == f"{tmp_path / 'train-3.npz'}: input 'x', sample 20: NaN at index (0, 1)"


def test_a_bad_image_is_named(tmp_path):
    photos(tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    assert refused(tmp_path, PHOTO, pixels=(0, 1)).startswith(f"{tmp_path / '2.png'} can't be read as an image")


def test_a_failing_preprocess_names_the_image(tmp_path):
    photos(tmp_path, 1)
    message = refused(tmp_path, preprocess=lambda image: image[100, 100, 100])
    assert message.startswith(f"{tmp_path / '0.png'}: preprocess raised IndexError")


def test_sixteen_bits_are_not_clipped(tmp_path):
    write_image(tmp_path / "deep.png", np.full((4, 6), 40_000, np.uint16))
    assert "more than 8 bits per pixel" in refused(tmp_path, PHOTO, pixels=(0, 1))


def test_a_damaged_shard_is_named(tmp_path):
    write_shards(tmp_path, np.savez)
    path = tmp_path / "train-3.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # in the middle of the rows
    path.write_bytes(data)
    assert refused(tmp_path).startswith(f"{path}: array 'x' is damaged: Bad CRC-32")


def test_a_shard_that_goes_is_named(tmp_path):
    write_shards(tmp_path)
    array = octavo.shards(tmp_path).arrays([INPUT])["x"]
    (tmp_path / "train-2.npz").unlink()
    assert len(array[:6]) == 6
    with pytest.raises(DataError, match=r"train-2\.npz can't be read: No such file"):
        array[6:]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4), np.float32)}, "rows of shape \\(4,\\), but in .*train-0.npz they are float32 of shape"),
        ({"x": np.zeros((2, 3))}, "float64 rows of shape"),
        ({"z": np.zeros((2, 3))}, "no samples under a known key"),
        ({"x": np.array([{}, {}])}, "pickled Python objects"),
        ({"x": np.zeros((2, 3), np.float32), "y": np.zeros(3)}, "arrays differ in their number of samples"),
    ],
)
def test_shards_that_differ(tmp_path, arrays, message):
    write_shards(tmp_path)
    np.savez(tmp_path / "train-9.npz", **arrays)
    with pytest.raises(DataError, match=f"train-9.*{message}"):
        list(samples(octavo.shards(tmp_path), [INPUT]))


def test_labels_in_some_files_only(tmp_path):
    write_shards(tmp_path)
    np.savez(tmp_path / "train-9.npz", x=np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match=r"train-9\.npz has no labels, but other files have"):
        octavo.shards(tmp_path).labels()


def test_requests_that_make_no_sense(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        octavo.shards(tmp_path / "absent-*.npz")
    with pytest.raises(DataError, match=r"no \.npz files and no images"):
        octavo.shards(tmp_path)
    with pytest.raises(DataError, match="of no files"):
        octavo.shards([])
    photos(tmp_path)
    assert "pixels=(0, 1), (-1, 1) or (0, 255)" in refused(tmp_path, PHOTO)
    assert "which is no image" in refused(tmp_path, INPUT, pixels=(0, 1))
    dynamic = InputSpec("photo", (1, -1, -1, 3), np.dtype(np.float32))
    assert "give size=(height, width)" in refused(tmp_path, dynamic, pixels=(0, 1))
    write_shards(tmp_path)
    with pytest.raises(DataError, match=r"train-0\.npz is neither an image nor"):
        octavo.shards(tmp_path)
    with pytest.raises(DataError, match=r"are for images"):
        octavo.shards(tmp_path / "*.npz", pixels=(0, 1))


def test_rows_of_another_shape_than_the_input(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 5), np.float32))
    assert f"{tmp_path / 'a.npz'}: input 'x': shape (2, 5) doesn't fit (1, 3)" in refused(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros(3, np.float32))
    assert "samples along the first axis" in refused(tmp_path)


def test_no_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 3), np.float32))
    assert "the data has no samples" in refused(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), np.float32))
    assert "takes batches of 4" in refused(tmp_path, InputSpec("x", (4, 3), np.dtype(np.float32)))


# Memory


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_is_flat(tmp_path, save):
    spec = InputSpec("x", (1, 64, 64), np.dtype(np.float32))
    rows = np.zeros((1500, 64, 64), np.float32)
    for number in range(4):
        save(tmp_path / f"{number}.npz", x=rows)
    size = 4 * rows.nbytes
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in samples(octavo.shards(tmp_path), [spec])) == 6000
        assert sum(1 for block in blocks(octavo.shards(tmp_path), [spec]) for _ in block.steps([spec])) == 6000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20 < size / 4


# Evaluation and the command line


def mean_colour(path: Path, height: int, width: int) -> Path:
    """The mean of each of the three colours: the largest is the class."""
    b = graphs.Builder()
    x = b.input("x", (1, height, width, 3))
    mean = b.op("MEAN", [x, b.const("axes", np.array([1, 2], np.int32))], "scores", (1, 3), "ReducerOptions")
    return Model(b.program(mean)).save(path)


@pytest.fixture
def classifier(tmp_path) -> Path:
    return mean_colour(tmp_path / "classifier.tflite", 4, 6)


@pytest.fixture
def colours(tmp_path) -> Path:
    """30 images in folders of three classes; one of them is in the wrong folder."""
    folder = tmp_path / "colours"
    for number in range(30):
        image = np.full((4, 6, 3), 20, np.uint8)
        image[..., number % 3] = 200
        name = ("blue", "green", "red")[1 if number == 0 else number % 3]
        write_image(folder / name / f"{number:02}.png", image)
    return folder


def test_evaluate_shards(classifier, colours, tmp_path):
    shards = octavo.shards(colours, pixels=(0, 1))
    found = octavo.evaluate(classifier, shards)
    assert (found.count, found.accuracy, found.metric) == (30, 29 / 30, "top1")
    arrays, labels = shards.arrays([InputSpec("x", (1, 4, 6, 3), np.dtype(np.float32))]), shards.labels()
    assert labels is not None
    kept = octavo.evaluate(classifier, shards, keep_outputs=True)
    assert kept.accuracy == found.accuracy
    whole = octavo.Runner(classifier)(np.asarray(arrays["x"]))
    np.testing.assert_array_equal(kept.outputs, whole)
    for config in ({"backend": "loky", "n_jobs": 2}, {"backend": "threading", "n_jobs": 2}):
        with joblib.parallel_config(**config):
            assert octavo.evaluate(classifier, shards).accuracy == found.accuracy
            assert octavo.evaluate(classifier, np.asarray(arrays["x"]), labels).accuracy == found.accuracy
            np.testing.assert_array_equal(octavo.evaluate(classifier, shards, keep_outputs=True).outputs, whole)
            table = octavo.compare({"a": classifier, "b": classifier}, arrays, labels, latency=False)
            assert [row.accuracy for row in table] == [found.accuracy, found.accuracy]


def test_evaluate_names_the_file_of_a_bad_label(classifier, tmp_path):
    for number in range(2):
        np.savez(tmp_path / f"s{number}.npz", x=np.ones((3, 4, 6, 3), np.float32), y=np.full(3, number * 7))
    with pytest.raises(DataError, match=r"from .*s0\.npz, sample 0 on: label of sample 3 is 7"):
        octavo.evaluate(classifier, octavo.shards(tmp_path / "s*.npz"))


def test_evaluate_shards_without_labels(classifier, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 4, 6, 3), np.float32))
    with pytest.raises(DataError, match=r"a\.npz has no labels, nor have the others: give y"):
        octavo.evaluate(classifier, octavo.shards(tmp_path / "*.npz"))


def run(capsys, *arguments: Any) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_commands_take_folders_and_patterns(classifier, colours, tmp_path, capsys):
    status, out, _ = run(capsys, "evaluate", classifier, "--data", colours, "--pixels", "0,1")
    assert (status, out) == (0, "accuracy 96.67% over 30 samples\n")
    small = tmp_path / "small.tflite"
    made = ("quantize", classifier, "-o", small, "--to", "integer", "--force")
    status, out, _ = run(capsys, *made, "--data", colours, "--pixels", "-1,1", "--samples", 12)
    assert status == 0 and "small.tflite" in out
    rows = np.random.default_rng(0).normal(size=(20, 4, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "all.npz", x=rows)
    assert run(capsys, *made, "--data", tmp_path / "all.npz")[0] == 0
    one = small.read_bytes()
    np.savez(tmp_path / "part-0.npz", x=rows[:7])
    np.savez(tmp_path / "part-1.npz", x=rows[7:])
    assert run(capsys, *made, "--data", tmp_path / "part-*.npz")[0] == 0
    assert small.read_bytes() == one
    status, _, err = run(capsys, "compare", classifier, "--data", colours, "--pixels", "0,1", "-o", tmp_path / "out")
    assert status == 0, err


def test_commands_say_what_is_missing(classifier, colours, tmp_path, capsys):
    status, _, err = run(capsys, "evaluate", classifier, "--data", colours)
    assert status == 1 and "(--pixels on the command line)" in err and err.count("\n") == 1
    status, _, err = run(capsys, "evaluate", classifier, "--data", colours, "--pixels", "one")
    assert status == 2 and "'one' is no pair of numbers: write 0,1" in err
    status, _, err = run(capsys, "evaluate", classifier, "--data", tmp_path / "x-*.npz")
    assert status == 1 and "no file matches" in err


def test_search_takes_shards(classifier, colours):
    found = octavo.search(classifier, octavo.shards(colours, pixels=(0, 1)), max_drop=5)
    assert found.drop <= 5


LIMITED = """
import resource, sys
import numpy as np
import octavo
from octavo.calibrate.run import Needs, collect

model, data = sys.argv[1:]
program = octavo.load(model).program
octavo.evaluate(model, np.zeros((1, 200, 200, 3), np.float32), [0])  # all libraries are there now
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (48 << 20), now + (48 << 20)))
shards = octavo.shards(data)
try:
    np.load(shards.files[0])["x"]
    raise SystemExit("the limit is no limit")
except MemoryError:
    pass
bounds = collect(program, shards, needs=Needs(histograms=True)).ranges
print(len(shards), max(high for _, high in bounds.values()), octavo.evaluate(model, shards).count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_data_set_larger_than_memory(tmp_path):
    model = mean_colour(tmp_path / "model.tflite", 200, 200)
    # 77 MB each: more than the 64 MiB that an arena of malloc's has reserved.
    rows = np.zeros((160, 200, 200, 3), np.float32)
    for number in range(3):
        rows[number] = number
        np.savez_compressed(tmp_path / f"large-{number}.npz", x=rows, y=np.zeros(len(rows), np.int64))
    command = [sys.executable, "-c", LIMITED, model, str(tmp_path / "large-*.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parent.parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["480", "2.0", "480"]
