"""A convolution is a matrix product of its columns."""

import pytest
import torch
from torch.nn import functional

from worker.engine.criteria.columns import unfolded

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "how",
    [
        {"stride": [1], "padding": [0], "dilation": [1]},
        {"stride": [2], "padding": [1], "dilation": [1]},
        {"stride": [1], "padding": [2], "dilation": [2]},
        {"stride": [1], "padding": "same", "dilation": [2]},
        {"stride": [1], "padding": "valid", "dilation": [1]},
    ],
)
def test_columns_times_the_weight_are_the_output(rank, how):
    generator = torch.Generator().manual_seed(rank)
    source = torch.randn(2, 3, *(7, 6, 5)[:rank], generator=generator)
    weight = torch.randn(4, 3, *(3, 2, 3)[:rank], generator=generator)
    expected = CONVOLUTIONS[rank](source, weight, **how)
    columns = unfolded(source, tuple(weight.shape[2:]), **how)
    found = (columns @ weight.flatten(1).T).unflatten(0, (2, -1)).movedim(-1, 1)
    torch.testing.assert_close(found, expected.flatten(2), rtol=1e-4, atol=1e-4)
