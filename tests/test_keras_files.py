"""`.keras` and `.h5` files: layers of the user's own, files of Keras 2, and other backends than JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import octavo
from octavo.cli import main
from octavo.errors import ConversionError, ModelFileError
from octavo.frontends import keras_files, keras_process, other_backends

L: Any = keras.layers
X = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)

MY_LAYERS = """
import keras

class Scaled(keras.layers.Layer):
    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

def wavy(x):
    return keras.ops.tanh(x) * 0.5
"""


@pytest.fixture
def own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in the current folder, which isn't on the path."""
    (tmp_path / "my_layers.py").write_text(MY_LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield keras_files.custom_objects(["my_layers"])
    sys.modules.pop("my_layers", None)


def network(*layers: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 2), name="x"), *layers, L.Flatten(), L.Dense(3, name="out")], name="net"
    )


def with_own_layers(own: dict[str, Any]) -> Any:
    return network(L.Conv2D(3, 3, activation=own["wavy"]), own["Scaled"](3.0, name="scaled"))


def agrees(model: octavo.Model, original: Any) -> None:
    np.testing.assert_allclose(octavo.Runner(model)(X), original.predict(X, verbose=0), rtol=1e-4, atol=1e-5)


def save_h5(model: Any, path: Path, **configuration: Any) -> Path:
    """As Keras 2 would: its version, and arguments by class that Keras 3 doesn't have."""
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(str(file.attrs["model_config"]))
        for layer in config["config"]["layers"]:
            layer["config"].update(configuration.get(layer["class_name"], {}))
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
    return path


# --- .h5 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".H5"])
def test_h5_files_convert(ending: str, tmp_path: Path) -> None:
    model = network(L.Conv2D(3, 3, activation="relu"), L.BatchNormalization())
    path = save_h5(model, tmp_path / "model.h5").rename(tmp_path / f"model{ending}")
    agrees(octavo.convert(path), model)


def test_arguments_that_keras_3_dropped_are_taken_out(tmp_path: Path) -> None:
    model = network(L.DepthwiseConv2D(3, name="depthwise"), L.Reshape((36, 2)), L.LSTM(4))
    gone = {"DepthwiseConv2D": {"groups": 1}, "LSTM": {"time_major": False}}
    path = save_h5(model, tmp_path / "old.h5", **gone)
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        keras.models.load_model(path)
    agrees(octavo.convert(path), model)
    assert path.read_bytes() == before


def test_arguments_that_change_something_are_refused(tmp_path: Path) -> None:
    path = save_h5(network(L.DepthwiseConv2D(3)), tmp_path / "old.h5", DepthwiseConv2D={"groups": 2})
    with pytest.raises(ModelFileError, match=r"old\.h5: Keras can't load it .*saved by Keras 2: .*model\.load_weights"):
        octavo.convert(path)


def as_keras_2_counts(path: Path) -> Path:
    """Calls as Keras 2 wrote them: by lists, and those of models inside models from 1."""

    def call(name: str, number: int, tensor: int) -> list[Any]:
        return [name, number + (classes[name] in ("Functional", "Sequential")), tensor]

    with h5py.File(path, "r+") as file:
        config = json.loads(str(file.attrs["model_config"]))
        layers = config["config"]["layers"]
        classes = {layer["name"]: layer["class_name"] for layer in layers}
        for layer in layers:
            layer["inbound_nodes"] = [
                [[*call(*x["config"]["keras_history"]), {}] for x in np.ravel(node["args"])]
                for node in layer["inbound_nodes"]
            ]
        # Keras 3 counts those of functional models from 1 here.
        made = config["config"]["output_layers"]
        made = [made] if isinstance(made[0], str) else made
        config["config"]["output_layers"] = [call(*one) if classes[one[0]] == "Sequential" else one for one in made]
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.8.0"
    return path


@pytest.mark.parametrize("last", [False, True], ids=["inside", "last"])
@pytest.mark.parametrize("functional", [True, False], ids=["functional", "sequential"])
def test_models_inside_models_are_counted_anew(functional: bool, last: bool, tmp_path: Path) -> None:
    """As in transfer learning. One of them is called twice."""
    inner = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(2, 3, padding="same")], name="inner")
    if functional:
        inner = keras.Model(inner.inputs[0], inner.outputs[0], name="inner")
    x = keras.Input((8, 8, 2))
    y = L.Add()([inner(L.ReLU()(inner(x))), x])
    y = inner(y) if last else L.Dense(3)(L.Flatten()(y))
    model = keras.Model(x, y)
    path = as_keras_2_counts(save_h5(model, tmp_path / "old.h5"))
    before = path.read_bytes()
    agrees(octavo.convert(path), model)
    assert path.read_bytes() == before
    model.save(tmp_path / "new.h5")
    agrees(octavo.convert(tmp_path / "new.h5"), model)


def test_h5_files_that_hold_something_else(tmp_path: Path) -> None:
    network().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ModelFileError, match="holds weights without a model"):
        octavo.convert(tmp_path / "m.weights.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ModelFileError, match=r"text\.h5: it isn't an HDF5 file"):
        octavo.convert(tmp_path / "text.h5")
    with pytest.raises(ModelFileError, match=r"none\.h5: no such file"):
        octavo.convert(tmp_path / "none.h5")


def test_code_in_an_h5_file_isnt_run(tmp_path: Path) -> None:
    save_h5(network(L.Lambda(lambda x: x * 2)), tmp_path / "code.h5")
    with pytest.raises(ModelFileError, match=r"code\.h5: it holds a Lambda layer, whose code octavo doesn't run"):
        octavo.convert(tmp_path / "code.h5")


# --- layers of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_modules_are_imported_by_name(ending: str, own_layers: Any, tmp_path: Path) -> None:
    model = with_own_layers(own_layers)
    path = tmp_path / f"own{ending}"
    model.save(path)
    agrees(octavo.convert(path, imports=["my_layers"]), model)
    with pytest.raises(ModelFileError, match=r"doesn't know the \w+ '(wavy|Scaled)'.*--import MODULE, or"):
        octavo.convert(path)
    with pytest.raises(ConversionError, match="the module 'your_layers' can't be imported: ModuleNotFoundError"):
        octavo.convert(path, imports=["your_layers"])


def test_the_command_line_imports_too(own_layers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_own_layers(own_layers)
    model.save(tmp_path / "own.keras")
    np.savez(tmp_path / "x.npz", x=X)
    assert main(["convert", "own.keras", "-o", "own.tflite", "--import", "my_layers"]) == 0
    agrees(octavo.load("own.tflite"), model)
    integer = ["--to", "integer", "--data", "x.npz", "--import", "my_layers"]
    assert main(["quantize", "own.keras", "-o", "small.tflite", *integer]) == 0
    assert octavo.load("small.tflite").nbytes > 0
    assert main(["show", "own.keras"]) == 1
    assert "--import MODULE" in capsys.readouterr().err
    assert main(["show", "own.tflite", "--import", "my_layers"]) == 2
    assert "--import is for .keras and .h5 files" in capsys.readouterr().err


# --- a process of its own ---------------------------------------------------------------------------------------------


def test_a_process_of_its_own_makes_the_same_file(own_layers: Any, tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    with_own_layers(own_layers).save(tmp_path / "own.keras")
    path = str(tmp_path / "own.keras")
    program = keras_process.convert(path, where=path, imports=["my_layers"])
    assert bytes(octavo.Model(program)) == bytes(octavo.convert(path, imports=["my_layers"]))
    assert program.source == path


def test_its_errors_are_those_of_this_process(own_layers: Any, tmp_path: Path) -> None:
    with_own_layers(own_layers).save(tmp_path / "own.keras")
    (tmp_path / "text.keras").write_text("no archive")
    for name in ("own.keras", "text.keras"):
        path = str(tmp_path / name)
        with pytest.raises(ModelFileError) as here:
            octavo.convert(path)
        with pytest.raises(ModelFileError) as there:
            keras_process.convert(path, where=path)
        assert str(there.value) == str(here.value)


def test_modules_may_import_what_keras_itself_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_requests.py").write_text("import requests\nassert requests.get\n")
    network(L.ReLU()).save(tmp_path / "plain.keras")
    monkeypatch.syspath_prepend(str(tmp_path))
    program = keras_process.convert(str(tmp_path / "plain.keras"), where="plain", imports=["with_requests"])
    assert program.main.inputs[0].shape == (1, 8, 8, 2)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    network(L.ReLU()).save(tmp_path / "plain.keras")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConversionError, match=r"^plain: the process that runs Keras on JAX ended with signal 9"):
        keras_process.convert(str(tmp_path / "plain.keras"), where="plain", imports=["deadly"])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_it_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    network(L.ReLU()).save(tmp_path / "plain.keras")
    code = "import octavo; octavo.convert('plain.keras', imports=['slow'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(octavo.__file__).parent.parent)}
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    pid = tmp_path / "pid"
    try:
        assert becomes(lambda: pid.exists() and pid.read_text() != ""), "the worker hasn't come so far"
    finally:
        asking.kill()
        asking.wait()
    assert becomes(lambda: not alive(int(pid.read_text())))


def becomes(true: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- other backends ---------------------------------------------------------------------------------------------------


def test_another_process_finds_the_modules_of_the_models_own_classes(own_layers: Any, tmp_path: Path) -> None:
    model = with_own_layers(own_layers)
    sys.path.append(str(tmp_path))
    program = other_backends.convert(model, where="mine")
    assert bytes(octavo.Model(program)) == bytes(octavo.convert(model))


def test_another_process_gets_shapes_and_batch() -> None:
    open_ended = keras.Sequential([keras.Input((None, None, 2), name="x"), L.Conv2D(3, 3)], name="net")
    for inputs in ([(1, 8, 9, 2)], {"x": (1, 8, 9, 2)}, np.zeros((1, 8, 9, 2), np.float32)):
        program = other_backends.convert(open_ended, inputs=inputs, where="mine")
        assert program.main.inputs[0].shape == (1, 8, 9, 2)
    program = other_backends.convert(network(), batch=None, where="mine")
    assert program.main.inputs[0].shape_signature == (-1, 8, 8, 2)


def test_classes_of_the_script_itself_are_refused_before_the_work(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import keras
import octavo

class Mine(keras.layers.Layer):
    def call(self, x):
        return x + 1

try:
    octavo.convert(keras.Sequential([keras.Input((4,)), Mine(name="mine")], name="net"))
except octavo.ConversionError as error:
    print(error)
"""
    )
    source = str(Path(octavo.__file__).parent.parent)
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": source}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.startswith("Keras model 'net': this script or notebook itself defines Mine,"), run.stderr
    assert "define it in a module, or set KERAS_BACKEND=jax" in run.stdout
