"""One op's weights at a time: scales and codes from arrays alone, here or on workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import joblib
import numpy as np
import pytest

from octavo import numerics, parallel
from octavo.algorithms.layer import Chosen, Layer, Rounder, work
from octavo.calibrate.halves import Halves
from octavo.qtypes import INT4_WEIGHT, INT8_WEIGHT, QParams

OUTPUTS, FEATURES = 5, 32


def moments(rng: np.random.Generator, scale: float = 1.0) -> Halves:
    seen = Halves.empty(FEATURES, gram=True)
    mixing = rng.normal(size=(6, FEATURES))
    for number in range(40):
        rows = rng.normal(size=(3, 6)) @ mixing + 0.2 * rng.normal(size=(3, FEATURES)) + 1
        seen.update((scale * rows).astype(np.float32).reshape(3, 1, FEATURES), number % 2)
    return seen


def layer(number: int, seed: int = 0) -> Layer:
    rng = np.random.default_rng([seed, number])
    weights = rng.normal(size=(1, OUTPUTS, FEATURES)).astype(np.float32)
    scales = (np.abs(weights).max(axis=2, keepdims=True) / 7).astype(np.float32)
    return Layer(number, f"op {number}", weights, scales, INT4_WEIGHT, moments(rng), biased=True, search=True)


def layers(count: int) -> Iterator[Layer]:
    """Of every kind."""
    for number in range(count):
        made = layer(number)
        if number % 4 == 1:
            made = replace(made, qtype=INT8_WEIGHT, search=False, biased=False)
        if number % 4 == 2:
            scales = np.abs(made.weights[0].reshape(OUTPUTS, -1, 16)).max(axis=2) / 7
            made = replace(made, scales=scales.astype(np.float32), block=16)
        yield replace(made, moments=None) if number % 4 == 3 else made


def same(a: Chosen, b: Chosen) -> bool:
    return all(
        x is y is None or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in ((a.scales, b.scales), (a.codes, b.codes))
    )


def error(made: Layer, chosen: Chosen) -> np.ndarray:
    """Squared output error of each channel around the mean, which a bias makes up for."""
    assert chosen.codes is not None and made.moments is not None
    (_, first), (_, second) = made.moments.covariances()
    left = made.weights - chosen.codes * np.asarray(made.scales if chosen.scales is None else chosen.scales, np.float64)
    return ((left @ (first + second)) * left).sum(axis=2)


@dataclass(frozen=True)
class Watched(Rounder):
    """Says in the names of numbers below zero which processes rounded."""

    def add(self, state: dict[int, Chosen], unit: Layer) -> None:
        super().add(state, unit)
        state[-os.getpid()] = Chosen()


def test_workers_choose_the_same() -> None:
    here = parallel.reduce(Rounder(), layers(12), moves=False)
    with joblib.parallel_config("loky", n_jobs=2):
        there = parallel.reduce(Watched(), layers(12), sum(made.count for made in layers(12)), moves=False)
    processes = {-number for number in there if number < 0}
    assert len(processes) > 1, "nobody else did anything"
    assert sorted(here) == list(range(12))
    assert all(same(here[number], there[number]) for number in here)


def test_without_being_asked_nothing_leaves_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    found = parallel.reduce(Watched(), layers(4), moves=False)
    assert {-number for number in found if number < 0} == {os.getpid()}


def test_searched_scales_and_codes_leave_less_error_than_rounding_to_nearest() -> None:
    made = layer(0)
    nearest = Chosen(None, np.clip(np.rint(made.weights / made.scales), -7, 7).astype(np.int8))
    ours = made.chosen()
    assert ours.scales is not None and (error(made, ours) < 0.8 * error(made, nearest)).all()


def test_scales_leave_room_for_the_bias() -> None:
    made = layer(0)
    bias = np.zeros(OUTPUTS, np.float32)
    bias[2] = 1e8
    free, held = made.chosen(), replace(made, bias=(0.01, bias)).chosen()
    assert free.scales is not None and held.scales is not None and held.codes is not None
    wide = numerics.widen_for_bias(QParams(free.scales, np.zeros(OUTPUTS), axis=0), 0.01, bias).scale
    np.testing.assert_array_equal(held.scales[0, :, 0], wide)
    assert wide[2] > 2 * free.scales[0, 2, 0]
    np.testing.assert_array_equal(np.delete(held.scales, 2, axis=1), np.delete(free.scales, 2, axis=1))
    assert np.abs(held.codes[0, 2] * held.scales[0, 2] - made.weights[0, 2]).max() <= held.scales[0, 2, 0] * 1.5


def test_of_eight_bits_the_scales_stay() -> None:
    chosen = replace(layer(0), qtype=INT8_WEIGHT, search=False).chosen()
    assert chosen.scales is None and chosen.codes is not None


def test_where_nothing_is_known_of_the_inputs_weights_are_rounded_to_nearest() -> None:
    made = replace(layer(0), search=False)
    silent = Halves.empty(FEATURES, gram=True)
    silent.update(np.zeros((3, 1, FEATURES), np.float32), 0)
    endless = moments(np.random.default_rng(0)).scaled(np.full(FEATURES, np.inf), np.arange(FEATURES)[None])
    for unknown in (None, silent, endless):
        assert replace(made, moments=unknown).chosen() == Chosen(None, None)
        assert replace(made, moments=unknown, block=16).chosen() == Chosen(None, None)


def test_large_layers_count_for_more() -> None:
    assert work(1, 1, 1) == 1
    assert work(1, 64, 1024) > 50 * work(1, 64, 128)
    assert layer(3).place() == "the weights of op 3"
    assert layer(3).nbytes > OUTPUTS * FEATURES * 4 + FEATURES * FEATURES * 8
