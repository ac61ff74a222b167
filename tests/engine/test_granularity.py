"""Channels, heads, what lies within heads, and whole blocks: all by one kind of plan."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import export, pattern_coupling, pattern_program, randomized
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig
from worker.engine.errors import NothingToPruneError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import Plan, decide
from worker.engine.prune.verify import TOLERANCE, verify_cut

WITH_HEADS = ("vision_transformer", "manual_attention", "padded_tokens")


def pruned(
    program: Program, granularity: str, ratio: float = 0.5, **options
) -> tuple[Plan, Program]:
    """A plan of one granularity, done and proved."""
    config = PruneConfig(
        criterion="random", scope="local", channel_ratio=ratio, granularity=granularity
    )
    plan = decide(couple(program, granularity=granularity, **options), config, seed=1)
    result = cut(plan.coupling, plan.keep)
    proof = verify_cut(plan.coupling, plan.keep, result, seed=0)
    assert proof.max_relative_error <= TOLERANCE
    assert count(couple(result)) == plan.predicted
    return plan, result


@pytest.mark.parametrize("name", WITH_HEADS)
def test_heads_alone_go_and_the_stream_keeps_its_width(name):
    plan, _ = pruned(pattern_program(name), "heads")
    assert {group.granularity for group in plan.coupling.groups} == {"heads"}
    heads = {len(group) for group in plan.coupling.groups}
    assert heads == {3} if name == "manual_attention" else {4}
    assert plan.predicted.parameters < plan.baseline.parameters


@pytest.mark.parametrize("name", WITH_HEADS)
def test_every_head_loses_the_same_of_its_width(name):
    plan, _ = pruned(pattern_program(name), "head_dim")
    assert {group.granularity for group in plan.coupling.groups} == {"head_dim"}
    # Queries with their keys, and values with the output projection: four wide each.
    assert {len(group) for group in plan.coupling.groups} == {4}
    assert plan.predicted.macs < plan.baseline.macs


def test_all_groups_say_what_their_channels_are():
    kinds = {g.name: g.granularity for g in pattern_coupling("vision_transformer").groups}
    assert kinds["encoder.layers.0.self_attn.in_proj_weight"] == "heads"
    assert kinds["encoder.layers.0.linear1.weight"] == "channels"


def test_a_transformer_loses_whole_blocks():
    plan, result = pruned(pattern_program("vision_transformer"), "layers")
    (group,) = plan.coupling.groups
    assert group.channel_names == (
        "encoder.layers.0 (norm1 to self_attn.out_proj)",
        "encoder.layers.0 (norm2 to linear2)",
        "encoder.layers.1 (norm1 to self_attn.out_proj)",
        "encoder.layers.1 (norm2 to linear2)",
    )
    gone = {m.parameter for m in group.members if not plan.keep[m.channels].any()}
    left = {name for name, _ in result.module.named_parameters()}
    before = {name for name, _ in plan.coupling.program.module.named_parameters()}
    assert gone == before - left


class Stages(nn.Module):
    """Two residual blocks that write in place, one with a shortcut of its own, one read twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = early = functional.relu(self.stem(x), inplace=True)
        y = self.blocks[0](x)
        y += x
        x = functional.relu(y, inplace=True)
        x = functional.relu(self.shortcut(x) + self.blocks[1](x))
        seen = self.blocks[2](x)
        x = x + seen
        return self.head(torch.cat([(x * early).mean((2, 3)), seen.mean((2, 3))], dim=1))


def stages() -> Program:
    return Program.from_exported(export(randomized(Stages()), torch.randn(2, 3, 6, 6)))


def test_a_block_goes_where_nobody_else_reads_its_branch_and_its_shortcut_is_plain():
    program = stages()
    coupling = couple(program, granularity="layers")
    assert coupling.groups[0].channel_names == ("blocks.0",)
    keep = coupling.everything()
    keep[0] = False
    result = cut(coupling, keep)
    assert verify_cut(coupling, keep, result, seed=0).max_relative_error <= TOLERANCE
    assert "blocks.0.weight" not in dict(result.module.named_parameters())
    leaves = [torch.randn(5, 3, 6, 6)]
    module = randomized(Stages())
    nn.init.zeros_(module.blocks[0].weight)
    nn.init.zeros_(module.blocks[0].bias)
    with torch.no_grad():
        torch.testing.assert_close(result.run(leaves)[0], module(*leaves))


def test_an_excluded_block_stays():
    coupling = couple(stages(), granularity="layers", exclude=["blocks.0.*"])
    assert coupling.groups == ()


@pytest.mark.parametrize(
    ("granularity", "reason"),
    [("heads", "no attention heads"), ("head_dim", "width may shrink"), ("layers", "no residual")],
)
def test_a_model_without_any_is_told_so(granularity, reason):
    config = PruneConfig(channel_ratio=0.5, granularity=granularity)
    coupling = couple(pattern_program("mlp"), granularity=granularity)
    with pytest.raises(NothingToPruneError, match=reason):
        decide(coupling, config, seed=0)


def test_a_plan_of_blocks_is_given_back():
    program = pattern_program("vision_transformer")
    coupling = couple(program, granularity="layers")
    config = ApplyPlanConfig(
        model_sha256="a", granularity="layers", exclude=(), groups=(GroupConfig("g0", (0, 3)),)
    )
    plan = given(coupling, config, model_sha256="a", seed=0)
    document = plan.as_json("a")
    assert document["channel_groups"][0]["keep"] == [0, 3]
    assert document["channel_groups"][0]["channel_names"][1].startswith("encoder.layers.0")
    assert count(couple(cut(coupling, plan.keep))) == plan.predicted
