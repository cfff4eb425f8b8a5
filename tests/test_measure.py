"""Models run by their target's own software: `octavo.measure` and `octavo check --run`."""

import json

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.cli import main
from octavo.errors import DataError, RecipeError, RunError
from octavo.model import Model
from octavo.runtime import tflm, vela
from octavo.runtime.parity import parity

needs_tflm = pytest.mark.skipif(not tflm.installed(), reason="needs tflite-micro, which is for Linux only")
needs_vela = pytest.mark.skipif(not vela.installed(), reason="needs ethos-u-vela")
X = np.random.default_rng(0).normal(size=(30, 8, 8, 2)).astype(np.float32)


def network(*tail: str) -> Model:
    build = Builder()
    y = build.conv(build.input("image", (1, 8, 8, 2)), "conv", 8, act=1)
    for code in tail:
        y = build.unary(code, y, code.lower())
    return Model(build.program(y))


@pytest.fixture(scope="module")
def small():
    return octavo.quantize(network(), octavo.integer(fallback=False), X)


@pytest.fixture
def file(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.save("small.tflite")
    np.savez("x.npz", x=X)
    return tmp_path


@needs_tflm
def test_tflm(small):
    run = octavo.measure(small, "tflm", X)
    row = parity(small, X, kernels=("tflm",))["tflm"]
    assert (run.samples, run.random, run.arena_bytes) == (30, False, row.arena_bytes)
    assert (run.steps, run.error, run.differing) == (row.largest_steps, row.largest_error, row.differing)
    assert octavo.measure(small, "tflm").random
    with pytest.raises(DataError, match="random numbers mean nothing"):
        octavo.measure(network(), "tflm")


@needs_tflm
def test_tflm_refuses(small):
    gelu = octavo.quantize(network("GELU"), octavo.integer(fallback=False), X)
    with pytest.raises(RunError, match="TFLM's kernels can't"):
        octavo.measure(gelu, "tflm", X)


@needs_vela
def test_ethosu(small):
    assert octavo.measure(small, "ethosu65").npu_share == 1
    assert octavo.measure(small, "ethos-u55-32").accelerator == "ethos-u55-32"


def test_other_targets(small):
    with pytest.raises(RecipeError, match="'gpu' can't be run here: choose tflm, ethosu55"):
        octavo.measure(small, "gpu")


@needs_tflm
@needs_vela
class TestCommand:
    def test_text(self, file, capsys):
        assert main(["check", "small.tflite", "--target", "tflm", "--run", "--data", "x.npz"]) == 0
        assert "tflm runs it: arena" in capsys.readouterr().out
        assert main(["check", "small.tflite", "--target", "ethosu55", "--run"]) == 0
        assert "1 of 1 ops on the NPU" in capsys.readouterr().out

    def test_json(self, file, capsys):
        assert main(["check", "small.tflite", "--target", "ethosu85", "--run", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["ok"] is True
        assert (told["run"]["npu_share"], told["run"]["accelerator"]) == (1, "ethos-u85-256")

    def test_what_stays_on_the_cpu_counts(self, file, capsys):
        octavo.quantize(network("SIN"), octavo.integer(), X).save("mixed.tflite")
        assert main(["check", "mixed.tflite", "--target", "ethosu55", "--run"]) == 1
        assert "on the CPU: SIN 'sin'" in capsys.readouterr().out

    def test_usage(self, file, capsys):
        assert main(["check", "small.tflite", "--runtime", "2.14", "--run"]) == 2
        assert main(["check", "small.tflite", "--target", "tflm", "--data", "x.npz"]) == 2
        assert main(["check", "small.tflite", "--target", "gpu", "--run"]) == 1
        assert "can't be run here" in capsys.readouterr().err


@needs_tflm
def test_what_the_reference_kernels_lack():
    build = Builder()
    y = build.conv(build.input("image", (1, 8, 8, 2)), "conv", 8)
    y = build.op("DEPTH_TO_SPACE", [y], "y", (1, 16, 16, 2), "DepthToSpaceOptions", blockSize=2)
    small = octavo.quantize(Model(build.program(y)), octavo.integer(fallback=False), X)
    with pytest.raises(RunError, match="DEPTH_TO_SPACE"):
        octavo.Runner(small, "reference")
    run = octavo.measure(small, "tflm", X)
    assert run.against == "builtin"
    assert run.steps <= 1
