"""Every claim of the op table, tried on the runtime.

For each row and precision: build the row's one-op model, quantize it with octavo, run it on XNNPACK and on the builtin
kernels, and hold the result against the float kernel fed with the very numbers that the codes stand for.
"""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from octavo import numerics
from octavo.graph import DType, Program, Tensor
from octavo.model import Model
from octavo.ops import OPS, Row, claims
from octavo.qtypes import INT8, INT16, UINT8
from octavo.runtime.session import Session
from one_op import build, feed

KERNELS = ("xnnpack", "builtin")
CASES = [pytest.param(row, precision, id=f"{row.name}-{precision}") for row, precision in claims()]
INTEGER = [case for case in CASES if case.values[1] != "dynamic"]
DYNAMIC = [case for case in CASES if case.values[1] == "dynamic"]


def real(codes: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The numbers that an array of the file's dtype stands for."""
    return codes if tensor.qparams is None else numerics.dequantize(codes, tensor.qparams)


def codes_of(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.qparams is None:
        return values
    qtype = {DType.INT8: INT8, DType.INT16: INT16, DType.UINT8: UINT8}[tensor.dtype]
    return numerics.quantize(values, tensor.qparams, qtype)


def float_twin(row: Row, small: Program) -> Program:
    """The float model with the constants that the quantized one really holds."""
    twin = build(row)
    op, small_op = twin.main.ops[0], next(o for o in small.main.ops if o.code == row.name)
    for tensor, quantized in zip(op.inputs, small_op.inputs, strict=False):
        if tensor is not None and quantized is not None and tensor.is_constant and tensor.dtype is DType.FLOAT32:
            tensor.set_values(real(quantized.values, quantized).astype(np.float32))
    return twin


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("row", "precision"), INTEGER)
def test_integer_kernel_agrees_with_the_float_kernel(row: Row, precision: str, kernels: str) -> None:
    rng = np.random.default_rng(1)
    scheme = octavo.integer(fallback=False, activations=int(precision.removeprefix("int")))
    small = octavo.quantize(Model(build(row)), scheme, calibration=[feed(row, rng) for _ in range(8)])
    assert small.integer_only
    op = next(o for o in small.program.main.ops if o.code == row.name)
    assert not [o.code for o in small.program.main.ops if o is not op], "a lone op needs no conversions"

    session = Session(bytes(small), kernels=kernels)
    reference = Session(bytes(Model(float_twin(row, small.program))), kernels="builtin")
    for _ in range(4):
        arrays = feed(row, rng)
        codes = {t.name: codes_of(arrays[t.name], t) for t in small.program.main.inputs}
        grid = {t.name: real(codes[t.name], t) for t in small.program.main.inputs}
        got, want = session.run(codes), reference.run(grid)
        for tensor in small.program.main.outputs:
            compare(row, tensor, got[tensor.name], want[tensor.name])


def compare(row: Row, tensor: Tensor, got: np.ndarray, want: np.ndarray) -> None:
    if tensor.qparams is None:
        np.testing.assert_array_equal(got, want)
        return
    step = float(tensor.qparams.scale[0])
    expected = real(codes_of(want, tensor), tensor)  # saturates as the kernel does
    inside = np.where(np.abs(expected - want) < step, want, expected)
    error = np.abs(real(got, tensor) - inside) / step
    limit = row.int16_steps if tensor.dtype is DType.INT16 and row.int16_steps else row.steps
    assert error.max() <= limit, f"{error.max():.2f} steps off"


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("row", "precision"), DYNAMIC)
def test_dynamic_range_kernel_agrees_with_the_float_kernel(row: Row, precision: str, kernels: str) -> None:
    rng = np.random.default_rng(1)
    small = octavo.quantize(Model(build(row)), octavo.dynamic_range(min_elements=0))
    assert small.summary().counts == {precision: 1}
    session = Session(bytes(small), kernels=kernels)
    reference = Session(bytes(Model(float_twin(row, small.program))), kernels="builtin")
    for _ in range(4):
        arrays = feed(row, rng)
        got, want = session.run(arrays)["out0"], reference.run(arrays)["out0"]
        span = want.max() - want.min()
        assert np.abs(got - want).max() <= 0.02 * span, "8 bits of activation lose less than 2 % of the output's span"
        looked_up = row.hybrid_axis is not None  # nothing is multiplied, so nothing is quantized at run time
        assert looked_up or not np.array_equal(got, want), "activations weren't quantized at run time"


@pytest.mark.parametrize("row", [row for row in OPS.values() if row.int8 is None], ids=lambda row: row.name)
def test_rows_without_a_kernel_say_why(row: Row) -> None:
    assert row.because["int8"]
