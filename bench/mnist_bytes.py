"""Bytes of the demo's MNIST model: octavo's files beside those of TensorFlow's converter and ai-edge-quantizer.

    python bench/mnist_bytes.py --demo octavo-demo --peers PYTHON

`--demo` is the folder that `make demo` wrote. `--peers` is a Python with tensorflow==2.21.0 and
ai-edge-quantizer==0.10.0. TensorFlow converts the same layers with random weights, which take the same bytes;
ai-edge-quantizer starts from the demo's float32.tflite. The table goes into docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- mnist -->", "<!-- /mnist -->"
VARIANTS = ("float32", "float16", "dynamic_range", "integer_float_io", "integer_only")

PEERS = """
import json, os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import keras, numpy as np, tensorflow as tf
from ai_edge_quantizer import quantizer, recipe
from keras import layers

float32 = sys.argv[1]
x = np.random.default_rng(0).uniform(0, 1, (100, 1, 28, 28)).astype("float32")
model = keras.Sequential([keras.Input((28, 28), name="image"), layers.Reshape((28, 28, 1), name="reshape"),
    layers.Conv2D(12, 3, activation="relu", name="conv"), layers.MaxPooling2D(2, name="pool"),
    layers.Flatten(name="flatten"), layers.Dense(10, name="logits")], name="mnist")
for variable in model.weights:
    variable.assign(np.random.default_rng(1).normal(size=variable.shape) * 0.1)

def tensorflow(optimize=True, types=None, integer=False, strict=False):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if optimize else []
    if types:
        converter.target_spec.supported_types = types
    if integer or strict:
        converter.representative_dataset = lambda: ([row] for row in x)
    if strict:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return len(converter.convert())

def edge(rules, calibrate):
    work = quantizer.Quantizer(float32)
    work.load_quantization_recipe(rules)
    seen = work.calibrate({"serving_default": [{"image": row} for row in x]}) if calibrate else None
    return len(work.quantize(seen).quantized_model)

print("RESULT" + json.dumps({
    "TFLiteConverter": {"float32": tensorflow(False), "float16": tensorflow(types=[tf.float16]),
        "dynamic_range": tensorflow(), "integer_float_io": tensorflow(integer=True),
        "integer_only": tensorflow(strict=True)},
    "ai-edge-quantizer": {"dynamic_range": edge(recipe.dynamic_wi8_afp32(), False),
        "integer_only": edge(recipe.static_wi8_ai8(), True)},
    "versions": tf.__version__}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--demo", type=Path, default=Path("octavo-demo"))
    parser.add_argument("--peers", required=True, help="a Python that has TensorFlow and ai-edge-quantizer")
    arguments = parser.parse_args()
    results = json.loads((arguments.demo / "results.json").read_text())
    table = {"octavo": {v["name"]: v["bytes"] for v in results["variants"]}}
    command = [arguments.peers, "-c", PEERS, str(arguments.demo / "float32.tflite")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        sys.exit(f"the peers failed: {run.stderr.strip().splitlines()[-1]}")
    table |= json.loads(lines[0].removeprefix("RESULT"))
    write(table)


def write(table: dict) -> None:
    names = ("octavo", "TFLiteConverter", "ai-edge-quantizer")
    rows = [("bytes", *names), ("---", "--:", "--:", "--:")]
    for variant in VARIANTS:
        cells = (table[name].get(variant) for name in names)
        rows.append((f"`{variant}.tflite`", *("" if cell is None else f"{cell:,}" for cell in cells)))
    about = (
        f"The demo's MNIST model. TensorFlow {table['versions']}; ai-edge-quantizer's integer file has int8 inputs and "
        "outputs. Made by `python bench/mnist_bytes.py` after `make demo`."
    )
    text = "\n".join([BEGIN, about, "", *("| " + " | ".join(row) + " |" for row in rows), END])
    page = PAGE.read_text()
    if BEGIN not in page:
        page += f"\n{BEGIN}{END}\n"
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + text + rest.partition(END)[2])
    print(text)


if __name__ == "__main__":
    main()
