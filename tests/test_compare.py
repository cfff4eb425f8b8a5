"""The table of variants: what it holds, how it is written and drawn."""

import io
import json
import math

import numpy as np
import pytest

import octavo
from octavo.compare import Comparison, compare, integer_only
from octavo.errors import DataError, ModelFileError, RunError
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.queries import float_tensors
from octavo.qtypes import QParams
from octavo.report.terminal import Column, Table, show
from octavo.tflite import write

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = np.argmax(X, axis=1)
RESULT_KEYS = {
    "name",
    "file",
    "bytes",
    "accuracy",
    "samples",
    "input_dtype",
    "output_dtype",
    "integer_only",
    "latency_ms_median",
}


def identity(dtype=DType.FLOAT32, step=None, rows=1, cols=4, names=("x", "y")):
    """(1, 4) -> (rows, cols): the same numbers, on a grid of `step` if given."""
    qparams = None if step is None else QParams.per_tensor(step)
    shape = Tensor("shape", DType.INT32, ())
    shape.set_values(np.array([rows, cols], np.int32))
    x = Tensor(names[0], dtype, (1, 4), qparams=qparams)
    y = Tensor(names[1], dtype, (rows, cols), qparams=qparams)
    op = Op("RESHAPE", [x, shape], [y], {"newShape": None}, "ReshapeOptions")
    return Program([Graph("main", [x, shape, y], [x], [y], [op])])


@pytest.fixture(scope="module")
def models():
    return {
        "float32": write(identity()),
        "fine": write(identity(DType.INT8, 1 / 32)),
        "coarse": write(identity(DType.INT8, 1.0)),
    }


def test_rows(models):
    found = compare(models, X, Y)
    assert [row.name for row in found] == ["float32", "fine", "coarse"]
    base, fine, coarse = found
    assert (base.accuracy, base.samples, base.bytes) == (1.0, 40, len(models["float32"]))
    assert (base.input_dtype, base.output_dtype, base.integer_only) == ("float32", "float32", False)
    assert (fine.input_dtype, fine.output_dtype, fine.integer_only) == ("int8", "int8", True)
    assert (base.sqnr_db, base.agreement, base.max_error, base.file) == (None, None, None, None)
    for row in found:
        assert row.latency_ms_median > 0
    # Uniform rounding noise of a step s has power s^2 / 12 against a signal of power 1.
    assert fine.sqnr_db == pytest.approx(10 * math.log10(12 * 32**2), abs=1)
    assert coarse.sqnr_db == pytest.approx(10 * math.log10(12), abs=2)
    assert fine.agreement > coarse.agreement
    assert coarse.agreement == coarse.accuracy == np.mean(np.argmax(np.round(X), axis=1) == Y)
    assert fine.max_error <= 1 / 64 + 1e-6
    assert found["coarse"] is coarse
    with pytest.raises(KeyError):
        found["none"]


def test_without_labels_and_latency(models):
    found = compare(models, X, latency=False)
    assert [row.accuracy for row in found] == [None] * 3
    assert [row.latency_ms_median for row in found] == [None] * 3
    assert found["fine"].sqnr_db > 30
    assert "accuracy" not in str(found)
    assert "latency" not in str(found)


def test_reference_may_stand_anywhere(models):
    found = compare(models, X, Y, reference="fine", latency=False)
    assert [row.name for row in found] == list(models)
    assert found.reference == "fine"
    assert found["fine"].sqnr_db is None
    assert found["float32"].sqnr_db > 30


def test_files_and_models(models, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(models["float32"])
    program = identity()
    found = compare({"file": path, "text": str(path), "model": octavo.Model(program)}, X, latency=False)
    assert [row.file for row in found] == ["net.tflite", "net.tflite", None]
    assert {row.bytes for row in found} == {len(models["float32"])}


def test_outputs_of_other_shapes_are_not_compared(models):
    other = write(identity(rows=2, cols=2))
    row = compare({"a": models["float32"], "b": other}, X, latency=False)["b"]
    assert (row.sqnr_db, row.agreement, row.max_error) == (None, None, None)


def test_own_metric(models):
    def half(outputs, y):
        return 0.5

    found = compare(models, X, Y, half, latency=False)
    assert found.metric == "half"
    assert {row.accuracy for row in found} == {0.5}


def test_json(models, tmp_path):
    same = {"float32": models["float32"], "again": models["float32"], "coarse": models["coarse"]}
    found = compare(same, X, Y)
    path = found.to_json(tmp_path / "results.json", dataset="mnist", seed=0)
    results = json.loads(path.read_text())
    assert list(results)[:2] == ["dataset", "seed"]
    assert (results["dataset"], results["seed"], results["reference"]) == ("mnist", 0, "float32")
    assert [v["name"] for v in results["variants"]] == list(same)
    for variant in results["variants"]:
        assert set(variant) >= RESULT_KEYS
    again = results["variants"][1]
    assert found["again"].sqnr_db == math.inf
    assert (again["sqnr_db"], again["max_error"], again["agreement"]) == (None, 0.0, 1.0)
    assert results == found.as_dict(dataset="mnist", seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_json_is_written_whole_or_not_at_all(models, tmp_path):
    found = compare(models, X, latency=False)
    path = tmp_path / "results.json"
    path.write_text("before")
    with pytest.raises(TypeError):
        found.to_json(path, dataset=object())
    assert path.read_text() == "before"
    with pytest.raises(ModelFileError, match="none"):
        found.to_json(tmp_path / "none" / "results.json")
    with pytest.raises(ModelFileError, match="folder"):
        found.to_json(tmp_path)


def test_unusable_requests(models):
    with pytest.raises(DataError, match="no models"):
        compare({}, X)
    with pytest.raises(DataError, match=r"reference 'int4' is none of the models \['float32', 'fine', 'coarse'\]"):
        compare(models, X, reference="int4")
    with pytest.raises(DataError, match="iterator"):
        compare(models, iter(X))
    with pytest.raises(DataError, match="input 'x' of float32 takes arrays of shape"):
        compare(models, X[:, :3])
    with pytest.raises(RunError, match=r"^broken is no \.tflite model"):
        compare({**models, "broken": b"no model"}, X)


def test_integer_only_reads_every_subgraph(models):
    assert integer_only(models["fine"])
    assert not integer_only(models["float32"])
    program = identity(DType.INT8, 0.5)
    hidden = Tensor("hidden", DType.FLOAT16, (1,))
    program.graphs.append(Graph("other", [hidden], [hidden], [hidden], []))
    assert float_tensors(program) == [hidden]
    assert not integer_only(write(program))


def test_plain_table(models):
    text = str(compare(models, X, Y))
    lines = text.splitlines()
    assert lines[0].split()[:5] == ["variant", "bytes", "smaller", "accuracy", "points"]
    assert len(lines) == 5
    assert len({line.index("float32" if i == 2 else "int8") for i, line in enumerate(lines[2:], 2)}) <= 2
    assert "100.00 %" in lines[2]
    assert "1.00 x" in lines[2]
    assert " -" in lines[2]  # no difference to itself
    assert lines[3].rstrip().endswith("yes")
    assert "\x1b" not in text


def test_thousands_and_differences():
    rows = [
        {"name": "float32", "bytes": 84848, "accuracy": 0.9812},
        {"name": "int8", "bytes": 23300, "accuracy": 0.9803, "sqnr_db": 31.25, "integer_only": True},
        {"name": "int4", "bytes": 12000, "accuracy": 0.99},
    ]
    from octavo.report.terminal import variants_table

    assert str(variants_table(rows)).splitlines() == [
        "variant   bytes  smaller  accuracy  points     SQNR  integer only",
        "-------  ------  -------  --------  ------  -------  ------------",
        "float32  84,848   1.00 x   98.12 %       -        -  -",
        "int8     23,300   3.64 x   98.03 %   -0.09  31.2 dB  yes",
        "int4     12,000   7.07 x   99.00 %   +0.88        -  -",
    ]
    assert "+0.09" in str(variants_table(rows, reference="int8"))


def test_names_are_shown_as_they_are():
    drawn = Table([Column("op", style="bold"), "shape"], [["[red]conv[/]\x1b[31m\n", None], ["名前", 3]])
    assert str(drawn).splitlines()[2:] == [r"[red]conv[/]\x1b[31m\n  -", "名前                    3"]
    out = Terminal()
    show(drawn, out)
    assert "[red]conv[/]" in out.getvalue()
    assert r"\x1b[31m\n" in out.getvalue()


def test_plain_when_piped_and_coloured_on_a_terminal(models, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = compare(models, X, Y)
    piped, terminal = io.StringIO(), Terminal()
    show(found, piped)
    show(found, terminal)
    assert piped.getvalue() == f"{found}\n"
    assert "\x1b[" in terminal.getvalue()
    assert "100.00 %" in terminal.getvalue()


def test_row_of_another_length():
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        Table(["a", "b"], [["only"]])


def test_progress_reports_each_variant(models, capsys):
    compare(models, X, Y, progress=True, latency=False)
    said = capsys.readouterr().err
    for name in models:
        assert f"running {name}: 40/40 done" in said
    assert "comparing: 3/3 done" in said


def test_public_names():
    assert octavo.compare is compare
    assert octavo.Comparison is Comparison


class Terminal(io.StringIO):
    def isatty(self):
        return True
