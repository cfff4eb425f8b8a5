"""Calibration sees what branches compute, each signature with its own data, and as much of a model as can run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.calibrate.expose import Window
from octavo.calibrate.run import collect
from octavo.cli import main
from octavo.graph import DType, Op, Program, Signature, Tensor
from octavo.model import Model
from octavo.passes.pin_arguments import pin_arguments
from octavo.runtime.session import Session
from test_passes import branching
from test_state import streaming

X = np.random.default_rng(1).normal(size=(32, 1, 6)).astype(np.float32)


def ranges_by_name(program: Program, data: object) -> dict[str, tuple[float, float]]:
    return {tensor.name: bounds for tensor, bounds in collect(program, data).ranges.items()}


def test_a_branch_shows_only_the_samples_that_take_it() -> None:
    program = branching()
    pin_arguments(program)
    found = ranges_by_name(program, X)
    positive, negative = X[X.sum((1, 2)) >= 0], X[X.sum((1, 2)) < 0]
    kernel = program.graphs[1].ops[0].inputs[1]
    assert kernel is not None
    dense = positive @ kernel.values.T
    np.testing.assert_allclose(found["then/out"], (dense.min(), dense.max()), rtol=1e-5)
    np.testing.assert_allclose(found["else/out"], (2 * negative.min(), 2 * negative.max()), rtol=1e-5)


def test_a_branch_that_no_sample_takes_has_no_range() -> None:
    found = ranges_by_name(branching(), np.abs(X))
    assert "then/out" in found and "else/out" not in found


def test_branches_become_integer() -> None:
    model = Model(branching())
    small = octavo.quantize(model, octavo.integer(io="int8"), X)
    assert small.summary().counts == {"int8": 5} and small.integer_only
    assert [t.dtype for graph in small.program.graphs[1:] for t in graph.inputs] == [DType.INT8, DType.INT8]
    assert len({graph.outputs[0].qparams for graph in small.program.graphs[1:]}) == 1, "both branches mean the same"
    wanted, got = (np.stack([np.asarray(octavo.Runner(m)(x)) for x in X]) for m in (model, small))
    assert numerics.sqnr_db(wanted, got) > 30


def nested() -> Program:
    """An IF in the branch of an IF."""
    program = branching()
    inner = branching()
    outer = program.graphs[1]
    switch = next(op for op in inner.main.ops if op.code == "IF")
    kernel = switch.inputs[2]
    assert kernel is not None
    inner.main.inputs.append(inner.main.add_tensor(kernel.copy(name="given", data=None)))
    switch.inputs[2] = inner.main.inputs[1]
    switch.options = {"thenSubgraphIndex": 3, "elseSubgraphIndex": 4}
    inner.main.name = outer.name
    for graph in inner.graphs[1:]:
        graph.outputs[0].name = f"inner {graph.outputs[0].name}"
    program.graphs[1] = inner.main
    program.graphs += inner.graphs[1:]
    return program


def test_nested_branches() -> None:
    found = ranges_by_name(nested(), X)
    assert "inner then/out" in found and "else/out" in found and "inner else/out" not in found


def two_signatures() -> Program:
    first, second = Builder(1), Builder(2)
    program = first.program(first.dense(first.input("x", (1, 6)), "small", 3))
    other = second.program(second.dense(second.input("y", (1, 8)), "large", 5))
    program.signatures[0].key = "small"
    program.graphs += other.graphs
    program.signatures.append(Signature("large", other.signatures[0].inputs, other.signatures[0].outputs, other.main))
    return program


def test_each_signature_has_its_data() -> None:
    y = 10 * np.random.default_rng(2).normal(size=(16, 1, 8)).astype(np.float32)
    model = Model(two_signatures())
    small = octavo.quantize(model, octavo.integer(), {"small": X, "large": y})
    assert small.summary().counts == {"int8": 2}
    for key, name, data in (("small", "x", X), ("large", "y", y)):
        before, after = Session(bytes(model), signature=key), Session(bytes(small), signature=key)
        wanted, got = (np.stack([next(iter(s.run({name: v}).values())) for v in data]) for s in (before, after))
        assert numerics.sqnr_db(wanted, got) > 30


def test_data_for_one_signature_leaves_the_others_in_float() -> None:
    small = octavo.quantize(Model(two_signatures()), octavo.integer(), {"small": X})
    (left,) = small.summary().in_float
    assert "large" in left.op and "no calibration data reached" in left.reason


def test_an_unknown_signature_is_named() -> None:
    with pytest.raises(octavo.DataError, match=r"'huge'.*'small', 'large'"):
        octavo.quantize(Model(two_signatures()), octavo.integer(), {"small": X, "huge": X})


def with_custom() -> Program:
    b = Builder()
    first = b.dense(b.input("x", (1, 6)), "first", 6)
    y = b.op("CUSTOM", [first], "secret", (1, 6))
    b.graph.ops[-1].custom_code = "NobodyKnows"
    return b.program(b.dense(y, "second", 4))


def test_what_stands_before_a_custom_op_is_calibrated() -> None:
    small = octavo.quantize(Model(with_custom()), octavo.integer(), X)
    reasons = {decision.op.split("'")[1]: decision.reason for decision in small.summary().in_float}
    assert reasons["secret"] == "a custom op"
    assert "no calibration data reached 'secret'" in reasons["second"]
    assert [op.code for op in small.program.main.ops][:3] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


@pytest.mark.parametrize("scheme", [octavo.float16(0), octavo.dynamic_range(0), octavo.weight_only(0)])
def test_other_schemes_never_run_the_model(scheme: octavo.Scheme) -> None:
    small = octavo.quantize(Model(with_custom()), scheme)
    assert small.nbytes > 0 and "float32" in small.summary().counts


def test_what_cannot_run_for_another_reason_is_an_error() -> None:
    b = Builder()
    x = b.input("x", (1, 6))
    program = b.program(b.op("ADD", [x, b.weights("c", 5)], "sum", (1, 6), "AddOptions"))
    with pytest.raises(octavo.RunError):
        Window(program)


# ---------------------------------------------------------------- from the command line


def alike_signatures() -> Program:
    """Two dense layers, as signatures "small" and "large" with an input of the same name."""
    program, other = (Builder(seed) for seed in (1, 2))
    first = program.program(program.dense(program.input("x", (1, 6)), "first", 4))
    second = other.program(other.dense(other.input("x", (1, 6)), "second", 4))
    first.signatures[0].key, second.signatures[0].key = "small", "large"
    first.graphs += second.graphs
    first.signatures += second.signatures
    return first


def quantize(tmp_path: Path, program: Program, arrays: dict[str, np.ndarray], *options: str) -> tuple[int, Path]:
    Model(program).save(tmp_path / "model.tflite")
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    made = tmp_path / "small.tflite"
    command = ["quantize", str(tmp_path / "model.tflite"), "-o", str(made), "--data", str(tmp_path / "data.npz")]
    return main([*command, "--to", "integer", *options]), made


def test_data_for_each_signature_from_one_file(tmp_path: Path) -> None:
    x = X[:, 0]
    status, made = quantize(tmp_path, alike_signatures(), {"small/x": x, "large/x": 8 * x})
    assert status == 0
    inputs = [graph.ops[0].outputs[0].qparams for graph in octavo.load(made).program.graphs]
    scales = [float(qparams.scale[0]) for qparams in inputs if qparams is not None]
    assert len(scales) == 2 and scales[1] > 6 * scales[0], "each signature saw its own data"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"small/x": X, "large/y": X}, "signature 'large' has the inputs 'x', but 'large/y' is no input of it"),
        ({"middle/x": X}, "no recognised|no samples|middle/x"),
    ],
)
def test_arrays_of_no_signature_are_named(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(tmp_path, alike_signatures(), arrays)[0] == 1
    assert re.search(message, capsys.readouterr().err)


def test_sequences_from_the_command_line(tmp_path: Path) -> None:
    """Whole sequences are chosen, and the state is carried along within each."""
    x = X[:24, 0]
    status, made = quantize(tmp_path, streaming(), {"x": x}, "--steps", "8", "--samples", "16")
    assert status == 0
    wanted = octavo.quantize(Model(streaming()), octavo.integer(), octavo.Sequences([x[:8], x[8:16]]))
    assert made.read_bytes() == bytes(wanted)


def test_a_custom_op_from_the_command_line(tmp_path: Path) -> None:
    """LiteRT can't load the model; its inputs' names are in the file all the same."""
    b = Builder()
    x = b.input("x", (1, 6))
    y = b.dense(x, "dense", 6)
    custom = b.graph.add_tensor(Tensor("out", DType.FLOAT32, (1, 6)))
    b.graph.ops.append(Op("CUSTOM", [y], [custom], custom_code="Mine"))
    status, made = quantize(tmp_path, b.program(custom), {"x": X[:, 0]})
    assert status == 0
    ops = octavo.load(made).program.main.ops
    assert [op.code for op in ops] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE", "CUSTOM"]
    assert all(t is not None and t.dtype is DType.FLOAT32 for t in [*ops[-1].inputs, *ops[-1].outputs])


def test_memory_is_shown_only_where_no_run_depends_on_the_one_before() -> None:
    b = Builder()
    static = b.program(b.dense(b.input("x", (1, 4)), "y", 3))
    b = Builder()
    resized = b.program(b.dense(b.input("x", (1, 4)), "y", 3))
    resized.main.inputs[0].shape_signature = (-1, 4)
    b = Builder()
    state = b.op("ADD", [b.input("x", (1, 4)), b.input("s", (1, 4))], "y", (1, 4), "AddOptions")
    keeping = b.program(state)
    keeping.main.inputs.pop().is_variable = True
    keeping.signatures[0].inputs.pop()
    assert [Window(one)._can_show_memory for one in (static, resized, keeping)] == [True, False, False]
