"""Every pattern is pruned, runs at any batch, and computes what its silenced original computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.zoo.compositions import Branching
from tests.zoo.exported import (
    example,
    examples,
    export,
    pattern_coupling,
    pattern_program,
    randomized,
)
from tests.zoo.patterns import PATTERNS
from worker.engine.config import PruneConfig
from worker.engine.difference import LOW_PRECISION, TOLERANCE, tolerance
from worker.engine.errors import NothingToPruneError
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.graph.silence import SilencedProgram
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut

NAMES = sorted(PATTERNS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(criterion="random", scope="local", channel_ratio=0.5),
        PruneConfig(criterion="magnitude", scope="global", channel_ratio=0.3),
    ],
    ids=["half_of_each_group", "a_third_of_all"],
)
def test_a_pattern_is_cut_exactly_and_counts_what_the_plan_said(name, config):
    coupling = pattern_coupling(name)
    plan = decide(coupling, config, seed=3)
    pruned = cut(coupling, plan.keep)

    proof = verify_cut(coupling, plan.keep, pruned, seed=1)

    assert proof.max_relative_error <= TOLERANCE
    assert bool(proof.exempt_operators) == PATTERNS[name].is_exempt
    assert count(couple(pruned)) == plan.predicted
    assert plan.predicted.parameters < plan.baseline.parameters
    assert plan.predicted.macs < plan.baseline.macs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_program_of_another_precision_is_judged_by_that(dtype):
    module = randomized(PATTERNS["residual"].build()).to(dtype)
    program = Program.from_exported(export(module, example(PATTERNS["residual"]).to(dtype)))
    coupling = couple(program)
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    proof = verify_cut(coupling, plan.keep, cut(coupling, plan.keep), seed=0)
    assert proof.max_relative_error <= tolerance(program)
    assert tolerance(program) == LOW_PRECISION.get(dtype, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_removed_changes_nothing(name):
    coupling = pattern_coupling(name)
    same = cut(coupling, coupling.everything())
    leaves = pytree.tree_leaves(examples(PATTERNS[name], rows=3))
    with torch.no_grad():
        outputs = zip(same.run(leaves), pattern_program(name).run(leaves), strict=True)
        assert all(torch.equal(found, expected) for found, expected in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_batch_stays_dynamic(name):
    coupling = pattern_coupling(name)
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    assert pruned.row_limits == pattern_program(name).row_limits == (1, 512)
    rows = pytree.tree_leaves(examples(PATTERNS[name], rows=6))
    with torch.no_grad():
        whole = pruned.run(rows)
        for size in (1, 3):
            part = pruned.run([leaf[:size] for leaf in rows])
            torch.testing.assert_close(part, [output[:size] for output in whole])


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("length", [2, 7, 13])
def test_a_dynamic_length_stays_dynamic(rows, length):
    coupling = pattern_coupling("any_length")
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    tokens = torch.randint(11, (rows, length))
    with torch.no_grad():
        expected = SilencedProgram(coupling, plan.keep).run(tokens)
        torch.testing.assert_close(pruned.run([tokens]), pytree.tree_leaves(expected))


# torch 2.13 looks at the gradient of a value while it exports a condition.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_what_stands_apart_from_a_condition_is_pruned():
    module = randomized(Branching())
    coupling = couple(Program.from_exported(export(module, torch.randn(2, 6))))
    assert [frozen.operator for frozen in coupling.frozen] == ["cond"]
    assert [(group.name, len(group)) for group in coupling.groups] == [("hidden.weight", 8)]
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    verify_cut(coupling, plan.keep, pruned, seed=0)
    for sign in (-3.0, 3.0):  # One branch, then the other.
        x = torch.full((4, 6), sign)
        with torch.no_grad():
            expected = SilencedProgram(coupling, plan.keep).run(x)
            torch.testing.assert_close(pruned.run([x]), pytree.tree_leaves(expected))


@pytest.mark.parametrize("name", NAMES)
def test_no_operator_of_a_pattern_is_frozen(name):
    assert pattern_coupling(name).frozen == []


class Between(nn.Module):
    """A function of what one layer gives the next."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.softmax(1), ["aten.softmax.int"]),
        (lambda x: x * x.log_softmax(1), ["aten.log_softmax.int"]),
        # Once is enough: what comes behind it could not lose channels in any case.
        (lambda x: x.cumsum(1).sort(1)[0], ["aten.cumsum.default"]),
        (lambda x: x.roll(2, 1), ["aten.roll.default"]),
        (lambda x: functional.local_response_norm(x, 3), ["aten.avg_pool3d.default"]),
        # Rows of an image: it is the input that has them in full.
        (lambda x: x.softmax(2).roll(1, 3), []),
    ],
)
def test_what_runs_over_channels_is_named(function, named):
    program = Program.from_exported(export(Between(function).eval(), torch.randn(2, 3, 4, 4)))
    coupling = couple(program)
    assert [frozen.operator for frozen in coupling.frozen] == named
    if named:
        with pytest.raises(NothingToPruneError, match="it runs over channels"):
            decide(coupling, PruneConfig(channel_ratio=0.5), seed=0)


class _Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [
            leaf.untyped_storage().nbytes() // leaf.element_size()
            for leaf in pytree.tree_leaves(made)
            if isinstance(leaf, Tensor)
        ]
        self.elements = max([self.elements, *sizes])
        return made


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flip(-1),
        lambda x: x.repeat_interleave(2, 3),
        lambda x: x.tile(1, 1, 2, 1),
        lambda x: x[:, [0, 3, 2, 1, 4, 5, 6, 7]],
        lambda x: functional.channel_shuffle(x, 2),
        lambda x: x.roll(1, 3),
        lambda x: x.softmax(3),
    ],
)
def test_labels_take_no_room_for_an_image(function):
    program = Program.from_exported(export(Between(function).eval(), torch.randn(2, 3, 32, 32)))
    with _Largest() as largest:
        couple(program)
    assert largest.elements < 32 * 32


def _groups(name: str) -> dict[str, int]:
    return {group.name: len(group) for group in pattern_coupling(name).groups}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", {"0.weight": 16, "2.weight": 12}),
        ("residual", {"stem.weight": 8, "inner.weight": 12}),
        # Four channels of the stem meet the padding's zeros on each side, and still may go: only
        # the first and last four of `down` are added to zeros that stay.
        ("padded_shortcut", {"stem.weight": 8}),
        ("concatenation", {"first.weight": 12, "third.weight": 6}),
        ("split", {"stem.weight": 10, "left.weight": 6}),
        ("chunk", {"stem.weight": 8}),
        ("grouped_and_depthwise", {"stem.weight": 4, "last.weight": 8}),
        # And each conv group its own share of what it writes.
        ("shared_inputs", {"stem.weight": 6, "grouped.weight": 4}),
        ("written_in_place", {"stem.weight": 8}),
        ("squeeze_excite", {"stem.weight": 8, "squeeze.weight": 4}),
        ("encoder_decoder", {"down.weight": 16, "middle.weight": 12}),
        ("sub_pixel", {"stem.weight": 4}),
        ("shuffled", {"stem.weight": 4, "mix.weight": 8}),
        ("reused", {"stem.weight": 8}),
        ("recurrent_stack", {"lstm.weight_ih_l0": 8, "gru.weight_ih_l0": 6}),
        ("plain_recurrence", {"rnn.weight_ih_l0": 8}),
        # Three heads, and the width of the stream.
        ("manual_attention", {"embed.weight": 12, "qkv.weight": 3}),
        ("convolution_1d", {"stem.weight": 8, "dilated.weight": 6}),
        ("convolution_3d", {"stem.weight": 8, "up.weight": 6}),
        ("grouped_transposed", {"stem.weight": 4}),
        ("added_products", {"bias": 8, "biases": 10}),
        ("instance_normalized", {"stem.weight": 8}),
        # What is projected; torch has no name for fewer hidden units than that.
        ("projected_recurrence", {"stem.weight": 6, "lstm.weight_hh_l0": 4}),
        ("unrolled_lstm", {"stem.weight": 6, "cell.weight_ih": 8}),
        ("unrolled_gru", {"state": 8}),
        ("one_group", {"stem.weight": 8, "up.weight": 12}),
        ("summed_rows", {"table.weight": 8}),
        ("tied_vocabulary", {"embed.weight": 8, "middle.weight": 12}),
        ("interpolated", {"stem.weight": 8, "middle.weight": 6}),
        ("averaged_weights", {"attend.in_proj_weight": 3}),
        # Two heads of the query go with the one of the key that they share.
        ("grouped_queries", {"embed.weight": 16, "query.weight": 2}),
        ("repeated_keys", {"embed.weight": 16, "query.weight": 2}),
        ("window_attention", {"table": 2, "embed.weight": 8, "merge.weight": 12}),
        ("rotary_halves", {"embed.weight": 16, "qkv.weight": 4}),
        ("rotary_pairs", {"embed.weight": 16, "qkv.weight": 4}),
        ("rotary_complex", {"embed.weight": 16, "qkv.weight": 4}),
        ("rotary_fused", {"embed.weight": 16, "qkv.weight": 4}),
        ("rotary_shared_keys", {"embed.weight": 16, "qkv.weight": 2}),
        ("temperature", {"temperature": 3, "layer_scale": 12}),
        ("linear_biases", {"embed.weight": 16, "qkv.weight": 4}),
        ("folded_heads", {"embed.weight": 12, "qkv.weight": 3}),
        ("any_length", {"embed.weight": 16, "qkv.weight": 4}),
        ("padded_channels", {"stem.weight": 8, "inner.weight": 6}),
        ("padded_planes", {"stem.weight": 8, "middle.weight": 6}),
        ("pixels_to_channels", {"stem.weight": 6, "middle.weight": 8}),
        ("shuffled_by_stack", {"stem.weight": 2}),
        # Groups of the first are dealt out: each group of the second has one channel of both.
        ("shuffled_by_module", {"stem.weight": 2, "second.weight": 3}),
        ("folded_patches", {"stem.weight": 6, "mix.weight": 6}),
        ("permuted", {"stem.weight": 8, "mix.weight": 6}),
        # Four that are read from both, and four that are read from neither.
        ("permuted_twice", {"stem.weight": 8}),
        # What the middle gives is as wide as an output without a row.
        ("emptied", {"stem.weight": 8}),
        ("gathered", {"stem.weight": 8}),
        ("masked", {"stem.weight": 8, "middle.weight": 6}),
        # The halves of the second lie on each other.
        ("unequal_parts", {"stem.weight": 12, "middle.weight": 4}),
        ("flipped", {"stem.weight": 8, "middle.weight": 6}),
        ("repeated", {"stem.weight": 8, "middle.weight": 6}),
        ("computed_sizes", {"stem.weight": 8, "middle.weight": 3}),
        ("einsum_excite", {"stem.weight": 8, "squeeze.weight": 4}),
        ("spatial_attention", {"stem.weight": 8}),
        ("mixer", {"embed.weight": 8, "steps.0.weight": 10, "channels.0.weight": 12}),
        ("padded_blocks", {"stem.weight": 8, "first.0.weight": 8, "second.0.weight": 16}),
        ("ensemble", {"first.0.weight": 8, "second.0.weight": 12}),
        ("two_towers", {"user.0.weight": 8, "user.2.weight": 4, "item.0.weight": 10}),
        ("several_outputs", {"image.weight": 8}),
        # Two layers side by side.
        ("nested_inputs", {"embed.weight": 14}),
    ],
)
def test_channels_are_what_a_reader_of_the_module_expects(name, expected):
    assert _groups(name) == expected


def test_a_mask_over_all_heads_keeps_no_head():
    assert _groups("padded_tokens")["encoder.layers.0.self_attn.in_proj_weight"] == 4


def test_heads_are_the_channels_of_an_attention():
    groups = _groups("vision_transformer")
    assert groups["encoder.layers.0.self_attn.in_proj_weight"] == 4
    assert groups["encoder.layers.0.linear1.weight"] == 24
    assert groups["token"] == 16
