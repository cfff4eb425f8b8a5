"""Metrics sample by sample, and what a comparison makes of them."""

import json

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.compare import compare
from octavo.errors import DataError
from octavo.footprint import arena_bytes, bytes_by_kind
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.metrics import PerSample, mean_absolute_error, metric_of, top5, top_k
from octavo.model import Model
from octavo.provenance import fingerprint
from octavo.qtypes import QParams
from octavo.runtime.evaluate import top1
from octavo.statistics import mcnemar, wilson
from octavo.tflite import read, write

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
Y = np.argmax(X, axis=1)


def rounded(step: float | None) -> bytes:
    """(1, 4) -> (1, 4): the same numbers, on a grid of `step` if given."""
    qparams = None if step is None else QParams.per_tensor(step)
    dtype = DType.FLOAT32 if step is None else DType.INT8
    shape = Tensor("shape", DType.INT32, ())
    shape.set_values(np.array([1, 4], np.int32))
    x, y = (Tensor(name, dtype, (1, 4), qparams=qparams) for name in "xy")
    op = Op("RESHAPE", [x, shape], [y], {"newShape": None}, "ReshapeOptions")
    return write(Program([Graph("main", [x, shape, y], [x], [y], [op])]))


MODELS = {"float32": rounded(None), "fine": rounded(1 / 32), "coarse": rounded(1.0)}


def test_top_k():
    scores = np.array([[3.0, 1, 2, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    labels = np.array([2, 1, 0])
    assert list(top_k(1).each(scores, labels)) == [False, False, False]
    assert list(top_k(2).each(scores, labels)) == [True, True, False]
    assert top_k(4)(scores, labels) == 1
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 3, (500, 6)).astype(np.float32), rng.integers(0, 6, 500)
    assert top_k(1)(scores, labels) == top1(scores, labels)


def test_mean_absolute_error():
    outputs = np.array([[1.0], [2.0], [4.0]], np.float32)
    assert mean_absolute_error(outputs, np.array([1, 1, 1])) == pytest.approx(4 / 3)
    assert not mean_absolute_error.higher_is_better
    with pytest.raises(DataError, match="outputs have shape"):
        mean_absolute_error(outputs, np.zeros(2))
    with pytest.raises(DataError, match="needs one output"):
        mean_absolute_error({"a": outputs, "b": outputs}, np.zeros(3))


def test_metrics_by_name():
    assert metric_of("top5") is top5
    with pytest.raises(DataError, match="unknown metric 'top7'"):
        metric_of("top7")


def test_differences_are_paired():
    found = compare(MODELS, X, Y, latency=False)
    base, fine, coarse = found
    wrong = np.argmax(np.round(X), axis=1) != Y
    assert (coarse.lost, coarse.gained) == (np.count_nonzero(wrong), 0)
    assert coarse.p_value == mcnemar(coarse.lost, 0)
    assert coarse.more_than_noise is True
    assert fine.more_than_noise is False
    assert (base.p_value, base.lost, base.more_than_noise) == (None, None, None)
    interval = wilson(200 - coarse.lost, 200)
    assert (coarse.accuracy_low, coarse.accuracy_high) == (interval.low, interval.high)
    lost = [flip for flip in found.flips if flip.variant == "coarse"]
    assert [flip.sample for flip in lost] == list(np.flatnonzero(wrong))
    assert {flip.change for flip in lost} == {"lost"}
    assert all(flip.label == flip.before == Y[flip.sample] != flip.after for flip in lost)


def test_flips_against_a_reference_that_is_worse():
    found = compare(MODELS, X, Y, reference="coarse", latency=False)
    assert found["float32"].gained == compare(MODELS, X, Y, latency=False)["coarse"].lost
    assert {flip.change for flip in found.flips} == {"gained"}


def test_flips_without_labels():
    found = compare(MODELS, X, latency=False)
    assert {flip.change for flip in found.flips} == {"moved"}
    assert all(flip.label is None for flip in found.flips)
    assert (found["coarse"].p_value, found["coarse"].accuracy_low) == (None, None)


def test_numbers_instead_of_classes():
    found = compare(MODELS, X, X, "mean_absolute_error", latency=False)
    assert found.metric == "mean_absolute_error"
    assert not found.higher_is_better
    base, fine, coarse = found
    assert base.accuracy == 0
    assert fine.accuracy < 1 / 64
    assert coarse.accuracy_low < coarse.accuracy < coarse.accuracy_high
    assert coarse.p_value < 0.001
    assert coarse.lost is None
    assert coarse.cosine < fine.cosine < 1


def test_a_metric_of_ones_own():
    each = PerSample("closest", lambda outputs, y: np.abs(outputs).max(axis=1) > 1)
    found = compare(MODELS, X, Y, each, latency=False)
    assert found.metric == "closest"
    assert found["coarse"].p_value is not None
    whole = compare(MODELS, X, Y, lambda outputs, y: 0.5, latency=False)
    assert (whole["coarse"].p_value, whole["coarse"].accuracy_low) == (None, None)


def test_latency_comes_with_its_interval():
    row = compare(MODELS, X, Y)["fine"]
    assert 0 < row.latency_ms_low <= row.latency_ms_median <= row.latency_ms_high
    assert row.latency_ms_median <= row.latency_ms_p90
    assert (row.ops, row.delegated_ops) == (1, 1)
    assert compare({"a": MODELS["fine"]}, X, kernels="builtin")["a"].delegated_ops == 0


def test_json_has_it_all():
    told = compare(MODELS, X, Y, latency=False).as_dict(seed=0)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["settings"]["octavo"] == octavo.__version__
    assert sum(told["variants"][1]["bytes_by_kind"].values()) == told["variants"][1]["bytes"]
    assert told["flips"][0].keys() == {"variant", "sample", "before", "after", "label", "change"}


def test_bytes_by_kind():
    build = Builder()
    y = build.conv(build.input("x", (1, 8, 8, 3)), "conv", 8)
    y = build.reshape(y, "flat", (1, 512))
    program = build.program(build.dense(y, "logits", 10))
    program.metadata.append(("note", np.zeros(100, np.uint8)))
    data = write(program)
    found = bytes_by_kind(read(data), len(data))
    assert found.weights == 4 * (8 * 3 * 3 * 3 + 10 * 512)
    assert found.biases == 4 * (8 + 10)
    assert found.constants == 4 * 2
    assert found.metadata == 100
    assert 0 < found.structure < 2000
    assert found.total == len(data)


@pytest.mark.parametrize("scheme", [octavo.float16(0), octavo.weight_only(0)])
def test_weights_behind_a_conversion_are_weights(scheme):
    build = Builder()
    model = Model(build.program(build.dense(build.input("x", (1, 64)), "logits", 32)))
    small = octavo.quantize(model, scheme)
    found = bytes_by_kind(read(bytes(small)), small.nbytes)
    assert found.weights == 64 * 32 * (2 if scheme.kind == "float16" else 1)
    assert found.constants == 0


def test_a_shared_buffer_counts_once():
    build = Builder()
    x = build.input("x", (1, 64))
    y = build.dense(x, "a", 64)
    z = build.op("FULLY_CONNECTED", [y, build.graph.ops[0].inputs[1], None], "b", (1, 64), "FullyConnectedOptions")
    data = write(build.program(z))
    assert bytes_by_kind(read(data), len(data)).weights == 4 * 64 * 64


def test_arena():
    build = Builder()
    x = build.input("x", (1, 100))
    a = build.unary("RELU", x, "a")
    b = build.unary("RELU", a, "b")
    c = build.unary("RELU", b, "c")
    graph = build.program(c).main
    # 400 bytes each, two alive at any time.
    assert arena_bytes(graph) == 2 * 400
    both = build.op("ADD", [c, x], "sum", (1, 100), "AddOptions")
    build.graph.outputs = [both]
    # x is needed to the end: three at a time.
    assert arena_bytes(build.graph) == 3 * 400


def test_fingerprint():
    same = fingerprint(b"model", "recipe", {"x": X})
    assert same == fingerprint(b"model", "recipe", {"x": X.copy()})
    others = [
        fingerprint(b"model", "recipe", {"y": X}),
        fingerprint(b"model", "recipe", {"x": X.astype(np.float64)}),
        fingerprint(b"model", "recipe", {"x": X.reshape(4, 200)}),
        fingerprint(b"modelrecipe", "", {"x": X}),
    ]
    assert len({same, *others}) == 5
