"""Flax NNX modules -> Program, run on LiteRT and compared with Flax; the mark of octavo.fake_quant in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import octavo
from octavo.errors import ConversionError
from octavo.graph.queries import recorded_ranges


class CNN(nnx.Module):
    """Convolution, batch normalization, dropout, two outputs."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8 * 4 * 4, 10, rngs=rngs)

    def __call__(self, image: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
        x = nnx.relu(self.norm(self.conv(image)))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return {"logits": self.head(self.drop(x.reshape(x.shape[0], -1))) * scale}


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (count, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def trained() -> CNN:
    """In training mode, with averages that aren't 0 and 1."""
    module = CNN(nnx.Rngs(0))
    for _ in range(5):
        module(jnp.asarray(images()), jnp.ones(1))
    return module


def snapshot(module: nnx.Module) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param, nnx.BatchStat))]


def test_a_module_is_converted_as_it_predicts_and_stays_as_it_is(trained: CNN) -> None:
    before = snapshot(trained)
    model = octavo.convert(trained, inputs={"image": (None, 8, 8, 3), "scale": (1,)})
    assert not trained.drop.deterministic, "still in training mode"
    for old, new in zip(before, snapshot(trained), strict=True):
        np.testing.assert_array_equal(old, new)
    signature = model.program.signatures[0]
    assert [name for name, _ in signature.inputs] == ["image", "scale"]
    assert [name for name, _ in signature.outputs] == ["logits"]
    trained.eval()
    want = np.asarray(trained(jnp.asarray(images(1)), jnp.float32([3.0]))["logits"])
    assert np.abs(want).max() > 0.1
    got: Any = octavo.Runner(model)({"image": images(1), "scale": np.float32([3.0])})
    np.testing.assert_allclose(got["logits"] if isinstance(got, dict) else got, want, atol=1e-4)


def test_a_batch_may_stay_dynamic() -> None:
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model = octavo.convert(layer, inputs=[(None, 3)], batch=None)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_allclose(octavo.Runner(model)(x), layer(jnp.asarray(x)), atol=1e-6)


class Counter(nnx.Module):
    def __init__(self) -> None:
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.count[...] += 1
        return x + self.count[...]


class Noisy(nnx.Module):
    def __init__(self) -> None:
        self.rngs = nnx.Rngs(0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jax.random.normal(self.rngs.noise(), x.shape)


class Parts(nnx.Module):
    """No `__call__`."""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counter(), "Counter keeps state between calls .count."),
        (Noisy(), "Noisy draws random numbers when it predicts"),
        (Parts(), "has no __call__"),
        (linen.Dense(3), "isn't a flax.nnx.Module; of a Linen module, convert the function"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refusals_name_the_cause(module: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        octavo.convert(module, inputs=[(1, 3)])


def test_the_mark_has_a_gradient_within_its_range_and_reaches_the_file() -> None:
    x = jnp.float32([-3.0, -0.5, 0.01, 0.5, 3.0])
    gradient = jax.grad(lambda x: octavo.fake_quant(x, -1.0, 1.0).sum())(x)
    assert gradient.tolist() == [0, 1, 1, 1, 0]
    steps = np.asarray(octavo.fake_quant(x, -1.0, 1.0)) / (2 / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)

    class Marked(nnx.Module):
        def __init__(self) -> None:
            self.dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return octavo.fake_quant(nnx.relu(self.dense(octavo.fake_quant(x, -1.0, 1.0))), 0.0, 2.0)

    model = octavo.convert(Marked(), inputs=[(1, 4)])
    assert len(recorded_ranges(model.program)) == 2
    small = octavo.quantize(model, octavo.integer(fallback=False, io="int8"))
    assert [op.code for op in small.program.main.ops] == ["FULLY_CONNECTED"]
