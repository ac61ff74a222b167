"""The step on programs: what is exact, what is counted, what stays and why."""

import dataclasses
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.engine.factorize.nets import Calling, layer_of, lost, outputs, program_of, rows_of
from tests.zoo.exported import examples, pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.changed import KEPT, Changed
from worker.engine.config import FactorizeConfig, PruneConfig
from worker.engine.data import Rows
from worker.engine.errors import (
    NotFiniteError,
    NothingToChangeError,
    TargetUnreachableError,
)
from worker.engine.factorize import factorize, moments
from worker.engine.factorize.rewrite import Replacement, rewritten
from worker.engine.factorize.svd import Svd
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.prune.verify import verify_cut
from worker.engine.recovery.setting import Setting

aten = torch.ops.aten


def _done(program: Program, rows: Rows | None = None, **options) -> Changed:
    config = FactorizeConfig(**{"sample_count": 96, "batch_size": 32, **options})
    return factorize(program, config, rows, Setting(seed=0))


def _names(program: Program) -> list[str]:
    return [name for name, _ in program.module.named_parameters()]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 16, (3, 5), stride=2, padding="valid")
        self.same = nn.Conv2d(16, 16, 3, padding="same", dilation=2)
        self.fc = nn.Linear(16 * 5 * 4, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.same(self.wide(x).relu()).relu().flatten(1)
        return self.head(self.fc(x).relu())


@pytest.fixture(scope="module")
def net() -> Program:
    torch.manual_seed(0)
    module = Net()
    nn.init.uniform_(module.norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(module.norm.running_var, 0.5, 1.5)
    return program_of(module, 3, 12, 12)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of(3, 12, 12)


def _low_rank(*shape: int, rank: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(shape[0], rank, generator=generator)
    return (left @ torch.randn(rank, prod(shape[1:]), generator=generator)).view(shape)


_PRODUCTS = {
    "linear": (lambda x, w, b: functional.linear(x, w, b), (12, 10), True),
    "linear without bias": (lambda x, w: functional.linear(x, w), (12, 10), False),
    "matmul": (lambda x, w: torch.matmul(x, w), (10, 12), False),
    "matmul of a transpose": (lambda x, w: torch.matmul(x, w.T), (12, 10), False),
    "mm": (lambda x, w: torch.mm(x, w), (10, 12), False),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w), (10, 12), True),
    "addmm of a transpose": (lambda x, w, b: torch.addmm(b, x, w.t()), (12, 10), True),
    "addmm, scaled": (lambda x, w, b: torch.addmm(b, x, w, beta=2, alpha=3), (10, 12), True),
}


@pytest.mark.parametrize("name", _PRODUCTS)
@pytest.mark.parametrize("seen", [False, True])
def test_a_product_of_low_rank_stays_exact(name, seen):
    call, shape, has_bias = _PRODUCTS[name]
    module = Calling(_low_rank(*shape), call, torch.arange(12.0) if has_bias else None)
    program = program_of(module, 10)
    rows = rows_of(10)
    changed = _done(program, rows if seen else None, energy=0.9999)
    [line] = changed.layers
    assert line.became == "svd 2"
    assert lost(changed.program, program, rows) < 1e-5
    assert line.weight_error < 1e-5


_SLIDING = {
    "conv1d": (nn.Conv1d(6, 8, 3, stride=2, padding=1), (6, 9)),
    "conv2d": (nn.Conv2d(6, 8, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (6, 8, 9)),
    "conv3d": (nn.Conv3d(6, 8, (2, 3, 1), padding=(1, 0, 2)), (6, 4, 5, 3)),
    "same": (nn.Conv2d(6, 8, (5, 3), padding="same", dilation=(1, 2)), (6, 7, 6)),
    "valid": (nn.Conv1d(6, 8, 2, padding="valid", stride=3), (6, 9)),
}


@pytest.mark.parametrize("name", _SLIDING)
@pytest.mark.parametrize("method", ["svd", "tucker", "cp"])
def test_a_convolution_of_low_rank_slides_as_it_did(name, method):
    module, shape = _SLIDING[name]
    generator = torch.Generator().manual_seed(0)
    # One product of vectors: it has rank 1 in every sense.
    weight = torch.ones(())
    for size in module.weight.shape:
        weight = weight[..., None] * torch.randn(size, generator=generator)
    module.weight = nn.Parameter(weight)
    program = program_of(nn.Sequential(module), *shape)
    rows = rows_of(*shape, count=12)
    changed = _done(program, rows, method=method, energy=0.999, batch_size=12)
    assert changed.layers[0].became == f"{method} {'1x1' if method == 'tucker' else '1'}"
    assert lost(changed.program, program, rows) < 1e-3
    assert outputs(changed.program, rows).shape == outputs(program, rows).shape


def test_all_of_the_rank_gives_the_same_outputs(net, rows):
    layers = [layer_of(program_of(nn.Sequential(nn.Linear(6, 9)), 6))]
    [layer] = layers
    parts = Svd(layer, None).parts((6,))
    program = rewritten(layer.program, [Replacement(layer, parts)])
    small = rows_of(6)
    assert lost(program, layer.program, small) < 1e-6


@pytest.mark.parametrize("method", ["auto", "svd", "tucker", "cp"])
@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_the_budget_is_met_from_below_and_counted_as_it_will_be(net, rows, method, kind):
    fraction = 0.9 if (method in ("tucker", "cp") and kind == "parameters") else 0.6
    changed = _done(net, rows, method=method, **{kind: fraction})
    before, after = count(couple(net)), count(couple(changed.program))
    share = getattr(after, kind) / getattr(before, kind)
    assert fraction - 0.03 < share <= fraction
    assert (share > fraction - 0.01) or any(kind in each for each in changed.warnings)


@pytest.mark.parametrize("method", ["svd", "tucker", "cp"])
def test_weighing_by_rows_loses_less_on_them(net, rows, method):
    plain, weighed = (_done(net, each, method=method, macs=0.6) for each in (None, rows))
    assert lost(weighed.program, net, rows) < lost(plain.program, net, rows)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_the_error_of_an_output_is_what_a_run_says(shape, has_bias):
    torch.manual_seed(1)
    program = program_of(nn.Sequential(nn.Linear(shape[1], shape[0], bias=has_bias)), shape[1])
    rows = rows_of(shape[1])
    changed = _done(program, rows, energy=0.8)
    expected = lost(changed.program, program, rows)
    assert changed.layers[0].output_error == pytest.approx(expected, rel=1e-3)


def test_without_rows_there_is_no_error_of_an_output(net):
    assert all(line.output_error is None for line in _done(net, macs=0.6).layers)


def test_the_mean_of_an_output_stays(rows):
    """A bias takes what is lost in the mean, and so does the mean that a batch norm subtracts."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12)
    for module in (
        nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), norm),
        nn.Sequential(nn.Conv2d(3, 12, 3, padding=1)),
    ):
        program = program_of(module, 3, 12, 12)
        changed = _done(program, rows, energy=0.5)
        assert changed.layers[0].output_error > 0.1
        means = [outputs(each, rows).mean((0, 2, 3)) for each in (program, changed.program)]
        assert torch.allclose(*means, atol=1e-5)


def test_parts_are_called_as_those_of_a_sequential_in_its_place(net):
    changed = _done(net, macs=0.4, method="auto")
    became = {line.layer: line.became for line in changed.layers}
    assert became["wide.weight"].startswith("tucker")
    names = _names(changed.program)
    count_ = sum(name.startswith("wide.") and name.endswith("weight") for name in names)
    assert count_ in (2, 3)
    assert [f"wide.{at}.weight" for at in range(count_)] == [
        name for name in names if name.startswith("wide.") and name.endswith("weight")
    ]
    assert f"wide.{count_ - 1}.bias" in names
    assert "wide.weight" not in names
    assert "wide.bias" not in names


class Named(nn.Module):
    """A weight at the root, one of another name, and one in a module that has a part 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(_low_rank(12, 10))
        self.inner = nn.Module()
        self.inner.in_proj_weight = nn.Parameter(_low_rank(14, 12))
        self.inner.in_proj_bias = nn.Parameter(torch.ones(14))
        self.taken = nn.Module()
        self.taken.weight = nn.Parameter(_low_rank(10, 14))
        self.taken.add_module("0", nn.LayerNorm(10))

    def forward(self, x):
        x = functional.linear(functional.linear(x, self.weight), self.inner.in_proj_weight)
        x = functional.linear(x + self.inner.in_proj_bias, self.taken.weight)
        return self.taken.get_submodule("0")(x)


def test_parts_that_have_no_layer_get_the_name_of_the_weight():
    program = program_of(Named(), 10)
    changed = _done(program, energy=0.9999)
    assert sorted(_names(changed.program)) == [
        "inner.in_proj_bias",
        "inner.in_proj_weight.0.weight",
        "inner.in_proj_weight.1.weight",
        "taken.0.bias",
        "taken.0.weight",
        "taken.weight.0.weight",
        "taken.weight.1.weight",
        "weight.0.weight",
        "weight.1.weight",
    ]
    assert lost(changed.program, program, rows_of(10)) < 1e-5


def test_the_program_is_not_changed_and_the_result_is_the_same_each_time(net, rows):
    before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    code = net.module.code
    results = [_done(net, rows, method="cp", macs=0.6).program for _ in range(2)]
    after = net.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert net.module.code == code
    first, second = (each.module.state_dict() for each in results)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_batch_stays_dynamic(net, rows):
    changed = _done(net, rows, macs=0.6).program
    assert changed.input_sizes == net.input_sizes
    assert changed.row_limits == net.row_limits
    again = Program.from_exported(changed.export())
    for size in (1, 5):
        x = torch.from_numpy(rows.inputs[0][:size])
        assert torch.equal(again.run([x])[0], changed.run([x])[0])


def test_low_precision_stays_what_it_is():
    program = program_of(nn.Sequential(nn.Linear(10, 12)), 10)
    module = nn.Sequential(nn.Linear(10, 12)).to(torch.bfloat16)
    example = torch.zeros(2, 10, dtype=torch.bfloat16)
    program = Program.from_exported(torch.export.export(module, (example,)))
    changed = _done(program, energy=0.7)
    [line] = changed.layers
    held = dict(changed.program.module.named_parameters())
    assert {tensor.dtype for tensor in held.values()} == {torch.bfloat16}
    assert line.bytes_before == 240
    assert line.bytes_after == sum(2 * held[f"0.{at}.weight"].numel() for at in range(2))


def test_what_needs_several_passes_comes_out_the_same(net, rows, monkeypatch):
    whole = _done(net, rows, macs=0.6)
    monkeypatch.setattr(moments, "MEMORY_BYTES", 1)
    parts = _done(net, rows, macs=0.6)
    assert [line.became for line in parts.layers] == [line.became for line in whole.layers]
    assert lost(parts.program, whole.program, rows) < 1e-3


def test_wide_columns_are_weighed_by_channels_and_that_is_said(net, rows, monkeypatch):
    monkeypatch.setattr(moments, "LARGEST", 100)
    changed = _done(net, rows, macs=0.6)
    [said] = (each for each in changed.warnings if "by channels alone" in each)
    assert "same.weight" in said
    assert "stem.weight" not in said
    assert lost(changed.program, net, rows) < lost(_done(net, macs=0.6).program, net, rows)


def test_what_is_excluded_stays_and_what_excludes_nothing_is_said(net):
    changed = _done(net, macs=0.8, exclude=("fc.*", "same.weight", "nothing.*"))
    reasons = {line.layer: line.reason for line in changed.layers}
    assert reasons["fc.weight"] == reasons["same.weight"] == "excluded"
    assert {"fc.weight", "same.weight"} <= set(_names(changed.program))
    [warning] = (each for each in changed.warnings if "exclude" in each)
    assert "'nothing.*'" in warning


def test_zeros_that_were_made_on_purpose_stay(net):
    config = FactorizeConfig(macs=0.8)
    changed = factorize(net, config, None, Setting(seed=0, sparse={"wide.weight"}))
    [line] = (line for line in changed.layers if line.layer == "wide.weight")
    assert line.became == KEPT
    assert "zeros" in line.reason


def test_a_weight_is_told_once_and_has_its_bytes(net):
    changed = _done(net, energy=0.6)
    assert [line.layer for line in changed.layers] == [
        f"{name}.weight" for name in ("stem", "wide", "same", "fc", "head")
    ]
    held = dict(net.module.named_parameters())
    for line in changed.layers:
        assert line.bytes_before == 4 * held[line.layer].numel()
        assert (line.bytes_after < line.bytes_before) == (line.became != KEPT)
        assert (line.reason is None) == (line.became != KEPT)


def test_progress_ends_with_all_layers(net):
    seen = []
    setting = Setting(seed=0, on_progress=lambda *each: seen.append(each))
    factorize(net, FactorizeConfig(macs=0.6), None, setting)
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_cannot_be_reached_says_what_can(net):
    with pytest.raises(TargetUnreachableError, match=r"at most 0\.001 .* remain") as error:
        _done(net, macs=0.001)
    assert error.value.pointer == "/rank/macs"


def test_where_nothing_gets_smaller_the_reasons_are_given():
    program = program_of(nn.Sequential(nn.Linear(3, 2)), 3)
    with pytest.raises(NothingToChangeError, match=r"0\.weight is not smaller with svd 2") as error:
        _done(program, energy=0.999)
    assert error.value.pointer == "/rank"


def test_where_nothing_can_be_taken_apart_the_reasons_are_given():
    program = program_of(nn.Sequential(nn.Linear(8, 8)), 8)
    with pytest.raises(NothingToChangeError, match=r"no kernel for tucker: .* svd or auto"):
        _done(program, method="tucker", energy=0.5)


def test_numbers_that_are_none_are_refused(net):
    rows = rows_of(3, 12, 12)
    rows.inputs[0][:] = np.float32(1e30)
    with pytest.raises(NotFiniteError, match="stem"):
        _done(net, rows, macs=0.6)


def test_a_weight_with_nan_stays():
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan
    changed = _done(program_of(module, 8), energy=0.3)
    assert [line.became == KEPT for line in changed.layers] == [True, False]


def test_what_keeps_too_little_stays():
    """Ten sweeps of `cp` on noise keep less than asked at every rank that saves anything."""
    torch.manual_seed(0)
    program = program_of(nn.Sequential(nn.Conv2d(6, 6, 3)), 6, 5, 5)
    with pytest.raises(NothingToChangeError, match=r"keeps less than 0\.999 of its energy with cp"):
        _done(program, method="cp", energy=0.999)


def test_parts_can_be_taken_apart_again():
    torch.manual_seed(0)
    program = program_of(nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 4, 1)), 16, 6, 6)
    once = _done(program, energy=0.6)
    twice = _done(once.program, energy=0.6, exclude=("1.*",))
    names = _names(twice.program)
    assert "0.1.0.weight" in names
    assert "0.1.weight" not in names
    assert count(couple(twice.program)).parameters < count(couple(once.program)).parameters
    assert twice.program.run(program.example_leaves)[0].shape == (3, 4, 4, 4)


def test_noise_is_left_out():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 60))
    module[0].weight = nn.Parameter(_low_rank(60, 40, rank=4) + 0.1 * torch.randn(60, 40))
    assert _done(program_of(module, 40), vbmf=True).layers[0].became == "svd 4"


def test_one_image_without_rows_is_taken_apart_without_data():
    weight = _low_rank(8, 6, 3, 3)

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 8, 3)
            self.conv.weight = nn.Parameter(weight)

        def forward(self, x):
            return self.conv(x[0])[None] + x.mean()

    example = torch.randn(1, 6, 5, 5)
    program = Program.from_exported(torch.export.export(One().eval(), (example,)))
    changed = _done(program, rows_of(6, 5, 5, count=4), method="svd", energy=0.999)
    assert changed.layers[0].became == "svd 2"
    assert torch.allclose(changed.program.run([example])[0], program.run([example])[0], atol=1e-5)
    assert any("not weighed" in each for each in changed.warnings)


def test_what_was_taken_apart_can_still_be_pruned(net, rows):
    changed = _done(net, rows, macs=0.7).program
    coupling = couple(changed)
    # The ranks are channels as others are.
    names = {member.parameter for group in coupling.groups for member in group.members}
    assert any(name.endswith(".0.weight") for name in names)
    plan = decide(coupling, PruneConfig(macs=0.6), seed=0)
    pruned = cut(coupling, plan.keep)
    assert count(couple(pruned)) == plan.predicted
    verify_cut(coupling, plan.keep, pruned, seed=0)


# One in three, as each is exported twice more.
@pytest.mark.parametrize("name", sorted(PATTERNS)[::3])
def test_a_pattern_is_taken_apart_or_told_why_not(name):
    program = pattern_program(name)
    leaves = torch.utils._pytree.tree_leaves(examples(PATTERNS[name], 4))
    rows = None
    if all(isinstance(leaf, torch.Tensor) and len(leaf) == 4 for leaf in leaves):
        low, high = program.row_limits
        rows = Rows(tuple(leaf.numpy() for leaf in leaves), None) if low != high else None
    try:
        changed = _done(program, rows, parameters=0.85, sample_count=4, batch_size=4)
    except (NothingToChangeError, TargetUnreachableError):
        return
    before, after = count(couple(program)), count(couple(changed.program))
    assert after.parameters <= 0.85 * before.parameters
    found = changed.program.run(program.example_leaves)
    expected = program.run(program.example_leaves)
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert all(line.reason for line in changed.layers if line.became == KEPT)
    assert dataclasses.asdict(changed.layers[0]) == changed.layers[0].as_json()


def test_rows_too_small_to_be_squared_weigh_all_inputs_alike():
    program, rows = program_of(nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 16)), 8), rows_of(8)
    small = Rows((rows.inputs[0] * np.float32(1e-35),), None)
    changed = _done(program, small, energy=0.5)
    assert any(line.became != KEPT for line in changed.layers)
