"""The engine's tables and the API's name the same things."""

import inspect
from dataclasses import fields
from typing import get_args

from secateur.amounts import Budget, Override
from secateur.capabilities import CRITERIA as DECLARED_CRITERIA
from secateur.capabilities import STEPS
from secateur.criteria import Aggregation, Criterion, CriterionChoice, Normalization
from secateur.models import TensorInfo
from secateur.objective import Objective, Task
from secateur.pruning import Algorithm, Granularity, PruneStep, Schedule, Scope
from secateur.recovery import DistillStep, FinetuneStep, TrainingStep
from secateur.spec import Step
from worker.engine.config import (
    AMOUNTS,
    DistillConfig,
    FinetuneConfig,
    OverrideConfig,
    PruneConfig,
    StepConfig,
)
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.aggregate import AGGREGATIONS
from worker.engine.objective import TASKS
from worker.engine.prune.rounds import SCHEDULES
from worker.engine.prune.scoring import NORMALIZATIONS
from worker.engine.recovery.augment import CHANGES
from worker.engine.recovery.optimizer import OPTIMIZERS
from worker.engine.recovery.speed import PRECISIONS
from worker.recipe import BUILDERS

TOKENS = TensorInfo(name="inputs", dtype="int64", shape=[5, 4])


def test_every_criterion_of_the_api_has_an_implementation_and_a_description():
    assert {criterion.value for criterion in Criterion} == set(CRITERIA)
    assert set(Criterion) == set(DECLARED_CRITERIA)


def test_every_task_of_the_api_is_one_of_the_engine():
    assert {task.value for task in Task} == set(TASKS)
    for task in Task:
        assert task.has_accuracy == TASKS[task].has_accuracy
        assert task.has_classes == TASKS[task].has_classes
        assert Objective(task=task).has_targets([TOKENS]) == TASKS[task].reads_inputs


def test_every_step_of_the_api_has_a_builder_and_a_description():
    union, _ = get_args(Step)
    steps = get_args(union)
    assert set(BUILDERS) == set(steps)
    assert {get_args(step.model_fields["step"].annotation)[0] for step in steps} == set(STEPS)
    assert len(get_args(StepConfig)) == len(steps)


def test_criteria_are_what_the_api_says_of_them():
    for name, declared in DECLARED_CRITERIA.items():
        criterion = CRITERIA[name]
        assert (criterion.weights is not None) == declared.elements
        assert criterion.normalization == declared.normalization
        for function in filter(None, (criterion.channels, criterion.weights)):
            _, *options = inspect.signature(function).parameters
            assert set(options) == set(declared.options)
        assert set(declared.options) <= CriterionChoice.model_fields.keys()
        assert declared.data == ("sample_count" in declared.options)
        assert declared.labels == ("targets" in declared.options)


def test_choices_are_the_same_on_both_sides():
    assert {scope.value for scope in Scope} == {"local", "global"}
    assert {each.value for each in Granularity} == {"channels", "heads", "head_dim", "layers"}
    assert {each.value for each in Algorithm} == {"cut", "shift", "zero"}
    assert {each.value for each in Aggregation} == AGGREGATIONS.keys()
    assert {each.value for each in Normalization} == NORMALIZATIONS.keys()
    assert {each.value for each in Schedule} == SCHEDULES.keys()
    assert set(Budget.model_fields) == set(AMOUNTS)
    amounts = {field.name for field in fields(OverrideConfig)}
    assert set(Override.model_fields) == amounts


def test_options_of_training_are_the_same_on_both_sides():
    for step, config in ((FinetuneStep, FinetuneConfig), (DistillStep, DistillConfig)):
        name = get_args(step.model_fields["step"].annotation)[0]
        assert step.model_fields.keys() - {"step"} == {field.name for field in fields(config)}
        assert BUILDERS[step](step.model_validate({"step": name})) == config()


def test_choices_of_training_are_the_same_on_both_sides():
    def choices(name: str) -> set[str]:
        given = get_args(TrainingStep.model_fields[name].annotation)
        return {each for part in given for each in (get_args(part) or [part]) if type(each) is str}

    assert choices("optimizer") == OPTIMIZERS.keys()
    assert choices("precision") == PRECISIONS.keys()
    assert choices("augment") == CHANGES.keys()


def test_defaults_are_the_same_on_both_sides():
    built = BUILDERS[PruneStep](
        PruneStep.model_validate({"step": "prune", "budget": {"macs": 0.5}})
    )
    assert built == PruneConfig(macs=0.5, options={"norm": "l2", "slices": "coupled"})
