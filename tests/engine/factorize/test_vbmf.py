"""Ranks without noise: found where there is signal, none where there is none."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.factorize.vbmf import noise_free_rank


def _matrix(shape: tuple[int, int], rank: int, noise: float, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    signal = draw.normal(size=(shape[0], rank)) @ draw.normal(size=(rank, shape[1]))
    return torch.from_numpy(signal + noise * draw.normal(size=shape))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (16, 144), (20, 400)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_rank_of_a_matrix_with_noise_is_found(shape, rank):
    assert noise_free_rank(_matrix(shape, rank, 0.3)) == rank


@given(seed=st.integers(0, 10_000), rows=st.integers(10, 60), columns=st.integers(10, 60))
def test_noise_alone_has_no_rank(seed, rows, columns):
    assert noise_free_rank(_matrix((rows, columns), 0, 1.0, seed)) <= 1


def test_the_rank_does_not_depend_on_scale_or_orientation():
    matrix = _matrix((30, 50), 4, 0.5)
    assert {noise_free_rank(each) for each in (matrix, 1e-4 * matrix, 1e4 * matrix, matrix.T)} == {
        4
    }


def test_signal_below_the_noise_is_none():
    assert noise_free_rank(_matrix((50, 50), 5, 100.0)) == 0


def test_a_matrix_of_zeros_has_no_rank():
    assert noise_free_rank(torch.zeros(5, 7, dtype=torch.float64)) == 0


def test_without_noise_it_is_the_rank():
    assert noise_free_rank(_matrix((30, 40), 6, 1e-9)) == 6


def test_a_row_does_not_fail():
    assert noise_free_rank(_matrix((1, 40), 1, 0.0)) in (0, 1)
