"""Channels, heads, what lies within heads, and whole blocks: all by one kind of plan."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.attentions import RotaryHalves
from tests.zoo.exported import export, pattern_coupling, pattern_program, randomized
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig
from worker.engine.difference import TOLERANCE
from worker.engine.errors import NothingToPruneError, PlanMismatchError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import Plan, decide
from worker.engine.prune.verify import verify_cut

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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The halves of queries and keys turn together, and so do neighbors; values go alone.
        ("rotary_halves", 2 + 4),
        ("rotary_pairs", 2 + 4),
        ("rotary_complex", 2 + 4),
        # All three are one view: they lose the same.
        ("rotary_fused", 2),
        ("rotary_shared_keys", 2),
        # A number for each head keeps none of its width.
        ("temperature", 4 + 4),
    ],
)
def test_the_width_of_heads_goes_with_what_scales_it(name, expected):
    plan, _ = pruned(pattern_program(name), "head_dim")
    assert sum(len(group) for group in plan.coupling.groups) == expected
    assert plan.predicted.macs < plan.baseline.macs


class Counted(RotaryHalves):
    """The steps of its positions are counted out: each place has a meaning, and stays."""

    def rotated(self, x: Tensor) -> Tensor:
        angles = torch.arange(7)[:, None] * 0.1 ** torch.arange(2)
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return x * torch.cat([angles.cos()] * 2, -1) + turned * torch.cat([angles.sin()] * 2, -1)


def test_values_lose_width_alone_where_positions_are_counted_out():
    program = Program.from_exported(export(randomized(Counted()), torch.randn(2, 7, 5)))
    plan, result = pruned(program, "head_dim")
    assert [len(group) for group in plan.coupling.groups] == [4]
    assert result.module.get_parameter("qkv.weight").shape == (2 * 16 + 8, 16)


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


class SharedNorm(nn.Module):
    """Attention and MLP side by side, each added for itself, read one norm (GPT-J)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(2)])
        self.mix = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.mlp = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, mix, mlp in zip(self.norms, self.mix, self.mlp, strict=True):
            y = norm(x)
            x = x + mix(y).softmax(1) + mlp(y).relu()
        return self.head(x)


@pytest.mark.parametrize(
    ("dropped", "gone"),
    [((0,), ()), ((1, 2), ()), ((0, 1), ("norms.0",)), ((0, 1, 2, 3), ("norms.0", "norms.1"))],
)
def test_what_two_blocks_read_goes_with_the_last_of_them(dropped, gone):
    program = Program.from_exported(export(randomized(SharedNorm()), torch.randn(2, 4, 5)))
    coupling = couple(program, granularity="layers")
    assert coupling.groups[0].channel_names == ("mix.0", "mlp.0", "mix.1", "mlp.1")
    keep = coupling.everything()
    keep[list(dropped)] = False
    result = cut(coupling, keep)
    assert verify_cut(coupling, keep, result, seed=0).max_relative_error <= TOLERANCE
    assert count(coupling, keep) == count(couple(result))
    left = dict(result.module.named_parameters())
    assert {f"norms.{at}" for at in range(2) if f"norms.{at}.weight" not in left} == set(gone)


def _view_of_the_sum_is_written(x: Tensor, block: nn.Module) -> Tensor:
    y = x + block(x)
    y[:, :4].mul_(3.0)
    y.view(-1, 2, 4)[:, 1].relu_()
    return x * y


def _view_of_what_is_kept_is_read(x: Tensor, block: nn.Module) -> Tensor:
    view = x.view(-1, 2, 4)
    x += block(x)
    x.relu_()
    return x + view.flatten(1)


def _what_is_kept_is_written_later(x: Tensor, block: nn.Module) -> Tensor:
    y = x + block(x)
    x.relu_()
    return y * x


def _sum_is_written_into_the_branch(x: Tensor, block: nn.Module) -> Tensor:
    y = block(x)
    y += x
    y.relu_()
    return y * x


class Written(nn.Module):
    """A block, and something that is written near it."""

    def __init__(self, body):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x), self.block))


@pytest.mark.parametrize(
    "body",
    [
        _view_of_the_sum_is_written,
        _view_of_what_is_kept_is_read,
        _what_is_kept_is_written_later,
        _sum_is_written_into_the_branch,
    ],
    ids=lambda body: body.__name__,
)
def test_a_block_goes_and_every_write_still_lands_where_it_did(body):
    program = Program.from_exported(export(randomized(Written(body)), torch.randn(2, 5)))
    coupling = couple(program, granularity="layers")
    assert coupling.groups[0].channel_names == ("block",)
    keep = coupling.everything()
    keep[0] = False
    result = cut(coupling, keep)
    assert verify_cut(coupling, keep, result, seed=0).max_relative_error <= TOLERANCE


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
