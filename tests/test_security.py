"""Files are data: no code in them is run, and no name in them reaches further than the text that shows it.

Names in the page are in test_report.py, in notebooks in test_notebook.py, in C++ in test_bundle.py.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import octavo
from octavo.cli import main
from octavo.datasets.npz import load_npz
from octavo.errors import DataError, ModelFileError, RecipeError
from octavo.graph import Program
from octavo.model import Model
from octavo.provenance import fingerprint
from octavo.resume import RECORD, Folder
from test_cli import FEATURES, dense_model

SOURCE = Path(octavo.__file__).parent
# Those that send work to their own children: nothing from a file ever goes that way.
PICKLING = {"parallel.py", "runtime/tflm.py"}
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m../../evil\r\n\u202e<script>alert(1)</script>\x00"


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """File, name and node of each call in octavo's sources."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node


def test_no_pickles_from_files() -> None:
    loads = [(file, node) for file, name, node in calls() if name == "np.load"]
    assert loads
    for file, node in loads:
        settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert settings.get("allow_pickle") == "False", f"{file}:{node.lineno}"


def test_nothing_evaluates_text() -> None:
    for file, name, node in calls():
        where = f"{file}:{node.lineno}: {name}"
        assert name not in ("eval", "exec", "compile", "os.system", "marshal.loads", "yaml.load"), where
        assert not name.endswith("extractall"), where
        assert not any(word.arg == "shell" for word in node.keywords), where
        if name.startswith(("pickle.", "cloudpickle.", "joblib.load")):
            assert file in PICKLING, where


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    owned, archive, data = tmp_path / "owned", io.BytesIO(), tmp_path / "data.npz"
    np.savez(archive, x=np.array([Touch(owned)], dtype=object))
    data.write_bytes(archive.getvalue())
    with pytest.raises(DataError, match="octavo doesn't run pickles"):
        load_npz(data)
    for raw in (pickle.dumps(Touch(owned)), b"PK" + pickle.dumps(Touch(owned)), archive.getvalue()[40:]):
        data.write_bytes(raw)
        with pytest.raises(DataError):
            load_npz(data)
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("x.npy", pickle.dumps(Touch(owned)))
    with pytest.raises(DataError, match="'x' is no array"):
        load_npz(data)
    assert not owned.exists()


def test_a_lambda_layer_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layer = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("owned").touch(), x)[1])
    keras.Sequential([keras.Input((4,)), layer]).save("evil.keras")
    Path("owned").unlink()
    with pytest.raises(ModelFileError, match=r"evil\.keras: Keras can't load it"):
        octavo.convert("evil.keras")
    assert not Path("owned").exists()
    keras.models.load_model("evil.keras", safe_mode=False)  # what was refused does run
    assert Path("owned").exists()


@pytest.mark.parametrize(
    "named",
    [
        {"module": "os", "class_name": "system", "config": {"command": "touch owned"}, "registered_name": None},
        {"module": "builtins", "class_name": "eval", "config": {"source": "1"}, "registered_name": None},
        {
            "module": "subprocess",
            "class_name": "Popen",
            "config": {"args": ["touch", "owned"]},
            "registered_name": None,
        },
    ],
)
def test_a_keras_file_names_no_code(named: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("plain.keras")
    config = json.loads(members(Path("plain.keras"))["config.json"])
    config["config"]["layers"][1] = named
    write_members(Path("evil.keras"), members(Path("plain.keras")) | {"config.json": json.dumps(config).encode()})
    with pytest.raises(ModelFileError, match=r"evil\.keras: Keras can't load it"):
        octavo.convert("evil.keras")
    assert not Path("owned").exists()


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("to", ["os.system", "__import__", "find", "_MAKERS", ["integer"], {"integer": 1}, None])
def test_a_recipe_names_no_code(to: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"octavo_recipe": 1, "scheme": {"to": to}}))
    with pytest.raises(RecipeError, match=r"recipe\.json: the scheme: a scheme is an object"):
        octavo.load_recipe(path)


def evil_model() -> Model:
    """Every name in it is hostile."""
    model = dense_model("SOFTMAX")
    program: Program = model.program
    for number, tensor in enumerate(program.main.tensors):
        tensor.name = f"{EVIL}{number}"
    program.main.name = program.description = EVIL
    for signature in program.signatures:
        signature.key = EVIL.replace("\0", "")  # LiteRT's names end there
    return octavo.load(bytes(model))


def test_names_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    octavo.write_metadata(evil_model(), name=EVIL, description=EVIL).save("m.tflite")
    np.savez("data.npz", x=np.ones((8, FEATURES), np.float32), y=np.zeros(8, int))
    np.savez("wrong.npz", x=np.ones((8, 3), np.float32))
    commands = (
        "show m.tflite", "check m.tflite --target tflm --all", "evaluate m.tflite --data data.npz",
        "quantize m.tflite -o small.tflite --to integer --data data.npz",
        "inspect m.tflite small.tflite --data data.npz",
        "compare m.tflite --data data.npz -o out", "evaluate m.tflite --data wrong.npz",
        "quantize m.tflite -o other.tflite --to integer-only --data wrong.npz",
    )  # fmt: skip
    for command in commands:
        status = main(command.split())
        shown = capfd.readouterr()
        assert status == ("wrong" in command), shown.err
        assert "owned" in shown.out or not command.startswith(("show", "inspect"))
        for text in (shown.out, shown.err):
            assert not set(text) & set("\x1b\x07\x9b\u202e\x00"), command
    assert sorted(path.name for path in tmp_path.parent.glob("*evil*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data.npz", "m.tflite", "out", "small.tflite", "wrong.npz",
    ]  # fmt: skip


def test_a_record_names_no_file_elsewhere(tmp_path: Path) -> None:
    """made.json of a folder that somebody else made: "../x" would be read as a variant that is there already."""
    x = {"x": np.ones((4, FEATURES), np.float32)}
    model = dense_model()
    inputs = Folder(tmp_path / "out", model, x, "int8").inputs
    (tmp_path / "out").mkdir()
    file = model.save(tmp_path / "outside.tflite")
    entry = {"inputs": inputs, "file": fingerprint(Path(file).read_bytes())}
    record = {"../outside": entry, str(tmp_path / "outside"): entry}
    (tmp_path / "out" / RECORD).write_text(json.dumps(record))
    assert Folder(tmp_path / "out", model, x, "int8").finished() == {}
