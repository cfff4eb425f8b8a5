"""Confidence intervals and paired tests, held against published and enumerated values."""

import itertools
import math

import numpy as np
import pytest

from octavo.statistics import mcnemar, mean_interval, median_interval, paired_permutation, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, 1998.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes, count, low, high):
    found = wilson(successes, count)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    mirrored = wilson(count - successes, count)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_wilson_refuses_nonsense():
    for successes, count in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, count)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (2, 10), (10, 2), (7, 7), (0, 12), (40, 60)])
def test_mcnemar_is_the_exact_binomial(lost, gained):
    total, fewer = lost + gained, min(lost, gained)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-9)


def test_mcnemar_of_many_samples():
    assert mcnemar(50_000, 50_000) == 1.0
    assert 0.9 < mcnemar(50_010, 49_990) < 1.0
    assert mcnemar(51_000, 49_000) < 1e-9


def test_permutation_against_all_signs():
    differences = np.array([0.3, 0.1, 0.5, -0.2, 0.4, 0.6, 0.0])
    moved = differences[differences != 0]
    sums = [abs(float(np.dot(signs, moved))) for signs in itertools.product((-1, 1), repeat=moved.size)]
    exact = np.mean(np.array(sums) >= moved.sum() - 1e-12)
    assert paired_permutation(differences) == pytest.approx(exact, abs=0.015)
    assert paired_permutation(differences) == paired_permutation(differences)
    assert paired_permutation(np.zeros(5)) == 1.0


def test_permutation_finds_a_shift():
    noise = np.random.default_rng(0).normal(size=3000)
    assert paired_permutation(noise) > 0.05
    assert paired_permutation(noise + 0.2) < 0.001


def test_median_interval_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = median_interval(rng.exponential(size=41))
        hits += found.low <= math.log(2) <= found.high
    assert hits / 400 >= 0.93
    # The ranks of the sign test for n = 20: the 6th smallest and the 6th largest.
    found = median_interval(np.arange(20.0))
    assert (found.low, found.high) == (5.0, 14.0)
    assert median_interval(np.array([1.0, 9.0])) == median_interval(np.array([9.0, 1.0]))


def test_mean_interval():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    found = mean_interval(values)
    assert found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)
    assert mean_interval(values[:29]) is None
