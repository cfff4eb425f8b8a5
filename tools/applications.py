"""Train every model of keras.applications with the device's rounding, convert and run it, and write down how it went.

    python tools/applications.py                          # the smallest of each family
    python tools/applications.py --all --out docs/qat.md  # all of them, into the marked part of a page
    python tools/applications.py --only ResNet50 VGG16

Weights are random and the images noise of the smallest size that each model takes: this shows that a model builds,
calibrates, trains a step, converts and runs as integers, not how accurate it is. Each model has a process of its own
and a time limit, so that one that fails costs one row.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

# The smallest of each family: the others differ from it in depth and width.
FAMILIES = (
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "ResNet50", "ResNet50V2",
    "DenseNet121", "InceptionV3", "InceptionResNetV2", "Xception", "VGG16", "NASNetMobile", "ConvNeXtTiny",
)  # fmt: skip
# The others take 32. ConvNeXt does too, but there its last maps are one pixel, and litert-converter 0.5 fails at a
# Dense layer on those ("'tfl.batch_matmul' op found invalid output rank, expected 3 but got 4").
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71, "ConvNeXtTiny": 64}
SIZES |= {f"ConvNeXt{size}": 64 for size in ("Small", "Base", "Large", "XLarge")}
CLASSES, IMAGES = 10, 2
BEGIN, END = "<!-- applications -->", "<!-- /applications -->"
HEADER = "| model | size | ops | integer | in float | seconds |\n| --- | --- | --- | --- | --- | --- |"


def names() -> list[str]:
    """All models of keras.applications, the smallest of each family first."""
    import keras

    found = [name for name, value in vars(keras.applications).items() if name[0].isupper() and callable(value)]
    return [*FAMILIES, *sorted(set(found) - set(FAMILIES))]


def try_model(name: str) -> dict[str, Any]:
    """What became of one model; the stage that fails is in the error."""
    import keras
    import numpy as np

    import octavo

    size = SIZES.get(name, 32)
    start = time.perf_counter()
    stage = "build"
    try:
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=CLASSES)
        x = np.random.default_rng(0).uniform(0, 255, (IMAGES, size, size, 3)).astype(np.float32)
        stage = "quantize_model"
        aware = octavo.qat.quantize_model(model, samples=x)
        stage = "train"
        # The last maps of so small an image are one pixel, and batch statistics of two values make gradients explode.
        aware.compile(keras.optimizers.SGD(0.01, global_clipnorm=1.0), "sparse_categorical_crossentropy")
        loss = float(aware.train_on_batch(x, np.arange(IMAGES)))
        if not np.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss}")
        stage = "convert"
        converted = octavo.convert(aware)
        stage = "quantize"
        small = octavo.quantize(converted, octavo.integer())
        for kernels in ("xnnpack", "reference"):
            stage = f"run ({kernels})"
            output = np.asarray(octavo.Runner(small, kernels=kernels)(x[:1]))
            if output.shape != (1, CLASSES) or not np.isfinite(output).all():
                raise ArithmeticError(f"the output has the shape {output.shape}: {output}")
    except Exception as error:  # whatever it is, it goes into the table
        return {"model": name, "size": size, "error": f"{stage}: {type(error).__name__}: {error}"}
    summary = small.summary()
    # By reason, without the names of single tensors.
    reasons: dict[str, Counter[str]] = {}
    for decision in summary.in_float:
        reasons.setdefault(re.sub(r" '[^']*'", " it", decision.reason), Counter())[decision.kind] += 1
    in_float = [", ".join(f"{n} {kind}" for kind, n in kinds.items()) + f": {why}" for why, kinds in reasons.items()]
    return {
        "model": name, "size": size, "counts": summary.counts, "in_float": in_float,
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def apart(name: str, limit: float) -> dict[str, Any]:
    """`try_model` in a process of its own."""
    command = [sys.executable, __file__, "--child", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"model": name, "size": SIZES.get(name, 32), "error": f"not done after {limit:.0f} s"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        ended = f"the process ended with {done.returncode}: {tail}"
        return {"model": name, "size": SIZES.get(name, 32), "error": ended}
    return json.loads(last)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"| {row['model']} | {row['size']} | | | **{row['error']}** | |"
    ops, integers = sum(row["counts"].values()), sum(n for key, n in row["counts"].items() if key.startswith("int"))
    in_float = "; ".join(row["in_float"])
    return f"| {row['model']} | {row['size']} | {ops} | {integers} | {in_float} | {row['seconds']:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="not only the smallest of each family")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="these models")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each model")
    parser.add_argument("--out", type=Path, help="a page with the markers between which the table goes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if arguments.child:
        print(json.dumps(try_model(arguments.child)))
        return 0
    rows = []
    print(HEADER, flush=True)
    for name in arguments.only or (names() if arguments.all else FAMILIES):
        rows.append(apart(name, arguments.limit))
        print(line(rows[-1]), flush=True)
    if arguments.out:
        before, _, rest = arguments.out.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        table = "\n".join([HEADER, *map(line, rows)])
        arguments.out.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    return any("error" in row for row in rows)


if __name__ == "__main__":
    sys.exit(main())
