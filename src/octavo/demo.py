"""The demo's story: train a small model on MNIST, quantize it each way, compare the files on the test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from octavo.api import convert, quantize, variants
from octavo.compare import Comparison, compare
from octavo.datasets.mnist import MNIST, SIZE, load
from octavo.frontends.keras import import_keras
from octavo.progress import task
from octavo.recipe import integer

if TYPE_CHECKING:
    import keras

EPOCHS = 5
REPRESENTATIVE = 100  # images that calibrate the integer variants
QAT_IMAGES = 1000
QAT_BATCH = 500
BATCH = 32  # Keras's default, and that of TensorFlow's quantization tutorials


def run(out: Path, seed: int = 0, data: Path | None = None, progress: bool = False) -> Comparison:
    """Tell the story: train, convert, quantize each way, evaluate on the 10,000 test images.

    Writes one `.tflite` file per variant and `results.json` into `out`; files of these names are replaced.

    Args:
      out: folder for the files; made if it isn't there.
      seed: of the training and of the choice of representative images.
      data: folder with MNIST; None for the repository's copy, else Keras's downloader.
      progress: show progress bars.

    Raises:
      DataError: MNIST can't be found or read.
      MissingDependencyError: Keras or JAX isn't installed.
    """
    mnist = load(data)
    with task("training", enabled=progress) as work:

        def show(done: int, total: int) -> None:
            work.total = total
            work.update(done)

        keras_model = train(mnist, seed, progress=show)
    chosen = np.random.default_rng(seed).choice(len(mnist.x_train), REPRESENTATIVE, replace=False)
    out.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, model in variants(convert(keras_model), scaled(mnist.x_train[chosen]), io="uint8", progress=progress):
        model.save(out / f"{name}.tflite")
        made[name] = model
    made["qat"] = quantize(convert(qat_variant(keras_model, mnist, seed)), integer(fallback=False, io="uint8"))
    made["qat"].save(out / "qat.tflite")
    comparison = compare(made, scaled(mnist.x_test), mnist.y_test, progress=progress)
    comparison.to_json(out / "results.json", dataset="mnist", seed=seed)
    return comparison


def build_model() -> keras.Model:
    """The small convolutional network of TensorFlow's post-training quantization tutorials: 20,410 parameters.

    Takes images (28 x 28, float32, 0 to 1), gives 10 logits.
    """
    keras = import_keras()
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE), name="image"),
            layers.Reshape((SIZE, SIZE, 1), name="reshape"),
            layers.Conv2D(12, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, name="logits"),
        ],
        name="mnist",
    )


def train(
    mnist: MNIST, seed: int, epochs: int = EPOCHS, progress: Callable[[int, int], None] | None = None
) -> keras.Model:
    """Train `build_model()`: Adam, sparse categorical cross-entropy from logits, images scaled to 0..1.

    Args:
      mnist: the training images and labels are used.
      seed: of the initial weights and the order of the images; sets the generators of Python, NumPy and Keras. The
        same seed gives the same weights, bit for bit, on the same machine.
      epochs: passes over the training images.
      progress: called after every step with the number of steps done and in all.

    Returns:
      The trained model.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    model = build_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(
        scaled(mnist.x_train),
        mnist.y_train,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,  # pyright: ignore[reportArgumentType]
        callbacks=[_step_counter(-(-len(mnist.x_train) // BATCH) * epochs, progress)] if progress else None,
    )
    return model


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 images, 0 to 255 -> float32, 0 to 1: what the model takes."""
    return images.astype(np.float32) / 255.0


def _step_counter(total: int, progress: Callable[[int, int], None]) -> keras.callbacks.Callback:
    """A Keras callback that counts the steps of all epochs."""
    done = 0

    def step(batch: int, logs: object) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return import_keras().callbacks.LambdaCallback(on_train_batch_end=step)


def qat_variant(model: keras.Model, mnist: MNIST, seed: int) -> keras.Model:
    """The trained model, fine-tuned with the device's rounding in it.

    On the first 1,000 training images, batches of 500, one epoch, the last tenth of them for validation: what
    TensorFlow's guide to quantization-aware training does.

    Args:
      model: from `train`.
      mnist: the training images and labels are used.
      seed: of the order of the images.

    Returns:
      An aware model; `octavo.convert` makes a `.tflite` model of it, which needs no calibration.
    """
    from octavo.qat.build import quantize_model

    keras = import_keras()
    keras.utils.set_random_seed(seed)
    aware = quantize_model(model)
    aware.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    aware.fit(
        scaled(mnist.x_train[:QAT_IMAGES]),
        mnist.y_train[:QAT_IMAGES],
        batch_size=QAT_BATCH,
        epochs=1,
        validation_split=0.1,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )
    return aware
