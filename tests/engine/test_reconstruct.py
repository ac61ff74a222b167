"""Reconstruction: exact where what is lost can be had from the rest, never worse elsewhere."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import examples, export, pattern_coupling, pattern_program
from tests.zoo.patterns import PATTERNS
from worker.engine.config import ApplyPlanConfig, GroupConfig, PruneConfig, ReconstructConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError, NotFiniteError
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import decide
from worker.engine.recovery import layers
from worker.engine.recovery import reconstruct as module_under_test
from worker.engine.recovery.lockstep import Lockstep, held_bytes
from worker.engine.recovery.reconstruct import Reference, reconstruct
from worker.engine.recovery.remaining import Remaining


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


def _rows(*shape: int, count: int = 96) -> Rows:
    draw = np.random.default_rng(0)
    return Rows((draw.normal(0.5, 1.0, (count, *shape)).astype(np.float32),), None)


def _reconstructed(
    coupling: Coupling, keep: Tensor, rows: Rows, **options: object
) -> tuple[Program, Program, list[str]]:
    """A cut before and after."""
    plain = cut(coupling, keep)
    program = plain.copy()
    reference = Reference(coupling.program, Remaining().after(coupling, keep))
    config = ReconstructConfig(**{"sample_count": 96, "batch_size": 32, **options})
    warnings = reconstruct(program, reference, config, rows, seed=0, on_progress=_ignore)
    return plain, program, warnings


def _first_half(coupling: Coupling, of: str) -> Tensor:
    """What stays if the second half of a group goes."""
    group = next(group for group in coupling.groups if group.name == of)
    kept = GroupConfig(group.id, tuple(range(len(group) // 2)))
    plan = given(coupling, ApplyPlanConfig("0" * 64, (kept,)), model_sha256="0" * 64, seed=0)
    return plan.keep


def _error(program: Program, original: Program, rows: Rows) -> float:
    leaves = [torch.from_numpy(np.asarray(array)) for array in rows.inputs]
    with torch.no_grad():
        pairs = zip(program.run(leaves), original.run(leaves), strict=True)
        return max(
            float((a - b).square().sum() / (b.square().sum() + 1e-12))
            for a, b in pairs
            if b.is_floating_point()
        )


class Convolutions(nn.Module):
    def __init__(self, **options: object):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Grouped(nn.Module):
    """Of each part of the channels the second half is a copy of the first."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, groups=8)
        self.third = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)).relu())


class Normalized(nn.Module):
    """The reader has no bias; the mean of its batch norm takes the place of one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.second = nn.Conv1d(8, 6, 3, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x).relu()))


class Attention(nn.Module):
    """Queries, keys and values read a width that is there twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (
            part(x).unflatten(-1, (2, 4)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: object):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = kind(8, 6, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())[0]


EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)),
        (5,),
    ),
    "linear without a bias": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        (5,),
    ),
    "convolution": (lambda: Convolutions(padding=1), (3, 9, 9)),
    "strided, dilated": (lambda: Convolutions(stride=2, dilation=2), (3, 9, 9)),
    "padding same": (lambda: Convolutions(padding="same"), (3, 9, 9)),
    "depthwise": (Grouped, (3, 7, 7)),
    "batch norm": (Normalized, (3, 9)),
    "attention": (Attention, (7, 5)),
    "lstm": (lambda: Recurrent(nn.LSTM), (7, 5)),
    "gru": (lambda: Recurrent(nn.GRU), (7, 5)),
    "rnn, two ways, two layers": (
        lambda: Recurrent(nn.RNN, bidirectional=True, num_layers=2),
        (7, 5),
    ),
    "recurrent without biases": (lambda: Recurrent(nn.LSTM, bias=False), (7, 5)),
}
"""Networks whose first layer's second half of channels is a copy of the first."""


@pytest.mark.filterwarnings("ignore:.*were assigned during export")
@pytest.mark.parametrize("name", EXACT)
def test_copies_that_go_are_read_from_what_they_are_copies_of(name):
    build, shape = EXACT[name]
    torch.manual_seed(0)
    module = build().eval()
    first = "0" if isinstance(module, nn.Sequential) else "first"
    with torch.no_grad():
        for parameter in module.get_submodule(first).parameters():
            parameter[4:] = parameter[:4] / 2
        if name == "depthwise":
            for parameter in module.second.parameters():
                parameter[4:] = parameter[:4]
            module.second.bias[4:] /= 2
    rows = _rows(*shape)
    program = Program.from_exported(export(module, torch.from_numpy(rows.inputs[0][:2])))
    coupling = couple(program)
    before = {n: p.detach().clone() for n, p in program.module.named_parameters()}
    keep = _first_half(coupling, f"{first}.weight")
    plain, result, warnings = _reconstructed(coupling, keep, rows, damping=1e-9)
    assert warnings == []
    assert _error(plain, program, rows) > 1e-3
    assert _error(result, program, rows) < 1e-9
    for each, parameter in program.module.named_parameters():
        assert torch.equal(parameter, before[each])


class Branches(nn.Module):
    """A sum whose first summand loses what cannot be had back, and whose second can give it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.lossy = nn.Linear(6, 4)
        self.whole = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lossy(self.first(x)) + self.whole(x)


def test_what_one_summand_lacks_the_other_makes_up_for():
    torch.manual_seed(0)
    module = Branches().eval()
    rows = _rows(6)
    program = Program.from_exported(export(module, torch.from_numpy(rows.inputs[0][:2])))
    coupling = couple(program)
    keep = _first_half(coupling, "first.weight")
    plain, result, _ = _reconstructed(coupling, keep, rows, damping=1e-9)
    # The second reads what it read, so it is left alone, and the loss is that of the first.
    assert _error(result, program, rows) < 0.9 * _error(plain, program, rows)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.inner = nn.Linear(12, 12)
        self.outer = nn.Linear(12, 6)
        self.after = nn.Linear(6, 12)
        self.last = nn.Linear(12, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.outer(self.inner(self.stem(x).relu()).relu())
        x = x + self.last(self.after(x).relu())
        return self.head(x)


def test_drift_on_the_residual_stream_is_made_up_for(monkeypatch):
    torch.manual_seed(0)
    rows = _rows(6, count=256)
    program = Program.from_exported(export(Residual().eval(), torch.zeros(2, 6)))
    coupling = couple(program)
    keep = _first_half(coupling, "inner.weight") & _first_half(coupling, "after.weight")
    _, result, _ = _reconstructed(coupling, keep, rows, sample_count=256)
    monkeypatch.setattr(layers, "_other_summand", lambda _: None)
    _, without, _ = _reconstructed(coupling, keep, rows, sample_count=256)
    assert _error(result, program, rows) < _error(without, program, rows)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_every_pattern_is_nearer_to_its_original_than_the_cut_alone(name):
    coupling = pattern_coupling(name)
    program = pattern_program(name)
    pattern = PATTERNS[name]
    inputs = examples(pattern, 64)
    arrays = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(inputs)]
    rows = Rows(tuple(arrays), None)
    config = PruneConfig(criterion="magnitude", scope="local", channel_ratio=0.4)
    keep = decide(coupling, config, seed=0).keep
    plain, result, _ = _reconstructed(coupling, keep, rows, sample_count=64)
    before, after = _error(plain, program, rows), _error(result, program, rows)
    assert after <= before * 1.05 + 1e-9


def test_layers_behind_a_block_that_is_gone_make_up_for_it():
    torch.manual_seed(0)
    program = Program.from_exported(export(Residual().eval(), torch.zeros(2, 6)))
    coupling = couple(program, granularity="layers")
    keep = coupling.everything()
    keep[0] = False
    rows = _rows(6)
    plain, result, _ = _reconstructed(coupling, keep, rows)
    assert _error(result, program, rows) < _error(plain, program, rows)


def test_what_a_cut_leaves_is_counted_in_the_first_program():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = Program.from_exported(export(module, torch.zeros(2, 5)))
    coupling = couple(program)
    keep = coupling.everything()
    keep[coupling.groups[0].channels[[0, 3]]] = False
    remaining = Remaining().after(coupling, keep)
    second = couple(cut(coupling, keep))
    keep = second.everything()
    keep[second.groups[0].channels[[1, 5]]] = False
    remaining = remaining.after(second, keep)
    expected = [1, 4, 5, 6]
    assert remaining.indices["0.weight"][0].tolist() == expected
    assert remaining.indices["2.weight"][1].tolist() == expected
    assert remaining.along("2.weight", 0, 3).tolist() == [0, 1, 2]


def test_a_weight_with_two_readers_stays_and_is_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(5, 8)
            self.twice = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.twice(x) + self.twice(x * 2)

    torch.manual_seed(0)
    program = Program.from_exported(export(Tied().eval(), torch.zeros(2, 5)))
    coupling = couple(program)
    plain, result, warnings = _reconstructed(
        coupling, _first_half(coupling, "first.weight"), _rows(5)
    )
    weight = result.module.get_parameter("twice.weight")
    assert torch.equal(weight, plain.module.get_parameter("twice.weight"))
    assert "twice.weight" in warnings[0]


def test_nan_in_the_data_is_said():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = Program.from_exported(export(module, torch.zeros(2, 5)))
    coupling = couple(program)
    rows = _rows(5)
    rows.inputs[0][3, 2] = np.nan
    with pytest.raises((NotFiniteError, DataMismatchError), match="holds nan in row 3"):
        _reconstructed(coupling, _first_half(coupling, "0.weight"), rows)


def test_no_more_rows_are_held_than_memory_allows(monkeypatch):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = Program.from_exported(export(module, torch.zeros(2, 5)))
    coupling = couple(program)
    per_row = held_bytes(program) // 2
    # Inputs, and what two layers give: never all of it at once.
    assert per_row <= 4 * (8 + 8 + 5)
    monkeypatch.setattr(module_under_test, "MEMORY_BYTES", 1000)
    keep = _first_half(coupling, "0.weight")
    _, _, warnings = _reconstructed(coupling, keep, _rows(5))
    assert "of 96 rows are used" in warnings[0]


def test_lockstep_gives_what_the_program_gives_and_holds_no_more_than_is_read():
    program = pattern_program("residual")
    batches = [[example] for example in torch.randn(3, 2, *PATTERNS["residual"].input_shape)]
    run = Lockstep(program, batches)
    output = next(iter(program.graph.find_nodes(op="output")))
    run.run_to(output)
    [last] = output.all_input_nodes
    for values, batch in zip(run.values, batches, strict=True):
        assert torch.equal(values[last], program.run(batch)[0])
        assert set(values) == {last}
