"""Accuracy, size, latency and time against ai-edge-quantizer, on the same model and the same samples.

    make bench ARGS="--model model.tflite --data samples.npz"

`samples.npz` holds x (float samples, as the model takes them) and y (labels; may be missing). A seeded permutation
divides it: the first 100 samples calibrate, the others evaluate. The peer runs in an environment of its own, made once
under bench/.peers; --peers names a Python that has it already. The table is printed, and written into
docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np

import octavo
from octavo import numerics
from octavo.model import Model

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- accuracy -->", "<!-- /accuracy -->"
PEER = "ai-edge-quantizer==0.10.0"


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
    parser.add_argument("--peers", help="a Python that has ai-edge-quantizer")
    return parser.parse_args()


def variants(
    reference: Model, arguments: argparse.Namespace, samples: np.ndarray
) -> dict[str, Callable[[], tuple[Model, float]]]:
    """Name -> what makes the model, and the seconds that it measured itself (0 if it didn't)."""
    depthwise = octavo.Rule(octavo.integer(), kind="DEPTHWISE_CONV_2D")

    def ours(recipe: octavo.Recipe | octavo.Scheme) -> Callable[[], tuple[Model, float]]:
        return lambda: (octavo.quantize(reference, recipe, samples), 0.0)

    return {
        "ai-edge-quantizer W8A8": lambda: peer(arguments, samples),
        "octavo W8A8 fast": ours(octavo.integer(effort="fast")),
        "octavo W8A8": ours(octavo.integer()),
        "octavo W8A8 per tensor": ours(octavo.integer(per_channel=False)),
        "octavo W4A8": ours(octavo.integer(weights=4)),
        "octavo W4A8, depthwise W8": ours(octavo.Recipe(octavo.integer(weights=4), (depthwise,))),
        "octavo W8A16": ours(octavo.integer(activations=16)),
    }


def peer(arguments: argparse.Namespace, samples: np.ndarray) -> tuple[Model, float]:
    python = arguments.peers or str(environment())
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "samples.npy"), Path(folder, "peer.tflite")
        np.save(given, samples)
        command = [python, str(HERE / "ai_edge_quantizer_static.py"), arguments.model, str(given), str(out)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"the peer failed: {run.stderr.strip().splitlines()[-1]}")
        return octavo.load(out.read_bytes()), float(run.stdout.split()[-1])


def environment() -> Path:
    """The peers' Python; installs it the first time."""
    folder = HERE / ".peers"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


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
    lines = ["| " + " | ".join(cells) + " |" for cells in (titles, ("---",) * len(titles), *rows)]
    about = (
        f"{Path(arguments.model).name}: {known} samples calibrate, {unseen} others evaluate, seed {arguments.seed}; "
        f"peer: {PEER}. Made by `make bench`."
    )
    table = "\n".join([BEGIN, about, "", *lines, END])
    page = PAGE.read_text() if PAGE.exists() else f"# Benchmarks\n\n{BEGIN}{END}\n"
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + table + rest.partition(END)[2])
    print(table)


if __name__ == "__main__":
    main()
