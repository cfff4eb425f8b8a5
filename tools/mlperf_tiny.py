"""Bundle the four models of MLPerf Tiny for microcontrollers, one command each, and write the table of the docs.

    python tools/mlperf_tiny.py FOLDER [--data FOLDER] [--out docs/microcontrollers.md]

FOLDER holds the float models of https://github.com/mlcommons/tiny (benchmark/training). They are told apart by what is
in their names: resnet, vww, kws, ad01. --data holds samples as .npz, named as the models; without them random numbers
take their place, which bytes and arena don't depend on, and parity hardly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import octavo

BEGIN, END = "<!-- table:mlperf-tiny -->", "<!-- end -->"
SAMPLES = 100


@dataclass(frozen=True)
class Benchmark:
    """One of the four.

    Attributes:
      title: what it is.
      key: part of the file's name.
      low: lowest value of random samples.
      high: highest.
      official: bytes of the int8 file that MLPerf Tiny publishes.
    """

    title: str
    key: str
    low: float
    high: float
    official: int


BENCHMARKS = (
    Benchmark("image classification (ResNet8)", "resnet", 0, 255, 98_496),
    Benchmark("visual wake words (MobileNetV1)", "vww", 0, 1, 333_288),
    Benchmark("keyword spotting (DS-CNN)", "kws", -120, 30, 53_936),
    Benchmark("anomaly detection (autoencoder)", "ad01", -60, 40, 276_976),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, metavar="FOLDER")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="write the table between the marks of this page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(mark, arguments.models, arguments.data, Path(folder)) for mark in BENCHMARKS]
    kind = "samples" if arguments.data else f"random samples (octavo {octavo.__version__})"
    text = table(rows, kind)
    print(text)
    if arguments.out:
        page = arguments.out.read_text("utf-8")
        if BEGIN not in page:
            sys.exit(f"{arguments.out} has no {BEGIN}")
        head, _, rest = page.partition(BEGIN)
        arguments.out.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


def measured(mark: Benchmark, models: Path, data: Path | None, folder: Path) -> dict[str, object]:
    found = sorted(path for path in models.glob("*.tflite") if mark.key in path.name.lower())
    if len(found) != 1:
        sys.exit(f"{models} has {len(found)} .tflite files with {mark.key!r} in their name; it takes one")
    model = found[0]
    samples = folder / f"{mark.key}.npz" if data is None else data / f"{model.stem}.npz"
    if data is None:
        port = octavo.Runner(model).inputs[0]
        values = np.random.default_rng(0).uniform(mark.low, mark.high, (SAMPLES, *port.shape[1:]))
        np.savez(samples, x=values.astype(np.float32))
    out = folder / mark.key
    told = command("bundle", str(model), "-o", str(out), "--data", str(samples))
    npu = command("check", str(out / "model.tflite"), "--target", "ethosu55", "--run")["run"]
    return {"title": mark.title, "official": mark.official, "float": model.stat().st_size, "bundle": told, "npu": npu}


def command(*arguments: str) -> dict:
    """What an octavo command prints as JSON."""
    words = [sys.executable, "-m", "octavo", *arguments, "--json"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"octavo {' '.join(arguments)}: {run.stderr.strip().splitlines()[-1] if run.stderr else run.stdout}")
    return json.loads(run.stdout)


def table(rows: list[dict], kind: str) -> str:
    head = (
        "| | float file | official int8 | octavo int8 | arena | TFLM differs on | by at most | Ethos-U55-128 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    )
    lines = []
    for row in rows:
        bundle, npu = row["bundle"], row["npu"]
        run = bundle["run"]
        steps = f"{run['steps']:.0f} step{'' if run['steps'] == 1 else 's'}"
        lines.append(
            f"| {row['title']} | {row['float']:,} | {row['official']:,} | {bundle['model_bytes']:,} "
            f"| {bundle['arena_measured']:,} | {100 * run['differing']:.3g} % | {steps} "
            f"| {npu['milliseconds']:.3g} ms, {100 * npu['npu_share']:.0f} % |"
        )
    about = f"Made by `python tools/mlperf_tiny.py FOLDER`, with {SAMPLES} {kind}."
    return "\n".join([about, "", *head, *lines])


if __name__ == "__main__":
    main()
