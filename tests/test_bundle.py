"""Bundles for TensorFlow Lite for Microcontrollers: written, compiled, run against a stand-in, read back."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import tflite
from octavo.cli import main
from octavo.errors import DataError, MissingDependencyError, ModelFileError, NotIntegerError, RunError
from octavo.firmware.cpp import float_literal, identifier, label
from octavo.firmware.folder import write_folder
from octavo.firmware.resolver import _METHODS, method_of, methods
from octavo.firmware.scratch import scratch_bytes
from octavo.firmware.sources import FILES
from octavo.graph import Op
from octavo.model import Model
from octavo.runtime import tflm
from octavo.runtime.session import Session
from octavo.runtime.tflm import TflmSession
from octavo.tflite.schema import names as schema_names
from test_state import streaming
from tflm_stub import build_and_run, write_stub

needs_tflm = pytest.mark.skipif(not tflm.installed(), reason="needs tflite-micro, which is for Linux only")
NASTY = 'in */ } int x; /* "quoted" \\\n#error no ??/ \u202e\x00 $name'
X = np.random.default_rng(0).uniform(-1, 1, (40, 8, 8, 2)).astype(np.float32)


def network(name: str = "image") -> Model:
    build = Builder()
    y = build.conv(build.input(name, (1, 8, 8, 2)), "a", 8, act=1)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], "pool", (1, 8), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, f"{name} out", 4)))


@pytest.fixture(scope="module")
def small():
    return octavo.quantize(network(), octavo.integer(fallback=False), X)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "two class"
    return octavo.bundle(network(NASTY), folder, X)


def golden(folder: Path, kind: str) -> np.ndarray:
    text = (folder / "golden.cc").read_text()
    (found,) = re.findall(rf"k{kind}0\[\] = {{(.*?)}};", text, re.DOTALL)
    return np.array([int(byte, 16) for byte in re.findall(r"0x(..)", found)], np.uint8)


@needs_tflm
class TestWritten:
    def test_files(self, made):
        assert sorted(path.name for path in made.folder.iterdir()) == sorted(FILES)
        assert made.name == "two_class"
        assert made.operators == ("AddConv2D", "AddFullyConnected", "AddMean")
        assert "MicroMutableOpResolver<3>" in (made.folder / "model_ops.h").read_text()
        assert all(b"\\\n" not in (made.folder / name).read_bytes() for name in FILES if name != "model.tflite")

    def test_model_reads_back(self, made):
        text = (made.folder / "model.cc").read_text()
        data = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", text))
        assert data == (made.folder / "model.tflite").read_bytes()
        assert len(data) == made.model_bytes
        assert not [t for t in tflite.read(data).tensors() if t.dtype.is_float]

    def test_arena_is_measured(self, made):
        data = (made.folder / "model.tflite").read_bytes()
        codes = np.zeros((1, 8, 8, 2), np.int8)
        TflmSession(data, arena=made.arena_measured).invoke([codes])
        with pytest.raises(RunError, match=r"an arena of .* may be too small"):
            TflmSession(data, arena=made.arena_measured - 16).invoke([codes])
        assert made.arena_bytes >= 1.1 * made.arena_measured + scratch_bytes(tflite.read(data)) - 1
        assert f"kArenaBytes = {made.arena_bytes};" in (made.folder / "model.h").read_text()

    def test_golden_is_what_tflm_computes(self, made):
        data = (made.folder / "model.tflite").read_bytes()
        inputs, outputs = octavo.Runner(data, "tflm").first_codes(X)
        assert np.array_equal(golden(made.folder, "Input"), inputs[0].reshape(-1).view(np.uint8))
        assert np.array_equal(golden(made.folder, "Output"), outputs[0].reshape(-1).view(np.uint8))
        scale = octavo.Runner(data).inputs[0].scale[0]
        assert np.abs((inputs[0] - octavo.Runner(data).inputs[0].zero_point[0]) * scale - X[0]).max() <= scale * 0.51

    def test_quantized_model_needs_no_samples(self, small, tmp_path):
        found = octavo.bundle(small, tmp_path / "b")
        assert found.run.random
        assert (tmp_path / "b" / "model.tflite").read_bytes() == bytes(small)

    def test_same_twice(self, small, tmp_path):
        first, second = tmp_path / "a", tmp_path / "b"
        for folder in (first, second):
            octavo.bundle(small, folder, X, name="same")
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


@needs_tflm
class TestCompiled:
    @pytest.mark.parametrize("flags", [(), ("-DSTUB_NEW_NAMESPACE",)], ids=["tflite", "tflite::micro"])
    def test_passes_on_the_golden_output(self, made, tmp_path, flags):
        inputs, outputs = octavo.Runner(made.folder / "model.tflite", "tflm").first_codes(X)
        stub = write_stub(tmp_path / "stub", inputs, outputs)
        run = build_and_run(made.folder, stub, tmp_path / "main", *flags)
        assert run.returncode == 0, run.stdout
        said = run.stdout.splitlines()
        assert [line for line in said if line.startswith("op ")] == ["op Conv2D", "op FullyConnected", "op Mean"]
        assert f"arena {made.arena_bytes}" in said
        assert said[-1] == "PASS"
        assert "misaligned" not in said

    def test_fails_beyond_the_tolerance(self, made, tmp_path):
        inputs, outputs = octavo.Runner(made.folder / "model.tflite", "tflm").first_codes(X)
        limit = int(made.run.steps)
        for steps, status in ((limit, 0), (limit + 1, 1)):
            wrong = outputs[0].copy()
            wrong.reshape(-1)[1] += steps if wrong.reshape(-1)[1] < 100 else -steps
            stub = write_stub(tmp_path / f"stub{steps}", inputs, [wrong])
            run = build_and_run(made.folder, stub, tmp_path / f"main{steps}")
            assert run.returncode == status, run.stdout

    def test_float_outputs_and_several_ports(self, tmp_path):
        build = Builder()
        a, b = build.input("a", (1, 8)), build.input("b", (1, 8))
        total = build.op("ADD", [a, b], "sum", (1, 8), "AddOptions")
        model = Model(build.program(build.dense(total, "y", 3), build.unary("LOGISTIC", total, "z")))
        x = {name: np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32) for name in ("a", "b")}
        recipe = octavo.integer(io="input=int8,output=float32")
        found = octavo.bundle(model, tmp_path / "two", x, recipe=recipe)
        inputs, outputs = octavo.Runner(tmp_path / "two" / "model.tflite", "tflm").first_codes(x)
        assert [array.dtype.name for array in outputs] == ["float32", "float32"]
        assert found.run.steps is None
        for wrong, status in ((outputs, 0), ([outputs[0], np.full_like(outputs[1], np.nan)], 1)):
            stub = write_stub(tmp_path / f"stub{status}", inputs, wrong)
            assert build_and_run(tmp_path / "two", stub, tmp_path / f"main{status}").returncode == status


@needs_tflm
class TestState:
    """A resource variable; the interpreter needs to know how many there are."""

    X = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)

    def test_state_is_kept_and_reset(self):
        program = streaming()
        (start,) = [t for t in program.graphs[1].tensors if t.is_constant]
        start.set_values(np.full((1, 6), 3, np.float32))  # a reset that only clears is told apart
        model = bytes(Model(program))
        ours, theirs = TflmSession(model), Session(model, "reference")
        for _ in range(3):  # step by step
            for step in self.X:
                given = [step[np.newaxis]]
                np.testing.assert_allclose(ours.invoke(given)[0], theirs.invoke(given)[0], rtol=1e-4, atol=1e-5)
        first = TflmSession(model).invoke([self.X[:1]])[0]
        assert np.abs(ours.invoke([self.X[:1]])[0] - first).max() > 0.1
        ours.reset()
        assert np.array_equal(ours.invoke([self.X[:1]])[0], first)

    def test_bundle(self, tmp_path):
        x = self.X
        octavo.bundle(Model(streaming()), tmp_path / "b", x, recipe=octavo.integer())
        inputs, outputs = octavo.Runner(tmp_path / "b" / "model.tflite", "tflm").first_codes(x)
        run = build_and_run(tmp_path / "b", write_stub(tmp_path / "stub", inputs, outputs), tmp_path / "main")
        assert run.returncode == 0
        assert "variables 1" in run.stdout.splitlines()


@needs_tflm
class TestRefused:
    def test_without_samples(self, tmp_path):
        with pytest.raises(octavo.RecipeError, match="needs representative data"):
            octavo.bundle(network(), tmp_path / "b")
        assert not (tmp_path / "b").exists()

    def test_recipe_for_a_quantized_model(self, small, tmp_path):
        with pytest.raises(octavo.RecipeError, match="leave out the recipe"):
            octavo.bundle(small, tmp_path / "b", X, recipe=octavo.integer())

    def test_float_op(self, tmp_path):
        build = Builder()
        x = build.input("x", (1, 8))
        model = Model(build.program(build.unary("SIN", x, "y")))
        with pytest.raises(NotIntegerError, match="SIN 'y'"):
            octavo.bundle(model, tmp_path / "b", np.ones((4, 8), np.float32))

    def test_op_that_tflm_lacks(self, tmp_path):
        build = Builder()
        x = build.input("x", (1, 8))
        model = Model(build.program(build.unary("GELU", build.dense(x, "d", 8), "y")))
        with pytest.raises(RunError, match="no kernel for GELU 'y'"):
            octavo.bundle(model, tmp_path / "b", np.ones((4, 8), np.float32))

    def test_folder(self, small, tmp_path):
        (tmp_path / "b").mkdir()
        octavo.bundle(small, tmp_path / "b", X)
        with pytest.raises(ModelFileError, match="isn't empty"):
            octavo.bundle(small, tmp_path / "b", X)
        octavo.bundle(small, tmp_path / "b", X, overwrite=True)
        (tmp_path / "b" / "mine.txt").write_text("mine")
        with pytest.raises(ModelFileError, match=r"other files \(mine.txt\)"):
            octavo.bundle(small, tmp_path / "b", X, overwrite=True)
        with pytest.raises(ModelFileError, match="is a file"):
            octavo.bundle(small, tmp_path / "b" / "mine.txt", X)
        with pytest.raises(ModelFileError, match="no folder"):
            octavo.bundle(small, tmp_path / "none" / "b", X)

    def test_wrong_samples(self, small, tmp_path):
        with pytest.raises(DataError, match="takes arrays of shape"):
            octavo.bundle(small, tmp_path / "b", np.zeros((3, 5)))


@needs_tflm
class TestCommand:
    def test_float_model(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        network().save("model.tflite")
        np.savez("data.npz", x=X)
        assert main(["bundle", "model.tflite", "-o", "out", "--data", "data.npz", "--samples", "20", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["name"], told["run"]["samples"], told["folder"]) == ("out", 20, "out")
        assert (tmp_path / "out" / "main.cc").exists()
        assert main(["bundle", "out/model.tflite", "-o", "again"]) == 0
        assert "20 random samples" in capsys.readouterr().out
        assert main(["bundle", "out/model.tflite", "-o", "again"]) == 1
        assert "--force" in capsys.readouterr().err
        assert main(["bundle", "model.tflite", "-o", "none"]) == 1
        assert "needs representative data" in capsys.readouterr().err


@pytest.mark.skipif(tflm.installed(), reason="needs tflite-micro to be absent")
def test_says_what_to_install(small, tmp_path):
    with pytest.raises(MissingDependencyError, match=r"pip install --pre 'octavo\[tflm\]'"):
        octavo.bundle(small, tmp_path / "b", X)


class TestFolder:
    def test_what_was_there_stays_if_it_fails(self, tmp_path):
        target = tmp_path / "b"
        write_folder(target, {"a": b"old"})
        with pytest.raises(ModelFileError, match="can't be written"):
            write_folder(target, {"a": b"new", "a/b": b"impossible"})
        assert (target / "a").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["b"]


class TestNames:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            ("resnet8", "resnet8"), ("two class", "two_class"), ("class", "model_class"), ("8bit", "model_8bit"),
            ("__x__y", "x_y"), ("", "model"), ("é*/", "model"), ("std", "model_std"), ("a" * 99, "a" * 64),
        ],
    )  # fmt: skip
    def test_identifier(self, text, made):
        assert identifier(text) == made

    def test_label_can_end_nothing(self):
        made = label(NASTY)
        assert made.isascii()
        assert made.isprintable()
        assert not set(made) & set('*\\"?$`|<>\n')

    @pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 1e-30, 3.4e38, 0.00392155582])
    def test_float_literals_are_exact(self, value):
        text = float_literal(value)
        assert text.endswith("f") and re.search(r"[.e]", text)
        assert np.float32(text[:-1]) == np.float32(value)


class TestResolver:
    def test_every_name_is_a_builtin(self):
        builtins = {name.replace("_", "") for name in schema_names("BuiltinOperator").values()}
        assert [name for name in _METHODS if name not in builtins] == []

    def test_spellings(self):
        spelled = {"CONV_2D": "AddConv2D", "PADV2": "AddPadV2", "ADD_N": "AddAddN", "BATCH_MATMUL": "AddBatchMatMul",
                   "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM", "GELU": None}  # fmt: skip
        assert {code: method_of(Op(code, [], [])) for code in spelled} == spelled
        assert method_of(Op("CUSTOM", [], [], custom_code="ethos-u")) == "AddEthosU"

    def test_each_once(self):
        build = Builder()
        x = build.input("x", (1, 8))
        program = build.program(build.unary("LOGISTIC", build.unary("LOGISTIC", x, "y"), "z"))
        assert methods(program, "m") == ("AddLogistic",)


def test_scratch():
    build = Builder()
    x = build.input("x", (1, 8, 8, 2))
    assert scratch_bytes(build.program(build.conv(x, "c", 4))) == 4 * 32  # 3 * 3 * 2 rounded up to 16
