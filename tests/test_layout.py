"""Channels last at the borders, and transposes that go into the op behind them; each file run on LiteRT."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.model import Model
from octavo.passes.channels_last import channels_last
from octavo.passes.fold_transpose import fold_transpose

N, C, H, W = 2, 3, 4, 5


def constant(name: str, values: object, dtype: type = np.float32) -> Tensor:
    tensor = Tensor(name, DType.FLOAT32, ())
    tensor.set_values(np.asarray(values, dtype))
    return tensor


def transpose(source: Tensor, order: list[int], name: str) -> Op:
    shape = tuple(source.shape[i] for i in order)
    made = Tensor(name, DType.FLOAT32, shape)
    return Op("TRANSPOSE", [source, constant(f"{name}/perm", order, np.int32)], [made], {}, "TransposeOptions")


def program_of(ops: list[Op], source: Tensor) -> Program:
    out = ops[-1].outputs[0]
    tensors = list(dict.fromkeys(t for op in ops for t in [*op.inputs, *op.outputs] if t is not None))
    graph = Graph("main", tensors, [source], [out], ops)
    return Program([graph], [Signature("serving_default", [("x", source)], [("y", out)], graph)])


def dense_after_flatten(order: list[int]) -> Program:
    x = Tensor("x", DType.FLOAT32, (N, H, W, C))
    turned = transpose(x, order, "turned")
    flat = Tensor("flat", DType.FLOAT32, (N, C * H * W))
    reshape = Op("RESHAPE", [turned.outputs[0], constant("shape", flat.shape, np.int32)], [flat],
                 {"newShape": list(flat.shape)}, "ReshapeOptions")  # fmt: skip
    weights = constant("weights", np.random.default_rng(0).normal(size=(7, C * H * W)))
    y = Tensor("y", DType.FLOAT32, (N, 7))
    options = {"fusedActivationFunction": 0, "weightsFormat": 0, "keepNumDims": False}
    dense = Op(
        "FULLY_CONNECTED", [flat, weights, constant("bias", np.arange(7))], [y], options, "FullyConnectedOptions"
    )
    return program_of([turned, reshape, dense], x)


def mean_after_transpose(order: list[int], axes: list[int], keep: bool = False) -> Program:
    x = Tensor("x", DType.FLOAT32, (N, H, W, C))
    turned = transpose(x, order, "turned")
    shape = turned.outputs[0].shape
    left = [1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes]
    y = Tensor("y", DType.FLOAT32, tuple(left))
    mean = Op("MEAN", [turned.outputs[0], constant("axes", axes, np.int32)], [y], {"keepDims": keep}, "ReducerOptions")
    return program_of([turned, mean], x)


def outputs(program: Program, x: np.ndarray) -> np.ndarray:
    got = octavo.Runner(Model(program))(x)
    assert isinstance(got, np.ndarray)
    return got


X = np.random.default_rng(1).normal(size=(N, H, W, C)).astype(np.float32)
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


@pytest.mark.parametrize("order", [TO_FIRST, TO_LAST, [0, 2, 1, 3]])
def test_flatten_goes_into_the_weights(order: list[int]) -> None:
    program = dense_after_flatten(order)
    want = outputs(program.clone(), X)
    fold_transpose(program)
    assert [op.code for op in program.main.ops] == ["RESHAPE", "FULLY_CONNECTED"]
    np.testing.assert_allclose(outputs(program, X), want, rtol=1e-5, atol=1e-5)


def test_a_moved_batch_stays() -> None:
    program = dense_after_flatten([1, 0, 2, 3])
    fold_transpose(program)
    assert [op.code for op in program.main.ops] == ["TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"]


def test_weights_that_two_layers_share_stay() -> None:
    program = dense_after_flatten(TO_FIRST)
    dense = program.main.ops[-1]
    other = Tensor("other", DType.FLOAT32, (N, 7))
    flat = program.main.add_tensor(Tensor("flat2", DType.FLOAT32, (N, C * H * W)))
    program.main.inputs.append(flat)
    program.main.add_tensor(other)
    program.main.outputs.append(other)
    program.main.ops.append(
        Op("FULLY_CONNECTED", [flat, *dense.inputs[1:]], [other], dense.options, dense.options_type)
    )
    fold_transpose(program)
    assert "TRANSPOSE" in [op.code for op in program.main.ops]


@pytest.mark.parametrize("axes", [[2, 3], [1, 2], [1]], ids=str)
def test_mean_over_an_image_needs_no_transpose(axes: list[int]) -> None:
    # Left of (N, C, H, W) are (N, C), (N, W) and (N, H, W): dimensions that stand in this order in (N, H, W, C) too.
    program = mean_after_transpose(TO_FIRST, axes)
    want = outputs(program.clone(), X)
    fold_transpose(program)
    assert [op.code for op in program.main.ops] == ["MEAN"]
    np.testing.assert_allclose(outputs(program, X), want, rtol=1e-5, atol=1e-6)


def test_dimensions_that_change_places_keep_the_transpose() -> None:
    program = mean_after_transpose(TO_FIRST, [3])  # leaves (N, C, H): C was behind H
    want = outputs(program.clone(), X)
    fold_transpose(program)
    assert [op.code for op in program.main.ops] == ["TRANSPOSE", "MEAN"]
    np.testing.assert_array_equal(outputs(program, X), want)
    kept = mean_after_transpose(TO_FIRST, [2, 3], keep=True)
    fold_transpose(kept)
    assert [op.code for op in kept.main.ops] == ["TRANSPOSE", "MEAN"]


def test_borders_move_and_their_transposes_cancel() -> None:
    x = Tensor("x", DType.FLOAT32, (N, C, H, W))
    there = transpose(x, TO_LAST, "there")
    inner = Tensor("inner", DType.FLOAT32, (N, H, W, C))
    relu = Op("RELU", [there.outputs[0]], [inner])
    back = transpose(inner, TO_FIRST, "y")
    program = program_of([there, relu, back], x)
    want = outputs(program.clone(), np.moveaxis(X, -1, 1))
    assert channels_last(program) == ["channels last: x, y"]
    assert [op.code for op in program.main.ops] == ["RELU"]
    (signature,) = program.signatures
    assert [(name, tensor.name, tensor.shape) for name, tensor in [*signature.inputs, *signature.outputs]] == [
        ("x", "x", (N, H, W, C)),
        ("y", "y", (N, H, W, C)),
    ]
    np.testing.assert_array_equal(outputs(program, X), np.moveaxis(want, 1, -1))


def test_other_ranks_and_frameworks_stay(tmp_path) -> None:
    x = Tensor("x", DType.FLOAT32, (N, C, H))
    program = program_of([Op("RELU", [x], [Tensor("y", DType.FLOAT32, (N, C, H))])], x)
    assert channels_last(program) == []
    assert program.main.inputs[0].shape == (N, C, H)
    Model(program).save(tmp_path / "model.tflite")
    with pytest.raises(octavo.ConversionError, match="channels_last is for PyTorch"):
        octavo.convert(tmp_path / "model.tflite", channels_last=True)
