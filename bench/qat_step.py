"""Time of a training step with the device's rounding against a float one: octavo and tfmot, on MNIST's shapes.

    make bench-qat

The same network, batch and optimizer in both; octavo on Keras's JAX backend, tfmot on Keras 2 and TensorFlow in an
environment of its own, made once under bench/.peers/qat (--peers names a Python that has them). Float and aware models
take turns, each with the least time of some rounds, so that the ratio says what the rounding costs and not what else
the machine did. The table is printed, and written into docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from common import PACKAGES, environment, table, write_section

BATCH, STEPS, ROUNDS = 32, 200, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", help="a Python that has tfmot, TensorFlow and tf_keras")
    parser.add_argument("--child", choices=("octavo", "tfmot"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*(ours() if arguments.child == "octavo" else theirs()))))
        return
    rows = []
    for name, python in (("octavo", sys.executable), ("tfmot", arguments.peers or environment("qat"))):
        rows.append((name, apart(name, python)))
        print(rows[-1], flush=True)
    write(rows)


def apart(name: str, python: str) -> dict[str, float]:
    """What `measure` finds in a process of its own."""
    settings = {**os.environ, "KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, __file__, "--child", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    if run.returncode:
        sys.exit(f"{name} failed: {(run.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def network(keras: Any) -> Any:
    """The network of TensorFlow's tutorials on quantization, as in `make demo`; `keras` is Keras 3 or tf_keras."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.InputLayer((28, 28, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def ours() -> tuple[Any, Any, Any]:
    import keras

    import octavo

    model = network(keras)
    return keras, model, octavo.qat.quantize_model(model)


def theirs() -> tuple[Any, Any, Any]:
    import tensorflow_model_optimization as tfmot  # pyright: ignore[reportMissingImports]
    import tf_keras  # pyright: ignore[reportMissingImports]

    model = network(tf_keras)
    return tf_keras, model, tfmot.quantization.keras.quantize_model(model)


def measure(keras: Any, model: Any, aware: Any) -> dict[str, float]:
    """Milliseconds of a step, float and aware, and their ratio."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.random((BATCH * STEPS, 28, 28, 1), np.float32), rng.integers(0, 10, BATCH * STEPS)
    found: dict[str, float] = {}
    for each in (model, aware):
        each.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        each.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)  # compiles
    for _ in range(ROUNDS):
        for name, each in (("float", model), ("aware", aware)):
            start = time.perf_counter()
            each.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
            took = 1000 * (time.perf_counter() - start) / STEPS
            found[name] = min(found.get(name, took), took)
    return {**found, "ratio": found["aware"] / found["float"]}


def write(rows: list[tuple[str, dict[str, float]]]) -> None:
    about = (
        f"Milliseconds of a training step on MNIST's shapes, batch {BATCH}, least of {ROUNDS} rounds of {STEPS} steps, "
        f"one run; octavo on JAX, tfmot: {', '.join(PACKAGES['qat'][:3])}. Made by `make bench-qat`."
    )
    lines = [(name, *(f"{t[what]:.2f}" for what in ("float", "aware", "ratio"))) for name, t in rows]
    write_section("qat step", f"{about}\n\n{table(('', 'float ms', 'aware ms', 'ratio'), lines)}")


if __name__ == "__main__":
    main()
