"""The proof of a cut: what it compares, and on which inputs."""

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.exported import export, randomized
from worker.engine.config import PruneConfig
from worker.engine.difference import TOLERANCE, relative_error
from worker.engine.errors import OutputsDifferError
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 3.0], [1.0, 2.0], 0.5),
        ([1 + 5j], [1 - 5j], 2.0),
        # A mask beside them is no measure for logits.
        ([-1e9, 3.0], [-1e9, 2.0], 0.5),
        ([torch.finfo(torch.float32).min, 3.0], [torch.finfo(torch.float32).min, 2.0], 0.5),
        ([-3e9, 2.0], [-1e9, 2.0], 2.0),
        ([float("nan"), 2.0], [float("nan"), 2.0], 0.0),
        ([float("nan"), 2.0], [1.0, 2.0], float("inf")),
        ([float("inf"), 2.0], [float("-inf"), 2.0], float("inf")),
        ([[1.0]], [1.0], float("inf")),
        ([1, 2], [1.0, 2.0], float("inf")),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_relative_to_what_counts(found, expected, error):
    assert relative_error([torch.tensor(found)], [torch.tensor(expected)]) == pytest.approx(error)


def proved(module: nn.Module, inputs: Tensor) -> float:
    coupling = couple(Program.from_exported(export(randomized(module), inputs)))
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    return verify_cut(coupling, plan.keep, cut(coupling, plan.keep), seed=0).max_relative_error


class Steps(nn.Module):
    """Floats that are places in a table: not every float is one."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.mix(self.table(steps.long())).relu())


class Positive(nn.Module):
    """Says what it takes."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        torch.ops.aten._assert_async.msg((x > 0).all(), "inputs must be positive")
        return self.head(self.stem(x).relu())


@pytest.mark.parametrize(
    ("module", "inputs"),
    [(Steps(), torch.tensor([2.0, 8.0, 0.0])), (Positive(), torch.rand(2, 4) + 0.1)],
    ids=["steps", "positive"],
)
def test_a_model_that_does_not_take_any_number_is_proved_on_those_it_takes(module, inputs):
    assert proved(module, inputs) <= TOLERANCE


class Half(nn.Module):
    """Weights in float32, some arithmetic in bfloat16."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        half = self.mix(self.stem(x).relu()).to(torch.bfloat16).float()
        return self.head(half.relu())


def test_rounding_of_what_is_computed_in_bfloat16_is_no_defect():
    assert proved(Half(), torch.randn(8, 4)) < 0.05


def test_a_cut_that_does_not_run_is_told_from_a_model_that_does_not(monkeypatch):
    def broken(*_: object) -> list[Tensor]:
        raise RuntimeError("shapes cannot be multiplied")

    coupling = couple(Program.from_exported(export(randomized(Positive()), torch.rand(2, 4) + 1)))
    pruned = cut(coupling, coupling.everything())
    monkeypatch.setattr(type(pruned.module), "forward", broken)
    with pytest.raises(OutputsDifferError, match="does not run"):
        verify_cut(coupling, coupling.everything(), pruned, seed=0)
