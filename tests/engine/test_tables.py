"""The engine's tables and the API's name the same things."""

from typing import get_args

from secateur.capabilities import CRITERIA as DECLARED_CRITERIA
from secateur.capabilities import STEPS
from secateur.spec import Criterion, Granularity, PruneStep, Scope, Step
from worker.engine.config import PruneConfig, StepConfig
from worker.engine.criteria import CRITERIA
from worker.recipe import BUILDERS


def test_every_criterion_of_the_api_has_an_implementation_and_a_description():
    assert {criterion.value for criterion in Criterion} == set(CRITERIA)
    assert set(Criterion) == set(DECLARED_CRITERIA)


def test_every_step_of_the_api_has_a_builder_and_a_description():
    union, _ = get_args(Step)
    steps = get_args(union)
    assert set(BUILDERS) == set(steps)
    assert {get_args(step.model_fields["step"].annotation)[0] for step in steps} == set(STEPS)
    assert len(get_args(StepConfig)) == len(steps)


def test_defaults_are_the_same_on_both_sides():
    built = BUILDERS[PruneStep](
        PruneStep.model_validate({"step": "prune", "budget": {"macs": 0.5}})
    )
    assert built == PruneConfig(macs=0.5)
    assert {scope.value for scope in Scope} == {"local", "global"}
    assert {each.value for each in Granularity} == {"channels", "heads", "head_dim", "layers"}
