"""Loading a `.keras` file without drawing the random weights that the file's own replace."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import octavo
from octavo.frontends import keras_files
from octavo.frontends.keras_archive import Filled, without_initializers


@keras.saving.register_keras_serializable(package="archive tests")
class Doubled(keras.layers.Layer):
    """A custom layer with an initializer of its own choice, which isn't in the configuration."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(
            name="factor", shape=shape[-1:], initializer=keras.initializers.RandomNormal(seed=3)
        )

    def call(self, x: Any) -> Any:
        return x * self.factor


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([
        layers.Input((8, 8, 3)),
        layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Orthogonal(seed=1)),
        layers.BatchNormalization(beta_initializer="random_normal"),
        layers.Flatten(),
        Doubled(),
        layers.Dense(5, bias_initializer=keras.initializers.Constant(0.25)),
    ])  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> tuple[keras.Model, Path]:
    model, path = network(), tmp_path / "model.keras"
    model.save(path)
    return model, path


def test_the_loaded_model_is_the_saved_one(saved: tuple[keras.Model, Path]) -> None:
    model, path = saved
    loaded = keras_files.load(path)
    assert [w.name for w in loaded.weights] == [w.name for w in model.weights]
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        assert np.array_equal(ours, theirs), ours.path
    assert bytes(octavo.convert(path)) == bytes(octavo.convert(keras.models.load_model(path)))


def test_nothing_random_is_drawn(saved: tuple[keras.Model, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved

    def draw(*_: Any, **__: Any) -> None:
        raise AssertionError("a random initializer ran")

    for name in ("GlorotUniform", "Orthogonal"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", draw)
    with pytest.raises(AssertionError):
        keras.layers.Dense(2).build((1, 3))
    assert keras_files.load(path).count_params() > 0


def test_only_initializers_that_cost_time_are_replaced_and_all_else_is_copied(saved: tuple[keras.Model, Path]) -> None:
    _, path = saved
    with without_initializers(str(path)) as copy, zipfile.ZipFile(copy) as ours, zipfile.ZipFile(path) as theirs:
        assert copy != str(path) and ours.namelist() == theirs.namelist()
        for name in ours.namelist():
            if name != "config.json":
                assert ours.read(name) == theirs.read(name)
        config = json.loads(ours.read("config.json"))
    text = json.dumps(config)
    for name in ("Orthogonal", "RandomNormal", "Zeros", "Ones"):
        assert f'"{name}"' not in text
    assert '"Constant"' in text
    norm = next(layer["config"] for layer in config["config"]["layers"] if layer["class_name"] == "BatchNormalization")
    assert norm["gamma_initializer"]["config"] == {"value": 1.0}
    assert norm["moving_mean_initializer"]["config"] == {"value": 0.0}
    assert not Path(copy).exists()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [None, "float32", "int32", "float16"])
def test_what_stands_in_gives_the_same_numbers(value: float, dtype: str | None) -> None:
    plain = keras.initializers.Ones() if value else keras.initializers.Zeros()
    wanted, got = plain((2, 3), dtype), Filled.from_config(Filled(value).get_config())((2, 3), dtype)
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def test_a_file_without_initializers_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "plain.keras"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.ReLU()]).save(path)
    with without_initializers(str(path)) as copy:
        assert copy == str(path)


def test_a_damaged_file_is_left_for_keras_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "damaged.keras"
    path.write_bytes(b"PK\x03\x04 and no more")
    with without_initializers(str(path)) as copy:
        assert copy == str(path)
    with pytest.raises(octavo.ModelFileError, match=r"damaged\.keras"):
        octavo.convert(path)
