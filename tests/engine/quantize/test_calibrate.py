"""Ranges of activations: what each way of choosing them promises, and what data it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.quantize.networks import SETTING, config, mlp, normal, program
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program
from worker.engine.quantize import histogram
from worker.engine.quantize.calibrate import Range, calibrated
from worker.engine.quantize.histogram import Histogram
from worker.engine.quantize.points import points_of
from worker.engine.recovery.setting import Setting

_METHODS = ("minmax", "percentile", "entropy", "mse")


def _calibrated(found: Program, rows: Rows, **options: object) -> list[Range]:
    points = points_of(found, list(weight_calls(found)))
    return calibrated(found, points, config(**options), rows, SETTING)


def _of(values: np.ndarray) -> Histogram:
    found = Histogram(min(float(values.min()), 0.0), max(float(values.max()), 0.0))
    for part in np.array_split(values, 3):
        found.add(torch.from_numpy(part))
    return found


def _error(values: np.ndarray, low: float, high: float) -> float:
    """The mean square of what a range changes, computed number by number."""
    found = Range.of(low, high)
    codes = np.clip(np.round(values / found.scale) + found.zero_point, -128, 127)
    return float(np.mean(((codes - found.zero_point) * found.scale - values) ** 2))


@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6))
def test_a_range_has_zero_and_both_numbers(low, high):
    low, high = min(low, high), max(low, high)
    found = Range.of(low, high)
    assert found.scale > 0
    assert np.float32(found.scale) == found.scale
    assert -128 <= found.zero_point <= 127
    if high - low > 1e-20:
        half = found.scale * (0.5 + 1e-4)
        assert (-128 - found.zero_point) * found.scale <= low + half
        assert (127 - found.zero_point) * found.scale >= high - half


def test_ranges_by_hand():
    assert Range.of(0.0, 255.0) == Range(1.0, -128)
    assert Range.of(3.0, 255.0) == Range(1.0, -128)
    assert Range.of(-255.0, 0.0) == Range(1.0, 127)
    assert Range.of(-128.0, 127.0) == Range(1.0, 0)
    assert Range.of(0.0, 0.0).scale == 1.0


def test_counts_are_those_of_numpy_and_zeros_are_apart():
    values = np.random.default_rng(0).normal(1, 2, 10_000).astype(np.float32)
    values[::10] = 0
    found = _of(values)
    expected, _ = np.histogram(values[values != 0].astype(np.float64), found.edges)
    # A number on an edge may fall on either side of it.
    assert np.abs(found.counts - expected).sum() <= 4
    assert found.zeros == 1000
    assert found.counts.sum() == 9000


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentiles_are_those_of_numpy(percent):
    values = np.random.default_rng(0).normal(0, 2, 400_000).astype(np.float32)
    values[::4] = 0
    low, high = histogram.percentile(_of(values), percent)
    width = float(values.max() - values.min()) / histogram.BINS
    if percent > 50:
        assert high == pytest.approx(np.percentile(values, percent), abs=2 * width)
        assert low == pytest.approx(np.percentile(values, 100 - percent), abs=2 * width)
    else:
        assert (low, high) == (values.min(), values.max()), "nothing would be left"


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(0, 1, 20_000),
        lambda rng: rng.normal(3, 1, 20_000),
        lambda rng: np.maximum(rng.normal(0, 1, 20_000), 0),
        lambda rng: rng.laplace(0, 1, 20_000),
        lambda rng: rng.standard_t(3, 20_000),
        lambda rng: -rng.exponential(1, 20_000),
        lambda rng: rng.uniform(-1, 2, 20_000),
        lambda rng: np.concatenate([rng.normal(0, 1, 20_000), [60.0]]),
    ],
    ids=["normal", "shifted", "relu", "laplace", "student", "negative", "uniform", "outlier"],
)
def test_least_squares_is_as_good_as_any_pair_of_ends(draw):
    values = draw(np.random.default_rng(0)).astype(np.float32)
    found = histogram.least_squares(_of(values))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.linspace(0.02, 1, 40)
    best = min(_error(values, low * a, high * b) for a in shares for b in shares)
    assert _error(values, *found) <= 1.05 * best
    assert low <= found[0] <= 0 <= found[1] <= high


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_lonely_outlier_is_clipped(method):
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0, 1, 200_000), [40.0]]).astype(np.float32)
    found = _of(values)
    is_percentile = method == "percentile"
    low, high = histogram.percentile(found, 99.99) if is_percentile else histogram.entropy(found)
    assert 2.5 < high < 6
    assert -6 < low < -2.5


def test_a_percentile_of_hardly_anything_but_zeros_keeps_the_rest():
    values = np.zeros(100_000, np.float32)
    values[:5] = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert histogram.percentile(_of(values), 99.9) == (0.0, 5.0)


def test_entropy_keeps_what_is_evenly_distributed():
    values = np.random.default_rng(0).uniform(0, 1, 500_000).astype(np.float32)
    low, high = histogram.entropy(_of(values))
    assert low == 0
    assert high > 0.95


@pytest.mark.parametrize("method", _METHODS)
def test_a_relu_has_its_zero_at_the_lowest_code(method):
    ranges = _calibrated(program(mlp(), 6), normal(6), calibration=method)
    assert [found.zero_point == -128 for found in ranges] == [False, True, True]


def test_minmax_finds_the_least_and_the_largest_of_all_batches():
    rows = normal(6)
    values = np.asarray(rows.inputs[0])
    [first, *_] = _calibrated(program(mlp(), 6), rows, calibration="minmax", batch_size=7)
    assert first == Range.of(float(values.min()), float(values.max()))


@pytest.mark.parametrize("method", _METHODS)
def test_the_same_seed_gives_the_same_ranges_and_another_other_rows(method):
    found, rows = program(mlp(), 6), normal(6, count=400)
    points = points_of(found, list(weight_calls(found)))

    def of(seed: int) -> list[Range]:
        asked = config(calibration=method, sample_count=20)
        return calibrated(found, points, asked, rows, Setting(seed=seed))

    assert of(1) == of(1)
    assert of(1) != of(2)


@pytest.mark.parametrize("method", _METHODS)
def test_a_value_that_is_always_zero_has_a_scale(method):
    class Zero(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * 0)

    assert _calibrated(program(Zero(), 6), normal(6), calibration=method) == [Range(1.0, -128)]


@pytest.mark.parametrize("method", _METHODS)
def test_a_value_that_is_always_the_same_is_kept(method):
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * 0 + 5)

    [found] = _calibrated(program(Same(), 6), normal(6), calibration=method)
    assert found.zero_point == -128
    assert 255 * found.scale == pytest.approx(5, rel=0.01)


def test_a_fixed_batch_is_filled_up():
    torch.manual_seed(0)
    exported = torch.export.export(mlp(), (torch.randn(32, 6),))
    found = Program.from_exported(exported)
    rows = normal(6, count=40)
    [first, *_] = _calibrated(found, rows, calibration="minmax")
    values = np.asarray(rows.inputs[0])
    assert first == Range.of(float(values.min()), float(values.max()))


def test_few_rows_are_refused():
    with pytest.raises(DataMismatchError, match=r"has 15 rows.*at least 16") as raised:
        _calibrated(program(mlp(), 6), normal(6, count=15))
    assert raised.value.pointer == "/data/train"
    assert not raised.value.in_step


def test_few_samples_are_refused():
    with pytest.raises(DataMismatchError, match=r"sample_count of 15.*at least 16") as raised:
        _calibrated(program(mlp(), 6), normal(6), sample_count=15)
    assert raised.value.pointer == "/sample_count"
    assert raised.value.in_step


def test_values_that_are_not_finite_are_refused():
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x * 1000).exp())

    with pytest.raises(NotFiniteError, match=r"head\.input is NaN or infinite"):
        _calibrated(program(Overflowing(), 6), normal(6))
