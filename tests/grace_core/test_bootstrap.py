"""Intervals by bootstrap: against loops, and that each draws anew what it says."""

from __future__ import annotations

import numpy as np
import pytest

from grace_core.evaluation import bootstrap


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).random(30)


def test_draws_of_items_against_a_loop(values):
    draws = bootstrap.of_items(values, seed=3)
    rng = np.random.default_rng(3)
    by_hand = [np.mean([values[i] for i in row]) for row in rng.integers(0, 30, (bootstrap.RESAMPLES, 30))]
    assert draws == pytest.approx(by_hand)
    assert bootstrap.ci95(draws) == pytest.approx(
        [np.sort(by_hand)[int(0.025 * 1999)], np.sort(by_hand)[int(0.975 * 1999)]], abs=1e-3
    )


def test_a_statistic_is_drawn_as_its_items_are(values):
    draws = bootstrap.of_statistic(lambda rows: values[rows].mean(), 30, times=200)
    assert draws.std() == pytest.approx(values.std() / np.sqrt(30), rel=0.2)
    assert (draws == bootstrap.of_statistic(lambda rows: values[rows].mean(), 30, times=200)).all()


def test_groups_count_the_same_however_large_they_are(values):
    draws = bootstrap.of_groups([values, np.zeros(3)])
    assert draws.mean() == pytest.approx(values.mean() / 2, abs=0.01)


def test_what_is_drawn_anew_widens_the_interval(values):
    """Two groups that differ by 1, two seeds that differ by 10."""
    groups = [np.stack([values, values + 10]), np.stack([values + 1, values + 11])]
    fixed = bootstrap.of_hierarchy([one[:1] for one in groups], redraw_groups=False)
    of_groups = bootstrap.of_hierarchy([one[:1] for one in groups])
    of_seeds = bootstrap.of_hierarchy(groups)
    assert 0.02 < fixed.std() < 0.06
    assert of_groups.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    assert of_seeds.std() == pytest.approx(5 / np.sqrt(2), rel=0.1)


def test_a_difference_of_equal_arrays_with_one_seed_is_zero(values):
    a, b = bootstrap.of_seeds([values[None], values[None]])
    assert (a == b).all()
    wide, _ = bootstrap.of_seeds([np.stack([values, values + 10]), values[None]])
    assert wide.std() == pytest.approx(5 / np.sqrt(2), rel=0.1)
