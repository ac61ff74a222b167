"""What weights become: error bounds, zeros, and optima."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.engine.config import QuantizeConfig
from worker.engine.quantize.codebook import codebook_of
from worker.engine.quantize.codes import Scheme, grid_of

INTEGERS = [
    {"weights": weights, "symmetric": symmetric, "clipping": clipping}
    for weights in ("int8", "int4", "int2")
    for symmetric in (True, False)
    for clipping in ("max", "mse")
]

seeds = st.integers(0, 2**31)


def drawn(seed: int, *, sets: int = 3, size: int = 40) -> Tensor:
    """Weights of sizes that differ from set to set, with an outlier in one."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(sets, size, generator=generator)
    weights *= 10 ** (torch.rand(sets, 1, generator=generator) * 6 - 3)
    weights[0, 0] *= 5
    return weights


def rounded(given: Tensor, **options: object) -> Tensor:
    grid = grid_of(given, Scheme.of(QuantizeConfig(**options)))
    return grid.decode(grid.encode(given))


@pytest.mark.parametrize("options", INTEGERS, ids=str)
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_an_error_within_the_range_is_half_a_step_at_most(options: dict[str, object], seed: int):
    weights = drawn(seed)
    grid = grid_of(weights, Scheme.of(QuantizeConfig(**options)))
    assert grid.scale is not None
    assert grid.zero_point is not None
    low = (grid.least - grid.zero_point) * grid.scale
    high = (grid.most - grid.zero_point) * grid.scale
    error = (grid.decode(grid.encode(weights)) - weights).abs()
    is_inside = (weights >= low) & (weights <= high)
    assert bool((error <= grid.scale * 0.5001)[is_inside].all())
    # Outside it is what lies beyond the end.
    beyond = torch.maximum(low - weights, weights - high)
    assert bool((error <= beyond.clamp(min=0) + grid.scale * 0.5001).all())


@pytest.mark.parametrize("options", [*INTEGERS, {"weights": "ternary"}], ids=str)
@settings(max_examples=10, deadline=None)
@given(seeds)
def test_zero_stays_zero(options: dict[str, object], seed: int):
    weights = drawn(seed)
    weights[:, ::3] = 0.0
    found = rounded(weights, **options)
    assert bool((found[:, ::3] == 0).all())


@pytest.mark.parametrize("options", INTEGERS, ids=str)
def test_what_is_rounded_is_rounded_to_itself(options: dict[str, object]):
    weights = drawn(1)
    grid = grid_of(weights, Scheme.of(QuantizeConfig(**options)))
    once = grid.decode(grid.encode(weights))
    assert torch.equal(grid.decode(grid.encode(once)), once)


@pytest.mark.parametrize("weights", ["int8", "int4", "int2"])
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_least_squared_error_is_no_larger_than_with_the_whole_range(weights: str, seed: int):
    given_weights = drawn(seed)

    def error(clipping: str) -> Tensor:
        found = rounded(given_weights, weights=weights, clipping=clipping)
        return (found - given_weights).square().sum(1)

    assert bool((error("mse") <= error("max")).all())


def test_all_zeros_and_one_value_are_weights_too():
    weights = torch.zeros(2, 5)
    weights[1] = -3.25
    for options in (*INTEGERS, {"weights": "ternary"}, {"weights": "codebook"}):
        found = rounded(weights, **options)
        assert bool((found[0] == 0).all())
        assert torch.allclose(found[1], weights[1], rtol=0.01)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_ternary_is_the_optimum_over_all_thresholds(seed: int):
    weights = drawn(seed, sets=1, size=12)
    found = float((rounded(weights, weights="ternary") - weights).double().square().sum())
    sizes = weights[0].abs().double().sort(descending=True).values
    errors = [
        float((sizes[:count] - sizes[:count].mean()).square().sum() + sizes[count:].square().sum())
        for count in range(1, len(sizes) + 1)
    ]
    assert found == pytest.approx(min(errors), rel=1e-4)


def test_a_codebook_is_sorted_and_of_the_size_that_was_asked_for():
    found = codebook_of(drawn(2), 7)
    assert found.shape == (3, 7)
    assert bool((found.diff(dim=1) >= 0).all())


def test_few_values_are_found_exactly():
    values = torch.tensor([-2.0, -0.5, 0.25, 4.0])
    weights = values[torch.randint(0, 4, (2, 200), generator=torch.Generator().manual_seed(0))]
    found = rounded(weights, weights="codebook", codebook_size=4)
    assert torch.allclose(found, weights, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 9))
def test_a_codebook_is_a_fixed_point_of_lloyds_algorithm(seed: int, entries: int):
    weights = drawn(seed, sets=1, size=200)
    levels = codebook_of(weights, entries)[0].double()
    nearest = (weights[0].double()[:, None] - levels).abs().argmin(1)
    for entry in range(entries):
        if bool((nearest == entry).any()):
            mean = weights[0].double()[nearest == entry].mean()
            assert float(levels[entry]) == pytest.approx(float(mean), rel=1e-3, abs=1e-6)


def test_more_entries_lose_less():
    weights = drawn(3, sets=1, size=500)
    errors = [
        float((rounded(weights, weights="codebook", codebook_size=size) - weights).norm())
        for size in (2, 4, 8, 16, 64, 256)
    ]
    assert all(more > less for more, less in pairwise(errors))


def test_zeros_that_were_made_on_purpose_stay_in_a_codebook():
    weights = drawn(4)
    weights[:, ::2] = 0.0
    scheme = Scheme.of(QuantizeConfig(weights="codebook", codebook_size=5)).keeping_zero()
    grid = grid_of(weights, scheme)
    assert bool((grid.decode(grid.encode(weights))[:, ::2] == 0).all())


def test_what_fills_a_group_up_counts_for_nothing():
    weights = drawn(5)
    filled = torch.cat([weights, torch.full((3, 9), float("nan"))], 1)
    for options in (*INTEGERS, {"weights": "ternary"}, {"weights": "codebook"}):
        scheme = Scheme.of(QuantizeConfig(**options))
        grid, other = grid_of(weights, scheme), grid_of(filled, scheme)
        assert torch.equal(grid.decode(grid.encode(weights)), other.decode(other.encode(weights)))
