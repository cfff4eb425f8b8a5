"""Models that outgrow memory: constants are mapped, converted and written piece by piece."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.graphs import Builder

import octavo
from octavo import tflite
from octavo.graph import constants
from octavo.graph.constants import Deferred, blocks, bounds
from octavo.model import Model
from octavo.passes import apply

TOOL = Path(__file__).parents[1] / "tools" / "large_model.py"
MODEL_MEGABYTES = 400


def two_layers(rows: int = 37) -> Model:
    """Shapes whose rows don't fill blocks evenly, an odd number of 4-bit codes, and the same weights twice."""
    build = Builder()
    x = build.input("x", (1, 51))
    hidden = build.dense(x, "first", rows)
    twin = build.const("twin", build.graph.tensors[1].values.copy())
    again = build.op("FULLY_CONNECTED", [x, twin], "again", (1, rows), "FullyConnectedOptions")
    out = build.dense(build.op("ADD", [hidden, again], "sum", (1, rows), "AddOptions"), "second", 41)
    return Model(build.program(out))


@pytest.mark.parametrize(
    "scheme",
    [octavo.float16(), octavo.dynamic_range(min_elements=1), octavo.weight_only(), octavo.weight_only(weights=4)],
    ids=["float16", "dynamic range", "8 bits", "4 bits"],
)
def test_what_is_made_in_pieces_equals_what_is_made_at_once(
    scheme: octavo.Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = bytes(octavo.quantize(two_layers(), scheme))
    monkeypatch.setattr(apply, "_LARGE", 1)
    monkeypatch.setattr(constants, "BLOCK_BYTES", 1000)
    small = octavo.quantize(two_layers(), scheme)
    assert any(isinstance(tensor.stored, Deferred) for tensor in small.program.tensors())
    assert small.nbytes == len(at_once)
    assert bytes(small) == at_once


def test_blocks_cover_the_array_in_even_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "BLOCK_BYTES", 64)
    values = np.arange(77, dtype=np.float32).reshape(11, 7)
    runs = list(blocks(values))
    assert np.array_equal(np.concatenate([part for _, part in runs]), values)
    assert all(np.array_equal(values[run], part) for run, part in runs)
    assert len(runs) > 1 and all(len(part) % 2 == 0 for _, part in runs[:-1])


def test_bounds_show_what_is_not_a_number() -> None:
    values = np.linspace(-3, 5, 100).reshape(10, 10)
    assert bounds(values) == (-3.0, 5.0)
    assert bounds(values[:0]) == (0.0, 0.0)
    values[7, 3] = np.nan
    assert all(np.isnan(bounds(values)))


def test_equal_halvesare_stored_once_even_if_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_LARGE", 1)
    small = octavo.quantize(two_layers(200), octavo.float16())
    twins = [t.nbytes for t in small.program.tensors() if t.name in ("first/kernel", "twin")]
    written = tflite.read(bytes(small))
    places = {
        t.data.__array_interface__["data"][0] for t in written.tensors() if t.data is not None and t.size == 10200
    }
    assert twins == [20400, 20400] and len(places) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes, and pages can be let go, on Linux")
@pytest.mark.parametrize("scheme", ["float16", "dynamic-range", "weight-only"])
def test_peak_memory_does_not_follow_the_size_of_the_model(scheme: str, tmp_path: Path) -> None:
    large, small = tmp_path / "large.tflite", tmp_path / "small.tflite"
    make = [sys.executable, str(TOOL), str(large), "--gigabytes", str(MODEL_MEGABYTES / 1000), "--width", "512"]
    subprocess.run(make, check=True, capture_output=True)
    run = (
        "import resource, sys; from octavo.cli import main; import octavo.api\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert main(['quantize', {str(large)!r}, '-o', {str(small)!r}, '--to', {scheme!r}]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", run], check=True, capture_output=True, text=True)
    grown = int(done.stdout.split()[-1]) / 1024
    assert large.stat().st_size > MODEL_MEGABYTES * 1e6
    assert grown < MODEL_MEGABYTES / 2, f"{grown:.0f} MiB"
    assert octavo.load(small).nbytes == small.stat().st_size
