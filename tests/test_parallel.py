"""Work on many workers: the same result to the last bit, whoever does it and whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import PIL.Image
import pytest

import graphs
import octavo
from octavo import parallel
from octavo.calibrate.observers import Moments
from octavo.calibrate.run import Needs, collect
from octavo.errors import DataError, RunError
from octavo.making import prepare
from octavo.model import Model

COUNT = 70
LOCAL = {"backend": "loky", "n_jobs": 2}


def small_model() -> Model:
    b = graphs.Builder()
    h = b.conv(b.input("x", (1, 6, 6, 3)), "first", 4, act=1)
    h = b.conv(h, "second", 4, act=1)
    return Model(b.program(b.dense(b.reshape(h, "flat", (1, 144)), "scores", 5)))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """So that several workers get some of little work."""
    monkeypatch.setattr(parallel, "_BATCH_SECONDS", (0.0, 30.0))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Of very different magnitudes, so that sums of floats would show their order."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(COUNT, 6, 6, 3)) * np.exp(3 * rng.normal(size=(COUNT, 1, 1, 1)))).astype(np.float32)


@pytest.fixture(scope="module")
def npz(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("npz")
    for number, part in enumerate(np.split(rows, [3, 20, 21, 50])):
        np.savez(folder / f"{number}.npz", x=part)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Every image has its number as the first pixel."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (COUNT, 6, 6, 3), np.uint8)):
        image[0, 0, 0] = number
        PIL.Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def quantized(data: Any) -> bytes:
    return bytes(octavo.quantize(small_model(), octavo.integer(), data))


@pytest.fixture(scope="module")
def expected(rows) -> bytes:
    """The file that one process makes."""
    return quantized(rows)


# The same result everywhere


def test_merging_is_exact_and_associative(rows):
    program = prepare(small_model()).program
    ops = tuple(op for op in program.ops() if op.code in ("CONV_2D", "FULLY_CONNECTED"))
    needs = Needs(histograms=True, moments=ops, gram=frozenset(ops), rows=dict.fromkeys(ops, 16))
    whole = collect(program, rows, needs=needs)
    a, b, c = (collect(program, part, needs=needs) for part in (rows[:1], rows[1:40], rows[40:]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        assert merged.ranges == whole.ranges
        for tensor, histogram in whole.histograms.items():
            assert all(map(np.array_equal, merged.histograms[tensor].points, histogram.points))
        for op, moments in whole.moments.items():
            assert np.array_equal(merged.moments[op].mean(), moments.mean())
            assert np.array_equal(merged.moments[op].second(), moments.second())


def test_sums_stay_exact_where_float64_would_round():
    moments = Moments(1)
    moments.update(np.full((1, 1, 1), 1.0))
    for _ in range(30):
        moments.absorb(moments.merge(Moments(1)))
    moments.update(np.full((1, 1, 1), 4097 / 4096))
    moments.settle()
    ((products, _),) = moments.sums.values()
    expected = 2**30 * 4096**2 + 4097**2
    assert moments.count == 2**30 + 1
    assert int(products[0, 0, 0]) == expected != int(float(expected))


@pytest.mark.parametrize("config", [LOCAL, {"backend": "threading", "n_jobs": 3}, {"n_jobs": 1}], ids=str)
def test_workers_make_the_same_file(config, npz, rows, expected):
    with joblib.parallel_config(**config):
        assert quantized(octavo.shards(npz)) == expected
        assert quantized(rows) == expected


def test_samples_that_only_this_process_can_read(rows):
    def stream() -> Iterator[np.ndarray]:
        yield from rows[::-1]

    with joblib.parallel_config(**LOCAL):
        found = quantized(stream)
    assert found == quantized(stream)


def test_sequences_stay_whole(rows):
    data = octavo.Sequences([rows[:30], rows[30:35], rows[35:]])
    with joblib.parallel_config(**LOCAL):
        found = quantized(data)
    assert found == quantized(data)


def test_search_probes_on_workers(rows):
    def found() -> Any:
        return octavo.search(small_model(), rows, max_drop=5)

    with joblib.parallel_config(**LOCAL):
        there = found()
    here = found()
    assert (bytes(there.model), there.drop, there.sensitivities) == (bytes(here.model), here.drop, here.sensitivities)


def test_the_bar_counts_what_workers_do(npz, capsys):
    with joblib.parallel_config(**LOCAL):
        octavo.quantize(small_model(), octavo.integer(), octavo.shards(npz), progress=True)
    assert f"calibrating: {COUNT}/{COUNT} done in" in capsys.readouterr().err


# Workers that die, and errors


def preprocess_that(kills: Callable[[int], bool]) -> Callable[[np.ndarray], np.ndarray]:
    """Kills the worker that looks at an image of which `kills` says so."""
    here = os.getpid()

    def preprocess(image: np.ndarray) -> np.ndarray:
        if os.getpid() != here and kills(int(image[0, 0, 0])):
            os.kill(os.getpid(), signal.SIGKILL)
        return image.astype(np.float32) / 255

    return preprocess


def once(marker: Path) -> Callable[[int], bool]:
    """True for image 40, the first time that any process asks."""

    def kills(number: int) -> bool:
        if number != 40:
            return False
        try:
            marker.mkdir()
        except FileExistsError:
            return False
        return True

    return kills


def test_what_a_killed_worker_had_is_done_again(images, tmp_path):
    calm = quantized(octavo.shards(images, preprocess=preprocess_that(lambda number: False)))
    with joblib.parallel_config(**LOCAL):
        found = quantized(octavo.shards(images, preprocess=preprocess_that(once(tmp_path / "killed"))))
    assert (tmp_path / "killed").exists()
    assert found == calm


def test_a_sample_that_kills_every_worker_is_named(images):
    deadly = octavo.shards(images, preprocess=preprocess_that(lambda number: number == 40))
    with (
        joblib.parallel_config(**LOCAL),
        pytest.raises(RunError, match="every worker that had this was lost") as caught,
    ):
        quantized(deadly)
    first, last = (str(images / name) for name in ("032.png", "047.png"))
    assert str(caught.value).startswith(f"{first}, sample 0 to {last}, sample 0:")


def test_a_bad_sample_is_named_by_the_worker(rows, tmp_path):
    bad = rows.copy()
    bad[60, 0, 0, 0] = np.inf
    np.savez(tmp_path / "a.npz", x=bad[:30])
    np.savez(tmp_path / "b.npz", x=bad[30:])
    path = tmp_path / "b.npz"
    with joblib.parallel_config(**LOCAL), pytest.raises(DataError) as caught:
        quantized(octavo.shards(tmp_path))
    assert str(caught.value) == f"{path}: input 'x', sample 30: infinity at index (0, 0, 0, 0)"


def test_a_bad_sample_read_here_is_named(rows):
    def stream() -> Iterator[np.ndarray]:
        yield from rows[:50]
        raise OSError("the disk is gone")

    with joblib.parallel_config(**LOCAL), pytest.raises(DataError, match=r"where sample 50 was due .*the disk is gone"):
        quantized(stream)


def test_a_backend_that_forks_is_refused(npz):
    with joblib.parallel_config("multiprocessing", n_jobs=2), pytest.raises(RunError, match="use 'loky'"):
        quantized(octavo.shards(npz))


# When work moves


@dataclass(frozen=True)
class Number:
    value: int
    count: int = 1
    nbytes: int = 8

    def place(self, index: int = 0) -> str:
        return f"number {self.value}"


@dataclass(frozen=True)
class Sum:
    """Adds numbers; notes which processes did it."""

    nbytes: int = 0
    error: Exception | None = None

    def start(self) -> dict[str, Any]:
        return {"sum": 0, "processes": set()}

    def add(self, state: dict[str, Any], unit: Number) -> None:
        if self.error is not None and unit.value == 9:
            raise self.error
        state["sum"] += unit.value
        state["processes"].add(os.getpid())

    def pack(self, state: dict[str, Any]) -> Any:
        return state

    def merge(self, state: dict[str, Any], packed: Any) -> None:
        state["sum"] += packed["sum"]
        state["processes"] |= packed["processes"]


def numbers(count: int) -> Iterator[Number]:
    return map(Number, range(count))


def test_little_work_stays_here():
    found = parallel.reduce(Sum(), numbers(50), 50)
    assert found == {"sum": 1225, "processes": {os.getpid()}}


@pytest.mark.parametrize("total", [50, None])
def test_much_work_moves_by_itself(total, monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    found = parallel.reduce(Sum(), numbers(50), total)
    assert found["sum"] == 1225 and found["processes"] > {os.getpid()}


def test_models_too_large_for_two_stay_here(monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    assert parallel.reduce(Sum(parallel.MEMORY), numbers(50), 50)["processes"] == {os.getpid()}


def test_no_work_at_all():
    with joblib.parallel_config(**LOCAL):
        assert parallel.reduce(Sum(), numbers(0))["sum"] == 0
        assert parallel.reduce(Sum(), numbers(1))["sum"] == 0


@pytest.mark.parametrize("error", [DataError("bad"), octavo.NotIntegerError([]), ZeroDivisionError("by nothing")])
def test_errors_of_the_work_come_as_they_are(error):
    with joblib.parallel_config(**LOCAL), pytest.raises(type(error).__bases__[0], match=str(error)[:20]):
        parallel.reduce(Sum(error=error), numbers(20))


def test_workers_that_can_not_be_used():
    @dataclass(frozen=True)
    class Odd(Sum):
        def __reduce__(self) -> Any:
            return os._exit, (1,)  # loading it ends the worker

    with joblib.parallel_config(**LOCAL), pytest.raises(RunError, match=r"number 1: every worker .* was lost"):
        parallel.reduce(Odd(), numbers(20))


# Dask and Ray, started for real


@pytest.fixture(scope="module")
def dask() -> Iterator[None]:
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(2, **options) as cluster, distributed.Client(cluster):
        yield


@pytest.mark.usefixtures("dask")
def test_dask_makes_the_same_file(npz, rows, expected):
    with joblib.parallel_config("dask"):
        assert quantized(octavo.shards(npz)) == expected
        assert quantized(rows) == expected


@pytest.mark.usefixtures("dask")
def test_dask_goes_on_without_a_killed_worker(images, tmp_path):
    calm = quantized(octavo.shards(images, preprocess=preprocess_that(lambda number: False)))
    with joblib.parallel_config("dask"):
        found = quantized(octavo.shards(images, preprocess=preprocess_that(once(tmp_path / "killed"))))
    assert (tmp_path / "killed").exists()
    assert found == calm


@pytest.mark.slow
@pytest.mark.usefixtures("dask")
def test_dask_names_a_sample_that_kills_every_worker(images):
    deadly = octavo.shards(images, preprocess=preprocess_that(lambda number: number == 40))
    with (
        joblib.parallel_config("dask"),
        pytest.raises(RunError, match=r"032\.png.*047\.png.*every worker that had this"),
    ):
        quantized(deadly)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    register_ray()
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ray_makes_the_same_file(npz, rows, expected):
    with joblib.parallel_config("ray"):
        assert quantized(octavo.shards(npz)) == expected
        assert quantized(rows) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ray_goes_on_without_a_killed_worker(images, tmp_path):
    calm = quantized(octavo.shards(images, preprocess=preprocess_that(lambda number: False)))
    with joblib.parallel_config("ray"):
        found = quantized(octavo.shards(images, preprocess=preprocess_that(once(tmp_path / "killed"))))
    assert (tmp_path / "killed").exists()
    assert found == calm
