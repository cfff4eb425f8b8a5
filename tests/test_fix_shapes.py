"""Dynamic dimensions get sizes, what follows from them becomes constant, and wrong requests are named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.cli import main
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import has_static_shape
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.runtime.session import Session
from test_passes import branching, looping


def dynamic_batch() -> Program:
    """A dense layer on a dynamic batch, reshaped with a shape that is computed from the input's."""
    b = Builder()
    x = b.input("x", (1, 6))
    y = b.dense(x, "dense", 8)
    shape = b.op("SHAPE", [y], "shape", (2,), "ShapeOptions", dtype=DType.INT32, outType=2)
    bounds = [b.const("c", np.array(v, np.int32)) for v in ([0], [1], [1])]
    batch = b.op("STRIDED_SLICE", [shape, *bounds], "batch", (), "StridedSliceOptions", dtype=DType.INT32,
                 shrinkAxisMask=1)  # fmt: skip
    rest = [b.const("n", np.array(n, np.int32)) for n in (2, 4)]
    target = b.op("PACK", [batch, *rest], "target", (3,), "PackOptions", dtype=DType.INT32, valuesCount=3, axis=0)
    out = b.op("RESHAPE", [y, target], "out", (1, 2, 4), "ReshapeOptions")
    for tensor in (x, y, out):
        tensor.shape_signature = (-1, *tensor.shape[1:])
    return b.program(out)


def test_what_follows_from_the_shape_is_constant() -> None:
    model = Model(dynamic_batch())
    fixed = octavo.fix_shapes(model, {"x": (5, 6)})
    verify(fixed.program)
    assert [op.code for op in fixed.program.main.ops] == ["FULLY_CONNECTED", "RESHAPE"]
    assert fixed.program.main.outputs[0].shape == (5, 2, 4)
    assert all(tensor.shape_signature is None for tensor in fixed.program.main.tensors)
    assert "shapes are fixed: x=5x6" in fixed.notes
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(Session(bytes(fixed)).run([x])["out"], Session(bytes(model)).run([x])["out"])
    assert len(model.program.main.ops) == 5, "the given model stays as it is"


def test_one_shape_for_one_input() -> None:
    assert octavo.fix_shapes(Model(dynamic_batch()), (3, 6)).program.main.inputs[0].shape == (3, 6)


def test_quantize_takes_shapes() -> None:
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    small = octavo.quantize(Model(dynamic_batch()), octavo.integer(fallback=False), x, shapes={"x": (1, 6)})
    assert small.integer_only and "shapes are fixed" in str(small.summary())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 6)}, r"no input 'y': the model has 'x'"),
        ({"x": (1, 7)}, r"input 'x' has the shape \?,6: 1,7 doesn't fit it"),
        ({"x": (1, 6, 1)}, r"doesn't fit it"),
        ({"x": (0, 6)}, r"sizes of 1 or more"),
        ({}, r"input 'x' has the shape \?,6: it needs a shape"),
    ],
)
def test_wrong_shapes_are_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(octavo.RecipeError, match=message):
        octavo.fix_shapes(Model(dynamic_batch()), shapes)


def test_a_static_model_stays_as_it_is() -> None:
    b = Builder()
    model = Model(b.program(b.dense(b.input("x", (1, 6)), "dense", 4)))
    assert bytes(octavo.fix_shapes(model, {"x": (1, 6)})) == bytes(model)


def test_what_depends_on_values_stays_dynamic() -> None:
    b = Builder()
    x = b.input("x", (1,))
    zero = b.const("zero", np.array(0, np.float32))
    positive = b.op("GREATER", [x, zero], "positive", (1,), "GreaterOptions", dtype=DType.BOOL)
    where = b.op("WHERE", [positive], "where", (1, 1), "WhereOptions", dtype=DType.INT64)
    for tensor, signature in ((x, (-1,)), (positive, (-1,)), (where, (-1, 1))):
        tensor.shape_signature = signature
    fixed = octavo.fix_shapes(Model(b.program(where)), {"x": (4,)})
    assert fixed.program.main.outputs[0].shape_signature == (-1, 1)
    assert any("1 tensors stay dynamic, such as 'where'" in note for note in fixed.notes)
    run = Session(bytes(fixed)).run([np.array([1, -1, 1, 1], np.float32)])
    assert run["where"].ravel().tolist() == [0, 2, 3]


def test_shapes_that_cannot_run() -> None:
    b = Builder()
    x = b.input("x", (1, 6))
    x.shape_signature = (-1, 6)
    y = b.op("ADD", [x, b.weights("c", 3, 6)], "out", (3, 6), "AddOptions")
    with pytest.raises(octavo.RunError):
        octavo.fix_shapes(Model(b.program(y)), {"x": (2, 6)})


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("scheme", [octavo.float16(0), octavo.dynamic_range(0), octavo.integer()],
                         ids=["float16", "dynamic range", "int8"])  # fmt: skip
def test_a_dynamic_batch_is_kept_and_said(scheme: octavo.Scheme, kernels: str) -> None:
    model, x = Model(dynamic_batch()), np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    small = octavo.quantize(model, scheme, x if scheme.kind == "integer" else None)
    assert "dynamic sizes are kept: x=?,6; --shape fixes them" in small.notes
    for count in (1, 5):
        (wanted,) = Session(bytes(model), kernels="builtin").run([x[:count]]).values()
        (got,) = Session(bytes(small), kernels=kernels).run([x[:count]]).values()
        assert got.shape == wanted.shape == (count, 2, 4)
        assert numerics.sqnr_db(wanted, got) > 28


def two_signatures() -> Program:
    """The dynamic model twice, as signatures "a" and "b"."""
    program, other = dynamic_batch(), dynamic_batch()
    program.signatures[0].key, other.signatures[0].key = "a", "b"
    program.graphs += other.graphs
    program.signatures += other.signatures
    return program


def test_every_signature_is_fixed() -> None:
    fixed = octavo.fix_shapes(Model(two_signatures()), {"x": (3, 6)})
    verify(fixed.program)
    assert [graph.outputs[0].shape for graph in fixed.program.graphs] == [(3, 2, 4), (3, 2, 4)]
    apart = octavo.fix_shapes(Model(two_signatures()), {"x": (3, 6), "b/x": (5, 6)})
    assert [graph.outputs[0].shape for graph in apart.program.graphs] == [(3, 2, 4), (5, 2, 4)]
    assert [op.code for op in apart.program.graphs[1].ops] == ["FULLY_CONNECTED", "RESHAPE"]
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    given = Session(bytes(Model(two_signatures())), signature="b").run([x])["out"]
    np.testing.assert_array_equal(Session(bytes(apart), signature="b").run([x])["out"], given)


def test_a_signature_without_a_shape_is_named() -> None:
    with pytest.raises(octavo.RecipeError, match=r"input 'b/x' has the shape .*: it needs a shape"):
        octavo.fix_shapes(Model(two_signatures()), {"a/x": (3, 6)})
    with pytest.raises(octavo.RecipeError, match="no input 'c/x': the model has 'a/x', 'b/x'"):
        octavo.fix_shapes(Model(two_signatures()), {"c/x": (3, 6)})


def with_dynamic_batch(program: Program) -> Program:
    for tensor in program.tensors():
        if not tensor.is_constant and tensor.shape[:1] == (1,) and len(tensor.shape) == 2:
            tensor.shape_signature = (-1, *tensor.shape[1:])
    return program


@pytest.mark.parametrize("build", [branching, looping], ids=["if", "while"])
def test_branches_and_bodies_are_fixed(build: Callable[[], Program]) -> None:
    model = Model(with_dynamic_batch(build()))
    fixed = octavo.fix_shapes(model, {"x": (4, 6)})
    verify(fixed.program)
    assert all(has_static_shape(tensor) for tensor in fixed.program.tensors())
    assert {graph.outputs[0].shape for graph in fixed.program.graphs if graph.outputs[0].shape} == {(4, 6)}
    assert not [note for note in fixed.notes if "stay dynamic" in note]
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    (wanted,), (got,) = (Session(bytes(m)).run([x]).values() for m in (model, fixed))
    np.testing.assert_array_equal(got, wanted)


def test_a_loop_that_changes_a_shape_stays_dynamic() -> None:
    """Each turn appends its input to what it has."""
    program = with_dynamic_batch(looping())
    body = program.graphs[2]
    y = body.ops[1].outputs[0] if body.ops[1].code == "TANH" else body.outputs[0]
    longer = body.add_tensor(Tensor("longer", DType.FLOAT32, (1, 6), shape_signature=(-1, 6)))
    body.ops.append(Op("CONCATENATION", [y, y], [longer], {"axis": 0}, "ConcatenationOptions"))
    body.outputs[0] = longer
    fixed = octavo.fix_shapes(Model(program), {"x": (4, 6)})
    assert fixed.program.main.outputs[0].shape_signature == (-1, 6)
    assert fixed.program.graphs[2].inputs[0].shape_signature == (-1, 6), "only the first turn has four rows"
    assert any("stay dynamic" in note for note in fixed.notes)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    (got,) = Session(bytes(fixed)).run([x]).values()
    assert got.shape == (32, 6)


@pytest.mark.parametrize("shape", ["x=4,6", "4,6"])
def test_command_line(shape: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Model(dynamic_batch()).save("model.tflite")
    assert main(["quantize", "model.tflite", "-o", "small.tflite", "--to", "float16", "--shape", shape]) == 0
    assert octavo.load("small.tflite").program.main.inputs[0].shape == (4, 6)
    assert main(["convert", "model.tflite", "-o", "fixed.tflite", "--shape", shape]) == 0
    assert octavo.load("fixed.tflite").program.main.inputs[0].shape_signature is None


def test_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Model(dynamic_batch()).save("model.tflite")
    assert main(["convert", "model.tflite", "-o", "fixed.tflite", "--shape", "y=4,6"]) == 1
    assert "no input 'y'" in capsys.readouterr().err
    assert main(["convert", "model.tflite", "-o", "fixed.tflite", "--shape", "x=4xsix"]) == 2
    assert "is no shape" in capsys.readouterr().err
