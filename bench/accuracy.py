"""Accuracy, size, latency and time against the peers, on the same model and the same samples.

    make bench                                                  # MNIST, from nothing (mnist.py)
    make bench ARGS="--model model.tflite --data samples.npz"

`samples.npz` holds x (float samples, as the model takes them) and y (labels; may be missing). A seeded permutation
divides it: the first 100 samples calibrate, the others evaluate. ai-edge-quantizer takes the same file; the others take
no `.tflite` file, so TFLiteConverter and Sony MCT get a copy of the network in Keras layers and onnx2tf one in ONNX,
and what each makes of it in float is compared with the model first. Peers run in environments of their own, made once
under bench/.peers. The table is printed, and written into docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mnist
import numpy as np
from common import write_section
from judge import Judge
from peers import CONVERTER, EDGE, MCT, ONNX2TF, releases

import octavo

# The peers, and their modes that have a row.
PEERS = {
    EDGE: ("W8A8",),
    CONVERTER: ("W8A8", "W8A8 per tensor", "W8A16"),
    ONNX2TF: ("W8A8",),
    MCT: ("W8A8",),
}


def main() -> None:
    arguments = parse()
    if arguments.model is None:
        mnist.main()
        return
    with np.load(arguments.data) as data:
        x, y = data["x"].astype(np.float32), data.get("y")
    order = np.random.default_rng(arguments.seed).permutation(len(x))
    known, unseen = order[: arguments.calibration], order[arguments.calibration :]
    reference = octavo.load(arguments.model)
    judge = Judge(reference, x[unseen], None if y is None else y[unseen])
    judge.take("float32", bytes(reference))
    for peer, modes in PEERS.items():
        judge.take_peer(peer, {"x": x[known]}, modes)
    for name, recipe in recipes().items():
        judge.take_ours(name, recipe, x[known])
    about = (
        f"{Path(arguments.model).name}: {len(known)} samples calibrate, {len(unseen)} others evaluate, seed "
        f"{arguments.seed}. Peers: {releases(PEERS)}, from a copy of the network in Keras or ONNX where they take no "
        "`.tflite` file. onnx2tf's seconds are for all kinds of files, which it writes at once. Made by `make bench` "
        "with a model and its data."
    )
    write_section("accuracy", f"{about}\n\n{judge.table()}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a float .tflite file; without it and --data, the demo's MNIST model")
    parser.add_argument("--data", help="its samples, .npz")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.data is None):
        parser.error("--model and --data go together")
    return arguments


def recipes() -> dict[str, octavo.Recipe | octavo.Scheme]:
    """What octavo makes of the model: name -> recipe."""
    depthwise = octavo.Rule(octavo.integer(), kind="DEPTHWISE_CONV_2D")
    return {
        "W8A8 fast": octavo.integer(effort="fast"),
        "W8A8": octavo.integer(),
        "W8A8 per tensor": octavo.integer(per_channel=False),
        "W4A8": octavo.integer(weights=4),
        "W4A8 best": octavo.integer(weights=4, effort="best"),
        "W4A8, depthwise W8": octavo.Recipe(octavo.integer(weights=4), (depthwise,)),
        "W8A16": octavo.integer(activations=16),
    }


if __name__ == "__main__":
    main()
