"""Classes one by one, noise and attacks, against numbers by hand and against plain PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.measure.classes import ClassAccuracy, top_share
from worker.engine.measure.quality import quality
from worker.engine.measure.robustness import Noise, attacked
from worker.engine.objective import Objective
from worker.engine.program import Program


def _nothing(done: int, total: int) -> None:
    """Nobody watches."""


def _measured(program: Program, rows: Rows, **asked: float) -> dict:
    return quality(program, program, rows, batch_size=2, on_batch=_nothing, **asked)


class Linear(nn.Module):
    """Two classes of two numbers: logits ``(a - b, 0)``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))

    def forward(self, x):
        return x @ self.weight.T


@pytest.fixture(scope="module")
def linear() -> Program:
    return Program.from_exported(export(Linear(), torch.ones(2, 2)))


ROWS = Rows(
    (np.array([[0.5, 0], [2, 0], [0, 0.5], [0, 2], [1, 0]], np.float32),),
    np.array([0, 0, 1, 1, 1]),
)
"""Margins a - b of 0.5, 2, -0.5, -2 and 1; the last is classified wrongly."""


class TestClasses:
    def test_each_class_has_its_own_fraction(self, linear):
        assert _measured(linear, ROWS)["class_accuracy"] == [1.0, pytest.approx(2 / 3)]

    def test_a_class_without_rows_has_none(self):
        counted = ClassAccuracy()
        counted.add(torch.eye(4)[[0, 1]], torch.tensor([0, 3]))
        counted.add(torch.eye(4)[[3, 3]], torch.tensor([3, 3]))
        assert counted.value == [1.0, None, None, pytest.approx(2 / 3)]

    def test_every_position_counts(self):
        counted = ClassAccuracy()
        logits = torch.zeros(1, 2, 3)
        logits[0, 1] = torch.tensor([1.0, 1.0, -1.0])  # Predicts 1, 1, 0.
        counted.add(logits, torch.tensor([[1, 0, 0]]))
        assert counted.value == [0.5, 1.0]

    def test_nobody_reads_a_list_of_a_whole_vocabulary(self):
        counted = ClassAccuracy()
        counted.add(torch.zeros(1, 2**15 + 1), torch.tensor([0]))
        assert counted.value is None

    def test_float_targets_have_no_classes(self, linear):
        found = _measured(linear, Rows(ROWS.inputs, np.zeros((5, 2), np.float32)))
        assert (found["class_accuracy"], found["top5_accuracy"]) == (None, None)

    def test_among_the_five_most_likely(self):
        logits = torch.arange(7.0).repeat(3, 1)  # The five highest are 2 to 6.
        assert top_share(logits, torch.tensor([6, 2, 1])) == pytest.approx(2 / 3)
        positions = logits.T.reshape(1, 7, 3)
        assert top_share(positions, torch.tensor([[6, 1, 1]])) == pytest.approx(1 / 3)

    def test_of_five_classes_five_are_no_news(self):
        assert top_share(torch.zeros(2, 5), torch.tensor([0, 1])) is None

    def test_nan_is_never_right(self):
        logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])
        assert Objective().right(logits, torch.tensor([0, 0])).tolist() == [False, True]


class TestNoise:
    def test_what_it_adds_has_the_standard_deviation_that_was_asked_for(self):
        x = torch.full((1000, 50), 3.0)
        noisy = Noise(0.25, seed=0).added_to(Batch([x], None, 1000)).inputs[0]
        assert float(noisy.mean()) == pytest.approx(3.0, abs=0.01)
        assert float((noisy - x).std()) == pytest.approx(0.25, rel=0.01)

    def test_it_is_the_same_however_the_rows_come_in_batches(self):
        rows = Rows((np.zeros((7, 3), np.float32), np.zeros((7, 2), np.float32)), None)

        class Pair(nn.Module):
            def forward(self, a, b):
                return a.sum(1) + b.sum(1)

        program = Program.from_exported(export(Pair(), torch.zeros(2, 3), torch.zeros(2, 2)))
        found = []
        for size in (1, 3, 7):
            noise = Noise(1.0, seed=5)
            batches = [noise.added_to(batch).inputs for batch in rows.batches(program, size)]
            found.append([torch.cat(parts) for parts in zip(*batches, strict=True)])
        assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))
        assert not torch.equal(found[0][0][:, :2], found[0][1])

    def test_tokens_and_the_batch_itself_stay(self):
        tokens, x = torch.tensor([[1, 2]]), torch.zeros(1, 2)
        noisy = Noise(1.0, seed=0).added_to(Batch([tokens, x], None, 1))
        assert noisy.inputs[0] is tokens
        assert not x.any()

    def test_a_little_noise_changes_nothing_and_much_makes_it_chance(self, linear):
        many = Rows((np.tile([2.0, 0.0], (2000, 1)).astype(np.float32),), np.zeros(2000, int))
        assert _measured(linear, many, noise_std=1e-3)["noise_accuracy"] == 1.0
        # The margin 2 has noise of std * sqrt(2) on it: P(z > -1) = 0.8413 for std = sqrt(2).
        found = _measured(linear, many, noise_std=2**0.5)["noise_accuracy"]
        assert found == pytest.approx(0.8413, abs=0.03)

    def test_the_same_seed_gives_the_same_number(self, linear):
        found = [_measured(linear, ROWS, noise_std=1.0, seed=3) for _ in range(2)]
        assert found[0] == found[1]


class TestAttack:
    @pytest.mark.parametrize(
        ("epsilon", "accuracy"),
        # Each step takes 2 epsilon of the margin. Rows of margin 0.5 fall between 0.2 and 0.3,
        # those of 2 above 1.
        [(0.2, 4 / 5), (0.3, 2 / 5), (0.9, 2 / 5), (1.1, 0.0)],
    )
    def test_a_linear_model_loses_twice_the_step(self, linear, epsilon, accuracy):
        found = _measured(linear, ROWS, fgsm_epsilon=epsilon)
        assert found["fgsm_accuracy"] == pytest.approx(accuracy)
        assert found["accuracy"] == pytest.approx(4 / 5)
        assert found["noise_accuracy"] is None

    def test_the_step_is_the_sign_of_the_gradient(self, linear):
        x = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
        batch = Batch([x], torch.tensor([0, 1]), 2)
        moved = attacked(linear, batch, objective=Objective(), epsilon=0.25).inputs[0]
        assert torch.equal(moved, torch.tensor([[0.25, 0.25], [0.25, 0.25]]))
        assert torch.equal(x, torch.tensor([[0.5, 0.0], [0.0, 0.5]]))
        assert linear.module.weight.grad is None
        assert not moved.requires_grad

    def test_each_model_is_attacked_with_its_own_gradients(self, linear):
        negative = Program.from_exported(export(Negative(), torch.ones(2, 2)))
        batch = Batch([torch.zeros(1, 2)], torch.tensor([0]), 1)
        steps = [
            attacked(each, batch, objective=Objective(), epsilon=1.0).inputs[0]
            for each in (linear, negative)
        ]
        assert [step.tolist() for step in steps] == [[[-1.0, 1.0]], [[1.0, -1.0]]]
        found = quality(negative, linear, ROWS, batch_size=2, on_batch=_nothing, fgsm_epsilon=10.0)
        assert found["fgsm_accuracy"] == 0.0

    def test_padding_takes_no_part(self):
        program = Program.from_exported(torch.export.export(Linear(), (torch.ones(3, 2),)))
        assert _measured(program, ROWS, fgsm_epsilon=0.3)["fgsm_accuracy"] == pytest.approx(2 / 5)

    def test_where_the_gradient_is_no_number_nothing_moves(self):
        class Root(Linear):
            def forward(self, x):
                return super().forward(x) + 0 * x.sqrt().sum(1, keepdim=True)

        program = Program.from_exported(export(Root(), torch.ones(2, 2)))
        batch = Batch([torch.tensor([[0.0, 4.0]])], torch.tensor([1]), 1)
        assert attacked(program, batch, objective=Objective(), epsilon=1.0).inputs[0].tolist() == [
            [0.0, 3.0]
        ]


class Negative(Linear):
    def forward(self, x):
        return -super().forward(x)


class BatchNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        return self.head(self.drop(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


class InPlace(nn.Module):
    """Writes into its input, and into a buffer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.seen = nn.Buffer(torch.zeros(4))

    def forward(self, x):
        x.mul_(2)
        self.seen.add_(x.detach().sum(0))
        return self.head(x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (BatchNormed(), (2, 5, 5)),
        (Recurrent(nn.LSTM), (3, 4)),
        (Recurrent(nn.GRU), (3, 4)),
        (Attention(), (3, 8)),
        (InPlace(), (4,)),
    ],
    ids=["batch norm and dropout", "lstm", "gru", "attention", "in place"],
)
def test_the_gradient_is_that_of_the_module(module, shape):
    torch.manual_seed(0)
    module = module.eval()
    # Statistics unlike those of any batch: in training mode the gradient would be another.
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    x, targets = torch.randn(6, *shape), torch.tensor([0, 1, 2, 0, 1, 2])
    program = Program.from_exported(export(module, torch.randn(2, *shape)))
    moved = attacked(program, Batch([x], targets, 6), objective=Objective(), epsilon=0.5).inputs[0]
    own = x.clone().requires_grad_()
    nn.functional.cross_entropy(module(own * 1), targets).backward()
    # Rounding decides the sign of what is nearly 0.
    clear = own.grad.abs() > 1e-6
    assert clear.float().mean() > 0.5
    assert torch.equal((moved - x).sign()[clear], own.grad.sign()[clear])


def test_the_first_floating_point_input_is_moved_and_no_other():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, tokens, x, y):
            return self.table(tokens) * x * y

    module = Mixed()
    inputs = (torch.tensor([0, 1]), torch.ones(2, 2), torch.ones(2, 2))
    program = Program.from_exported(export(module, *inputs))
    moved = attacked(
        program, Batch(list(inputs), torch.tensor([0, 1]), 2), objective=Objective(), epsilon=0.5
    ).inputs
    assert moved[0] is inputs[0]
    assert moved[2] is inputs[2]
    assert torch.equal((moved[1] - 1).abs(), torch.full((2, 2), 0.5))


@pytest.mark.parametrize("asked", [{"fgsm_epsilon": 0.1}, {"noise_std": 0.1}])
def test_tokens_cannot_be_moved(asked):
    program = Program.from_exported(
        export(
            nn.Sequential(nn.Embedding(3, 4), nn.Flatten(1), nn.Linear(8, 2)),
            torch.tensor([[0, 1], [2, 0]]),
        )
    )
    rows = Rows((np.zeros((2, 2), np.int64),), np.array([0, 1]))
    [name] = asked
    with pytest.raises(DataMismatchError, match=rf"{name} changes .* \(input 0 is int64\)"):
        _measured(program, rows, **asked)


@pytest.mark.parametrize("asked", [{"fgsm_epsilon": 0.1}, {"noise_std": 0.1}])
@pytest.mark.parametrize("targets", [None, np.zeros((5, 2), np.float32)])
def test_without_classes_there_is_no_accuracy_to_lose(linear, asked, targets):
    [name] = asked
    given = "none" if targets is None else "float32"
    with pytest.raises(DataMismatchError, match=f"{name} measures an accuracy.* are {given}"):
        _measured(linear, Rows(ROWS.inputs, targets), **asked)


@pytest.mark.parametrize("cut", [torch.Tensor.detach, torch.Tensor.long])
def test_an_output_without_gradient_cannot_be_attacked(cut):
    class Cut(Linear):
        def forward(self, x):
            return super().forward(cut(x).float())

    program = Program.from_exported(export(Cut(), torch.ones(2, 2)))
    with pytest.raises(DataMismatchError, match="no gradient to its input 0"):
        _measured(program, ROWS, fgsm_epsilon=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_recurrent_layers_are_attacked_on_a_gpu_too():
    torch.manual_seed(0)
    program = Program.from_exported(export(Recurrent(nn.LSTM).eval(), torch.randn(2, 3, 4)))
    batch = Batch([torch.randn(6, 3, 4)], torch.tensor([0, 1, 2, 0, 1, 2]), 6)
    here = attacked(program, batch, objective=Objective(), epsilon=0.5).inputs[0]
    on_gpu = Batch([batch.inputs[0].cuda()], batch.targets.cuda(), 6)
    there = attacked(program.to("cuda"), on_gpu, objective=Objective(), epsilon=0.5).inputs[0].cpu()
    assert (here == there).float().mean() > 0.95
