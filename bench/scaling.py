"""How time and memory grow with the size of the model, up to gigabytes, and the number of samples and of workers.

    make bench-scaling

Each point is a process of its own on a generated model; its memory, that of its workers included, is looked at ten
times a second (PSS, so that shared pages count once; Linux only). Seconds are those of the work, with starting workers
but without starting Python; CPU seconds are those of all processes together, and vary less when the machine has other
work. The tables and plots go to docs/scaling.md and beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import table, write_section

import octavo
from octavo import tflite
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "scaling.md"
SIZE = 64  # pixels of an image
MEGABYTE = 1e6
LARGE = Path(__file__).parent.parent / "tools" / "large_model.py"
AXES = {
    "size": "MB of the float model",
    "samples": "samples",
    "workers": "local processes",
    "large": "GB of the float model",
}


@dataclass(frozen=True)
class Point:
    """One measurement: where it stands, how long it took, on all cores together too, and its memory at most."""

    x: float
    seconds: float
    cpu: float
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small points, and nothing is written")
    parser.add_argument("--only", choices=tuple(AXES), help="one question instead of all")
    parser.add_argument("--child", nargs=4, metavar=("WORK", "MODEL", "DATA", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work, model, data, workers = arguments.child
        print(json.dumps(timed(work, model, data, int(workers))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = arguments.quick
        questions: dict[str, Callable[[], Curves]] = {
            "size": lambda: by_size(folder, [8, 16] if few else [16, 32, 48, 64]),
            "samples": lambda: by_samples(folder, [64, 128] if few else [200, 400, 800, 1600]),
            "workers": lambda: by_workers(folder, [1, 2] if few else [1, 2, 4], 128 if few else 3200),
            "large": lambda: by_gigabytes(folder, [0.1, 0.2] if few else [0.5, 1, 2, 3]),
        }
        found = {name: ask() for name, ask in questions.items() if arguments.only in (None, name)}
    for name, curves in found.items():
        print(name, curves)
        if not arguments.quick:
            write(name, curves)


# ---------------------------------------------------------------- the questions

Curves = Mapping[str, Sequence[Point]]


def by_size(folder: Path, widths: Sequence[int]) -> Curves:
    """Megabytes of the float model; 20 samples calibrate."""
    data = shards(folder, 20)
    works = ("float16", "dynamic range", "integer, fast", "integer")
    curves: dict[str, list[Point]] = {work: [] for work in works}
    for width in widths:
        path = network(folder / f"{width}.tflite", width)
        for work, points in curves.items():
            points.append(measured(path.stat().st_size / MEGABYTE, work, path, data))
    return curves


def by_samples(folder: Path, counts: Sequence[int]) -> Curves:
    """Samples, in shards of 250, in one process."""
    path = network(folder / "samples.tflite", 24)
    works = ("integer, fast", "evaluate")  # with more effort there is a fixed cost on top
    curves: dict[str, list[Point]] = {work: [] for work in works}
    for count in counts:
        data = shards(folder, count)
        for work, points in curves.items():
            points.append(measured(count, work, path, data, 1))
    return curves


def by_workers(folder: Path, counts: Sequence[int], samples: int) -> Curves:
    """Local processes that share the samples."""
    path = network(folder / "workers.tflite", 24)
    data = shards(folder, samples)
    return {work: [measured(count, work, path, data, count) for count in counts] for work in ("integer, fast",)}


def by_gigabytes(folder: Path, sizes: Sequence[float]) -> Curves:
    """Gigabytes of a transformer-like model whose weights are read from disk as they are needed, and a plain copy."""
    works = ("float16", "dynamic range", "weight-only", "copy")
    curves: dict[str, list[Point]] = {work: [] for work in works}
    for size in sizes:
        path = folder / "large.tflite"
        subprocess.run([sys.executable, str(LARGE), str(path), "--gigabytes", str(size)], check=True)
        for work, points in curves.items():
            points.append(measured(path.stat().st_size / 1e9, work, path, ""))
        path.unlink()
    return curves


# ---------------------------------------------------------------- a point


def timed(work: str, model: str, data: str, workers: int) -> tuple[float, float]:
    """Seconds and CPU seconds of a piece of work; `workers` 0 leaves the number of processes to octavo."""
    import joblib

    schemes: dict[str, Callable[[], octavo.Scheme]] = {
        "float16": octavo.float16,
        "dynamic range": octavo.dynamic_range,
        "weight-only": octavo.weight_only,
        "integer, fast": lambda: octavo.integer(effort="fast"),
        "integer": octavo.integer,
    }
    found = octavo.shards(data) if data else None
    small = Path(model).with_suffix(".small")
    start, before = time.perf_counter(), sum(map(cpu_seconds, family(os.getpid())))
    with joblib.parallel_config(n_jobs=workers or None):
        if work == "evaluate":
            octavo.evaluate(model, found, threads=1)
        elif work == "copy":
            copy(Path(model), small)
        else:
            scheme = schemes[work]()
            calibration = found if scheme.kind == "integer" else None
            octavo.quantize(model, scheme, calibration).save(small, overwrite=True)
    return time.perf_counter() - start, sum(map(cpu_seconds, family(os.getpid()))) - before


def copy(source: Path, target: Path) -> None:
    """Read all and write all, to the disk itself."""
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 22)
        written.flush()
        os.fsync(written.fileno())


def measured(x: float, work: str, model: Path, data: str, workers: int = 0) -> Point:
    """A point in a process of its own."""
    command = [sys.executable, __file__, "--child", work, str(model), data, str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = 0.0
    while process.poll() is None:
        most = max(most, sum(map(megabytes, family(process.pid))))
        time.sleep(0.1)
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{work} on {model.name} failed: {(err.strip().splitlines() or ['no message'])[-1]}")
    point = Point(x, *json.loads(out.splitlines()[-1]), most)
    print(f"{work}, {x:g}: {point.seconds:.1f} s, CPU {point.cpu:.1f} s, {point.megabytes:.0f} MB", flush=True)
    return point


def family(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return
    for child in children:
        yield from family(int(child))


def cpu_seconds(process: int) -> float:
    """What a process has had of the cores, proc(5): fields 14 and 15 of its stat."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(process: int) -> float:
    """Memory of a process, its part of what is shared."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / MEGABYTE


# ---------------------------------------------------------------- models and data


def network(path: Path, width: int) -> Path:
    """Twelve residual blocks of 3x3 convolutions of `width`, 2 * width and 4 * width channels, and ten classes."""
    rng, graph = np.random.default_rng(0), Graph("main")
    x = graph.add_tensor(Tensor("image", DType.FLOAT32, (1, SIZE, SIZE, 3)))
    graph.inputs.append(x)

    def op(code: str, inputs: list[Tensor], shape: tuple[int, ...], kind: str, **options: int) -> Tensor:
        made = graph.add_tensor(Tensor(f"{code}{len(graph.ops)}", DType.FLOAT32, shape))
        graph.ops.append(Op(code, list(inputs), [made], options, kind))
        return made

    def constant(*shape: int) -> Tensor:
        tensor = graph.add_tensor(Tensor(f"constant{len(graph.tensors)}", DType.FLOAT32, shape))
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1e4
        tensor.set_values((rng.normal(size=shape) * (2 / fan) ** 0.5).astype(np.float32))
        return tensor

    def conv(x: Tensor, channels: int, stride: int = 1, act: int = 1) -> Tensor:
        operands = [x, constant(channels, 3, 3, x.shape[3]), constant(channels)]
        shape = (1, x.shape[1] // stride, x.shape[2] // stride, channels)
        options = {"padding": 0, "strideW": stride, "strideH": stride, "fusedActivationFunction": act}
        return op("CONV_2D", operands, shape, "Conv2DOptions", **options)

    for channels in (width, 2 * width, 4 * width):
        x = conv(x, channels, 2)
        for _ in range(2):
            inner = conv(conv(x, channels), channels, act=0)
            x = op("ADD", [x, inner], x.shape, "AddOptions", fusedActivationFunction=1)
    axes = graph.add_tensor(Tensor("axes", DType.INT32, (2,)))
    axes.set_values(np.array([1, 2], np.int32))
    mean = op("MEAN", [x, axes], (1, x.shape[3]), "ReducerOptions")
    scores = op("FULLY_CONNECTED", [mean, constant(10, mean.shape[1]), constant(10)], (1, 10), "FullyConnectedOptions")
    graph.outputs = [scores]
    signature = Signature("serving_default", [("image", graph.inputs[0])], [("scores", scores)], graph)
    path.write_bytes(tflite.write(Program([graph], [signature])))
    return path


def shards(folder: Path, count: int, each: int = 250) -> str:
    """Random images and labels in .npz files; gives their pattern."""
    place = folder / f"data-{count}"
    place.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, count, each)):
        rows = min(each, count - start)
        images = rng.uniform(0, 1, (rows, SIZE, SIZE, 3)).astype(np.float32)
        np.savez(place / f"{number:03}.npz", x=images, y=rng.integers(0, 10, rows))
    return str(place / "*.npz")


# ---------------------------------------------------------------- the page


def write(name: str, curves: Curves) -> None:
    """A table between markers of docs/scaling.md, and docs/scaling-NAME.svg."""
    titles = [AXES[name], *(f"{work}: {what}" for work in curves for what in ("s", "CPU s", "MB"))]
    rows = [
        [f"{points[0].x:,.4g}", *(f"{value:.{digits}f}" for p in points for value, digits in told(p))]
        for points in zip(*curves.values(), strict=True)
    ]
    write_section(name, table(titles, rows), PAGE)
    plot(name, curves)


def told(point: Point) -> list[tuple[float, int]]:
    """(value, digits behind the point) of a table's columns."""
    return [(point.seconds, 1), (point.cpu, 1), (point.megabytes, 0)]


def plot(name: str, curves: Curves) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "octavo", "svg.fonttype": "none", "font.size": 9})
    titles = {"seconds": "seconds", "cpu": "CPU seconds", "megabytes": "MB, at most"}
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, what in zip(axes, titles, strict=True):
        for work, points in curves.items():
            axis.plot([p.x for p in points], [getattr(p, what) for p in points], marker="o", label=work)
        axis.set(xlabel=AXES[name], ylabel=titles[what], ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(DOCS / f"scaling-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
