"""Accuracy, size, latency and time against the peers, on the same model and the same samples.

    make bench ARGS="--model model.tflite --data samples.npz"

`samples.npz` holds x (float samples, as the model takes them) and y (labels; may be missing). A seeded permutation
divides it: the first 100 samples calibrate, the others evaluate. ai-edge-quantizer takes the same file;
TFLiteConverter takes no `.tflite` file, so it converts a copy of the network in Keras layers, whose float outputs are
checked first. Peers run in environments of their own, made once under bench/.peers; --peers names a Python that has
them already. The table is printed, and written into docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras_copy
import numpy as np
from common import HERE, environment, run, table, write_section

import octavo
from octavo import numerics
from octavo.model import Model

EDGE, CONVERTER = "ai-edge-quantizer==0.10.0", "tensorflow==2.21.0"
COPIED = 80.0  # decibels at least between the network and its copy in Keras


def main() -> None:
    arguments = parse()
    with np.load(arguments.data) as data:
        x, y = data["x"].astype(np.float32), data.get("y")
    order = np.random.default_rng(arguments.seed).permutation(len(x))
    known, unseen = order[: arguments.calibration], order[arguments.calibration :]
    reference = octavo.load(arguments.model)
    wanted = predict(reference, x[unseen])
    labels = None if y is None else y[unseen]
    rows = [row("float32", reference, 0.0, wanted, wanted, labels, x[unseen])]
    for name, make in variants(reference, arguments, x[known]).items():
        start = time.perf_counter()
        made, seconds = make()
        seconds = seconds or time.perf_counter() - start
        rows.append(row(name, made, seconds, wanted, predict(made, x[unseen]), labels, x[unseen]))
        print(rows[-1], flush=True)
    write(arguments, rows, len(known), len(unseen))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", help="a Python that has ai-edge-quantizer and tensorflow")
    return parser.parse_args()


def variants(
    reference: Model, arguments: argparse.Namespace, samples: np.ndarray
) -> dict[str, Callable[[], tuple[Model, float]]]:
    """Name -> what makes the model, and the seconds that it measured itself (0 if it didn't)."""
    depthwise = octavo.Rule(octavo.integer(), kind="DEPTHWISE_CONV_2D")

    def ours(recipe: octavo.Recipe | octavo.Scheme) -> Callable[[], tuple[Model, float]]:
        return lambda: (octavo.quantize(reference, recipe, samples), 0.0)

    return {
        "ai-edge-quantizer W8A8": lambda: edge(arguments, samples),
        **converters(reference, arguments, samples),
        "octavo W8A8 fast": ours(octavo.integer(effort="fast")),
        "octavo W8A8": ours(octavo.integer()),
        "octavo W8A8 per tensor": ours(octavo.integer(per_channel=False)),
        "octavo W4A8": ours(octavo.integer(weights=4)),
        "octavo W4A8 best": ours(octavo.integer(weights=4, effort="best")),
        "octavo W4A8, depthwise W8": ours(octavo.Recipe(octavo.integer(weights=4), (depthwise,))),
        "octavo W8A16": ours(octavo.integer(activations=16)),
    }


def edge(arguments: argparse.Namespace, samples: np.ndarray) -> tuple[Model, float]:
    """ai-edge-quantizer's static int8, and its seconds."""
    python = arguments.peers or environment("ai-edge-quantizer", (EDGE,))
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "samples.npy"), Path(folder, "peer.tflite")
        np.save(given, samples)
        said = run([python, str(HERE / "ai_edge_quantizer_static.py"), arguments.model, str(given), str(out)]).said
        return octavo.load(out.read_bytes()), float(said)


def converters(
    reference: Model, arguments: argparse.Namespace, samples: np.ndarray
) -> dict[str, Callable[[], tuple[Model, float]]]:
    """The rows of TFLiteConverter, if the network can be copied into Keras."""
    if why := keras_copy.why_not(reference):
        print(f"TFLiteConverter is left out: {why}", flush=True)
        return {}
    check_copy(reference, arguments, samples)
    modes = ("W8A8", "W8A8 per tensor", "W8A16")
    return {
        f"TFLiteConverter {mode}": functools.partial(convert, reference, arguments, samples, mode) for mode in modes
    }


def check_copy(reference: Model, arguments: argparse.Namespace, samples: np.ndarray) -> None:
    """Leave the benchmark if the copy in Keras computes something else."""
    copied, _ = convert(reference, arguments, samples[:1], "float")
    alike = numerics.sqnr_db(*(predict(model, samples[:8]) for model in (reference, copied)))
    if not alike > COPIED:
        sys.exit(f"the copy in Keras is {alike:.1f} dB from the model: that is another network")


def convert(reference: Model, arguments: argparse.Namespace, samples: np.ndarray, mode: str) -> tuple[Model, float]:
    """TFLiteConverter's file from the copy in Keras, and its seconds."""
    python = arguments.peers or environment("tensorflow", (CONVERTER,))
    with tempfile.TemporaryDirectory() as folder:
        copy, given, out = Path(folder, "copy.json"), Path(folder, "samples.npy"), Path(folder, "peer.tflite")
        keras_copy.write(reference, copy)
        np.save(given, samples)
        said = run([python, str(HERE / "tflite_converter.py"), str(copy), str(given), str(out), mode]).said
        return octavo.load(out.read_bytes()), float(said)


def predict(model: Model, x: np.ndarray) -> np.ndarray:
    outputs = octavo.Runner(model).predict(x)
    if isinstance(outputs, dict):
        sys.exit("this benchmark is for models with one output")
    return outputs.reshape(len(x), -1)


def row(
    name: str,
    model: Model,
    seconds: float,
    wanted: np.ndarray,
    got: np.ndarray,
    labels: np.ndarray | None,
    x: np.ndarray,
) -> tuple[str, ...]:
    top1 = "" if labels is None else f"{np.mean(got.argmax(1) == labels):.2%}"
    agreement = np.mean(got.argmax(1) == wanted.argmax(1))
    noise = numerics.sqnr_db(wanted, got)
    return (
        name,
        f"{model.nbytes:,}",
        top1,
        f"{agreement:.2%}",
        "" if got is wanted else f"{noise:.1f}",
        f"{latency(model, x[:1]):.2f}",
        f"{seconds:.1f}" if seconds else "",
    )


def latency(model: Model, x: np.ndarray, runs: int = 100) -> float:
    """Least milliseconds of one sample, one thread: what else the machine does can only add to it."""
    runner = octavo.Runner(model, threads=1)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        runner(x)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def write(arguments: argparse.Namespace, rows: list[tuple[str, ...]], known: int, unseen: int) -> None:
    titles = ("variant", "bytes", "top-1", "agrees with float", "SQNR dB", "ms per sample", "seconds to make")
    about = (
        f"{Path(arguments.model).name}: {known} samples calibrate, {unseen} others evaluate, seed {arguments.seed}; "
        f"peers: {EDGE}; TFLiteConverter of {CONVERTER}, from a copy of the network in Keras. Made by `make bench`."
    )
    write_section("accuracy", f"{about}\n\n{table(titles, rows)}")


if __name__ == "__main__":
    main()
