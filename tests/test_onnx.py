"""ONNX files: what octavo asks of the command onnx2tf, and what it makes of the answers.

onnx2tf itself pins another LiteRT than octavo, so a stand-in of the same name answers here; docs/onnx.md says how the
real one does.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

import octavo
from octavo.cli import main
from octavo.errors import ConversionError, MissingDependencyError, ModelFileError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.model import Model
from octavo.passes.fold_constants import fold_constants
from test_cli import dense_model, error_line

STAND_IN = """#!{python}
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
(here / "asked.json").write_text(json.dumps(arguments))
folder = pathlib.Path(arguments[arguments.index("-o") + 1])
assert folder.is_dir()
{body}
"""
WRITES = 'shutil.copy(here / "made.tflite", folder / "net_float32.tflite"); (folder / "net_float16.tflite").touch()'


@pytest.fixture
def onnx2tf(tmp_path, monkeypatch):
    """Puts a stand-in for onnx2tf on the path; reading what it was asked is `onnx2tf.asked()`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    dense_model().save(folder / "made.tflite")

    def install(body: str = WRITES) -> Path:
        command = folder / "onnx2tf"
        command.write_text(STAND_IN.format(python=sys.executable, body=body))
        command.chmod(command.stat().st_mode | stat.S_IEXEC)
        return folder / "asked.json"

    return install


@pytest.fixture
def net(tmp_path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"an ONNX file")
    return path


def test_the_float32_file_comes_back(onnx2tf, net) -> None:
    asked = onnx2tf()
    model = octavo.convert(net)
    assert model.name == str(net)
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_array_equal(octavo.Runner(model)(x), octavo.Runner(dense_model())(x))
    options = json.loads(asked.read_text())
    assert options[:2] == ["-i", str(net)]
    assert {"-ewo", "-efot"} <= set(options), "the outputs are always compared with ONNX Runtime's"
    assert options[-2:] == ["-b", "1"]
    assert not Path(options[options.index("-o") + 1]).exists(), "nothing is left behind"


def test_sizes_go_along(onnx2tf, net) -> None:
    asked = onnx2tf()
    octavo.convert(net, batch=None)
    assert "-b" not in json.loads(asked.read_text())
    octavo.convert(net, inputs={"x": (None, 3, 32, 32), "length": ((1,), "int64")}, batch=4)
    options = json.loads(asked.read_text())
    assert options[options.index("-ois") :] == ["-ois", "x:4,3,32,32", "length:1"]
    with pytest.raises(ConversionError, match="is a dict of input name -> shape"):
        octavo.convert(net, inputs=[(1, 3)])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "sys.exit('Traceback\\n  File x\\nNotImplementedError: axis is out of range\\n')",
            "NotImplementedError: axis is",
        ),
        (f"{WRITES}; print('bar 1%\\rbar 100%\\rRuntimeError: reshape.cc:94 (1 != 2)'); sys.exit(1)", "reshape.cc:94"),
        ("pass", "it says nothing"),
        ("print('done')", "can't convert it: done"),
    ],
)
def test_what_onnx2tf_refuses_is_refused(onnx2tf, net, capsys, body: str, reason: str) -> None:
    onnx2tf(body)
    assert main(["convert", str(net), "-o", str(net.with_suffix(".tflite"))]) == 1
    line = error_line(capsys)
    assert line.startswith(f"{net}: onnx2tf can't convert it: ")
    assert reason in line
    assert line.endswith("(Keras, PyTorch and JAX models go straight in)")
    assert not net.with_suffix(".tflite").exists()


def test_without_the_command_the_way_to_get_it_is_told(net, monkeypatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(MissingDependencyError, match="pipx install onnx2tf"):
        octavo.convert(net)
    with pytest.raises(ModelFileError, match="no such file"):
        octavo.convert(net.with_name("missing.onnx"))


def test_a_reshape_of_a_constant_without_a_shape_operand_folds() -> None:
    """As onnx2tf writes them: the shape stands in the options alone."""
    x = Tensor("x", DType.FLOAT32, (1, 4))
    constant = Tensor("constant", DType.FLOAT32, ())
    constant.set_values(np.arange(4, dtype=np.float32))
    row, y = Tensor("row", DType.FLOAT32, (1, 4)), Tensor("y", DType.FLOAT32, (1, 4))
    reshape = Op("RESHAPE", [constant], [row], {"newShape": [1, 4]}, "ReshapeOptions")
    add = Op("ADD", [x, row], [y], {"fusedActivationFunction": 0, "potScaleInt16": False}, "AddOptions")
    graph = Graph("main", [x, constant, row, y], [x], [y], [reshape, add])
    program = Program([graph], [Signature("serving_default", [("x", x)], [("y", y)], graph)])
    fold_constants(program)
    assert [op.code for op in program.main.ops] == ["ADD"]
    np.testing.assert_array_equal(octavo.Runner(Model(program))(np.ones((1, 4), np.float32)), [[1, 2, 3, 4]])
