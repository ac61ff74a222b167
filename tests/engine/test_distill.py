"""Training on what the original computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.zoo.exported import export, pattern_program
from worker.engine.config import DistillConfig, PruneConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.recovery.distill import distill
from worker.engine.recovery.features import difference, shared_sums, tapped
from worker.engine.recovery.losses import divergence
from worker.engine.recovery.setting import Setting

SETTING = Setting(seed=0)


class Net(nn.Module):
    """Two residual blocks between a stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(2)
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def original() -> Program:
    torch.manual_seed(0)
    return Program.from_exported(export(Net().eval(), torch.zeros(2, 6)))


def pruned(program: Program, **asked) -> Program:
    config = PruneConfig(**{"channel_ratio": 0.5, "scope": "local", **asked})
    coupling = couple(program, exclude=config.exclude, granularity=config.granularity)
    return cut(coupling, decide(coupling, config, seed=0).keep)


def bare(count: int = 256) -> Rows:
    inputs = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    return Rows((inputs,), None)


def labeled(count: int = 256) -> Rows:
    rows = bare(count)
    return replace(rows, targets=(rows.inputs[0].argmax(1) % 4).astype(np.int64))


def outputs(program: Program) -> torch.Tensor:
    with torch.no_grad():
        return program.run([torch.from_numpy(bare().inputs[0])])[0]


CONFIG = DistillConfig(epochs=20, learning_rate=1e-2, batch_size=32)
BLOCKS = ("stem.*",)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "mse"},
        {"temperature": 1.0},
        {"features": 1.0},
        {"precision": "bfloat16", "features": 1.0},
        {"ema": 0.9, "optimizer": "sgd", "learning_rate": 0.05},
    ],
    ids=str,
)
def test_outputs_come_closer_to_the_originals_without_labels(options):
    teacher = original()
    before = outputs(teacher)
    student = pruned(teacher, exclude=BLOCKS).copy()

    def far() -> float:
        return float(divergence(outputs(student), before, temperature=1.0))

    start = far()
    distill(student, replace(CONFIG, **options), bare(), teacher, SETTING)
    assert far() < 0.3 * start
    assert torch.equal(outputs(teacher), before)


def test_the_divergence_is_that_of_torch_and_of_hinton():
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 4), torch.randn(5, 4)
    expected = functional.kl_div(
        functional.log_softmax(ours / 3, 1),
        functional.softmax(theirs / 3, 1),
        reduction="batchmean",
    )
    torch.testing.assert_close(divergence(ours, theirs, temperature=3.0), expected * 9)
    assert float(divergence(ours, ours, temperature=3.0)) == 0
    # Far from any saturation its gradient is that of half the squared difference over classes.
    ours = (ours / 100).requires_grad_()
    found = torch.autograd.grad(divergence(ours, theirs / 100, temperature=10.0), ours)[0]
    centered = (ours - theirs / 100).detach()
    centered = centered - centered.mean(1, keepdim=True)
    torch.testing.assert_close(found, centered / 4 / 5, rtol=0.02, atol=1e-6)


def test_float_targets_have_their_outputs_matched_as_numbers():
    teacher = original()
    rows = replace(bare(), targets=np.zeros((256, 4), np.float32))
    one, other = (pruned(teacher).copy() for _ in range(2))
    distill(one, CONFIG, rows, teacher, SETTING)
    distill(other, replace(CONFIG, loss="mse"), bare(), teacher, SETTING)
    assert torch.equal(outputs(one), outputs(other))


def test_labels_pull_where_the_original_is_wrong():
    def accuracy(labels: float) -> float:
        teacher = original()
        student = teacher.copy()
        rows = labeled()
        distill(student, replace(CONFIG, labels=labels), rows, teacher, SETTING)
        return float((outputs(student).argmax(1).numpy() == rows.targets).mean())

    assert accuracy(1.0) > accuracy(0.0) + 0.2


def test_labels_that_are_asked_for_have_to_be_there():
    teacher = original()
    with pytest.raises(DataMismatchError, match="labels"):
        distill(teacher.copy(), replace(CONFIG, labels=0.5), bare(), teacher, SETTING)


def test_an_output_without_classes_has_no_probabilities():
    program = Program.from_exported(export(nn.Linear(6, 1).eval(), torch.zeros(2, 6)))
    with pytest.raises(DataMismatchError, match="no two classes") as caught:
        distill(program.copy(), CONFIG, bare(), program, SETTING)
    assert caught.value.pointer == "/loss"
    distill(program.copy(), replace(CONFIG, loss="mse"), bare(), program, SETTING)


class TestFeatures:
    def test_a_residual_stream_that_stays_whole_is_shared(self):
        teacher = original()
        assert len(shared_sums(pruned(teacher, exclude=BLOCKS), teacher)) == 2
        assert shared_sums(pruned(teacher), teacher) == []

    def test_sums_of_a_dropped_block_are_missed_and_no_others(self):
        teacher = original()
        assert len(shared_sums(teacher, teacher)) == 2
        assert len(shared_sums(pruned(teacher, granularity="layers"), teacher)) == 1

    @pytest.mark.parametrize("name", ["residual", "vision_transformer", "post_norm_encoder"])
    def test_a_program_shares_all_sums_with_itself_after_a_cut_of_nothing(self, name):
        teacher = pattern_program(name)
        coupling = couple(teacher)
        same = cut(coupling, coupling.everything())
        assert shared_sums(same, teacher) == shared_sums(teacher, teacher) != []

    def test_taps_show_the_stream_and_change_no_output(self):
        teacher = original()
        places = shared_sums(teacher, teacher)
        watched = tapped(teacher, places)
        rows = [torch.from_numpy(bare(8).inputs[0])]
        with torch.no_grad():
            assert torch.equal(watched.run(rows)[0], teacher.run(rows)[0])
            weights = dict(teacher.module.named_parameters())
            first = functional.linear(rows[0], weights["stem.weight"], weights["stem.bias"])
            block = functional.linear(
                first, weights["blocks.0.0.weight"], weights["blocks.0.0.bias"]
            )
            block = functional.linear(
                block.relu(), weights["blocks.0.2.weight"], weights["blocks.0.2.bias"]
            )
        torch.testing.assert_close(watched.seen[0], first + block)
        assert len(watched.seen) == 2

    def test_the_difference_has_no_unit(self):
        theirs = [torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])]
        ours = [torch.tensor([0.0, 4.0]), torch.tensor([[1.0]])]
        assert float(difference(ours, theirs)) == pytest.approx((9 / 25) / 2)
        assert float(difference(theirs, theirs)) == 0

    def test_features_that_are_not_to_be_had_are_a_warning(self):
        told = []
        teacher = original()
        setting = Setting(seed=0, warn=told.append)
        distill(pruned(teacher).copy(), replace(CONFIG, features=1.0), bare(), teacher, setting)
        [warning] = told
        assert warning.startswith("features")

    def test_features_bring_inner_activations_closer(self):
        def far(features: float) -> float:
            teacher = original()
            student = pruned(teacher, exclude=BLOCKS).copy()
            distill(student, replace(CONFIG, features=features), bare(), teacher, SETTING)
            places = shared_sums(student, teacher)
            pair = [tapped(student, places), tapped(teacher, places)]
            with torch.no_grad():
                for each in pair:
                    each.run([torch.from_numpy(bare().inputs[0])])
            return float(difference(pair[0].seen, pair[1].seen))

        assert far(1.0) < 0.5 * far(0.0)
