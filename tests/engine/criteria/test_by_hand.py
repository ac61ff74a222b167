"""Every criterion against numbers that were computed by hand, or with a pencil's worth of algebra.

``two_channels``: for the input (1, 1) its channels are 1 + 2 + 5 = 8 and 3 + 4 + 6 = 13, its output
7 * 8 + 8 * 13 = 160. With the target 159 the squared error's slope is 2.
"""

import math

import pytest
import torch
from torch import nn

from tests.engine.criteria.nets import linears, scores_of, subject_of, two_channels
from worker.engine.criteria.activation_mean import activation_mean
from worker.engine.criteria.activation_variance import activation_variance
from worker.engine.criteria.batch_norm_scale import batch_norm_scale
from worker.engine.criteria.cosine_similarity import cosine_similarity
from worker.engine.criteria.fisher import fisher, fisher_of_weights
from worker.engine.criteria.geometric_median import geometric_median
from worker.engine.criteria.hessian import hessian, hessian_of_weights
from worker.engine.criteria.lamp import lamp, lamp_of_weights
from worker.engine.criteria.magnitude import magnitude, magnitude_of_weights
from worker.engine.criteria.random import random, random_weights
from worker.engine.criteria.reconstruction import reconstruction
from worker.engine.criteria.sensitivity import sensitivity
from worker.engine.criteria.snip import snip, snip_of_weights
from worker.engine.criteria.synflow import synflow, synflow_of_weights
from worker.engine.criteria.taylor import taylor
from worker.engine.criteria.wanda import wanda, wanda_of_weights
from worker.engine.criteria.weight_variance import weight_variance

ROWS = {"sample_count": 8, "batch_size": 8}
LABELS = {**ROWS, "targets": "labels"}
ONE = {"inputs": [[1.0, 1.0]], "targets": [[159.0]]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 + 4 + 25 + 49, 9 + 16 + 36 + 64]),
        ({"norm": "l1"}, [1 + 2 + 5 + 7, 3 + 4 + 6 + 8]),
        # The largest of each slice: of the weight's row, of the bias, of the reader's column.
        ({"norm": "linf"}, [2 + 5 + 7, 4 + 6 + 8]),
        ({"slices": "producer"}, [1 + 4 + 25, 9 + 16 + 36]),
        ({"norm": "l1", "slices": "producer"}, [1 + 2 + 5, 3 + 4 + 6]),
    ],
)
def test_magnitude(options, expected):
    subject = subject_of(two_channels(), 2)
    assert scores_of(subject, magnitude(subject, **options)) == expected


def test_magnitude_of_single_weights_is_their_absolute():
    found = magnitude_of_weights(subject_of(linears([[1.0, -2.0]] * 2, [[-7.0, 8.0]]), 2))
    assert found["1.weight"].tolist() == [[7, 8]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [79, 125]),
        ("mean", [79 / 3, 125 / 3]),  # Slices: 5, 25, 49 and 25, 36, 64.
        ("max", [49, 64]),
        ("geometric_mean", [(5 * 25 * 49) ** (1 / 3), (25 * 36 * 64) ** (1 / 3)]),
        ("first", [5, 25]),
    ],
)
def test_aggregation(how, expected):
    subject = subject_of(two_channels(), 2)
    assert scores_of(subject, magnitude(subject), how) == pytest.approx(expected)


def test_weight_variance():
    subject = subject_of(two_channels(), 2)
    # Of 1, 2, 5 around 8/3, and of 3, 4, 6 around 13/3.
    expected = [(25 + 4 + 49) / 27, (16 + 1 + 25) / 27]
    assert scores_of(subject, weight_variance(subject)) == pytest.approx(expected)


def test_cosine_similarity_lets_the_smaller_of_two_that_are_alike_go_and_keeps_the_other():
    module = linears([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0, 1.0]])
    subject = subject_of(module, 2)
    # The second and the third are at right angles; the third is smaller; the second is the last.
    assert scores_of(subject, cosine_similarity(subject)) == [0, 2, 1]


def test_cosine_similarity_of_three_alike_leaves_one():
    module = linears([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [2.0, -1.0]], [[1.0] * 4])
    subject = subject_of(module, 2)
    assert scores_of(subject, cosine_similarity(subject)) == pytest.approx([0, 0, 2, 1])


def test_a_channel_of_zeros_is_redundant():
    subject = subject_of(linears([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0] * 3]), 2)
    assert scores_of(subject, cosine_similarity(subject))[0] == 0


def test_geometric_median():
    subject = subject_of(linears([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], [[1.0] * 3]), 2)
    assert scores_of(subject, geometric_median(subject)) == pytest.approx([5 + 8, 5 + 5, 8 + 5])


def test_batch_norm_scale():
    norm = nn.BatchNorm1d(2)
    norm.weight.data = torch.tensor([-2.0, 0.5])
    first, second = two_channels()
    subject = subject_of(nn.Sequential(first, norm, second), 2)
    assert scores_of(subject, batch_norm_scale(subject)) == [2, 0.5]
    assert batch_norm_scale(subject_of(two_channels(), 2)) == []


def test_lamp():
    subject = subject_of(two_channels(), 2)
    assert scores_of(subject, lamp(subject)) == pytest.approx([79 / (79 + 125), 1])
    found = lamp_of_weights(subject)["0.weight"]
    of_all = [1 / 30, 4 / 29, 9 / 25, 1]
    assert found.flatten().tolist() == pytest.approx(of_all)


def test_synflow():
    subject = subject_of(two_channels(), 2)
    # What flows through a channel counts where it comes in (weights and bias) and where it goes
    # out: 3 * 7 + 5 * 7 + 7 * 8, and 7 * 8 + 6 * 8 + 8 * 13. The largest single term is 104.
    assert scores_of(subject, synflow(subject)) == pytest.approx([112 / 104, 208 / 104])
    assert synflow_of_weights(subject)["1.weight"].tolist() == [[pytest.approx(56 / 104), 1.0]]


def test_synflow_does_not_see_signs_and_passes_through_norms():
    module = linears([[-1.0, 2.0], [3.0, -4.0]], [[-7.0, 8.0]], [5.0, -6.0])
    norm = nn.LayerNorm(2)
    norm.weight.data = torch.tensor([2.0, -2.0])
    subject = subject_of(nn.Sequential(module[0], norm, module[1]), 2)
    slices = [s for s in synflow(subject) if len(s.channels)]
    first, second = scores_of(subject, slices, "first")
    assert first / second == pytest.approx(21 / 56)


def test_random_is_the_same_for_the_same_seed():
    draws = [
        scores_of(subject, random(subject))
        for subject in (subject_of(two_channels(), 2, seed=seed) for seed in (1, 1, 2))
    ]
    assert draws[0] == draws[1] != draws[2]
    weights = [random_weights(subject_of(two_channels(), 2, seed=seed)) for seed in (1, 1)]
    assert torch.equal(weights[0]["0.weight"], weights[1]["0.weight"])


# For (1, 0) the channels are 6 and 9, for (0, -4) they are -3 and -10.
TWO_ROWS = {"inputs": [[1.0, 0.0], [0.0, -4.0]]}


def test_activation_mean_and_variance():
    subject = subject_of(two_channels(), 2, **TWO_ROWS)
    assert scores_of(subject, activation_mean(subject, **ROWS)) == pytest.approx([4.5, 9.5])
    found = scores_of(subject, activation_variance(subject, **ROWS))
    assert found == pytest.approx([4.5**2, 9.5**2])


def test_statistics_do_not_depend_on_batches():
    inputs = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).numpy() + 100
    subject = subject_of(two_channels(), 2, inputs=inputs)
    whole = scores_of(subject, activation_variance(subject, sample_count=12, batch_size=12))
    parts = scores_of(subject, activation_variance(subject, sample_count=12, batch_size=3))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_wanda():
    subject = subject_of(two_channels(), 2, **TWO_ROWS)
    expected = [7 * math.sqrt((36 + 9) / 2), 8 * math.sqrt((81 + 100) / 2)]
    assert scores_of(subject, wanda(subject, **ROWS)) == pytest.approx(expected)
    weights = wanda_of_weights(subject, **ROWS)
    assert weights["1.weight"].tolist()[0] == pytest.approx(expected)
    # The inputs have a root mean square of 1 / sqrt(2) and 4 / sqrt(2).
    expected = [1 / math.sqrt(2), 2 * 4 / math.sqrt(2)]
    assert weights["0.weight"][0].tolist() == pytest.approx(expected)


def test_reconstruction_of_channels_that_share_nothing_is_their_part_of_the_output():
    module = linears([[1.0, 0.0], [0.0, 1.0]], [[1.0, 3.0]])
    inputs = [[1.0, 1.0], [1.0, -1.0]]  # Two orthogonal channels of power 1.
    subject = subject_of(module, 2, inputs=inputs)
    # 1 and 9 of an output energy of 10; the second is what is left.
    found = scores_of(subject, reconstruction(subject, **ROWS))
    assert found == pytest.approx([1 / 10, 10 / 10], rel=0.02)


def test_reconstruction_removes_one_of_two_equals_for_nothing():
    module = linears([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0, 1.0]])
    subject = subject_of(module, 2, inputs=[[1.0, 0.5], [1.0, -1.0], [0.0, 2.0], [-1.0, 1.0]])
    found = sorted(scores_of(subject, reconstruction(subject, **ROWS)))
    assert found[0] < 0.01
    assert found[1] > 0.05


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        # Slopes: 2 * 7 for what makes channel 0, 2 * 8 for channel 1; 2 * 8 and 2 * 13 for what
        # reads them. Slices: the weight's row, the bias, the reader's column.
        (taylor, [42**2 + 70**2 + 112**2, 112**2 + 96**2 + 208**2]),
        (fisher, [14**2 + 28**2 + 70**2 + 112**2, 48**2 + 64**2 + 96**2 + 208**2]),
        (snip, [42 + 70 + 112, 112 + 96 + 208]),
        # Without channel 0 the output is 104, without channel 1 it is 56; the error was 1.
        (sensitivity, [(104 - 159) ** 2 - 1, (56 - 159) ** 2 - 1]),
    ],
)
def test_criteria_by_a_loss(criterion, expected):
    subject = subject_of(two_channels(), 2, **ONE)
    assert scores_of(subject, criterion(subject, **LABELS)) == pytest.approx(expected, rel=1e-5)


def test_single_weights_by_a_loss():
    subject = subject_of(two_channels(), 2, **ONE)
    assert fisher_of_weights(subject, **LABELS)["0.weight"][0].tolist() == pytest.approx(
        [14**2, 28**2]
    )
    assert snip_of_weights(subject, **LABELS)["0.weight"][0].tolist() == pytest.approx([14, 28])


def test_hessian_is_right_on_average():
    many = {"inputs": [[1.0, 1.0]] * 1000, "targets": [[159.0]] * 1000}
    subject = subject_of(two_channels(), 2, **many)
    options = {"sample_count": 1000, "batch_size": 1, "targets": "labels"}
    # Half the second derivative of a squared error is the slope of the output, squared.
    expected = [56**2 + 7**2 + 14**2 + 35**2, 104**2 + 24**2 + 32**2 + 48**2]
    assert scores_of(subject, hessian(subject, **options)) == pytest.approx(expected, rel=0.15)
    weights = hessian_of_weights(subject, **options)
    assert weights["1.weight"][0].tolist() == pytest.approx([56**2, 104**2], rel=0.15)


@pytest.mark.parametrize("criterion", [taylor, fisher, snip])
def test_without_labels_the_outputs_themselves_are_differentiated(criterion):
    subject = subject_of(two_channels(), 2, inputs=ONE["inputs"])
    unlabeled = scores_of(subject, criterion(subject, **ROWS, targets="outputs"))
    subject = subject_of(two_channels(), 2, **ONE)
    labeled = scores_of(subject, criterion(subject, **LABELS))
    # Of one output, every gradient is a multiple of its own: the ratio is the same.
    assert unlabeled[0] / unlabeled[1] == pytest.approx(labeled[0] / labeled[1], rel=1e-4)


def test_sensitivity_without_labels_is_the_change_of_the_output():
    subject = subject_of(two_channels(), 2, inputs=ONE["inputs"])
    found = scores_of(subject, sensitivity(subject, **ROWS, targets="outputs"))
    assert found == pytest.approx([56**2, 104**2])


def test_scoring_leaves_the_program_as_it_was():
    subject = subject_of(two_channels(), 2, **ONE)
    module = subject.program.module
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for criterion in (taylor, hessian, sensitivity):
        criterion(subject, **LABELS)
    synflow(subject)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())
