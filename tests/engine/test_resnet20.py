"""The ResNet-20 for CIFAR-10 as first described: its shortcuts have no parameters, only zeros."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import export, randomized
from worker.engine.config import PruneConfig
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import TOLERANCE, verify_cut


class Block(nn.Module):
    """Two convolutions; the shortcut takes every second pixel and pads zeros around channels."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.stride, self.pad = width // width_in, (width - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.pad:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return (branch + x).relu()


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nn.Sequential(*map(Block, widths, widths[1:]))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.bn(self.conv(x)).relu()).mean((2, 3)))


@cache
def _coupling() -> Coupling:
    module = randomized(ResNet20())
    return couple(Program.from_exported(export(module, torch.randn(2, 3, 8, 8))))


def test_it_has_the_parameters_of_the_paper():
    assert round(count(_coupling()).parameters / 1e6, 2) == 0.27


def test_channels_within_and_between_blocks_are_found():
    coupling = _coupling()
    assert coupling.frozen == []
    # 16 + 8 + 8 channels of the second stage lie around the 16 of the stem, which go on through
    # it and through the third stage.
    sizes = {group.name: len(group) for group in coupling.groups}
    assert sizes.pop("conv.weight") == 16
    assert sizes == {
        f"blocks.{number}.conv1.weight": width
        for number, width in enumerate([16] * 3 + [32] * 3 + [64] * 3)
    }


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(criterion="random", scope="local", channel_ratio=0.5),
        PruneConfig(criterion="magnitude", scope="global", channel_ratio=0.3),
        PruneConfig(criterion="magnitude", scope="global", macs=0.5),
    ],
    ids=["half_of_each_group", "a_third_of_all", "half_of_the_macs"],
)
def test_it_is_cut_exactly(config):
    coupling = _coupling()
    plan = decide(coupling, config, seed=0)
    pruned = cut(coupling, plan.keep)
    proof = verify_cut(coupling, plan.keep, pruned, seed=0)
    assert proof.max_relative_error <= TOLERANCE
    assert proof.exempt_operators == ()
    assert count(couple(pruned)) == plan.predicted
    assert not plan.keep[coupling.groups[0].channels].all(), "the stem and what follows it stay"
    with torch.no_grad():
        assert [pruned.run([torch.randn(rows, 3, 8, 8)])[0].shape for rows in (1, 3)] == [
            (1, 10),
            (3, 10),
        ]
