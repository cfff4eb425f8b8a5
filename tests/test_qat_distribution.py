"""Quantization-aware training in `keras.distribution`, unchanged: on four CPU devices, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo

DEVICES = 4


def distributions() -> dict[str, Any]:
    import keras

    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layout = keras.distribution.LayoutMap(mesh)
    layout["conv.*kernel"] = (None, None, None, "model")
    layout["dense.*kernel"] = (None, "model")
    layout["dense.*bias"] = ("model",)
    return {
        "alone": None,
        "data": keras.distribution.DataParallel(),
        "model": keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"),
    }


def train(distribution: Any) -> dict[str, Any]:
    """Train an aware model, make the file, and tell how it went."""
    import keras

    keras.utils.clear_session()  # which forgets the distribution too
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 6, 6, 3)).astype("float32"), rng.integers(0, 4, 128)
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(4, name="dense"),
    ]
    aware = octavo.qat.quantize_model(keras.Sequential([keras.Input((6, 6, 3)), *layers]))
    aware.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = aware.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
    shards = {v.path: len({str(s.index) for s in v.value.addressable_shards}) for v in aware.trainable_variables}
    ranges = [layer.bounds() for layer in aware.layers if isinstance(layer, octavo.qat.FakeQuant)]
    small = octavo.quantize(octavo.convert(aware), octavo.integer(fallback=False, io="uint8"))
    return {
        "loss": history.history["loss"],
        "devices": max(len(v.value.sharding.device_set) for v in aware.variables),
        "cut": sorted(path for path, count in shards.items() if count > 1),
        "ranges": ranges,
        "parity": octavo.qat.parity(aware, small, x[:16]).holds,
        "bytes": small.nbytes,
    }


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": str(Path(octavo.__file__).parent.parent),
    }
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_training_was_distributed(told):
    assert (told["alone"]["devices"], told["data"]["devices"], told["model"]["devices"]) == (1, DEVICES, DEVICES)
    assert told["alone"]["cut"] == told["data"]["cut"] == []
    assert [path.rsplit("/", 2)[1:] for path in told["model"]["cut"]] == [
        ["conv", "kernel"],
        ["dense", "bias"],
        ["dense", "kernel"],
    ]


@pytest.mark.parametrize("name", ["data", "model"])
def test_it_learns_the_same(told, name):
    alone, other = told["alone"], told[name]
    np.testing.assert_allclose(other["loss"], alone["loss"], rtol=1e-3)
    np.testing.assert_allclose(other["ranges"], alone["ranges"], rtol=1e-2, atol=1e-3)
    assert alone["loss"][-1] < alone["loss"][0]


@pytest.mark.parametrize("name", ["alone", "data", "model"])
def test_the_file_computes_what_was_trained(told, name):
    assert told[name]["parity"] is True
    assert told[name]["bytes"] == told["alone"]["bytes"]


if __name__ == "__main__":
    print(json.dumps({name: train(distribution) for name, distribution in distributions().items()}))
