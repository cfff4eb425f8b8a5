"""Time and memory of whole processes against TFLiteConverter and ai-edge-quantizer, on networks of keras.applications.

    make bench-speed

Each network gets random weights, from a fixed seed: time doesn't depend on what they are. octavo and the peer take
turns, `--rounds` times each; the ratio is the median of the pairs'. What both wrote then runs on the same LiteRT in
turns. The tables are printed, and written into docs/benchmarks.md between their markers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, PACKAGES, Process, environment, run, table, write_section

import octavo
from octavo.runtime.latency import measure

NETWORKS = ("MobileNetV2", "EfficientNetB0", "ResNet50")
SAMPLES = 20
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}

TFLITE = """
import sys, time
start = time.perf_counter()
import keras, numpy as np, tensorflow as tf
imported = time.perf_counter()
model, samples, out = sys.argv[1:]
x = np.load(samples)["x"]
converter = tf.lite.TFLiteConverter.from_keras_model(keras.models.load_model(model, compile=False))
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([row[None]] for row in x)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
open(out, "wb").write(converter.convert())
print(time.perf_counter() - imported)
"""
OCTAVO = """
import sys, time
import numpy as np, octavo, octavo.api
model, samples, out, effort = sys.argv[1:]
x = np.load(samples)
start = time.perf_counter()
octavo.quantize(model, octavo.integer(effort=effort), x).save(out)
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", help="a Python that has " + ", ".join(PACKAGES["speed"]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--prepare", nargs=2, metavar=("NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.prepare[0], Path(arguments.prepare[1]))
        return
    peers = arguments.peers or environment("speed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In processes of their own: the peak memory of a child counts what its parent held when it was started.
        for network in arguments.networks:
            run([sys.executable, __file__, "--prepare", network, name])
        keras_rows = [from_keras(network, folder, peers, arguments.rounds) for network in arguments.networks]
        tflite_rows = [row for n in arguments.networks for row in from_tflite(n, folder, peers, arguments.rounds)]
        latency_rows = [latency(network, folder) for network in arguments.networks]
    write(arguments.rounds, keras_rows, tflite_rows, latency_rows)


def prepare(network: str, folder: Path) -> None:
    """NETWORK.keras, NETWORK.tflite, and the samples in both of NumPy's formats."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, network)(weights=None)
    model.save(folder / f"{network}.keras")
    octavo.convert(model).save(folder / f"{network}.tflite")
    x = np.random.default_rng(0).normal(size=(SAMPLES, *model.input_shape[1:])).astype(np.float32)
    np.savez(folder / "samples.npz", x=x)
    np.save(folder / "samples.npy", x)


def from_keras(network: str, folder: Path, peers: str, rounds: int) -> list[str]:
    """A .keras file to an int8 .tflite file: octavo's command line, fast and balanced, and TFLiteConverter."""
    source, samples = str(folder / f"{network}.keras"), str(folder / "samples.npz")
    command = [sys.executable, "-m", "octavo", "quantize", source, "--to", "integer", "--data", samples, "--force"]
    command += ["--samples", str(SAMPLES)]
    found: dict[str, list[Process]] = {"fast": [], "balanced": [], "peer": []}
    for _ in range(rounds):
        for effort in ("fast", "balanced"):
            out = str(folder / f"{network}-{effort}.tflite")
            found[effort].append(run([*command, "--effort", effort, "-o", out], {"KERAS_BACKEND": "jax"}))
        found["peer"].append(run([peers, "-c", TFLITE, source, samples, str(folder / f"{network}-tf.tflite")], QUIET))
    return [network, *(cell for effort in ("fast", "balanced") for cell in against(found[effort], found["peer"])),
            f"{seconds(found['peer']):.1f}", f"{memory(found['peer']):,.0f}"]  # fmt: skip


def against(ours: list[Process], theirs: list[Process]) -> list[str]:
    """Seconds, how many times faster (median of the pairs), MB, and their share of the peer's."""
    ratio = statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))
    share = memory(ours) / memory(theirs)
    return [f"{seconds(ours):.1f}", f"{ratio:.1f}", f"{memory(ours):,.0f} ({share:.0%})"]


def seconds(processes: list[Process]) -> float:
    return statistics.median(process.seconds for process in processes)


def memory(processes: list[Process]) -> float:
    return statistics.median(process.megabytes for process in processes)


def from_tflite(network: str, folder: Path, peers: str, rounds: int) -> list[list[str]]:
    """A float .tflite file to an int8 one; seconds after all imports, as each process measures them itself."""
    source = str(folder / f"{network}.tflite")
    found: dict[str, list[Process]] = {"fast": [], "balanced": [], "peer": []}
    for _ in range(rounds):
        for effort in ("fast", "balanced"):
            out = str(folder / f"{network}-{effort}-direct.tflite")
            found[effort].append(run([sys.executable, "-c", OCTAVO, source, str(folder / "samples.npy"), out, effort]))
        out = folder / f"{network}-edge"
        out.mkdir(exist_ok=True)
        script = str(HERE / "ai_edge_quantizer_recipes.py")
        found["peer"].append(run([peers, script, source, str(folder / "samples.npz"), str(out), "W8A8"], QUIET))
    told = {name: [float(process.said) for process in found[name]] for name in ("fast", "balanced")}
    told["peer"] = [json.loads(process.said)["W8A8"] for process in found["peer"]]
    lines = []
    for effort in ("fast", "balanced"):
        pairs = zip(told[effort], told["peer"], strict=True)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        cells = (f"{statistics.median(told[effort]):.1f}", f"{statistics.median(told['peer']):.1f}", f"{ratio:.2f}")
        share = f"{memory(found[effort]):,.0f} ({memory(found[effort]) / memory(found['peer']):.0%})"
        lines.append([f"{network}, {effort}", *cells, share])
    return lines


def latency(network: str, folder: Path) -> list[str]:
    """Milliseconds of one image on XNNPACK, the files in turns."""
    files = {name: folder / f"{network}-{name}.tflite" for name in ("balanced", "tf")}
    files["edge"] = folder / f"{network}-edge" / "W8A8.tflite"
    found = measure(files)
    ours = found["balanced"].median
    cells = [f"{found[name].median:.2f}" for name in files]
    return [network, *cells, *(f"{ours / found[name].median:.2f}" for name in ("tf", "edge"))]


def write(rounds: int, of_keras: list[list[str]], of_tflite: list[list[str]], latencies: list[list[str]]) -> None:
    about = f"{SAMPLES} samples, {rounds} rounds in turns. Made by `make bench-speed`; {', '.join(PACKAGES['speed'])}."
    ours = (f"{effort} {what}" for effort in ("fast", "balanced") for what in ("s", "times faster", "MB"))
    found = table(("whole process", *ours, "TFLiteConverter s", "MB"), of_keras)
    write_section("speed keras", f"From a `.keras` file to an int8 `.tflite` file. {about}\n\n{found}")
    found = table(("after imports", "octavo s", "ai-edge-quantizer s", "times faster", "peak MB"), of_tflite)
    write_section("speed tflite", f"From a float `.tflite` file. {about}\n\n{found}")
    about = "What they wrote, on XNNPACK in turns; a ratio below 1 says that octavo's file is faster."
    found = table(("ms per image", "octavo", "TFLiteConverter", "ai-edge-quantizer", "ratio", "ratio"), latencies)
    write_section("speed latency", f"{about} Made by `make bench-speed`.\n\n{found}")


if __name__ == "__main__":
    main()
