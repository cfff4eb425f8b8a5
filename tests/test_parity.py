"""One file on several sets of kernels."""

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.errors import DataError, MissingDependencyError, RunError
from octavo.footprint import arena_bytes
from octavo.model import Model
from octavo.runtime import tflm
from octavo.runtime.parity import parity
from octavo.runtime.session import Session
from octavo.runtime.tflm import TflmSession

needs_tflm = pytest.mark.skipif(not tflm.installed(), reason="needs tflite-micro")


def network() -> Model:
    build = Builder()
    y = build.input("image", (1, 8, 8, 2))
    for name in ("a", "b", "c"):
        y = build.conv(y, name, 8, act=1)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], "pool", (1, 8), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, "logits", 4)))


X = np.random.default_rng(0).normal(size=(150, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    return octavo.quantize(network(), octavo.integer(fallback=False), X)


def test_litert_kernels(small):
    labels = np.argmax(octavo.Runner(network())(X), axis=1)
    found = parity(small, X, labels, kernels=("xnnpack", "builtin", "reference"))
    assert [row.kernels for row in found] == ["xnnpack", "builtin", "reference"]
    assert (found.samples, found.metric) == (150, "top1")
    base = found["reference"]
    assert (base.largest_steps, base.differing, base.disagreeing, base.worst_sample) == (0, 0, 0, None)
    scale = Session(bytes(small)).outputs[0].scale[0]
    outputs = {kind: octavo.Runner(small, kind)(X) for kind in ("xnnpack", "reference")}
    steps = np.abs(outputs["xnnpack"] - outputs["reference"]) / scale
    row = found["xnnpack"]
    assert row.largest_steps == np.round(steps.max())
    assert row.largest_error == pytest.approx(row.largest_steps * scale, rel=1e-5)
    assert row.differing == pytest.approx(np.mean((steps > 0.5).any(axis=1)))
    if row.worst_sample is not None:
        assert steps[row.worst_sample].max() == steps.max()
    assert all(r.accuracy > 0.9 and not r.refused for r in found)
    assert str(found).splitlines()[2].startswith("xnnpack")
    assert found.as_dict()["rows"][2]["kernels"] == "reference"


def test_floats_have_no_steps():
    found = parity(network(), X[:20], kernels=("xnnpack", "reference"))
    assert [row.largest_steps for row in found] == [None, None]
    assert found["xnnpack"].largest_error < 1e-4
    assert found["xnnpack"].accuracy is None


def test_what_runs_nowhere_is_an_error(small):
    with pytest.raises(DataError, match="takes arrays of shape"):
        parity(small, np.zeros((3, 5)))
    with pytest.raises(RunError, match="'tflm' is for Runner"):
        Session(bytes(small), "tflm")


@pytest.mark.skipif(tflm.installed(), reason="needs tflite-micro to be absent")
def test_tflm_that_is_not_installed(small):
    assert "tflm" not in [row.kernels for row in parity(small, X[:2])]
    with pytest.raises(MissingDependencyError, match=r"pip install --pre 'octavo\[tflm\]'"):
        parity(small, X[:2], kernels=("tflm",))


@needs_tflm
def test_tflm(small):
    row = parity(small, X)["tflm"]
    assert row.refused == ""
    assert row.largest_steps <= 2
    # The estimate is for activations; the rest is TFLM's own.
    estimate = arena_bytes(small.program.main)
    assert estimate < row.arena_bytes < estimate + 8192
    outputs = octavo.Runner(small, "tflm")(X[:10])
    assert outputs.shape == (10, 4)


@needs_tflm
def test_tflm_refuses_in_one_line():
    model = octavo.quantize(network(), octavo.dynamic_range(0))
    row = parity(model, X[:3])["tflm"]
    assert row.accuracy is None
    assert "TFLM's kernels can't" in row.refused
    assert "\n" not in row.refused


@needs_tflm
def test_tflm_sessions_end_their_process(small):
    session = TflmSession(bytes(small))
    child = session._child
    assert child.poll() is None
    del session
    assert child.poll() is not None
