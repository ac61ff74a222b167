"""Channels, heads, what lies within heads, and whole blocks: all by one kind of plan."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import export, pattern_coupling, pattern_program, randomized
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig
from worker.engine.errors import NothingToPruneError, PlanMismatchError
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


class Parallel(nn.Module):
    """Attention and MLP side by side, both read by one layer, as in ViT-22B."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.mlp = nn.Linear(12, 20)
        self.out = nn.Linear(32, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).view(x.shape[0], 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        both = torch.cat([attended, self.mlp(x).relu()], dim=-1)
        return self.head(x + self.out(both))


@pytest.mark.parametrize(("granularity", "count_of_one"), [("heads", 3), ("head_dim", 4)])
def test_channels_beside_heads_are_no_heads(granularity, count_of_one):
    program = Program.from_exported(export(randomized(Parallel()), torch.randn(2, 5, 12)))
    plan, result = pruned(program, granularity)
    assert {len(group) for group in plan.coupling.groups} == {count_of_one}
    assert result.module.get_parameter("mlp.weight").shape == (20, 12)
    everything = {g.name: len(g) for g in couple(program).groups}
    assert everything == {"qkv.weight": 3, "mlp.weight": 20}


class Experts(nn.Module):
    """A weight with a leading dimension of its own: a product with it is no attention."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.randn(3, 8, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bi,eio->ebo", self.stem(x), self.weight).sum(0))


def test_experts_are_no_heads():
    program = Program.from_exported(export(randomized(Experts()), torch.randn(2, 6)))
    assert {group.granularity for group in couple(program).groups} == {"channels"}
    with pytest.raises(NothingToPruneError):
        decide(couple(program, granularity="heads"), PruneConfig(channel_ratio=0.5), seed=0)


class Widening(nn.Module):
    """A sum of two dtypes has the wider one: without the branch it would have the other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8, dtype=torch.bfloat16)
        self.branch = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return h + self.branch(h.float())


def test_a_branch_of_another_dtype_is_no_block():
    inputs = torch.randn(2, 4, dtype=torch.bfloat16)
    program = Program.from_exported(export(Widening().eval(), inputs))
    assert couple(program, granularity="layers").groups == ()


class Sums(nn.Module):
    """Sums of sums: twice as many ways through it with every step."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), x
        for _ in range(self.steps):
            a, b = b, a + b
        return x + self.second(b)


@pytest.mark.parametrize("steps", [60, 600])
def test_many_ways_through_sums_are_walked_once(steps):
    program = Program.from_exported(export(Sums(steps).eval(), torch.randn(2, 4)))
    assert len(couple(program, granularity="layers").blocks) >= 1


def test_one_block_stays_and_a_ratio_that_removes_none_is_told_so():
    coupling = couple(pattern_program("vision_transformer"), granularity="layers")
    blocks = len(coupling.blocks)
    almost_all = PruneConfig(granularity="layers", scope="local", channel_ratio=0.99)
    assert int(decide(coupling, almost_all, seed=0).keep[:-1].sum()) == 1
    almost_none = PruneConfig(granularity="layers", scope="local", channel_ratio=0.4 / blocks)
    with pytest.raises(NothingToPruneError, match="removes not one whole channel"):
        decide(coupling, almost_none, seed=0)
    nothing_left = ApplyPlanConfig("0" * 64, (GroupConfig("g0", ()),), granularity="layers")
    with pytest.raises(PlanMismatchError, match="keep at least one"):
        given(coupling, nothing_left, model_sha256="0" * 64, seed=0)
