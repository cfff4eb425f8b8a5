"""Sessions, the runner, evaluation and latency, on small models that are built here."""

import numpy as np
import pytest

import octavo
from octavo import numerics
from octavo.errors import DataError, ModelFileError, RunError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.qtypes import INT8, QParams
from octavo.runtime import Runner, Session, evaluate, measure, top1
from octavo.tflite import write

KERNELS = ("xnnpack", "builtin", "reference")
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32)
BIAS = np.array([0.5, -0.25, 0.0], np.float32)
CODES = QParams.per_tensor(0.25, -3)


def constant(name, values):
    tensor = Tensor(name, DType.FLOAT32, ())
    tensor.set_values(values)
    return tensor


def floats(name, *shape, dynamic=False):
    signature = (-1, *shape[1:]) if dynamic else None
    return Tensor(name, DType.FLOAT32, shape, shape_signature=signature)


def program(inputs, outputs, ops, signature=None):
    """A model with one subgraph; `signature` gives names of inputs and of outputs."""
    used = [t for op in ops for t in (*op.inputs, *op.outputs) if t is not None]
    graph = Graph("main", list(dict.fromkeys([*inputs, *used])), inputs, outputs, ops)
    model = Program([graph])
    if signature:
        named = [
            list(zip(names, ports, strict=True)) for names, ports in zip(signature, (inputs, outputs), strict=True)
        ]
        model.signatures.append(Signature("serving_default", *named, graph))
    return model


def dense(batch=1, dynamic=False, signature=None):
    """(batch, 4) -> (batch, 3)."""
    x, y = floats("x", batch, 4, dynamic=dynamic), floats("y", batch, 3, dynamic=dynamic)
    options = {
        "fusedActivationFunction": 0,
        "weightsFormat": 0,
        "keepNumDims": False,
        "asymmetricQuantizeInputs": False,
    }
    op = Op("FULLY_CONNECTED", [x, constant("w", WEIGHTS), constant("b", BIAS)], [y], options, "FullyConnectedOptions")
    return write(program([x], [y], [op], signature))


def expected(x):
    return x.reshape(-1, 4) @ WEIGHTS.T + BIAS


def copy_codes(dtype=DType.INT8, qparams=CODES):
    """(1, 2, 2) -> (1, 4), codes unchanged."""
    x = Tensor("x", dtype, (1, 2, 2), qparams=qparams)
    y = Tensor("y", dtype, (1, 4), qparams=qparams)
    return write(program([x], [y], [Op("RESHAPE", [x, _shape(1, 4)], [y], {"newShape": None}, "ReshapeOptions")]))


def _shape(*dims):
    tensor = Tensor("shape", DType.INT32, ())
    tensor.set_values(np.array(dims, np.int32))
    return tensor


def two_in_two_out(names=("a", "b", "sum", "product")):
    a, b, total, product = (floats(name, 1, 2) for name in names)
    ops = [
        Op("ADD", [a, b], [total], {"fusedActivationFunction": 0}, "AddOptions"),
        Op("MUL", [a, b], [product], {"fusedActivationFunction": 0}, "MulOptions"),
    ]
    return program([a, b], [total, product], ops)


def lookup():
    """(1, 3) int32 token ids -> (1, 3, 2), row i of the table is (i, -i)."""
    ids, out = Tensor("ids", DType.INT32, (1, 3)), floats("out", 1, 3, 2)
    table = constant("table", np.array([[i, -i] for i in range(5)], np.float32))
    return write(
        program([ids], [out], [Op("GATHER", [table, ids], [out], {"axis": 0, "batchDims": 0}, "GatherOptions")])
    )


def recurrent():
    """(1, 1, 1) -> (1, 1, 1): adds its input to a state that lasts."""
    x, y = floats("x", 1, 1, 1), floats("y", 1, 1, 1)
    state = floats("state", 1, 1)
    state.is_variable = True
    one = [constant(n, np.ones((1, 1), np.float32)) for n in ("wi", "wr")]
    op = Op(
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        [x, *one, constant("b", np.zeros(1, np.float32)), state],
        [y],
        {"timeMajor": False, "fusedActivationFunction": 0},
        "SequenceRNNOptions",
    )
    return write(program([x], [y], [op]))


def rows(in_main):
    """(4, 2), size -> as many of its rows, and all of them doubled; in the main subgraph, or in that of a signature."""
    x, y, doubled = floats("x", 4, 2), floats("y", 1, 2, dynamic=True), floats("doubled", 4, 2)
    size, begin = Tensor("size", DType.INT32, (2,)), _shape(0, 0)
    ops = [
        Op("SLICE", [x, begin, size], [y], {}, "SliceOptions"),
        Op("ADD", [x, x], [doubled], {"fusedActivationFunction": 0}, "AddOptions"),
    ]
    model = program([x, size], [y, doubled], ops)
    if not in_main:
        other = model.main
        a, b = floats("a", 1, 2), floats("b", 1, 2)
        model.graphs.insert(0, Graph("main", [a, b], [a], [b], [Op("ABS", [a], [b])]))
        named = [("x", x), ("size", size)], [("y", y), ("doubled", doubled)]
        model.signatures.append(Signature("other", *named, other))
    return model


def no_batch():
    """(4,) -> (): the sum."""
    x, y = floats("x", 4), floats("y")
    axes = _shape(0)
    return write(program([x], [y], [Op("SUM", [x, axes], [y], {"keepDims": False}, "ReducerOptions")]))


class TestSession:
    @pytest.mark.parametrize("kernels", KERNELS)
    def test_runs_without_a_signature(self, kernels):
        x = RNG.normal(size=(1, 4)).astype(np.float32)
        session = Session(dense(), kernels)
        assert [p.name for p in session.inputs] == ["x"]
        np.testing.assert_allclose(session.run({"x": x})["y"], expected(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(session.run([x])["y"], session.run({"x": x})["y"])

    def test_takes_bytes_paths_and_objects_with_bytes(self, tmp_path):
        data = dense()
        (tmp_path / "m.tflite").write_bytes(data)

        class Model:
            def __bytes__(self):
                return data

        for model in (data, bytearray(data), tmp_path / "m.tflite", str(tmp_path / "m.tflite"), Model()):
            assert Session(model).outputs[0].shape == (1, 3)

    def test_outputs_are_copies(self):
        session = Session(dense())
        first = session.run([np.ones((1, 4), np.float32)])["y"]
        before = first.copy()
        session.run([np.zeros((1, 4), np.float32)])
        np.testing.assert_array_equal(first, before)

    def test_views_are_of_the_present_results(self):
        session = Session(dense())
        inner = session.interpreter
        for value in (1.0, 2.0):
            x = np.full((1, 4), value, np.float32)
            (view,) = session.invoke([x], views=True)
            np.testing.assert_allclose(view, expected(x), rtol=1e-5)
            del view
        assert session.interpreter is inner

    def test_views_that_somebody_holds_on_to(self):
        """As a profiler does that keeps a frame: they stay as they were, and the session goes on."""
        session = Session(dense())
        x, y = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)
        held = session.invoke([x], views=True)
        np.testing.assert_allclose(session.invoke([y])[0], expected(y), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(held[0], expected(x), rtol=1e-5)

    def test_signature_names_in_the_order_of_the_graph(self):
        model = two_in_two_out()
        graph = model.main
        pairs = [("z", graph.inputs[0]), ("y", graph.inputs[1])], [("m", graph.outputs[1]), ("s", graph.outputs[0])]
        model.signatures.append(Signature("serving_default", *pairs, graph))
        session = Session(write(model))
        assert [p.name for p in session.inputs] == ["z", "y"]
        assert [p.name for p in session.outputs] == ["s", "m"]
        found = session.run({"z": np.float32([[2, 3]]), "y": np.float32([[5, 7]])})
        assert found["s"].tolist() == [[7, 10]]
        assert found["m"].tolist() == [[10, 21]]

    def test_repeated_and_empty_tensor_names_are_made_unique(self):
        session = Session(write(two_in_two_out(("same", "same", "", ""))))
        assert [p.name for p in session.inputs] == ["same", "same_1"]
        assert [p.name for p in session.outputs] == ["tensor", "tensor_1"]

    def test_one_tensor_under_two_names(self):
        model = two_in_two_out()
        graph = model.main
        inputs = [("a", graph.inputs[0]), ("b", graph.inputs[1])]
        outputs = [("s", graph.outputs[0]), ("p", graph.outputs[1]), ("again", graph.outputs[0])]
        model.signatures.append(Signature("serving_default", inputs, outputs, graph))
        found = Session(write(model)).run([np.float32([[2, 3]]), np.float32([[5, 7]])])
        assert set(found) == {"s", "p", "again"}
        np.testing.assert_array_equal(found["again"], found["s"])

    def test_signature_of_another_subgraph(self):
        model = two_in_two_out()
        x, y = floats("x", 1, 2), floats("y", 1, 2)
        other = Graph("other", [x, y], [x], [y], [Op("ABS", [x], [y], {}, "AbsOptions")])
        model.graphs.append(other)
        main = model.main
        pairs = [("a", main.inputs[0]), ("b", main.inputs[1])], [("s", main.outputs[0]), ("p", main.outputs[1])]
        model.signatures = [Signature("absolute", [("v", x)], [("w", y)], other), Signature("both", *pairs, main)]
        data = write(model)
        assert Session(data).entry.key == "both"
        found = Session(data, signature="absolute").run({"v": np.float32([[-2, 3]])})
        assert found["w"].tolist() == [[2, 3]]
        with pytest.raises(RunError, match="no signature 'no': it has 'absolute', 'both'"):
            Session(data, signature="no")

    @pytest.mark.parametrize("signature", [None, "other"])
    def test_an_output_without_elements(self, signature):
        """As a detector gives out that found nothing; LiteRT itself raises an error there."""
        session = Session(write(rows(signature is None)), signature=signature)
        x = np.arange(8, dtype=np.float32).reshape(4, 2)
        for count in (0, 3, 0):
            y, doubled = session.invoke([x, np.array([count, 2], np.int32)])
            np.testing.assert_array_equal(y, x[:count])
            assert y.shape == (count, 2) and y.dtype == np.float32
            np.testing.assert_array_equal(doubled, 2 * x)

    def test_dynamic_dimension_resizes(self):
        session = Session(dense(dynamic=True))
        assert session.inputs[0].shape_signature == (-1, 4)
        for n in (1, 5, 2):
            x = RNG.normal(size=(n, 4)).astype(np.float32)
            np.testing.assert_allclose(session.run([x])["y"], expected(x), rtol=1e-5, atol=1e-5)

    def test_scale_and_zero_point_of_the_file(self):
        port = Session(copy_codes()).inputs[0]
        assert port.qparams == CODES
        assert port.dtype == np.int8
        assert Session(dense()).inputs[0].qparams is None

    def test_state_lasts_until_reset(self):
        session = Session(recurrent())
        one = np.ones((1, 1, 1), np.float32)
        assert [session.run([one])["y"].item() for _ in range(3)] == [1, 2, 3]
        session.reset()
        assert session.run([one])["y"].item() == 1

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ([np.zeros((1, 5), np.float32)], r"input 'x' of the model has shape \[1, 4\], got \[1, 5\]"),
            ([np.zeros((1, 4))], "input 'x' of the model takes float32, got float64"),
            ([], r"has 1 input\(s\) \['x'\], got 0"),
            ({"q": np.zeros((1, 4), np.float32)}, r"has the inputs \['x'\], got \['q'\]"),
        ],
    )
    def test_wrong_arrays(self, arrays, message):
        with pytest.raises(DataError, match=message):
            Session(dense()).run(arrays)

    def test_custom_op_is_named(self):
        x, y = floats("x", 1, 2), floats("y", 1, 2)
        data = write(program([x], [y], [Op("CUSTOM", [x], [y], custom_code="Fancy\x1b[31mOp")]))
        with pytest.raises(RunError, match=r"^net needs the custom op 'Fancy\\x1b\[31mOp', which LiteRT doesn't have"):
            Session(data, name="net")

    def test_model_that_litert_refuses(self):
        a, b, y = floats("a", 1, 2), floats("b", 1, 3), floats("y", 1, 2)
        data = write(program([a, b], [y], [Op("ADD", [a, b], [y], {"fusedActivationFunction": 0}, "AddOptions")]))
        with pytest.raises(
            RunError, match=r"^net: LiteRT's reference kernels can't prepare it: .*ADD.*try kernels="
        ) as e:
            Session(data, "reference", name="net")
        assert "\n" not in str(e.value)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "net is no .tflite model: another format, or empty"),
            (b"PK\x03\x04 metadata.json", "net is no .tflite model: it looks like a .keras file"),
            (b"\x1c\0\0\0TFL3" + b"\0" * 64, "net: LiteRT's xnnpack kernels can't load it: .*; the file is damaged"),
            (dense()[:500], "net: LiteRT's xnnpack kernels can't load it: .*; the file is damaged"),
        ],
    )
    def test_no_model(self, data, message):
        with pytest.raises(RunError, match=f"^{message}"):
            Session(data, name="net")

    def test_no_file(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"can't read '.*none\.tflite': No such file"):
            Session(tmp_path / "none.tflite")
        with pytest.raises(ModelFileError, match="directory"):
            Session(tmp_path)

    def test_wrong_settings(self):
        with pytest.raises(RunError, match="unknown kernel set 'gpu': use one of xnnpack, builtin, reference"):
            Session(dense(), "gpu")
        with pytest.raises(RunError, match="threads is 0"):
            Session(dense(), threads=0)
        with pytest.raises(DataError, match="not int"):
            Session(3)  # type: ignore[arg-type]


class TestRunner:
    def test_with_and_without_batch_dimension(self):
        x = RNG.normal(size=(7, 4)).astype(np.float32)
        runner = Runner(dense())
        for given in (x, x[:1], x[0], x.astype(np.float64), x.tolist(), list(x), [x]):
            want = expected(np.asarray(given, np.float32))
            found = runner(given)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("count", [1, 3, 4, 10])
    def test_larger_batch_of_the_file(self, count):
        x = RNG.normal(size=(count, 4)).astype(np.float32)
        np.testing.assert_allclose(Runner(dense(batch=4))(x), expected(x), rtol=1e-5, atol=1e-5)

    def test_dynamic_batch_gives_each_sample_the_same_result_alone(self):
        x = RNG.normal(size=(5, 4)).astype(np.float32)
        runner = Runner(dense(dynamic=True))
        np.testing.assert_array_equal(runner(x), np.concatenate([runner(row) for row in x]))

    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_chunks_and_workers_keep_the_order(self, workers, monkeypatch):
        monkeypatch.setattr("octavo.runtime.runner.CHUNK_BYTES", 100)
        x = RNG.normal(size=(101, 4)).astype(np.float32)
        found = Runner(dense(), workers=workers).predict(x)
        np.testing.assert_allclose(found, expected(x), rtol=1e-5, atol=1e-5)

    def test_memory_map(self, tmp_path):
        x = RNG.normal(size=(20, 4)).astype(np.float32)
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        np.testing.assert_allclose(Runner(dense())(mapped), expected(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT16])
    def test_scales_are_applied(self, dtype):
        low = 0 if dtype is DType.UINT8 else np.iinfo(dtype.value).min
        qparams = QParams.per_tensor(0.25, 0 if dtype is DType.INT16 else low + 125)
        runner = Runner(copy_codes(dtype, qparams))
        x = np.array([[[0.0, 0.125], [-0.125, 1.06]]])
        assert runner(x).tolist() == [[0.0, 0.25, -0.25, 1.0]]  # ties go away from zero
        assert runner(x).dtype == np.float32
        top = 0.25 * (np.iinfo(dtype.value).max - int(qparams.zero_point[0]))
        assert runner(np.full((2, 2), np.inf)).tolist() == [[top] * 4]  # saturates

    def test_integers_for_a_quantized_input_are_real_values(self):
        assert Runner(copy_codes())(np.array([[1, 2], [3, -4]], np.int8)).tolist() == [[1, 2, 3, -4]]

    def test_same_codes_as_numerics(self):
        x = RNG.normal(size=(9, 2, 2))
        want = numerics.dequantize(numerics.quantize(x, CODES, INT8), CODES).reshape(9, 4)
        np.testing.assert_array_equal(Runner(copy_codes())(x), want)

    def test_several_inputs_and_outputs(self):
        runner = Runner(write(two_in_two_out()))
        a, b = np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6], [7, 8]])
        for x in ([a, b], (a, b), {"b": b, "a": a}):
            found = runner(x)
            assert list(found) == ["sum", "product"]
            np.testing.assert_array_equal(found["sum"], a + b)
            np.testing.assert_array_equal(found["product"], a * b)

    def test_token_ids_pass_with_a_range_check(self):
        runner = Runner(lookup())
        assert runner(np.array([0, 4, 2]))[0].tolist() == [[0, 0], [4, -4], [2, -2]]
        with pytest.raises(DataError, match="input 'ids' of the model, sample 1: 4294967296 has no place in int32"):
            runner(np.array([[0, 1, 2], [0, 2**32, 2]]))
        with pytest.raises(DataError, match="input 'ids' of the model takes int32 without a scale, got float64"):
            runner(np.array([0.5, 1, 2]))

    def test_samples_dont_depend_on_those_before(self):
        x = np.array([[[1.0]], [[2.0]], [[3.0]]])
        assert Runner(recurrent())(x).reshape(-1).tolist() == [1, 2, 3]

    def test_model_without_batch_dimension(self):
        runner = Runner(no_batch())
        assert runner(np.arange(4.0)).tolist() == [6]
        assert runner(np.arange(12.0).reshape(3, 4)).tolist() == [6, 22, 38]

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((2, 5)), r"input 'x' of net takes arrays of shape \(N, 4\), got \(2, 5\)"),
            (np.zeros((2, 2, 4)), r"takes arrays of shape \(N, 4\), got \(2, 2, 4\)"),
            (np.zeros((0, 4)), "input 'x' of net has no samples"),
            ([[1, 2, 3, 4], [1, 2]], "samples have different shapes"),
            ((v for v in range(3)), "generator is no array"),
            (np.array([["a", "b", "c", "d"]]), "takes numbers"),
            (np.full((1, 4), 1e300), "sample 0: 1e[+]300 has no place in float32"),
            ({"y": np.zeros((1, 4))}, r"has the inputs \['x'\]; missing: \['x'\]"),
        ],
    )
    def test_wrong_data_names_the_input(self, x, message):
        with pytest.raises(DataError, match=message):
            Runner(dense(), name="net")(x)

    def test_nan_has_no_code(self):
        x = np.zeros((3, 2, 2))
        x[2, 0, 1] = np.nan
        with pytest.raises(DataError, match="input 'x' of the model, sample 2: nan"):
            Runner(copy_codes())(x)
        assert np.isnan(Runner(dense())([np.nan, 0, 0, 0])).all()  # float models show it themselves

    def test_different_numbers_of_samples(self):
        with pytest.raises(DataError, match="different numbers of samples: 'a' has 2, 'b' has 3"):
            Runner(write(two_in_two_out()))([np.zeros((2, 2)), np.zeros((3, 2))])
        with pytest.raises(DataError, match=r"has the inputs \['a', 'b'\]: give a list in this order or a dict"):
            Runner(write(two_in_two_out()))(np.zeros((2, 2, 2)))

    def test_error_inside_a_worker_arrives(self):
        with pytest.raises(DataError, match="sample 9"):
            Runner(copy_codes(), workers=2)([np.full((10, 2, 2), [[[0]]] * 9 + [[[np.nan]]])])
        with pytest.raises(RunError, match="workers is 0"):
            Runner(dense(), workers=0)


class TestEvaluate:
    X = RNG.normal(size=(50, 4)).astype(np.float32)
    Y = np.argmax(expected(X), axis=1)

    def test_top1(self):
        wrong = self.Y.copy()
        wrong[:5] = (wrong[:5] + 1) % 3
        result = evaluate(dense(), self.X, wrong)
        assert (result.accuracy, result.count, result.metric) == (0.9, 50, "top1")
        assert result.outputs is None
        assert result.seconds > 0

    def test_label_shapes(self):
        for y in (self.Y, self.Y[:, None], self.Y.astype(float), np.eye(3)[self.Y], list(self.Y)):
            assert evaluate(dense(), self.X, y).accuracy == 1.0

    def test_metric_is_replaceable(self):
        def error(outputs, y):
            return float(np.abs(outputs - y).max())

        result = evaluate(dense(), self.X, expected(self.X) + 1, error, keep_outputs=True)
        assert result.metric == "error"
        assert result.accuracy == pytest.approx(1, abs=1e-5)
        assert result.outputs.shape == (50, 3)

    def test_batches(self):
        batches = ((self.X[i : i + 8], self.Y[i : i + 8]) for i in range(0, 50, 8))
        result = evaluate(dense(), batches, keep_outputs=True)
        assert (result.accuracy, result.count) == (1.0, 50)
        np.testing.assert_allclose(result.outputs, expected(self.X), rtol=1e-5, atol=1e-5)

    def test_samples_one_by_one(self):
        result = evaluate(dense(), zip(self.X, self.Y, strict=True))
        assert (result.accuracy, result.count) == (1.0, 50)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (X, Y[:-1], "x has 50 samples but y has 49 labels"),
            (X[:0], Y[:0], "no samples"),
            (iter(()), None, "no samples"),
            (X, None, "needs labels"),
            ([(X, Y[:3])], None, "batch 0 has 50 samples but 3 labels"),
            ([X], None, "batch 0 is no"),
            (X[0], Y[:2], "1 samples but 2 labels"),
            (X, np.full(50, 3), r"label of sample 0 is 3, but the model has the classes 0\.\.2"),
            (X, np.full(50, -1), "label of sample 0 is -1"),
            (X, np.full(50, 0.5), "labels are float64"),
            (X, np.ones((50, 3)), "label of sample 0 is not one-hot"),
            (X, np.ones((50, 2)), r"labels have shape \(50, 2\)"),
        ],
    )
    def test_unusable_data(self, x, y, message):
        with pytest.raises(DataError, match=message):
            evaluate(dense(), x, y)

    def test_top1_needs_classes(self):
        with pytest.raises(DataError, match="at least 2 classes"):
            evaluate(no_batch(), np.zeros((3, 4)), [0, 0, 0])
        with pytest.raises(DataError, match=r"needs one output, the model has \['sum', 'product'\]"):
            evaluate(write(two_in_two_out()), [np.zeros((3, 2))] * 2, [0, 0, 0])

    def test_top1_of_several_positions(self):
        outputs = np.eye(3)[np.array([[0, 1], [2, 2]])]
        assert top1(outputs, np.array([[0, 1], [2, 0]])) == 0.75


class TestLatency:
    def test_quantiles_of_each(self):
        found = measure({"dense": dense(), "codes": copy_codes(), "ids": lookup()}, runs=25, warmup=2)
        assert list(found) == ["dense", "codes", "ids"]
        for latency in found.values():
            assert latency.runs == 25
            assert 0 < latency.p10 <= latency.median <= latency.p90 < 100

    def test_budget_bounds_the_runs(self):
        found = measure({"dense": dense()}, runs=10**6, budget=0.02)["dense"]
        assert 3 <= found.runs < 10**6
        assert measure({"dense": dense()}, runs=50, budget=0.0)["dense"].runs >= 3

    def test_same_model_same_latency_wherever_it_stands(self):
        big = write(_matmul(1024))
        found = measure({"first": dense(), "big": big, "last": dense()}, runs=100)
        assert found["first"].median == pytest.approx(found["last"].median, rel=0.5)

    def test_wrong_requests(self):
        with pytest.raises(DataError, match="runs is 0"):
            measure({"dense": dense()}, runs=0)
        with pytest.raises(RunError, match=r"^broken is no \.tflite model"):
            measure({"broken": b"abc"})


def _matmul(n):
    x, y = floats("x", 1, n), floats("y", 1, n)
    options = {"fusedActivationFunction": 0}
    weights = constant("w", RNG.normal(size=(n, n)).astype(np.float32))
    return program([x], [y], [Op("FULLY_CONNECTED", [x, weights, None], [y], options, "FullyConnectedOptions")])


def test_public_names():
    assert octavo.Runner is Runner
    assert octavo.evaluate is evaluate
