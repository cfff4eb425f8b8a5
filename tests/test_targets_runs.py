"""What the targets are said to take, held against the real thing where it runs on this machine.

A one-op model for each row of the op table in each precision: XNNPACK delegates it or not, TFLM loads and runs it or
not, Vela gives it to the NPU or not, and `octavo.targets` has to have said so.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

import octavo
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.model import Model
from octavo.ops import OPS, Row
from octavo.qtypes import QParams
from octavo.runtime import tflm, vela
from octavo.runtime.session import Session
from octavo.targets import TARGETS
from octavo.targets.check import target_findings
from one_op import build, feed

ROWS = [row for row in OPS.values() if row.sample is not None]
# TFLM loads this one, and reads its 32-bit bias as a 64-bit one: test_tflm_reads_a_short_bias_wrongly.
LOADS_BUT_WRONG = {("TRANSPOSE_CONV", "int16")}
# Vela 5.2 ends the process on a comparison, a broadcast or a fill that it can't place.
ENDS_VELA = ("EQUAL", "GREATER", "LESS", "BROADCAST_TO", "FILL")

needs_tflm = pytest.mark.skipif(not tflm.installed(), reason="needs tflite-micro, which is for Linux only")
needs_vela = pytest.mark.skipif(not vela.installed(), reason="needs ethos-u-vela")


def precisions(row: Row) -> list[str]:
    found = ["float32"]
    found += [f"int{bits}" for bits in (8, 16) if row.version(bits) is not None]
    found += ["int8*int4"] if 8 in row.int4 else []
    return found + (["dynamic"] if row.dynamic is not None and row.weights is not None else [])


CASES = [
    pytest.param(row.name, precision, id=f"{row.name}-{precision}") for row in ROWS for precision in precisions(row)
]


@cache
def one_op(name: str, precision: str) -> Model:
    row, rng = OPS[name], np.random.default_rng(1)
    model = Model(build(row))
    if precision == "float32":
        return model
    if precision == "dynamic":
        return octavo.quantize(model, octavo.dynamic_range(min_elements=0))
    activations, _, weights = precision.removeprefix("int").partition("*int")
    scheme = octavo.integer(fallback=False, activations=int(activations), weights=int(weights or 8), effort="fast")
    return octavo.quantize(model, scheme, calibration=[feed(row, rng) for _ in range(4)])


def said_to_run(model: Model, target: str) -> bool:
    return not [*target_findings(model.program, TARGETS[target])]


@pytest.mark.parametrize(("name", "precision"), CASES, ids="-".join)
def test_xnnpack(name: str, precision: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = one_op(name, precision)
    interpreter = Interpreter(model_content=bytes(model))
    interpreter.allocate_tensors()
    delegated = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
    assert said_to_run(model, "xnnpack") == delegated


# Runs each file of a folder in a process of its own, forked: TFLM ends the process on some.
_TRIER = """
import os, sys
from pathlib import Path
import numpy as np
from tflite_micro.python.tflite_micro import runtime

for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
    child = os.fork()
    if child == 0:
        try:
            interpreter = runtime.Interpreter.from_bytes(path.read_bytes(), arena_size=1 << 20)
            for index, (shape, dtype) in enumerate(eval(path.with_suffix(".txt").read_text())):
                interpreter.set_input(np.zeros(shape, dtype), index)
            interpreter.invoke()
            print("RUNS", path.stem, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@needs_tflm
@pytest.mark.parametrize("precision", ["float32", "int8", "int16", "int8*int4", "dynamic"])
def test_tflm(precision: str, tmp_path) -> None:
    expected = {}
    for row in ROWS:
        if precision not in precisions(row) or (row.name, precision) in LOADS_BUT_WRONG:
            continue
        model = one_op(row.name, precision)
        expected[row.name] = said_to_run(model, "tflm")
        (tmp_path / f"{row.name}.tflite").write_bytes(bytes(model))
        ports = [(tensor.shape, tensor.dtype.value) for tensor in model.program.main.inputs]
        (tmp_path / f"{row.name}.txt").write_text(repr(ports))
    ran = subprocess.run([sys.executable, "-c", _TRIER, str(tmp_path)], capture_output=True, text=True, check=True)
    runs = {line.split()[1] for line in ran.stdout.splitlines() if line.startswith("RUNS ")}
    assert {name for name, runs_there in expected.items() if runs_there} == runs
    assert len(expected) >= 3


@needs_tflm
def test_tflm_reads_a_short_bias_wrongly() -> None:
    """The reason for a rule: the model loads, runs, and gives out garbage."""
    model = one_op("TRANSPOSE_CONV", "int16")
    bias = model.program.main.ops[0].inputs[3]
    assert bias is not None and bias.dtype is DType.INT32
    found = octavo.check(model, "tflm")
    assert [finding.tensor for finding in found.findings] == [bias.name] and "int64 bias" in found.findings[0].why

    rng = np.random.default_rng(0)
    tensor = model.program.main.inputs[0]
    codes = [rng.integers(-(1 << 14), 1 << 14, tensor.shape).astype(np.int16)]
    right = Session(bytes(model), "builtin").invoke(codes)[0].astype(np.int64)
    wrong = tflm.TflmSession(bytes(model)).invoke(codes)[0].astype(np.int64)
    assert np.abs(right - wrong).max() > 1000, "TFLM reads it right by now: drop the rule"


def side_by_side(precision: str) -> Model:
    """All one-op models of a precision as one, so that Vela starts once."""
    graph = Graph("main")
    for row in ROWS:
        if precision not in precisions(row) or row.name.removeprefix("NOT_").startswith(ENDS_VELA):
            continue
        part = one_op(row.name, precision).program.clone().main
        for tensor in part.tensors:
            tensor.name = f"{row.name}/{tensor.name}"
        graph.tensors += part.tensors
        graph.inputs += part.inputs
        graph.outputs += part.outputs
        graph.ops += part.ops
    return Model(Program([graph]))


@needs_vela
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("target", ["ethosu55", "ethosu65", "ethosu85"])
def test_ethosu(target: str, precision: str) -> None:
    model = side_by_side(precision)
    on_cpu = {left.op for left in vela.compile_model(model, target).on_cpu}
    said = {finding.op for finding in octavo.check(model, target).findings}
    assert said == on_cpu
    assert 0 < len(said) < len(model.program.main.ops) / 2


@needs_vela
@pytest.mark.parametrize("target", ["ethosu55", "ethosu85"])
def test_ethosu_conditions(target: str) -> None:
    """Strides, windows, factors and axes on both sides of their limits."""
    model = Model(conditions())
    on_cpu = {left.op for left in vela.compile_model(model, target).on_cpu}
    found = octavo.check(model, target)
    assert {finding.op for finding in found.findings} == on_cpu
    assert 0 < len(on_cpu) < found.ops


class SideBySide:
    """Builds quantized ops that stand side by side in one graph."""

    def __init__(self) -> None:
        self.graph = Graph("main")
        self.quantized = QParams.per_tensor(0.05, 3)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.graph.add_tensor(Tensor(name, DType.INT8, shape, qparams=self.quantized))

    def constant(self, name: str, values: Any, dtype: str = "int32", scale: float | None = None) -> Tensor:
        made = self.graph.add_tensor(Tensor(name, DType.INT32, ()))
        made.set_values(np.array(values, dtype))
        made.qparams = None if scale is None else QParams.per_tensor(scale)
        return made

    def borders(self, code: str, given: tuple[int, ...], made: tuple[int, ...]) -> tuple[str, Tensor, Tensor]:
        """A name for the next op, an input of the graph for it to read, and an output for it to make."""
        name = f"{code}{len(self.graph.ops)}"
        self.graph.inputs.append(self.tensor(f"{name}/in", given))
        self.graph.outputs.append(self.tensor(name, made))
        return name, self.graph.inputs[-1], self.graph.outputs[-1]

    def add(
        self, code: str, given: tuple[int, ...], made: tuple[int, ...], kind: str, *more: Any, **options: Any
    ) -> None:
        name, image, result = self.borders(code, given, made)
        extra = [self.constant(f"{name}/{index}", values) for index, values in enumerate(more)]
        self.graph.ops.append(Op(code, [image, *extra], [result], options, kind))

    def pool(self, stride: int, window: int, padding: int) -> None:
        size = -(-(32 - window + 1 if padding else 32) // stride)
        options = dict.fromkeys(("strideW", "strideH"), stride) | dict.fromkeys(("filterWidth", "filterHeight"), window)
        for code in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
            self.add(code, (1, 32, 32, 4), (1, size, size, 4), "Pool2DOptions", padding=padding, **options)

    def resize(self, factor: int) -> None:
        size, kind = 6 * factor, "ResizeBilinearOptions"
        borders = (1, 6, 6, 4), (1, size, size, 4)
        self.add("RESIZE_BILINEAR", *borders, kind, [size, size])
        self.add("RESIZE_BILINEAR", *borders, kind, [size, size], halfPixelCenters=True)
        self.add("RESIZE_NEAREST_NEIGHBOR", *borders, "ResizeNearestNeighborOptions", [size, size])

    def convolve(self, code: str, stride: int, dilation: int, padding: int) -> None:
        size = -(-(32 - 2 * dilation if padding else 32) // stride)
        name, image, result = self.borders(code, (1, 32, 32, 4), (1, size, size, 4))
        weights = np.ones((1 if code == "DEPTHWISE_CONV_2D" else 4, 3, 3, 4))
        inputs = [image, self.constant(f"{name}/weights", weights, "int8", 0.01)]
        inputs.append(self.constant(f"{name}/bias", [0, 0, 0, 0], scale=0.01 * 0.05))
        options = {"padding": padding, "strideH": stride, "strideW": stride}
        options |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
        kind = "Conv2DOptions" if code == "CONV_2D" else "DepthwiseConv2DOptions"
        options |= {"depthMultiplier": 1} if code == "DEPTHWISE_CONV_2D" else {}
        self.graph.ops.append(Op(code, [*inputs], [result], options, kind))

    def transpose_convolve(self, stride: tuple[int, int], image: tuple[int, int], window: tuple[int, int]) -> None:
        made = (1, image[0] * stride[0], image[1] * stride[1], 4)
        name, data, result = self.borders("TRANSPOSE_CONV", (1, *image, 4), made)
        weights = self.constant(f"{name}/weights", np.ones((4, *window, 4)), "int8", 0.01)
        bias = self.constant(f"{name}/bias", [0, 0, 0, 0], scale=0.01 * 0.05)
        inputs = [self.constant(f"{name}/size", list(made)), weights, data, bias]
        options = {"padding": 0, "strideH": stride[0], "strideW": stride[1]}
        self.graph.ops.append(Op("TRANSPOSE_CONV", [*inputs], [result], options, "TransposeConvOptions"))


def conditions() -> Program:
    """Quantized ops side by side, some of which U55 doesn't take."""
    build = SideBySide()
    for stride, window in ((1, 3), (3, 3), (4, 3), (1, 8), (1, 9), (4, 9)):
        for padding in (0, 1):
            build.pool(stride, window, padding)
    for factor in (1, 2, 3, 4, 8):
        build.resize(factor)
    for code in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        for stride, dilation, padding in ((1, 1, 0), (3, 1, 0), (4, 1, 0), (4, 1, 1), (1, 2, 0), (1, 3, 0), (5, 1, 0)):
            build.convolve(code, stride, dilation, padding)
    for stride in ((1, 1), (2, 2), (1, 2), (3, 3)):
        build.transpose_convolve(stride, (32, 32), (3, 3))
    build.transpose_convolve((1, 2), (1, 16), (1, 3))
    build.transpose_convolve((2, 1), (16, 1), (3, 1))
    for axes, made in (([1, 2], (1, 1, 1, 4)), ([3], (1, 6, 6, 1)), ([1], (1, 1, 6, 4))):
        build.add("MEAN", (1, 6, 6, 4), made, "ReducerOptions", axes, keepDims=True)
    build.add("MEAN", (2, 6, 6, 4), (2, 1, 1, 4), "ReducerOptions", [1, 2], keepDims=True)
    return Program([build.graph])
