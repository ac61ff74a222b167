"""Least squares from sums, against a solver that sees all rows at once."""

import torch

from worker.engine.recovery.least_squares import DAMPINGS, Sums, solve

CPU = torch.device("cpu")


def _draw(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)


def _sums(columns: torch.Tensor, targets: torch.Tensor, batch: int = 7) -> Sums:
    sums = Sums(1, columns.shape[1], targets.shape[1], CPU)
    for some, wanted in zip(columns.split(batch), targets.split(batch), strict=True):
        sums.add(some[None], wanted[None])
    return sums


def _empty(columns: int, targets: int) -> Sums:
    return Sums(1, columns, targets, CPU)


def test_with_no_damping_it_is_the_least_squares_solution():
    columns, targets = _draw(50, 6) + 3, _draw(50, 2, seed=1)
    fit = solve(
        _sums(columns, targets),
        _empty(6, 2),
        torch.zeros(1, 6, 2).double(),
        has_offset=True,
        damping=0,
    )
    ones = torch.cat([columns, torch.ones(50, 1).double()], 1)
    expected = torch.linalg.lstsq(ones, targets).solution
    torch.testing.assert_close(fit.weight[0], expected[:-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fit.offset[0], expected[-1], rtol=1e-6, atol=1e-6)
    left = targets - ones @ expected
    share = left.square().sum() / (targets - targets.mean(0)).square().sum()
    assert abs(fit.error - float(share)) < 1e-9


def test_without_an_offset_the_line_goes_through_zero():
    columns, targets = _draw(50, 6) + 3, _draw(50, 2, seed=1) + 5
    fit = solve(
        _sums(columns, targets),
        _empty(6, 2),
        torch.zeros(1, 6, 2).double(),
        has_offset=False,
        damping=0,
    )
    expected = torch.linalg.lstsq(columns, targets).solution
    torch.testing.assert_close(fit.weight[0], expected, rtol=1e-6, atol=1e-6)
    assert not bool(fit.offset.any())


def test_weights_stay_where_they_are_in_directions_that_no_row_has():
    columns = torch.cat([_draw(3, 5), torch.zeros(3, 5).double()], 1)
    start = _draw(10, 2, seed=2)[None]
    targets = columns @ start[0]
    fit = solve(_sums(columns, targets), _empty(10, 2), start, has_offset=False, damping=None)
    torch.testing.assert_close(fit.weight, start)


def test_fewer_rows_than_columns_have_a_solution_that_gives_the_targets():
    columns, targets = _draw(4, 9), _draw(4, 1, seed=1)
    start = torch.zeros(1, 9, 1).double()
    fit = solve(_sums(columns, targets), _empty(9, 1), start, has_offset=False, damping=1e-9)
    torch.testing.assert_close(columns @ fit.weight[0], targets, rtol=1e-4, atol=1e-4)


def test_the_damping_is_the_one_of_least_error_on_held_out_rows():
    truth = torch.zeros(20, 1).double()
    columns, held_out = _draw(24, 20), _draw(400, 20, seed=5)
    targets = columns @ truth + _draw(24, 1, seed=1)
    start = torch.zeros(1, 20, 1).double()
    errors = {}
    for damping in DAMPINGS:
        fit = solve(
            _sums(columns, targets), _empty(20, 1), start, has_offset=False, damping=damping
        )
        errors[damping] = float((held_out @ (fit.weight[0] - truth)).square().mean())
    best = min(errors, key=errors.get)
    held = _sums(held_out, held_out @ truth)
    fit = solve(_sums(columns, targets), held, start, has_offset=False, damping=None)
    assert fit.damping == best == max(DAMPINGS)


def test_problems_beside_each_other_do_not_know_of_each_other():
    columns, targets = _draw(30, 3, 4), _draw(30, 3, 2, seed=1)
    sums = Sums(3, 4, 2, CPU)
    sums.add(columns.transpose(0, 1), targets.transpose(0, 1))
    start = _draw(3, 4, 2, seed=2)
    fit = solve(sums, Sums(3, 4, 2, CPU), start, has_offset=True, damping=1e-3)
    for at in range(3):
        alone = solve(
            _sums(columns[:, at], targets[:, at]),
            _empty(4, 2),
            start[at : at + 1],
            has_offset=True,
            damping=1e-3,
        )
        torch.testing.assert_close(fit.weight[at], alone.weight[0])
        torch.testing.assert_close(fit.offset[at], alone.offset[0])


def test_columns_that_are_nothing_or_copies_have_a_solution():
    for columns in (torch.zeros(8, 3).double(), _draw(8, 1).expand(8, 3)):
        fit = solve(
            _sums(columns, _draw(8, 1, seed=1)),
            _empty(3, 1),
            torch.ones(1, 3, 1).double(),
            has_offset=True,
            damping=0,
        )
        assert bool(fit.weight.isfinite().all())
