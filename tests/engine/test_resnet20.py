"""The ResNet-20 for CIFAR-10 as first described: its shortcuts have no parameters, only zeros."""

from functools import cache

import pytest
import torch

from benchmarks.cifar import ResNet20
from tests.zoo.exported import export, randomized
from worker.engine.config import PruneConfig
from worker.engine.difference import TOLERANCE
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut


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
    assert sizes.pop("conv1.weight") == 16
    assert sizes == {
        f"layer{number}.{block}.conv1.weight": width
        for number, width in ((1, 16), (2, 32), (3, 64))
        for block in range(3)
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
