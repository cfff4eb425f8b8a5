"""Marks of training, built op by op: where their range goes, and which name the tensor keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flatbuffers import flexbuffers

from graphs import Builder
from octavo.errors import ConversionError
from octavo.graph import Graph, Op, Program, Tensor
from octavo.graph.queries import recorded_range
from octavo.graph.verify import verify
from octavo.passes.fake_quant_marks import fake_quant_marks
from test_passes import branching, codes, looping

ROWS = (2, 6)


def mark(b: Builder, x: Tensor, made: str, low: float, high: float, subgraph: int = 1, name: str = "") -> Tensor:
    """`made`: the tensor's name in the file; `name`: what training calls the tensor below."""
    attributes = np.frombuffer(bytes(flexbuffers.Dumps({"low": low, "high": high, "name": name})), np.uint8)
    options = {"name": b"octavo.fake_quant", "decompositionSubgraphIndex": subgraph, "compositeAttributes": attributes}
    marked = b.op("STABLEHLO_COMPOSITE", [x], made, x.shape, "StableHLOCompositeOptions")
    b.graph.ops[-1].options = options
    return marked


def decomposition(name: str = "decomposition") -> Graph:
    b = Builder()
    graph = b.program(b.unary("ABS", b.input("x", ROWS), "y")).main
    graph.name = name
    return graph


def with_decompositions(program: Program, count: int = 1) -> Program:
    program.graphs += [decomposition(f"decomposition {number}") for number in range(count)]
    return program


def named(program: Program) -> dict[str, tuple[float, float] | None]:
    return {tensor.name: recorded_range(tensor) for tensor in program.main.tensors}


def test_a_mark_becomes_the_range_of_what_it_stands_on() -> None:
    b = Builder()
    x = mark(b, b.input("x", ROWS), "x/marked", -1.0, 2.0)
    y = mark(b, b.unary("ABS", x, "abs"), "abs/marked", 0.0, 3.0, 2, name="block/act")
    program = with_decompositions(b.program(b.unary("TANH", y, "out")), 2)
    assert fake_quant_marks(program) == ["2 ranges were learned in training"]
    verify(program)
    assert codes(program) == ["ABS", "TANH"] and len(program.graphs) == 1
    assert named(program) == {"x": (-1, 2), "block/act": (0, 3), "out": None}


def test_a_model_without_marks_has_nothing_to_tell() -> None:
    b = Builder()
    other = mark(b, b.input("x", ROWS), "y", 0.0, 1.0)
    b.graph.ops[0].options = {**(b.graph.ops[0].options or {}), "name": "somebody.else"}
    program = with_decompositions(b.program(other))
    assert fake_quant_marks(program) == []
    assert codes(program) == ["STABLEHLO_COMPOSITE"] and len(program.graphs) == 2


@pytest.mark.parametrize("attributes", [{"low": 0.0}, {"high": 1.0}, [0.0, 1.0], None])
def test_a_mark_without_a_range_is_an_error(attributes: Any) -> None:
    b = Builder()
    program = with_decompositions(b.program(mark(b, b.input("x", ROWS), "y", 0.0, 1.0)))
    raw = None if attributes is None else np.frombuffer(bytes(flexbuffers.Dumps(attributes)), np.uint8)
    program.main.ops[0].options = {**(program.main.ops[0].options or {}), "compositeAttributes": raw}
    with pytest.raises(ConversionError) as caught:
        fake_quant_marks(program)
    assert str(caught.value) == (
        "STABLEHLO_COMPOSITE 'y': a mark 'octavo.fake_quant' needs the attributes low and high"
    )


def test_the_first_of_two_marks_counts() -> None:
    b = Builder()
    y = mark(b, b.unary("ABS", b.input("x", ROWS), "abs"), "first", 0.0, 3.0, name="kept")
    y = mark(b, y, "second", -9.0, 9.0, name="dropped")
    program = with_decompositions(b.program(b.unary("TANH", y, "out")))
    fake_quant_marks(program)
    assert named(program) == {"x": None, "kept": (0, 3), "out": None}


def test_constants_have_no_recorded_range() -> None:
    b = Builder()
    c = mark(b, b.weights("c", *ROWS), "c/marked", 0.0, 3.0, name="other")
    program = with_decompositions(b.program(b.op("ADD", [b.input("x", ROWS), c], "out", ROWS, "AddOptions")))
    fake_quant_marks(program)
    assert named(program) == {"x": None, "c": None, "out": None}


def test_a_marked_output_keeps_its_public_name() -> None:
    b = Builder()
    out = mark(b, b.unary("ABS", b.input("x", ROWS), "abs"), "out", 0.0, 3.0, name="inner")
    program = with_decompositions(b.program(out))
    fake_quant_marks(program)
    verify(program)
    assert named(program) == {"x": None, "out": (0, 3)}
    assert program.signatures[0].outputs == [("out", program.main.outputs[0])]


def test_an_input_that_is_given_out_keeps_its_own_name() -> None:
    b = Builder()
    x = b.input("x", ROWS)
    program = with_decompositions(b.program(mark(b, x, "out", 0.0, 3.0), b.unary("ABS", x, "abs")))
    fake_quant_marks(program)
    assert program.main.outputs[0] is x and x.name == "x" and recorded_range(x) == (0, 3)
    assert [name for name, _ in program.signatures[0].outputs] == ["out", "abs"]


@pytest.mark.parametrize("border", [True, False])
def test_a_view_hands_range_and_name_to_what_went_in(border: bool) -> None:
    """Should the reshape go, both stay; public names stay where they are."""
    b = Builder()
    y = b.reshape(b.unary("ABS", b.input("x", ROWS), "abs"), "flat", (12,))
    marked = mark(b, y, "marked", 0.0, 3.0, name="act")
    program = with_decompositions(b.program(marked if border else b.unary("TANH", marked, "out")))
    fake_quant_marks(program)
    before, after = program.main.ops[0].outputs[0], program.main.ops[1].outputs[0]
    assert recorded_range(before) == recorded_range(after) == (0, 3)
    assert (before.name, after.name) == (("abs", "marked") if border else ("act", "abs"))


@pytest.mark.parametrize("make", [looping, branching])
def test_other_subgraphs_are_renumbered(make: Any) -> None:
    """The decomposition goes from between the main graph and those that a WHILE or an IF calls."""
    program = make()
    called = program.graphs[1:]
    b = Builder()
    b.graph = program.main
    x = program.main.inputs[0]
    readers = [op for op in program.main.ops if x in op.inputs]
    marked = mark(b, x, "x/marked", -1.0, 2.0)
    program.main.ops.insert(0, program.main.ops.pop())
    for op in readers:
        op.inputs = [marked if tensor is x else tensor for tensor in op.inputs]
    program.graphs.insert(1, decomposition())
    op = next(op for op in program.main.ops if op.code in ("WHILE", "IF"))
    op.options = {key: number + 1 for key, number in (op.options or {}).items()}
    fake_quant_marks(program)
    verify(program)
    assert program.graphs[1:] == called
    assert sorted((op.options or {}).values()) == [1, 2]


def test_several_subgraphs_in_one_option_are_renumbered() -> None:
    b = Builder()
    marked = mark(b, b.input("x", ROWS), "x/marked", -1.0, 2.0)
    case = Op("STABLEHLO_CASE", [marked], [b.graph.add_tensor(Tensor("out", marked.dtype, ROWS))],
              {"branchSubgraphIndices": np.array([3, 2], np.int32)}, "StablehloCaseOptions")  # fmt: skip
    b.graph.ops.append(case)
    program = with_decompositions(b.program(case.outputs[0]), 3)
    fake_quant_marks(program)
    assert case.option("branchSubgraphIndices").tolist() == [2, 1]
    assert [graph.name for graph in program.graphs[1:]] == ["decomposition 1", "decomposition 2"]
