"""Losses and accuracies of every task by hand, and what is said of targets that do not fit."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.zoo.exported import export
from worker.engine.compress import pointing
from worker.engine.config import FinetuneConfig, ObjectiveConfig, PruneConfig
from worker.engine.criteria.subject import Subject
from worker.engine.data import Rows
from worker.engine.errors import CriterionError, DataMismatchError
from worker.engine.graph.coupling import couple
from worker.engine.measure.quality import quality
from worker.engine.objective import TASKS, Objective
from worker.engine.program import Program
from worker.engine.prune.scoring import score
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.setting import Setting


def _nothing(done: int, total: int) -> None:
    """Nobody watches."""


def _objective(task: str | None = None, **asked) -> Objective:
    return Objective(ObjectiveConfig(task, **asked))


LOGITS = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
"""Two rows of two positions with three classes, which are last: predicts 0 1, 0 2."""


class TestLoss:
    def test_classification_has_classes_second(self):
        output, targets = LOGITS.movedim(-1, 1), torch.tensor([[0, 1], [1, 2]])
        found = _objective("classification").loss(output, targets)
        assert found == functional.cross_entropy(LOGITS.flatten(0, 1), targets.flatten())

    def test_tagging_has_classes_last_and_leaves_out_minus_100(self):
        objective = _objective("tagging")
        found = objective.loss(LOGITS, torch.tensor([[0, -100], [1, 2]]))
        expected = functional.cross_entropy(
            LOGITS.flatten(0, 1)[[0, 2, 3]], torch.tensor([0, 1, 2])
        )
        torch.testing.assert_close(found, expected)

    def test_language_modelling_is_about_the_next_token(self):
        found = _objective("language_modelling").loss(LOGITS, torch.tensor([[9, 0], [9, 2]]))
        torch.testing.assert_close(
            found, functional.cross_entropy(LOGITS[:, 0], torch.tensor([0, 2]))
        )

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
    def test_several_labels_have_a_cross_entropy_each(self, dtype):
        output, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]).to(dtype)
        expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2
        assert float(_objective("multi_label").loss(output, targets)) == pytest.approx(expected)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
    def test_regression_takes_whole_numbers_too(self, dtype):
        found = _objective("regression").loss(
            torch.tensor([1.0, 4.0]), torch.tensor([3, 4]).to(dtype)
        )
        assert found == 2.0

    def test_the_class_to_ignore_may_be_any(self):
        output = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, 7.0]])
        found = _objective(ignore_class=255).loss(output, torch.tensor([0, 255, 255]))
        assert found == functional.cross_entropy(output[:1], torch.tensor([0]))
        found = _objective("multi_label", ignore_class=-1).loss(output, torch.tensor([[0, -1]] * 3))
        expected = functional.binary_cross_entropy_with_logits(output[:, 0], torch.zeros(3))
        torch.testing.assert_close(found, expected)

    def test_where_no_target_counts_the_loss_and_its_gradient_are_zero(self):
        output = LOGITS.clone().requires_grad_()
        loss = _objective("tagging").loss(output, torch.full((2, 2), -100))
        assert loss == 0
        loss.backward()
        assert not output.grad.any()

    def test_labels_are_smoothed_as_pytorch_does_it(self):
        targets = torch.tensor([[0, -100], [1, 2]])
        found = _objective("tagging").loss(LOGITS, targets, label_smoothing=0.1)
        torch.testing.assert_close(
            found,
            functional.cross_entropy(LOGITS.flatten(0, 1), targets.flatten(), label_smoothing=0.1),
        )

    @pytest.mark.parametrize("task", ["regression", "multi_label"])
    def test_what_has_no_classes_is_not_smoothed(self, task):
        with pytest.raises(DataMismatchError, match=r"label_smoothing is 0\.1") as caught:
            _objective(task).loss(torch.zeros(2), torch.zeros(2), label_smoothing=0.1)
        assert caught.value.pointer == "/label_smoothing"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_whole(name):
    """A new task is added in one place, and has to answer all that is asked of one."""
    objective = _objective(name)
    output = torch.randn(2, 3, 3, requires_grad=True)
    targets = {"regression": torch.randn(2, 3, 3), "multi_label": torch.ones(2, 3, 3)}
    fitting = targets.get(name, torch.ones(2, 3, dtype=torch.int64))
    objective.loss(output, fitting).backward()
    scores, counted = objective.cases(output, fitting)
    if objective.task.has_accuracy:
        assert objective.right(scores, counted).shape == counted.shape
        assert objective.task.predicted(scores).shape == counted.shape
    with pytest.raises(
        DataMismatchError, match=f"{name} needs .*\\(2, 3, 3\\), the targets \\(7,\\)"
    ):
        objective.loss(output, fitting.flatten()[:1].repeat(7))


@pytest.mark.parametrize(
    ("task", "output", "targets", "said"),
    [
        (None, torch.zeros(2, 3), torch.tensor([0, 3]), "class 3 in row 1 .*0 to 2"),
        (None, torch.zeros(2, 3), torch.tensor([-1, 0]), "class -1 in row 0"),
        (None, torch.zeros(2), torch.tensor([0, 1]), "rows, classes"),
        (None, torch.zeros(2, 3), torch.zeros(2), "needs whole numbers as targets.*float32"),
        (None, torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0, 1]), "output 0 holds bool"),
        ("regression", torch.zeros(2, 3), torch.zeros(2), "output's own shape"),
        ("regression", torch.zeros(2), torch.tensor([0, torch.nan]), "value nan in row 1 .*finite"),
        ("multi_label", torch.zeros(2, 2), torch.tensor([[0, 1], [1, 2]]), "value 2 in row 1"),
        ("multi_label", torch.zeros(1, 1), torch.tensor([[0.5]]), r"value 0\.5 .*is 0 or 1"),
        ("tagging", LOGITS, torch.tensor([[0, 1], [3, -100]]), "class 3 in row 1 .*or -100"),
        ("language_modelling", LOGITS[:, :1], torch.tensor([[0], [1]]), "2 or more"),
        ("language_modelling", LOGITS, torch.tensor([[0, 1], [0, 7]]), "class 7 in row 1"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task, output, targets, said):
    with pytest.raises(DataMismatchError, match=said):
        _objective(task).loss(output, targets)


class Same(nn.Module):
    """Two outputs: what went in, times a weight, and its negative."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.weight, -x * self.weight


def _same(shape: tuple[int, ...]) -> Program:
    return Program.from_exported(export(Same(), torch.zeros(2, *shape)))


def _measured(task: str | None, inputs: torch.Tensor, targets: object, **asked) -> dict:
    rows = Rows(
        (inputs.numpy(),),
        None if targets is None else np.array(targets),
        ObjectiveConfig(task, **asked),
        "test",
    )
    program = _same(tuple(inputs.shape[1:]))
    return quality(program, program.copy(), rows, batch_size=1, on_batch=_nothing)


class TestQuality:
    def test_tags_count_each_but_those_to_ignore(self):
        found = _measured("tagging", LOGITS, [[0, -100], [1, 2]])
        assert found["accuracy"] == pytest.approx(2 / 3)
        assert found["class_accuracy"] == [1.0, 0.0, 1.0]
        assert found["agreement"] == 1.0
        # Batches of one row hold one and two targets: each target weighs the same.
        expected = functional.cross_entropy(
            LOGITS.flatten(0, 1)[[0, 2, 3]], torch.tensor([0, 1, 2])
        )
        assert found["loss"] == pytest.approx(float(expected))

    def test_several_labels_are_right_on_their_side_of_zero(self):
        found = _measured("multi_label", torch.tensor([[1.0, -1.0], [2.0, 3.0]]), [[1, 0], [0, 1]])
        assert found["accuracy"] == 3 / 4
        assert found["agreement"] == 1.0
        assert (found["class_accuracy"], found["top5_accuracy"]) == (None, None)

    def test_another_output_is_judged_where_it_is_named(self):
        logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        assert _measured(None, logits, [0, 1])["accuracy"] == 1.0
        assert _measured(None, logits, [0, 1], output=1)["accuracy"] == 0.0

    def test_an_output_that_is_not_there_is_named_with_how_many_there_are(self):
        with pytest.raises(DataMismatchError, match="output is 2, and the model has 2") as caught:
            _measured(None, torch.zeros(2, 2), [0, 1], output=2)
        with pytest.raises(DataMismatchError) as again, pointing(3):
            raise caught.value
        assert again.value.pointer == "/objective/output"

    def test_targets_that_all_count_nowhere_are_told(self):
        with pytest.raises(DataMismatchError, match="every target of the test data is 7") as caught:
            _measured(None, torch.zeros(3, 2), [7, 7, 7], ignore_class=7)
        assert caught.value.pointer == "/data/test"

    def test_bools_are_two_classes(self):
        assert _measured(None, torch.tensor([[1.0, 0.0]]), [False])["accuracy"] == 1.0

    def test_a_wrong_label_is_found_with_its_row_in_the_whole_data_set(self):
        targets = np.zeros(40, int)
        targets[33] = 2
        with pytest.raises(DataMismatchError, match="class 2 in row 33 of the test data") as caught:
            _measured(None, torch.zeros(40, 2), targets)
        assert caught.value.pointer == "/data/test"


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(6, 8), nn.Linear(8, 16), nn.Linear(16, 6)

    def forward(self, tokens):
        return self.head(self.inner(self.embed(tokens)).relu())


def _counting(rows: int = 64) -> Rows:
    """Every token is one more than the one before, from 0 again after 5; there are no targets."""
    start = np.random.default_rng(0).integers(0, 6, (rows, 1))
    tokens = (start + np.arange(5)) % 6
    return Rows((tokens,), None, ObjectiveConfig("language_modelling"))


class TestLanguageModelling:
    def test_tokens_are_their_own_targets(self):
        torch.manual_seed(0)
        program = Program.from_exported(export(Tokens(), torch.zeros(2, 5, dtype=torch.int64)))
        rows = _counting()
        config = FinetuneConfig(epochs=30, learning_rate=0.02, batch_size=16)
        finetune(program, config, rows, Setting(seed=0))
        found = quality(program, program, rows, batch_size=7, on_batch=_nothing)
        assert found["accuracy"] == 1.0
        assert found["class_accuracy"] == [1.0] * 6

    @pytest.mark.parametrize("criterion", ["taylor", "hessian", "sensitivity"])
    def test_criteria_by_labels_need_no_others(self, criterion):
        program = Program.from_exported(export(Tokens(), torch.zeros(2, 5, dtype=torch.int64)))
        config = PruneConfig(
            criterion=criterion, options={"sample_count": 8, "batch_size": 4, "targets": "labels"}
        )
        scores = score(Subject(couple(program), _counting()), config)
        assert any(bool(group.any()) for group in scores)

    def test_without_tokens_there_is_nothing_to_say(self):
        rows = Rows((np.zeros((2, 2), np.float32),), None, ObjectiveConfig("language_modelling"))
        assert not rows.has_targets
        with pytest.raises(DataMismatchError, match="fine-tuning needs labels"):
            rows.check_targets("fine-tuning")


class TestRows:
    def test_a_split_takes_every_row_once_and_copies_none(self):
        inputs = np.arange(10.0, dtype=np.float32)[:, None]
        rows = Rows((inputs,), np.arange(10))
        training, validation = rows.split(0.25, seed=3)
        assert (len(training), len(validation)) == (8, 2)
        assert training.inputs[0] is inputs
        program = _same((1,))
        seen = [
            (float(batch.inputs[0]), int(batch.targets), int(batch.numbers[0]))
            for part in (training, validation)
            for batch in part.batches(program, 1)
        ]
        assert sorted(seen) == [(float(at), at, at) for at in range(10)]
        again = rows.split(0.25, seed=3)
        assert again[1].numbers.tolist() == validation.numbers.tolist()

    def test_a_part_of_a_part_is_a_part_of_the_whole(self):
        rows = Rows((np.arange(10.0, dtype=np.float32)[:, None],), None)
        part = rows.subset(np.array([7, 3, 5])).subset(np.array([2, 0]))
        [batch] = part.batches(_same((1,)), 64)
        assert batch.inputs[0].flatten().tolist() == [5.0, 7.0]

    @pytest.mark.parametrize(("fraction", "rows", "counts"), [(0.01, 3, (2, 1)), (0.9, 10, (1, 9))])
    def test_both_parts_have_a_row(self, fraction, rows, counts):
        parts = Rows((np.zeros((rows, 1), np.float32),), None).split(fraction, seed=0)
        assert tuple(map(len, parts)) == counts

    @pytest.mark.parametrize(("fraction", "rows"), [(0.1, 1), (0.9, 3)])
    def test_a_split_that_leaves_nothing_is_told_with_the_numbers(self, fraction, rows):
        with pytest.raises(DataMismatchError, match=f"of {fraction} of {rows} rows") as caught:
            Rows((np.zeros((rows, 1), np.float32),), None).split(fraction, seed=0)
        assert caught.value.pointer == "/data/validation_fraction"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_no_model_computes_with_is_found_when_it_is_read(self, value):
        second = np.zeros((9, 2), np.float32)
        second[6, 1] = value
        rows = Rows((np.zeros((9, 1), np.float32), second), None, role="test").subset(
            np.arange(4, 9)
        )

        class Pair(nn.Module):
            def forward(self, a, b):
                return a.sum(1) + b.sum(1)

        program = Program.from_exported(export(Pair(), torch.zeros(2, 1), torch.zeros(2, 2)))
        with (
            pytest.raises(
                DataMismatchError, match=f"inputs_1 of the test data holds {value} in row 6"
            ) as caught,
            pointing(1),
        ):
            list(rows.batches(program, 2))
        assert caught.value.pointer == "/data/test"


def test_a_pointer_into_a_step_gets_the_place_of_the_step_once():
    with pytest.raises(CriterionError) as caught, pointing("/recipe/4"), pointing("/recipe/2"):
        raise CriterionError("why", pointer="/criterion")
    assert caught.value.pointer == "/recipe/2/criterion"
