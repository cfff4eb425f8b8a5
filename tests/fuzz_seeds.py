"""What `tools/fuzz.py` starts from: small valid files of each kind, made here. Content by name, by kind."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import octavo
from octavo import tflite
from octavo.recipe_file import to_dict
from octavo.tflite.metadata import encode
from test_metadata import CLASSES, FULL, network
from test_tflite import rich, runnable

RECIPES = (
    octavo.Recipe(octavo.integer(weights=4, io={"input": "uint8"})),
    octavo.Recipe(octavo.float16(), (octavo.Rule(octavo.keep_float(), kind="ADD"),)),
    octavo.Recipe(octavo.dynamic_range(weights=4, block=32), (octavo.Rule(octavo.float16(), name="a/*"),)),
    octavo.Recipe(octavo.weight_only()),
)


def models() -> dict[str, bytes]:
    described = octavo.write_metadata(network(), name="pets", labels=CLASSES, mean=127.5, std=127.5)
    x = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
    return {
        "rich": tflite.write(rich()),
        "runnable": tflite.write(runnable()),
        "described": bytes(described),
        "integer": bytes(octavo.quantize(network(), octavo.integer(effort="fast"), x)),
        "outside": tflite.write(runnable(), external_threshold=0),  # as in files of more than 2 GiB
    }


def records() -> dict[str, bytes]:
    return {"full": encode(FULL), "small": encode({"name": "m", "subgraph_metadata": [{"name": "main"}]})}


def recipes() -> dict[str, bytes]:
    return {f"recipe {n}": json.dumps(to_dict(recipe)).encode() for n, recipe in enumerate(RECIPES)}


def archives() -> dict[str, bytes]:
    x, y = np.arange(48, dtype=np.float32).reshape(4, 3, 4), np.arange(4)
    made = {}
    for name, save in (("plain", np.savez), ("deflated", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, x=x, y=y, Images=np.asfortranarray(x[:, 0]), other=x.astype(np.uint8))
        made[name] = stream.getvalue()
    return made


def keras_files() -> dict[str, bytes]:
    """Built with Keras, which is imported here only."""
    from octavo.frontends.keras import import_keras

    keras = import_keras()
    layers: Any = keras.layers
    dense = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)])
    images = layers.Input((6, 6, 1))
    y = layers.DepthwiseConv2D(2)(layers.Conv2D(2, 3, kernel_initializer="he_normal")(images))
    branched = keras.Model(images, layers.Concatenate()([y, layers.ReLU(max_value=6)(y)]))
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("dense", dense), ("branched", branched)):
            path = Path(folder) / f"{name}.keras"
            model.save(path)
            made[name] = path.read_bytes()
    return made
