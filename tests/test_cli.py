"""The command line, run on real files: what it writes, what it prints, and how it fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

import octavo
from octavo import console
from octavo.cli import cli, main
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.model import Model

COMMANDS = ("demo", "convert", "quantize", "evaluate", "compare", "inspect", "show", "check", "bundle", "doctor")
VARIANTS = ("float32", "float16", "dynamic_range", "integer_float_io", "integer_only")
SAMPLES, FEATURES, CLASSES = 120, 64, 24  # 1,536 weights: above the least number that dynamic range quantizes
SLOWEST_HELP = 0.4  # seconds; measured: 0.06

# Of the demo: file size in bytes and loss of accuracy in points, at most.
DEMO_LIMITS = {
    "float32": (83_700, 0.0),
    "float16": (43_000, 0.05),
    "dynamic_range": (22_600, 0.05),
    "integer_float_io": (23_300, 0.15),
    "integer_only": (23_300, 0.15),
    "qat": (23_300, 0.15),
}


def dense_model(activation: str | None = None) -> Model:
    """[1, 64] -> FULLY_CONNECTED -> [1, 24], and then one more op if asked for."""
    rng = np.random.default_rng(0)
    x = Tensor("x", DType.FLOAT32, (1, FEATURES))
    weights = Tensor("weights", DType.FLOAT32, ())
    weights.set_values(rng.normal(0, 0.2, (CLASSES, FEATURES)).astype(np.float32))
    bias = Tensor("bias", DType.FLOAT32, ())
    bias.set_values(rng.normal(0, 0.2, CLASSES).astype(np.float32))
    y = Tensor("y", DType.FLOAT32, (1, CLASSES))
    options = {"fusedActivationFunction": 0, "weightsFormat": 0, "keepNumDims": False}
    ops = [Op("FULLY_CONNECTED", [x, weights, bias], [y], options, "FullyConnectedOptions")]
    if activation is not None:
        ops.append(Op(activation, [y], [Tensor("z", DType.FLOAT32, (1, CLASSES))]))
    out = ops[-1].outputs[0]
    graph = Graph("main", [x, weights, bias, y] + ([out] if out is not y else []), [x], [out], ops)
    return Model(Program([graph], [Signature("serving_default", [("x", x)], [("out", out)], graph)]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with model.tflite and data.npz: labels as the float model has them, all but the first 12."""
    monkeypatch.chdir(tmp_path)
    model = dense_model()
    model.save("model.tflite")
    x = np.random.default_rng(1).normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    outputs = octavo.Runner(model)(x)
    assert isinstance(outputs, np.ndarray)
    labels = outputs.argmax(axis=1)
    labels[:12] = (labels[:12] + 1) % CLASSES
    np.savez("data.npz", x=x, y=labels)
    return tmp_path


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What is on stderr: one line, without a traceback."""
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("octavo: error: ")
    return lines[0].removeprefix("octavo: error: ")


def relative_error(got: object, want: object) -> float:
    """Root mean square of the difference, as a share of that of `want`."""
    got, want = np.asarray(got), np.asarray(want)
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))


def octavo_process(*arguments: str, **options: object) -> subprocess.Popen:
    """`python -m octavo` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "octavo", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


class TestHelp:
    def test_every_command_has_an_example(self, capsys):
        assert tuple(cli.commands) == COMMANDS
        for name in COMMANDS:
            assert main([name, "--help"]) == 0
            assert f"\n    octavo {name} " in capsys.readouterr().out

    def test_lists_the_commands(self, capsys):
        assert main(["--help"]) == 0
        listed = re.findall(r"^  (\w+) {2,}\S.*[^.]\.$", capsys.readouterr().out, re.MULTILINE)
        assert tuple(listed) == COMMANDS

    def test_is_quick(self):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            out, _ = octavo_process("--help").communicate(timeout=60)
            times.append(time.perf_counter() - start)
            assert "Usage: octavo" in out
        assert min(times) < SLOWEST_HELP

    def test_version(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"octavo, version {octavo.__version__}\n"


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["quantise"], "No such command 'quantise'"),
            (["quantize", "model.tflite", "-o", "x.tflite"], "Give one of --to, --target, --recipe and --max-drop"),
            (["quantize", "model.tflite", "-o", "x.tflite", "--to", "int3"], "'int3' is not one of 'float16'"),
            (["quantize", "model.tflite", "-o", "x.tflite", "--to", "integer"], "needs representative samples"),
            (["quantize", "m", "-o", "x", "--to", "float16", "--io", "int8"], "its inputs and outputs are float"),
            (["convert", "model.tflite", "-o", "x.tflite", "--batch", "0"], "'0' is neither a number above 0 nor"),
            (["convert", "model.tflite", "-o", "x.tflite", "--batch", "many"], "'many' is neither a number above 0"),
            (["evaluate", "model.tflite"], "Missing option '--data'"),
            (["evaluate", "model.tflite", "--data", "data.npz", "--threads", "0"], "0 is not in the range x>=1"),
        ],
    )
    def test_wrong_usage_is_2(self, arguments, message, folder, capsys):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""
        assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "model.tflite"]

    def test_no_command_shows_the_help(self, capsys):
        assert main([]) == 2
        assert "Commands:" in capsys.readouterr().err

    def test_batch(self):
        assert console.Batch().convert("none", None, None) is None
        assert console.Batch().convert("8", None, None) == 8


class TestConvert:
    def test_writes_the_model(self, folder, capsys):
        assert main(["convert", "model.tflite", "-o", "copy.tflite"]) == 0
        size = (folder / "copy.tflite").stat().st_size
        assert capsys.readouterr().out == f"copy.tflite: {size:,} bytes\n"
        x = np.load("data.npz")["x"]
        np.testing.assert_array_equal(octavo.Runner("copy.tflite")(x), octavo.Runner("model.tflite")(x))

    def test_json(self, folder, capsys):
        assert main(["convert", "model.tflite", "-o", "copy.tflite", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        ops = len(octavo.load("copy.tflite").program.main.ops)
        assert told == {"file": "copy.tflite", "bytes": (folder / "copy.tflite").stat().st_size, "ops": ops}

    @pytest.mark.parametrize("force", [False, True])
    def test_overwrites_only_with_force(self, force, folder, capsys):
        (folder / "old.tflite").write_text("old")
        status = main(["convert", "model.tflite", "-o", "old.tflite", *(["--force"] if force else [])])
        if force:
            assert status == 0
            assert octavo.load("old.tflite").nbytes == (folder / "old.tflite").stat().st_size
        else:
            assert status == 1
            assert error_line(capsys) == "old.tflite exists: give another name, or --force to overwrite it"
            assert (folder / "old.tflite").read_text() == "old"

    @pytest.mark.parametrize(
        ("output", "message"),
        [("missing/x.tflite", "there is no folder missing"), (".", "is a folder: name a file")],
    )
    def test_output_that_cannot_be_written(self, output, message, folder, capsys):
        assert main(["convert", "model.tflite", "-o", output]) == 1
        assert message in error_line(capsys)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + bytes(100)])
    def test_damaged_file(self, content, folder, capsys):
        (folder / "bad.tflite").write_bytes(content)
        assert main(["convert", "bad.tflite", "-o", "x.tflite"]) == 1
        assert "bad.tflite" in error_line(capsys)
        assert not (folder / "x.tflite").exists()


class TestQuantize:
    @pytest.mark.parametrize(
        ("to", "dtypes"),
        [
            (["float16"], ("float32", "float32")),
            (["dynamic-range"], ("float32", "float32")),
            (["weight-only"], ("float32", "float32")),
            (["integer", "--data", "data.npz"], ("float32", "float32")),
            (["integer-only", "--data", "data.npz", "--samples", "100"], ("int8", "int8")),
            (["integer-only", "--data", "data.npz", "--io", "uint8"], ("uint8", "uint8")),
            (["integer", "--data", "data.npz", "--io", "input=uint8,output=float32"], ("uint8", "float32")),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_each_scheme(self, to, dtypes, folder, capsys):
        assert main(["quantize", "model.tflite", "-o", "small.tflite", "--to", *to]) == 0
        assert re.search(r"^small\.tflite: [\d,]+ bytes$", capsys.readouterr().out, re.MULTILINE)
        assert (folder / "small.tflite").stat().st_size < 0.75 * (folder / "model.tflite").stat().st_size
        runner = octavo.Runner("small.tflite")
        assert (runner.inputs[0].dtype.name, runner.outputs[0].dtype.name) == dtypes
        x = np.load("data.npz")["x"]
        assert relative_error(runner(x), octavo.Runner("model.tflite")(x)) < 0.03

    def test_json(self, folder, capsys):
        assert main(["quantize", "model.tflite", "-o", "small.tflite", "--to", "dynamic-range", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["bytes"] == (folder / "small.tflite").stat().st_size
        assert told["ops"] == {"dynamic": 1}
        assert told["decisions"][0]["kind"] == "FULLY_CONNECTED"

    def test_calibrates_with_samples_spread_over_the_file(self, folder):
        x = np.load("data.npz")["x"]
        x[::2] /= 16
        np.savez("rising.npz", x=x)
        scales = []
        half = len(x) // 2
        for samples in (f"{half}", f"{half + 1}"):
            request = ["quantize", "model.tflite", "-o", f"{samples}.tflite", "--to", "integer-only"]
            assert main([*request, "--data", "rising.npz", "--samples", samples]) == 0
            scales.append(float(octavo.Runner(f"{samples}.tflite").inputs[0].scale[0]))
        assert scales[1] > 8 * scales[0]

    def test_several_inputs_by_name(self, folder):
        model = dense_model()
        graph = model.program.main
        other, total = Tensor("other", DType.FLOAT32, (1, CLASSES)), Tensor("sum", DType.FLOAT32, (1, CLASSES))
        graph.tensors += [other, total]
        graph.inputs.append(other)
        options = {"fusedActivationFunction": 0, "potScaleInt16": True}
        graph.ops.append(Op("ADD", [graph.outputs[0], other], [total], options, "AddOptions"))
        graph.outputs = [total]
        model.program.signatures = [
            Signature("main", [("x", graph.inputs[0]), ("bias", other)], [("out", total)], graph)
        ]
        model.save("two.tflite")
        named = {"x": np.load("data.npz")["x"], "bias": np.ones((SAMPLES, CLASSES), np.float32)}
        np.savez("two.npz", **named)
        assert main(["quantize", "two.tflite", "-o", "small.tflite", "--to", "integer", "--data", "two.npz"]) == 0
        assert relative_error(octavo.Runner("small.tflite")(named), octavo.Runner("two.tflite")(named)) < 0.03

    def test_tells_which_op_stays_in_float_and_why(self, folder, capsys):
        dense_model("COS").save("cos.tflite")
        assert main(["quantize", "cos.tflite", "-o", "small.tflite", "--to", "integer", "--data", "data.npz"]) == 0
        assert re.search(r"COS 'z': .{10,}", capsys.readouterr().out)

    def test_integer_only_names_the_op_that_cannot(self, folder, capsys):
        dense_model("COS").save("cos.tflite")
        request = ["quantize", "cos.tflite", "-o", "small.tflite", "--to", "integer-only", "--data", "data.npz"]
        assert main(request) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"octavo: error: .*COS 'z'", last)
        assert not (folder / "small.tflite").exists()

    def test_unknown_io(self, folder, capsys):
        request = ["quantize", "model.tflite", "-o", "x.tflite", "--to", "integer", "--data", "data.npz"]
        assert main([*request, "--io", "uint9"]) == 1
        assert error_line(capsys).startswith("io input='uint9': choose one of")

    def test_output_is_checked_before_the_work(self, folder, capsys):
        assert main(["quantize", "nowhere.tflite", "-o", "model.tflite", "--to", "float16"]) == 1
        assert "model.tflite exists" in error_line(capsys)


class TestEvaluate:
    @pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
    def test_prints_the_accuracy(self, kernels, folder, capsys):
        assert main(["evaluate", "model.tflite", "--data", "data.npz", "--kernels", kernels, "--threads", "2"]) == 0
        assert capsys.readouterr().out == "accuracy 90.00% over 120 samples\n"

    @pytest.mark.parametrize(
        ("model", "data"),
        [("missing.tflite", "data.npz"), ("model.tflite", "missing.npz"), ("model.tflite", "bad.npz")],
    )
    def test_unreadable_file_is_named(self, model, data, folder, capsys):
        (folder / "bad.npz").write_text("not an archive")
        assert main(["evaluate", model, "--data", data]) == 1
        assert (model if "missing" in model else data) in error_line(capsys)

    def test_data_of_another_shape(self, folder, capsys):
        np.savez("other.npz", x=np.zeros((5, 3), np.float32), y=np.zeros(5, int))
        assert main(["evaluate", "model.tflite", "--data", "other.npz"]) == 1
        assert "64" in capsys.readouterr().err.splitlines()[-1]

    def test_data_without_labels(self, folder, capsys):
        np.savez("unlabelled.npz", x=np.load("data.npz")["x"])
        assert main(["evaluate", "model.tflite", "--data", "unlabelled.npz"]) == 1
        assert error_line(capsys).startswith("unlabelled.npz has no labels: add an array y")

    def test_json(self, folder, capsys):
        assert main(["evaluate", "model.tflite", "--data", "data.npz", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["accuracy"], told["samples"], told["metric"]) == (0.9, SAMPLES, "top1")


class TestCompare:
    def test_writes_every_variant_and_the_results(self, folder, capsys):
        assert main(["compare", "model.tflite", "--data", "data.npz", "-o", "out"]) == 0
        table = capsys.readouterr().out
        results = json.loads((folder / "out" / "results.json").read_text())
        assert results["dataset"] == "data"
        assert tuple(row["name"] for row in results["variants"]) == VARIANTS
        for row in results["variants"]:
            assert row["name"] in table
            path = folder / "out" / row["file"]
            assert path.name == f"{row['name']}.tflite"
            assert path.stat().st_size == row["bytes"]
            assert row["samples"] == SAMPLES
            assert row["accuracy"] > 0.85
        only = results["variants"][-1]
        assert (only["input_dtype"], only["output_dtype"], only["integer_only"]) == ("uint8", "uint8", True)
        assert not any(row["integer_only"] for row in results["variants"][:-1])

    def test_without_folder_writes_nothing(self, folder, capsys):
        assert main(["compare", "model.tflite", "--data", "data.npz"]) == 0
        assert "integer_only" in capsys.readouterr().out
        assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "model.tflite"]

    def test_model_that_cannot_be_integer_only(self, folder, capsys):
        dense_model("COS").save("cos.tflite")
        assert main(["compare", "cos.tflite", "--data", "data.npz", "-o", "out"]) == 0
        captured = capsys.readouterr()
        assert re.match(r"octavo: integer_only is missing: .*COS 'z'", captured.err.splitlines()[-1])
        assert {path.stem for path in (folder / "out").glob("*.tflite")} == set(VARIANTS[:-1])

    def test_full_folder_needs_force(self, folder, capsys):
        (folder / "out").mkdir()
        (folder / "out" / "float32.tflite").write_text("old")
        (folder / "out" / "notes.txt").write_text("mine")
        request = ["compare", "model.tflite", "--data", "data.npz", "-o", "out"]
        assert main(request) == 1
        assert "out isn't empty" in error_line(capsys)
        assert main([*request, "--force"]) == 0
        assert octavo.load("out/float32.tflite").nbytes > 0
        assert (folder / "out" / "notes.txt").read_text() == "mine"

    def test_goes_on_with_what_is_there(self, folder, capsys):
        request = ["compare", "model.tflite", "--data", "data.npz", "-o", "out"]
        assert main(request) == 0
        first = capsys.readouterr()
        assert "already" not in first.err
        written = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.tflite")}
        (folder / "out" / "float16.tflite").write_bytes(b"changed")
        assert main(request) == 0
        second = capsys.readouterr()
        there = [line.split()[1] for line in second.err.splitlines() if "is in out already" in line]
        assert sorted(there) == sorted(set(VARIANTS) - {"float16"})
        kept = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.tflite")}
        assert {name for name in written if written[name] != kept[name]} == {"float16.tflite"}
        assert second.out.splitlines()[:2] == first.out.splitlines()[:2]
        # Other inputs: nothing is taken over, and nothing is overwritten unasked.
        assert main([*request, "--samples", "50"]) == 1
        assert "out isn't empty" in error_line(capsys)
        assert main([*request, "--samples", "50", "--force"]) == 0
        assert "already" not in capsys.readouterr().err

    def test_interrupted(self, folder, capsys, monkeypatch):
        from octavo import making

        carried = making._carried

        def interrupted(prepared, recipe, *rest, **named):
            if recipe.needs_ranges:
                raise KeyboardInterrupt
            return carried(prepared, recipe, *rest, **named)

        monkeypatch.setattr(making, "_carried", interrupted)
        request = ["compare", "model.tflite", "--data", "data.npz", "-o", "out"]
        assert main(request) == 130
        lines = capsys.readouterr().err.splitlines()
        assert "octavo: finished in out: float32, float16, dynamic_range; the same command goes on from there" in lines
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        assert {path.stem for path in (folder / "out").glob("*.tflite")} == set(VARIANTS[:3])
        assert main(request) == 0
        assert capsys.readouterr().err.count("is in out already") == 3

    def test_all_kernels(self, folder, capsys):
        assert main(["compare", "model.tflite", "--data", "data.npz", "--all-kernels", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["kernel_parity"]["integer_only"]
        rows = {row["kernels"]: row for row in told["rows"]}
        assert {"xnnpack", "builtin", "reference"} <= set(rows)
        assert rows["reference"]["largest_steps"] == 0
        assert all(row["largest_steps"] <= 1 for row in rows.values())
        assert told["samples"] == len(np.load("data.npz")["x"])

    def test_json_and_page(self, folder, capsys):
        request = ["compare", "model.tflite", "--data", "data.npz", "--html", "page.html", "--metric", "top5", "--json"]
        assert main(request) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["metric"] == "top5"
        assert told["command"].startswith("octavo compare model.tflite --data data.npz")
        assert tuple(row["name"] for row in told["variants"]) == VARIANTS
        assert (folder / "page.html").read_text().startswith("<!doctype html>")
        assert main(request) == 1
        assert "page.html exists" in error_line(capsys)


class TestInspect:
    def test_table(self, folder, capsys):
        small = octavo.quantize(octavo.load("model.tflite"), octavo.integer(), np.load("data.npz")["x"])
        small.save("small.tflite")
        assert main(["inspect", "model.tflite", "small.tflite", "--data", "data.npz"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"^y +FULLY_CONNECTED +\d\.\d\d %", out, re.MULTILINE)

    def test_json(self, folder, capsys):
        octavo.quantize("model.tflite", octavo.dynamic_range()).save("small.tflite")
        assert main(["inspect", "model.tflite", "small.tflite", "--data", "data.npz", "--limit", "7", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["samples"] == 7
        assert [layer["kind"] for layer in told["layers"]] == ["FULLY_CONNECTED"]


class TestShow:
    def test_table(self, folder, capsys):
        assert main(["show", "model.tflite"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"^FULLY_CONNECTED +y +1x64, 24x64, 24 +1x24 +float32", out, re.MULTILINE)

    def test_json(self, folder, capsys):
        assert main(["show", "model.tflite", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["op"], row["name"], row["output"], row["dtype"]) == ("FULLY_CONNECTED", "y", "1x24", "float32")

    def test_name_that_would_steer_the_terminal(self, folder, capsys):
        model = dense_model()
        model.program.main.ops[0].outputs[0].name = "y\x1b[2J\nz"
        model.save("odd.tflite")
        assert main(["show", "odd.tflite"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert len(out.splitlines()) == 3


class TestFailing:
    @pytest.mark.parametrize(
        "arguments", [["--debug", "show", "missing.tflite"], ["show", "missing.tflite", "--debug"]]
    )
    def test_debug_shows_the_traceback(self, arguments, folder, capsys):
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-1] == "octavo: error: missing.tflite: no such file"

    def test_message_is_one_line(self):
        assert console.one_line(octavo.DataError("two\n  lines")) == "two lines"
        assert console.one_line(PermissionError(13, "Permission denied", "x.npz")) == "x.npz: Permission denied"
        assert console.one_line(MemoryError()) == "out of memory"
        assert console.one_line(KeyError("k")).startswith("unexpected KeyError: 'k' (--debug shows where")

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
    def test_reader_that_stops_reading(self, folder):
        process = octavo_process("show", "model.tflite", cwd=folder)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""

    def test_interrupt(self, capsys):
        @click.group()
        def commands() -> None:
            pass

        @commands.command()
        def wait() -> None:
            signal.raise_signal(signal.SIGINT)  # what Ctrl-C does
            time.sleep(60)

        # A process that a script starts in the background ignores Ctrl-C, and so would this test.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert console.run(commands, ["wait"]) == 130
        finally:
            signal.signal(signal.SIGINT, before)
        assert capsys.readouterr().err.strip() == "octavo: interrupted"


class TestKeras:
    def test_keras_file_to_integer_only(self, folder):
        import keras

        inputs = keras.Input((FEATURES,), name="features")
        keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(inputs)).save("model.keras")
        assert main(["convert", "model.keras", "-o", "float.tflite"]) == 0
        request = ["quantize", "model.keras", "-o", "small.tflite", "--to", "integer-only", "--data", "data.npz"]
        assert main([*request, "--io", "uint8"]) == 0
        x = np.load("data.npz")["x"]
        assert relative_error(octavo.Runner("small.tflite")(x), octavo.Runner("float.tflite")(x)) < 0.03


@pytest.mark.slow
class TestDemo:
    def test_sizes_accuracies_and_files(self, tmp_path, capsys):
        out = tmp_path / "demo"
        assert main(["demo", "--out", str(out), "--seed", "0"]) == 0
        table = capsys.readouterr().out
        results = json.loads((out / "results.json").read_text())
        assert (results["dataset"], results["seed"]) == ("mnist", 0)
        rows = {row["name"]: row for row in results["variants"]}
        assert tuple(rows) == (*VARIANTS, "qat")
        for name, (size, loss) in DEMO_LIMITS.items():
            row = rows[name]
            assert row["file"] == f"{name}.tflite" and name in table
            assert row["bytes"] == (out / row["file"]).stat().st_size <= size
            assert row["samples"] == 10_000
            assert (rows["float32"]["accuracy"] - row["accuracy"]) * 100 <= loss + 1e-9
            if name != "qat":  # which trains on, and may well be better
                assert (row["accuracy"] - rows["float32"]["accuracy"]) * 100 <= loss + 1e-9
        assert rows["float32"]["accuracy"] > 0.97
        for name in ("integer_only", "qat"):
            assert rows[name]["input_dtype"] == rows[name]["output_dtype"] == "uint8" and rows[name]["integer_only"]

        # A second run replaces the first one's files, and the same seed gives the same bytes.
        before = {name: (out / f"{name}.tflite").read_bytes() for name in DEMO_LIMITS}
        assert main(["demo", "--out", str(out), "--seed", "0"]) == 0
        assert {name: (out / f"{name}.tflite").read_bytes() for name in DEMO_LIMITS} == before


class TestAware:
    """A model from quantization-aware training, saved by Keras."""

    @pytest.fixture
    def aware(self, folder):
        from octavo.frontends.keras import import_keras

        keras = import_keras()
        x = keras.Input((FEATURES,), name="x")
        model = keras.Model(x, keras.layers.Dense(CLASSES, name="out")(x))
        octavo.qat.quantize_model(model, samples=np.load("data.npz")["x"]).save("aware.keras")

    def test_compare_prints_the_certificate(self, aware, capsys):
        assert main(["compare", "aware.keras", "--data", "data.npz"]) == 0
        assert re.search(r"parity holds: at most [01] step\(s\) per layer over 50 samples", capsys.readouterr().out)


class TestRecipes:
    def test_a_recipe_is_written_and_used_again(self, folder):
        given = ["--data", "data.npz", "--to", "integer", "--weights", "4", "--effort", "fast"]
        assert main(["quantize", "model.tflite", "-o", "a.tflite", *given, "--save-recipe", "recipe.json"]) == 0
        again = ["--data", "data.npz", "--recipe", "recipe.json"]
        assert main(["quantize", "model.tflite", "-o", "b.tflite", *again]) == 0
        assert (folder / "a.tflite").read_bytes() == (folder / "b.tflite").read_bytes()
        content = json.loads((folder / "recipe.json").read_text())
        assert content["scheme"] == {"to": "integer", "effort": "fast", "weights": 4}

    def test_a_budget(self, folder):
        given = ["--data", "data.npz", "--max-drop", "20", "--save-recipe", "recipe.json"]
        assert main(["quantize", "model.tflite", "-o", "small.tflite", *given]) == 0
        kernel = next(op for op in octavo.load("small.tflite").program.main.ops if op.code == "FULLY_CONNECTED").inputs[
            1
        ]
        assert kernel.dtype.value == "int4"
        assert octavo.load_recipe("recipe.json").rules

    def test_a_budget_that_nothing_meets(self, folder, capsys):
        (folder / "recipe.json").write_text('{"octavo_recipe": 1, "scheme": {"to": "int8"}}')
        assert main(["quantize", "model.tflite", "-o", "s.tflite", "--recipe", "recipe.json"]) == 1
        assert "recipe.json: the scheme" in error_line(capsys)

    @pytest.mark.parametrize(
        ("arguments", "scheme"),
        [
            (
                ["--to", "integer", "--activations", "16", "--per-tensor"],
                octavo.integer(activations=16, per_channel=False),
            ),
            (["--to", "integer-only", "--weights", "4"], octavo.integer(fallback=False, weights=4)),
            (["--to", "dynamic-range", "--weights", "4", "--block", "64"], octavo.dynamic_range(weights=4, block=64)),
        ],
    )
    def test_options_make_schemes(self, folder, arguments, scheme):
        saved = ["--save-recipe", "r.json", "-o", "small.tflite", "--data", "data.npz"]
        assert main(["quantize", "model.tflite", *arguments, *saved]) == 0
        assert octavo.load_recipe("r.json").scheme == scheme

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--to", "integer", "--recipe", "r.json"], "Give one of"),
            (["--recipe", "r.json", "--weights", "4"], "says everything"),
            (["--to", "float16", "--max-drop", "1"], "leave out --to"),
            (["--to", "float16", "--weights", "4"], "its weights are no integers"),
            (
                ["--to", "weight-only", "--weights", "4", "--block", "32"],
                "kernels for blocks with --to dynamic-range only",
            ),
            (["--to", "dynamic-range", "--activations", "16"], "its activations are float"),
            (["--to", "dynamic-range", "--per-tensor"], "leave out --per-tensor"),
            (["--to", "dynamic-range", "--effort", "best"], "is for integer"),
            (["--max-drop", "1"], "--max-drop needs representative samples"),
        ],
    )
    def test_options_that_contradict_each_other(self, folder, capsys, arguments, message):
        assert main(["quantize", "model.tflite", "-o", "small.tflite", *arguments]) == 2
        assert message in capsys.readouterr().err
