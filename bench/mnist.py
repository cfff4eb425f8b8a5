"""The demo's MNIST model, quantized each way by octavo and by every peer: what `make bench` does by itself.

Trains the model of `make demo` (seed 0), gives the demo's 100 images to whatever calibrates, and evaluates each file on
the 10,000 test images. Quantization-aware training, octavo's and tfmot's, is the demo's: one epoch on 1,000 images.
Needs nothing that isn't in the repository or on PyPI.
"""

from __future__ import annotations

import os
import time

import numpy as np
from common import write_section
from judge import Judge
from peers import CONVERTER, EDGE, MCT, ONNX2TF, TFMOT, releases

import octavo
from octavo import demo
from octavo.datasets import mnist

SEED = 0
UINT8 = "W8A8, uint8 in and out"
AWARE = "aware training, uint8 in and out"
# The peers, and their modes that have a row.
PEERS = {
    CONVERTER: ("float32", "float16", "dynamic range", "W8A8", UINT8),
    EDGE: ("dynamic range", "W8A8"),
    ONNX2TF: ("float32", "float16", "dynamic range", "W8A8", "W8A8, int8 in and out"),
    MCT: ("W8A8", "W8A8 for IMX500"),
    TFMOT: (AWARE,),
}


def main() -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    images = mnist.load(None)
    trained = demo.train(images, SEED)
    model = octavo.convert(trained)
    chosen = np.random.default_rng(SEED).choice(len(images.x_train), demo.REPRESENTATIVE, replace=False)
    samples = demo.scaled(images.x_train[chosen])
    judge = Judge(model, demo.scaled(images.x_test), images.y_test, decimals=4)
    judge.take("octavo float32", bytes(model))
    judge.take_ours("float16", octavo.float16())
    judge.take_ours("dynamic range", octavo.dynamic_range())
    judge.take_ours("W8A8", octavo.integer(), samples)
    judge.take_ours(UINT8, octavo.integer(fallback=False, io="uint8"), samples)
    start = time.perf_counter()
    aware = octavo.convert(demo.qat_variant(trained, images, SEED))
    made = bytes(octavo.quantize(aware, octavo.integer(fallback=False, io="uint8")))
    judge.take(f"octavo {AWARE}", made, time.perf_counter() - start)
    some = {
        "x": samples,
        "train_x": demo.scaled(images.x_train[: demo.QAT_IMAGES]),
        "train_y": images.y_train[: demo.QAT_IMAGES],
        "batch": np.array(demo.QAT_BATCH),
    }
    for peer, modes in PEERS.items():
        judge.take_peer(peer, some, modes)
    write(judge)


def write(judge: Judge) -> None:
    about = (
        f"The demo's MNIST model (seed {SEED}): {demo.REPRESENTATIVE} images calibrate, {len(judge.x):,} others "
        f"evaluate. Peers: {releases(PEERS)}. ai-edge-quantizer starts from octavo's float32 file and gives its W8A8 "
        "file int8 inputs and outputs, the others start from a copy of the network in Keras or ONNX. onnx2tf's seconds "
        f"are for all its files, which it writes at once; aware training includes an epoch on {demo.QAT_IMAGES:,} "
        "images. Made by `make bench`."
    )
    write_section("mnist", f"{about}\n\n{judge.table()}")


if __name__ == "__main__":
    main()
