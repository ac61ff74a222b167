"""Ranks within a budget: never over it, and near the best there is."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.factorize.choice import Options, within

CANDIDATES = st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 1.0)), min_size=0, max_size=6)
LAYERS = st.lists(st.tuples(CANDIDATES, st.integers(10, 30)), min_size=1, max_size=4)


def _options(candidates: list[tuple[int, float]], original: int) -> Options:
    costs = np.array([cost for cost, _ in candidates], dtype=np.int64)
    kept = np.array([share for _, share in candidates], dtype=np.float64)
    return Options.of(costs, kept, original)


def _best(layers: list[Options], limit: int) -> float | None:
    """The least loss of all choices there are."""
    found = [
        sum(float(each.losses[at]) for each, at in zip(layers, places, strict=True))
        for places in product(*(range(len(each.numbers)) for each in layers))
        if sum(int(each.costs[at]) for each, at in zip(layers, places, strict=True)) <= limit
    ]
    return min(found, default=None)


@given(asked=LAYERS, share=st.floats(0.05, 1.0))
def test_a_choice_is_within_its_budget_and_a_step_from_the_best(asked, share):
    layers = [_options(*each) for each in asked]
    limit = int(share * sum(int(each.costs[0]) for each in layers))
    places, best = within(layers, limit), _best(layers, limit)
    assert (places is None) == (best is None)
    if places is None or best is None:
        return
    chosen = list(zip(layers, places, strict=True))
    assert sum(int(each.costs[at]) for each, at in chosen) <= limit
    steps = [
        float(each.losses[after] - each.losses[before])
        for each in layers
        for before, after in zip(each.hull(), each.hull()[1:], strict=False)
    ]
    assert sum(float(each.losses[at]) for each, at in chosen) <= best + max(steps, default=0) + 1e-9


@given(asked=LAYERS, share=st.floats(0.05, 1.0))
def test_nothing_that_loses_less_would_still_fit(asked, share):
    layers = [_options(*each) for each in asked]
    limit = int(share * sum(int(each.costs[0]) for each in layers))
    places = within(layers, limit)
    if places is None:
        return
    cost = sum(int(each.costs[at]) for each, at in zip(layers, places, strict=True))
    for each, at in zip(layers, places, strict=True):
        if at:
            assert cost - each.costs[at] + each.costs[at - 1] > limit


@given(candidates=CANDIDATES, original=st.integers(10, 30))
def test_options_get_cheaper_and_worse(candidates, original):
    options = _options(candidates, original)
    assert options.numbers[0] == -1
    assert bool((np.diff(options.costs) < 0).all())
    assert bool((np.diff(options.losses[1:]) > 0).all())


def test_who_saves_at_the_lowest_price_goes_first():
    cheap = _options([(5, 0.99)], 10)
    dear = _options([(5, 0.5)], 10)
    assert within([dear, cheap], 15) == [0, 1]
    assert within([dear, cheap], 10) == [1, 1]
    assert within([dear, cheap], 9) is None


def test_what_the_last_step_leaves_is_given_back():
    """The hull jumps from 100 to 10; between them lies what just fits."""
    options = _options([(10, 0.9), (55, 0.905)], 100)
    assert options.hull() == [0, 2]
    assert within([options], 60) == [1]


def test_a_layer_that_would_keep_nothing_has_a_loss():
    assert np.isfinite(_options([(1, 0.0)], 10).losses).all()


@pytest.mark.parametrize("kept", [[0.5, 0.5], [0.5, 0.6]])
def test_of_the_same_cost_the_better_one_is_an_option(kept):
    options = _options([(5, kept[0]), (5, kept[1])], 10)
    assert len(options.numbers) == 2
    assert options.losses[1] == pytest.approx(-np.log(max(kept)))


def test_a_layer_that_fits_as_it_is_stays_though_it_would_lose_nothing():
    layers = [_options([(1, 1.0)], 10), _options([(1, 1.0)], 12)]
    assert within(layers, 11) == [0, 1]
