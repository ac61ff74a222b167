"""SVD, Tucker-2 and CP: exact where the weight allows it, the best there is elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.engine.factorize.nets import layer_of, outputs, program_of, rows_of
from worker.engine.config import FactorizeConfig
from worker.engine.criteria.subject import Subject
from worker.engine.factorize.cp import Cp
from worker.engine.factorize.moments import Gathered, Moments, View
from worker.engine.factorize.parts import Part, balanced, product
from worker.engine.factorize.svd import Svd
from worker.engine.factorize.tucker import Tucker
from worker.engine.graph.coupling import couple


def _drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _convolution(weight: torch.Tensor, **options):
    """A program of one convolution of two axes without bias, and its layer."""
    outputs_, inputs, *kernel = weight.shape
    module = nn.Conv2d(inputs, outputs_, tuple(kernel), bias=False, **options)
    module.weight = nn.Parameter(weight.float())
    return program_of(nn.Sequential(module), inputs, 7, 7)


def _linear(weight: torch.Tensor, *, bias: bool = False):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    module.weight = nn.Parameter(weight.float())
    return program_of(nn.Sequential(module), weight.shape[1])


def _moments(program, rows, view: View) -> Moments:
    layer = layer_of(program)
    subject = Subject(couple(program), rows)
    found = Gathered(
        lambda: subject, {layer: view}, FactorizeConfig(sample_count=96, batch_size=32)
    ).of(layer)
    assert found is not None
    return found


def _error(layer, parts) -> float:
    return float((product(parts) - layer.weight).norm() / layer.weight.norm())


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (10, 10)])
def test_svd_loses_what_eckart_and_young_say(shape):
    program = _linear(_drawn(*shape))
    layer = layer_of(program)
    values = np.linalg.svd(layer.weight.numpy(), compute_uv=False)
    made = Svd(layer, None)
    for rank in range(1, min(shape) + 1):
        expected = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
        assert _error(layer, made.parts((rank,))) == pytest.approx(expected, abs=1e-9)
        kept = made.candidates().kept[rank - 1]
        assert 1 - kept == pytest.approx(expected**2, abs=1e-9)


@pytest.mark.parametrize(("shape", "view"), [((6, 9), View.OUTPUTS), ((9, 6), View.COLUMNS)])
@pytest.mark.parametrize("bias", [False, True])
def test_svd_is_the_best_on_the_rows(shape, view, bias):
    """Against the decomposition of the outputs themselves, which no product can lose less than."""
    program = _linear(_drawn(*shape), bias=bias)
    rows = rows_of(shape[1])
    layer = layer_of(program)
    moments = _moments(program, rows, view)
    x = rows.inputs[0].astype(np.float64)
    x = x - x.mean(0) if bias else x
    given = x @ layer.weight.numpy().T
    values = np.linalg.svd(given, compute_uv=False)
    for rank in (1, 3, 5):
        approximate = x @ product(Svd(layer, moments).parts((rank,))).numpy().T
        best = np.sqrt((values[rank:] ** 2).sum())
        # The damping asks for a little more than the rows do.
        assert best <= np.linalg.norm(given - approximate) + 1e-9 <= 1.02 * best + 1e-6


def test_what_rows_show_counts_and_what_they_do_not_is_kept_plainly():
    """Inputs that are always 0 lose their weights first."""
    weight = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    program = _linear(weight)
    rows = rows_of(4)
    rows.inputs[0][:, 2:] = 0
    moments = _moments(program, rows, View.OUTPUTS)
    kept = product(Svd(layer_of(program), moments).parts((2,)))
    assert float((kept[:2, :2] - weight[:2, :2]).abs().max()) < 0.05
    assert float(kept[2:].abs().max()) < 0.05


TUCKERS = [(2, 3), (5, 3), (2, 7)]


@pytest.mark.parametrize("ranks", TUCKERS)
@pytest.mark.parametrize("seen", [False, True])
def test_tucker_gives_back_a_kernel_of_its_ranks(ranks, seen):
    inputs, outputs_ = ranks
    core = _drawn(outputs_, inputs, 3, 2, seed=1)
    weight = torch.einsum("abkl,oa,ib->oikl", core, _drawn(7, outputs_), _drawn(5, inputs, seed=2))
    program = _convolution(weight)
    moments = _moments(program, rows_of(5, 7, 7), View.COLUMNS) if seen else None
    layer = layer_of(program, "tucker")
    parts = Tucker(layer, moments).parts(ranks)
    # A rank that is full needs no part.
    assert len(parts) == 1 + (inputs < 5) + (outputs_ < 7)
    assert _error(layer, parts) < 1e-5


def test_tucker_says_what_it_keeps_before_it_is_refined():
    program = _convolution(_drawn(6, 5, 3, 3))
    layer = layer_of(program, "tucker")
    made = Tucker(layer, None)
    candidates = made.candidates()
    for number in (3, 11, 20, len(candidates.kept) - 1):
        inputs, outputs_ = candidates.ranks[number].tolist()
        error = _error(layer, made.parts((inputs, outputs_)))
        assert error**2 <= 1 - candidates.kept[number] + 1e-9
    # All of it is kept at full rank.
    assert candidates.kept[-1] == pytest.approx(1)


def test_tucker_on_rows_keeps_more_than_it_says():
    program = _convolution(_drawn(6, 5, 3, 3), padding=1)
    rows = rows_of(5, 7, 7)
    layer = layer_of(program, "tucker")
    moments = _moments(program, rows, View.COLUMNS)
    made, weighing = Tucker(layer, moments), moments.weighing(layer)
    weight = layer.weight.flatten(1)
    whole = (weight @ weighing * weight).sum()
    candidates = made.candidates()
    for number in range(0, len(candidates.kept), 4):
        change = weight - product(made.parts(tuple(candidates.ranks[number].tolist()))).flatten(1)
        lost = float((change @ weighing * change).sum() / whole)
        assert lost <= 1 - candidates.kept[number] + 1e-6


def test_refining_on_whole_columns_loses_less_on_rows_than_weighing_channels():
    program = _convolution(_drawn(8, 6, 3, 3), padding=1)
    rows = rows_of(6, 7, 7)
    layer = layer_of(program, "tucker")
    errors = []
    for view in (None, View.CHANNELS, View.COLUMNS):
        moments = None if view is None else _moments(program, rows, view)
        changed = product(Tucker(layer, moments).parts((3, 4))).float()
        x = torch.from_numpy(rows.inputs[0])
        errors.append(
            float((functional.conv2d(x, changed, padding=1) - outputs(program, rows)).norm())
        )
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (2, 4)])
@pytest.mark.parametrize("seen", [False, True])
def test_cp_gives_back_a_sum_of_few_products(kernel, seen):
    factors = [_drawn(size, 3, seed=at) for at, size in enumerate((7, 5, *kernel))]
    program = _convolution(torch.einsum("or,ir,kr,lr->oikl", *factors))
    layer = layer_of(program, "cp")
    moments = _moments(program, rows_of(5, 7, 7), View.COLUMNS) if seen else None
    parts = Cp(layer, moments, seed=0).parts((3,))
    # One depthwise part for each axis that is longer than 1; it takes the others along.
    assert [part.axes for part in parts] == [(), *([(0, 1)] if 1 in kernel else [(0,), (1,)]), ()]
    # Alternating least squares come near it, and the ridge stays.
    assert _error(layer, parts) < 0.03


def test_cp_does_not_degenerate():
    """Of border rank 2 and rank 3: sums of 2 come ever nearer, their terms without end."""
    a, b = _drawn(6, seed=1), _drawn(6, seed=2)
    weight = sum(
        torch.einsum(
            "o,i,k,l->oikl",
            *(b[:size] if at == other else a[:size] for other, size in enumerate((6, 6, 3))),
            a[:3],
        )
        for at in range(3)
    )
    program = _convolution(weight)
    parts = Cp(layer_of(program, "cp"), None, seed=0).parts((2,))
    norms = [part.weight.norm() for part in balanced(parts)]
    assert max(norms) < 10 * float(weight.norm())
    assert _error(layer_of(program, "cp"), parts) < 0.5


def test_cp_is_the_same_for_the_same_seed_and_another_for_another():
    layer = layer_of(_convolution(_drawn(6, 5, 3, 3)), "cp")
    first, again, other = (Cp(layer, None, seed=seed).parts((4,)) for seed in (0, 0, 1))
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


@settings(max_examples=20)
@given(ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)), scale=st.floats(1e-6, 1e6))
def test_balancing_changes_no_product_and_makes_ranks_alike(ranks, scale):
    inputs, outputs_ = ranks
    parts = [
        Part(scale * _drawn(inputs, 5, 1, 1)),
        Part(_drawn(outputs_, inputs, 3, 3), (0, 1)),
        Part(_drawn(6, outputs_, 1, 1)),
    ]
    even = balanced(parts)
    assert torch.allclose(product(even), product(parts), rtol=1e-9, atol=1e-12 * scale)
    behind = even[2].weight.flatten(1).norm(dim=0)
    assert torch.allclose(even[1].weight.flatten(1).norm(dim=1), behind)


def test_a_rank_of_zeros_is_balanced_as_it_is():
    parts = [Part(torch.zeros(2, 3, dtype=torch.float64)), Part(_drawn(4, 2))]
    assert all(bool(part.weight.isfinite().all()) for part in balanced(parts))


def test_energy_gives_the_least_rank_that_keeps_it():
    layer = layer_of(_linear(_drawn(12, 8)))
    made = Svd(layer, None)
    [rank] = made.sufficient(0.8)
    kept = made.candidates().kept
    assert kept[rank - 1] >= 0.8 > kept[rank - 2]
