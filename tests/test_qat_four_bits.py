"""A model that loses by rounding its weights to four bits, and wins it back by training with that rounding.

The seeds here are not those with which the network and the limits were chosen.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import octavo
from octavo.datasets import mnist

L = keras.layers
LOST = 0.05  # what rounding to nearest costs at least
LEFT = 0.015  # what is left of that at most after training


def deep() -> keras.Model:
    """Sixteen layers of sixteen units: every layer adds its error to that of the ones before."""
    layers = [L.Dense(16, activation="relu") for _ in range(16)]
    return keras.Sequential([keras.Input((28, 28), name="image"), L.Flatten(), *layers, L.Dense(10, name="logits")])


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, rates: dict[float, int]) -> None:
    """Train with each rate for some epochs; ranges are held towards the end of the last."""
    for rate, epochs in rates.items():
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        callbacks = [octavo.qat.Freeze()] if rate == min(rates) else []
        model.fit(x, y, batch_size=100, epochs=epochs, verbose=0, callbacks=callbacks)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_training_wins_back_what_rounding_loses(seed):
    keras.utils.set_random_seed(seed)
    data = mnist.load()
    x, y = data.x_train[:20_000] / np.float32(255), data.y_train[:20_000]
    test, labels = data.x_test[:5000] / np.float32(255), data.y_test[:5000]

    def accuracy(model: octavo.Model) -> float:
        return octavo.evaluate(model, test, labels).accuracy

    model = deep()
    fit(model, x, y, {2e-3: 10, 2e-4: 3})
    four = octavo.integer(weights=4, per_channel=False)
    nearest = octavo.integer(weights=4, per_channel=False, effort="fast")
    aware = octavo.qat.quantize_model(model, four, samples=x[:200])
    fit(aware, x, y, {1e-3: 10, 1e-4: 5})
    fit(model, x, y, {1e-3: 10, 1e-4: 5})  # the float model gets the same steps
    converted = octavo.convert(model)
    exact = accuracy(converted)
    rounded = accuracy(octavo.quantize(converted, nearest, calibration=x[:200]))
    chosen = accuracy(octavo.quantize(converted, four, calibration=x[:200]))
    trained = accuracy(octavo.quantize(octavo.convert(aware), four))
    print(f"seed {seed}: float {exact:.2%}, nearest {rounded:.2%}, balanced {chosen:.2%}, trained {trained:.2%}")
    assert rounded < exact - LOST
    assert trained > exact - LEFT
    assert trained > chosen
