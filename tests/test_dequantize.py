"""Quantized models: told apart, refused with the way out, and brought back to float."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.cli import main
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.queries import quantization_kind, recorded_ranges
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.qtypes import QParams

IMAGES = np.random.default_rng(0).uniform(0, 1, (24, 1, 8, 8, 3)).astype(np.float32)


def network(wave: bool = False) -> Model:
    b = Builder()
    x = b.conv(b.input("image", (1, 8, 8, 3)), "conv1", 4, act=1)
    x = b.unary("SIN", x, "wave") if wave else x
    x = b.op("MEAN", [x, b.const("axes", np.array([1, 2], np.int32))], "pooled", (1, 4), "ReducerOptions")
    return Model(b.program(b.unary("SOFTMAX", b.dense(x, "dense", 5), "out")))


def outputs(model: Model) -> np.ndarray:
    return np.stack([np.asarray(octavo.Runner(model)(image)) for image in IMAGES])


INTEGER = [
    octavo.integer(fallback=False),
    octavo.integer(fallback=False, io="uint8"),
    octavo.integer(activations=16),
    octavo.integer(),
]


@pytest.mark.parametrize("scheme", INTEGER, ids=["int8", "uint8 io", "int16", "float io"])
def test_brought_back_to_float(scheme: octavo.Scheme) -> None:
    model = network()
    small = octavo.quantize(model, scheme, IMAGES)
    back = octavo.dequantize(small)
    verify(back.program)
    assert {t.dtype for t in back.program.tensors()} <= {DType.FLOAT32, DType.INT32}
    assert not any(op.code in ("QUANTIZE", "DEQUANTIZE") for op in back.program.ops())
    assert [t.name for t in back.program.main.inputs] == [t.name for t in small.program.main.inputs]
    assert numerics.sqnr_db(outputs(model), outputs(back)) > 30
    assert any("float again" in note for note in back.notes)


def test_quantized_again_without_samples() -> None:
    small = octavo.quantize(network(), octavo.integer(fallback=False), IMAGES)
    again = octavo.quantize(small, octavo.integer(fallback=False), dequantize=True)
    assert again.integer_only
    assert numerics.sqnr_db(outputs(small), outputs(again)) > 30


@pytest.mark.parametrize("scheme", [octavo.float16(0), octavo.dynamic_range(0), octavo.weight_only(0)])
def test_small_weights_need_no_asking(scheme: octavo.Scheme) -> None:
    small = octavo.quantize(network(), scheme)
    assert quantization_kind(small.program) == ""
    again = octavo.quantize(small, octavo.integer(), IMAGES)
    assert "constants were" in str(again.summary())
    assert numerics.sqnr_db(outputs(network()), outputs(again)) > 20


def test_kinds() -> None:
    whole = octavo.quantize(network(), octavo.integer(fallback=False), IMAGES)
    partly = octavo.quantize(network(wave=True), octavo.integer(), IMAGES)
    assert quantization_kind(network().program) == ""
    assert quantization_kind(whole.program) == "integer throughout"
    assert quantization_kind(partly.program) == "integer in 3 of its 5 ops"
    assert "QDQ" in quantization_kind(fake_quantized())


def fake_quantized() -> Program:
    """A float dense layer between QUANTIZE and DEQUANTIZE."""
    b = Builder()
    x = b.input("x", (1, 6))
    codes = b.graph.add_tensor(Tensor("codes", DType.INT8, (1, 6), qparams=QParams.per_tensor(0.05, 3)))
    real = b.graph.add_tensor(Tensor("real", DType.FLOAT32, (1, 6)))
    b.graph.ops += [Op("QUANTIZE", [x], [codes]), Op("DEQUANTIZE", [codes], [real], version=2)]
    return b.program(b.dense(real, "dense", 4))


def test_qdq_is_brought_back() -> None:
    back = octavo.dequantize(Model(fake_quantized()))
    assert [op.code for op in back.program.main.ops] == ["FULLY_CONNECTED"]


def test_a_quantize_between_input_and_output() -> None:
    b = Builder()
    x = b.input("x", (1, 6))
    codes = b.graph.add_tensor(Tensor("codes", DType.INT8, (1, 6), qparams=QParams.per_tensor(0.05, 3)))
    b.graph.ops.append(Op("QUANTIZE", [x], [codes]))
    back = octavo.dequantize(Model(b.program(codes)))
    verify(back.program)
    values = np.ones((1, 6), np.float32)
    np.testing.assert_array_equal(octavo.Runner(back)(values), values)


def test_the_refusal_says_what_it_is_and_what_to_do() -> None:
    partly = octavo.quantize(network(wave=True), octavo.integer(), IMAGES)
    with pytest.raises(octavo.RecipeError, match=r"quantized already: integer in 3 of its 5 ops .*dequantize=True"):
        octavo.quantize(partly, octavo.float16())


def test_old_files_leave_out_the_scale_of_the_bias() -> None:
    small = octavo.quantize(network(), octavo.integer(fallback=False), IMAGES)
    program = small.program.clone()
    for op in program.ops():
        if op.code in ("CONV_2D", "FULLY_CONNECTED") and op.inputs[2] is not None:
            op.inputs[2].qparams = None
    assert bytes(octavo.dequantize(Model(program))) == bytes(octavo.dequantize(small))


def test_a_float_input_takes_the_range_of_what_is_quantized_from_it() -> None:
    b = Builder()
    mixed = octavo.quantize(
        Model(b.program(b.dense(b.input("x", (1, 6)), "out", 4))), octavo.integer(), IMAGES.reshape(-1, 6)
    )
    assert [op.code for op in mixed.program.main.ops] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]
    back = octavo.dequantize(mixed)
    assert set(recorded_ranges(back.program)) == {*back.program.main.inputs, *back.program.main.outputs}
    again = octavo.quantize(back, octavo.integer(fallback=False))
    assert again.integer_only, "no samples are needed"
    scales = [float(m.program.main.ops[i].inputs[0].qparams.scale[0]) for m, i in ((again, 0), (mixed, 1))]  # type: ignore[union-attr]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


def test_recurrent_ops_are_named() -> None:
    b = Builder()
    x = b.input("x", (1, 6), DType.INT8)
    x.qparams = QParams.per_tensor(0.1, 0)
    program = b.program(b.op("RNN", [x] * 5, "out", (1, 6), "RNNOptions", dtype=DType.INT8))
    with pytest.raises(octavo.RecipeError, match="RNN 'out' can't be brought back"):
        octavo.dequantize(Model(program))


def test_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    octavo.quantize(network(), octavo.integer(fallback=False), IMAGES).save("int8.tflite")
    assert main(["quantize", "int8.tflite", "-o", "half.tflite", "--to", "float16"]) == 1
    assert "--dequantize" in capsys.readouterr().err
    assert main(["quantize", "int8.tflite", "-o", "half.tflite", "--to", "float16", "--dequantize"]) == 0
    assert main(["quantize", "int8.tflite", "-o", "again.tflite", "--to", "integer-only", "--dequantize"]) == 0
    assert octavo.load("again.tflite").integer_only
    assert main(["convert", "int8.tflite", "-o", "float.tflite", "--dequantize"]) == 0
    assert quantization_kind(octavo.load("float.tflite").program) == ""
