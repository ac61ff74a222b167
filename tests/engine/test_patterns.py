"""Every pattern is pruned, runs at any batch, and computes what its silenced original computes."""

import pytest
import torch

from tests.zoo.exported import (
    example,
    export,
    pattern_coupling,
    pattern_program,
    randomized,
)
from tests.zoo.patterns import PATTERNS
from worker.engine.config import PruneConfig
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import LOW_PRECISION, TOLERANCE, tolerance, verify_cut

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
    leaves = [example(PATTERNS[name], rows=3)]
    with torch.no_grad():
        assert torch.equal(same.run(leaves)[0], pattern_program(name).run(leaves)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_batch_stays_dynamic(name):
    coupling = pattern_coupling(name)
    plan = decide(coupling, PruneConfig(scope="local", channel_ratio=0.5), seed=0)
    pruned = cut(coupling, plan.keep)
    assert pruned.row_limits == pattern_program(name).row_limits == (1, 512)
    rows = example(PATTERNS[name], rows=6)
    with torch.no_grad():
        whole = pruned.run([rows])[0]
        for size in (1, 3):
            torch.testing.assert_close(pruned.run([rows[:size]])[0], whole[:size])


@pytest.mark.parametrize("name", NAMES)
def test_no_operator_of_a_pattern_is_frozen(name):
    assert pattern_coupling(name).frozen == []


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
        ("shared_inputs", {"stem.weight": 6}),
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
