"""Blame: the layer that was spoiled ranks first, whatever the names, and others inherit."""

import json

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.errors import DataError
from octavo.graph import DType, Tensor
from octavo.inspect import inspect
from octavo.layers import layer_of
from octavo.matching import counterparts
from octavo.model import Model
from octavo.qtypes import QParams

LAYERS = ("stem", "middle", "last")


def network() -> Model:
    """Three convolutions with ReLU6, a mean and a dense layer."""
    build = Builder()
    x = build.input("x", (1, 8, 8, 3))
    y = x
    for name in LAYERS:
        y = build.conv(y, name, 8, act=3)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], "pool", (1, 8), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, "logits", 4)))


def data(count: int = 12) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    model = network()
    return model, octavo.quantize(model, octavo.integer(fallback=False), data())


def spoil(small: Model, name: str, factor: float = 1.3) -> Model:
    """The model with the scale of one layer's weights wrong."""
    program = small.program.clone()
    op = next(op for op in program.main.ops if op.outputs[0].name.startswith(name) and len(op.inputs) == 3)
    right = op.inputs[1].qparams
    op.inputs[1].qparams = QParams(right.scale * np.float32(factor), right.zero_point, right.axis)
    return Model(program)


def test_a_sound_model(pair):
    found = inspect(*pair, data())
    assert found.samples == 12
    assert found.unmatched == ()
    assert found.ties == ()
    by_name = {layer.name: layer for layer in found.layers if layer.kind != "QUANTIZE"}
    assert set(by_name) == {*LAYERS, "pool", "logits"}
    for layer in found.layers:
        assert 0 < layer.own < 0.05
        assert layer.total <= layer.own + layer.inherited + 1e-9
        assert layer.clipped == 0
        assert layer.rounding <= layer.own + 0.01
    assert by_name["stem"].inherited == 0
    assert by_name["last"].inherited > 0.002
    assert by_name["stem"].weights < 0.01
    assert by_name["pool"].weights is None
    # Rounding the output alone is s / sqrt(12); input and weights were rounded too.
    assert 12**-0.5 < by_name["stem"].own_steps < 1


@pytest.mark.parametrize("name", [*LAYERS, "logits"])
def test_a_planted_fault_ranks_first(pair, name):
    model, small = pair
    found = inspect(model, spoil(small, name), data())
    worst, second = found.ranked[:2]
    assert worst.name == name
    assert worst.own > 5 * second.own
    assert worst.weights == pytest.approx(0.3, rel=0.02)
    assert worst.cause == f"its weights are off by {100 * worst.weights:.1f} %"
    after = found.layers[[layer.name for layer in found.layers].index(name) + 1 :]
    for layer in after:
        assert layer.inherited > 3 * layer.own


def test_a_coarse_input_is_told():
    """One channel of the input is far wider than the others, on which the next layer depends alone."""
    build = Builder()
    x = build.input("x", (1, 8, 8, 4))
    y = build.conv(x, "wide", 4)
    kernel = build.graph.ops[0].inputs[1]
    factors = np.array([300, 1, 1, 1], np.float32)[:, None, None, None]
    kernel.set_values(kernel.values * factors)
    z = build.conv(y, "next", 4)
    kernel = build.graph.ops[1].inputs[1]
    kernel.set_values(kernel.values * np.array([0, 1, 1, 1], np.float32))
    model = Model(build.program(z))
    x = np.random.default_rng(0).normal(size=(10, 8, 8, 4)).astype(np.float32)
    found = inspect(model, octavo.quantize(model, octavo.integer(), x), x)
    worst = found.ranked[0]
    assert worst.name == "next"
    assert worst.rounding == pytest.approx(worst.own, rel=0.1)
    assert worst.cause == f"rounding its input brings {100 * worst.rounding:.1f} %"
    wide = next(layer for layer in found.layers if layer.name == "wide" and layer.kind == "CONV_2D")
    assert wide.rounding < worst.rounding / 10


def test_clipping_is_told(pair):
    model, _ = pair
    small = octavo.quantize(model, octavo.integer(), data() * 0.2)
    found = inspect(model, small, data())
    first = next(layer for layer in found.ranked if layer.kind == "QUANTIZE")
    assert first.clipped > 0.1
    assert "clips" in first.cause


@pytest.mark.parametrize("scheme", [octavo.float16(0), octavo.dynamic_range(0), octavo.weight_only(0)])
def test_other_precisions(pair, scheme):
    model, _ = pair
    found = inspect(model, octavo.quantize(model, scheme), data(4))
    assert [layer.name for layer in found.layers if layer.own > 0][:3] == list(LAYERS)
    assert max(layer.own for layer in found.layers) < 0.05
    assert all(layer.scale is None for layer in found.layers)


def test_names_may_be_empty_or_repeat(pair):
    model, small = pair
    program = spoil(small, "middle").program
    for tensor in program.tensors():
        tensor.name = ""
    blank = model.program.clone()
    for tensor in blank.tensors():
        tensor.name = "same"
    found = inspect(Model(blank), Model(program), data(4))
    assert found.unmatched == ()
    assert found.ranked[0].index == [op.code for op in program.main.ops].index("CONV_2D") + 1


def test_histograms(pair):
    found = inspect(*pair, data(5))
    shown = [layer for layer in found.layers if layer.histogram]
    assert shown
    layer = next(layer for layer in shown if layer.name == "stem")
    assert sum(layer.histogram.counts) == 5 * 8 * 8 * 8
    assert (layer.histogram.low, layer.histogram.high) == (layer.low, layer.high)


def test_unequal_ranges_under_one_scale():
    build = Builder()
    x = build.input("x", (1, 16))
    boxes, scores = build.dense(x, "boxes", 8), build.dense(x, "scores", 8)
    build.graph.ops[0].inputs[1].set_values(build.graph.ops[0].inputs[1].values * 100)
    joined = build.op("CONCATENATION", [boxes, scores], "joined", (1, 16), "ConcatenationOptions", axis=1)
    model = Model(build.program(joined))
    x = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    found = inspect(model, octavo.quantize(model, octavo.integer(fallback=False), x), x)
    (tie,) = found.ties
    assert (tie.kind, tie.name) == ("CONCATENATION", "joined")
    assert [operand.name for operand in tie.operands] == ["boxes", "scores"]
    assert tie.operands[0].steps == pytest.approx(255, abs=2)
    assert tie.operands[1].steps < 8
    assert "'scores' spans only" in tie.advice
    scores = next(layer for layer in found.layers if layer.name == "scores")
    assert "steps of its scale" in scores.cause
    assert "note: CONCATENATION" in str(found)
    # The advice works: the rule takes the op out of integer, and the finding goes.
    rule = octavo.Rule(octavo.keep_float(), name="joined")
    better = octavo.quantize(model, octavo.Recipe(octavo.integer(), (rule,)), x)
    assert inspect(model, better, x).ties == ()


def test_json_and_table(pair, tmp_path):
    found = inspect(*pair, data(3))
    path = found.to_json(tmp_path / "layers.json")
    told = json.loads(path.read_text())
    assert [layer["name"] for layer in told["layers"]] == [layer.name for layer in found.layers]
    assert {"own", "inherited", "total", "cause", "histogram"} <= set(told["layers"][0])
    lines = str(found).splitlines()
    assert lines[1].split()[0] == "layer"
    assert found.ranked[0].layer in lines[3]


def test_limit_and_bad_data(pair):
    model, small = pair
    assert inspect(model, small, data(12), limit=5).samples == 5
    with pytest.raises(DataError, match="no samples"):
        inspect(model, small, [])
    build = Builder()
    y = build.unary("RELU", build.input("other", (1, 5)), "relu")
    with pytest.raises(DataError, match="no tensor in common"):
        inspect(Model(build.program(y)), small, data())


def test_models_as_files_and_bytes(pair, tmp_path):
    model, small = pair
    found = inspect(bytes(model), small.save(tmp_path / "small.tflite"), data(2))
    assert len(found.layers) == 5


def test_counterparts_see_through_conversions(pair):
    model, _ = pair
    small = octavo.quantize(model, octavo.integer(fallback=False, io="uint8"), data())
    match = counterparts(model.program.main, small.program.main)
    x, logits = model.program.main.inputs[0], model.program.main.outputs[0]
    stands_for_x = [t for t, original in match.items() if original is x]
    assert {t.dtype for t in stands_for_x} == {DType.UINT8, DType.INT8}
    assert {t.dtype for t, original in match.items() if original is logits} == {DType.UINT8, DType.INT8}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("conv/conv_general_dilated", "conv"),
        ("block_1/conv/max", "block_1/conv"),
        ("functional_1/average_pooling2d", "functional_1/average_pooling2d"),
        ("model/conv2d/BiasAdd/ReadVariableOp/resource", "model/conv2d"),
        ("model/relu/Relu;model/conv2d_2/BiasAdd;model/conv2d_1", "model/conv2d_1"),
        ("Identity", "Identity"),
        ("main.Net/net.Net_m/torch.nn.modules.linear.Linear_fc;1", "fc"),
        ("a.Net_m/a.Block_0/torch.nn.modules.activation.ReLU__act;;a.Net_m/a.Block_0/a.Conv2dSame__conv;2", "0._conv"),
        ("a.Net_m/a.Block_3/torch.nn.modules.pooling.MaxPool2d_pool;1", "3.pool"),
        ("", ""),
    ],
)
def test_layer_names(name, layer):
    assert layer_of(Tensor(name, DType.FLOAT32, (1,)), None) == layer


def test_layer_name_from_the_weights():
    build = Builder()
    kernel = build.weights("net/head/kernel", 2, 4)
    y = build.op("FULLY_CONNECTED", [build.input("x", (1, 4)), kernel], "net/head/z", (1, 2))
    assert layer_of(y, build.graph.ops[0]) == "net/head"
