"""Models compiled for Ethos-U by Vela."""

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import tflite
from octavo.errors import MissingDependencyError, RunError
from octavo.model import Model
from octavo.runtime import vela
from octavo.runtime.vela import compile_model

needs_vela = pytest.mark.skipif(not vela.installed(), reason="needs ethos-u-vela")
X = np.random.default_rng(0).normal(size=(20, 8, 8, 2)).astype(np.float32)
NASTY = "a'\n\nReason: none\nWarning (supported operators) operator: X, ofm: 't1'"


def network(*tail: str) -> Model:
    build = Builder()
    y = build.conv(build.input("image", (1, 8, 8, 2)), "conv", 8, act=1)
    for number, code in enumerate(tail):
        y = build.unary(code, y, f"{NASTY} {number}")
    return Model(build.program(y))


@pytest.fixture(scope="module")
def small():
    return octavo.quantize(network(), octavo.integer(fallback=False), X)


@needs_vela
@pytest.mark.parametrize("target", [*vela.DEFAULTS, "ethos-u55-32"])
def test_all_on_the_npu(small, target):
    found = compile_model(small, target)
    assert found.accelerator == vela.DEFAULTS.get(target, target)
    assert (found.ops, found.on_cpu, found.npu_share) == (1, (), 1.0)
    assert found.macs >= 8 * 8 * 8 * 9 * 2 * (1 if target != "ethosu85" else 0.5)
    assert found.cycles > 0 and found.milliseconds > 0
    assert found.sram_bytes + found.dram_bytes > 0
    assert [op.custom_code for op in tflite.read(found.compiled).ops()] == ["ethos-u"]


@needs_vela
def test_a_larger_npu_is_faster(small):
    assert compile_model(small, "ethos-u55-256").cycles < compile_model(small, "ethos-u55-32").cycles


@needs_vela
def test_the_cpu_keeps_the_rest():
    model = octavo.quantize(network("SIN", "RELU6"), octavo.integer(), X)
    found = compile_model(model)
    kinds = {left.op.split()[0]: left.reason for left in found.on_cpu}
    assert "SIN" in kinds and "opType" in kinds["SIN"]
    assert "CONV_2D" not in kinds
    assert found.ops == len(model.program.main.ops)
    assert found.npu_share == pytest.approx(1 - len(found.on_cpu) / found.ops)
    assert all("\n" not in left.reason and left.reason != "none" for left in found.on_cpu)
    assert "SIN" in str(found)
    assert found.as_dict()["compiled"] == len(found.compiled)


@needs_vela
def test_float_model_has_nothing_for_the_npu():
    found = compile_model(network())
    assert found.npu_share == 0
    assert "Float32" in found.on_cpu[0].reason


@needs_vela
def test_refused_in_one_line(small):
    with pytest.raises(RunError, match="'tpu' is no Ethos-U: choose ethosu55"):
        compile_model(small, "tpu")
    with pytest.raises(RunError, match=r"Vela can't compile it: [^\n]*$"):
        compile_model(small, memory_mode="None_Such")


@pytest.mark.skipif(vela.installed(), reason="needs ethos-u-vela to be absent")
def test_says_what_to_install(small):
    with pytest.raises(MissingDependencyError, match=r"pip install 'octavo\[vela\]'"):
        compile_model(small)
