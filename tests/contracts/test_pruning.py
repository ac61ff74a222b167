"""The prune step: one way to say one thing, and a place for everything that cannot be meant."""

import json

import pytest
from pydantic import ValidationError

from secateur.capabilities import CRITERIA, needs_of, options_of
from secateur.criteria import Criterion, CriterionChoice, Norm
from secateur.plan import Plan
from secateur.pruning import PruneStep
from secateur.spec import JobSpec, PlanSpec
from tests.worker.programs import plan

HALF = {"macs": 0.5}


def step(**fields) -> PruneStep:
    return PruneStep.model_validate({"step": "prune", "budget": HALF, **fields})


def spec(**fields) -> JobSpec:
    recipe = [{"step": "prune", "budget": HALF, **fields}]
    return JobSpec.model_validate({"model_id": "mdl_1", "recipe": recipe})


@pytest.mark.parametrize(
    "criterion",
    [
        "magnitude",
        {"name": "magnitude"},
        {"name": "magnitude", "norm": "l2"},
        {"name": "magnitude", "norm": "l2", "slices": "coupled"},
        CriterionChoice(name=Criterion.MAGNITUDE),
    ],
)
def test_a_criterion_with_its_defaults_is_its_name(criterion):
    assert step(criterion=criterion).model_dump(mode="json")["criterion"] == "magnitude"
    assert spec(criterion=criterion).sha256 == spec().sha256


def test_an_option_is_kept_and_survives_json():
    asked = spec(criterion={"name": "magnitude", "norm": "l1", "slices": "coupled"})
    written = json.loads(asked.model_dump_json())["recipe"][0]["criterion"]
    assert written == {"name": "magnitude", "norm": "l1"}
    assert JobSpec.model_validate_json(asked.model_dump_json()) == asked
    assert asked.recipe[0].criterion.norm is Norm.L1
    assert str(asked.recipe[0].criterion) == "magnitude (norm=l1)"
    assert asked.sha256 != spec().sha256


def test_a_plan_says_the_criterion_as_a_spec_does():
    whole = plan([]) | {"criterion": {"name": "taylor", "targets": "outputs"}}
    assert Plan.model_validate(whole).criterion.targets == "outputs"


def test_every_option_is_described_with_what_it_may_be():
    for criterion in CRITERIA:
        for option in options_of(criterion):
            assert option.description
            assert option.choices is None or option.default in option.choices
    assert {option.name for option in options_of(Criterion.TAYLOR)} == {
        "sample_count",
        "batch_size",
        "targets",
    }


def test_labels_are_needed_unless_the_outputs_will_do():
    labeled = list(needs_of(step(criterion="fisher")))
    assert [(where, needs.data, needs.labels) for where, _, needs in labeled] == [
        ("/criterion", True, True)
    ]
    unlabeled = list(needs_of(step(criterion={"name": "fisher", "targets": "outputs"})))
    assert [(needs.data, needs.labels) for *_, needs in unlabeled] == [(True, False)]


def test_recovery_between_rounds_needs_what_it_needs_elsewhere():
    asked = step(rounds=2, recover=[{"step": "recalibrate"}, {"step": "finetune"}])
    found = {where: (needs.data, needs.labels) for where, _, needs in needs_of(asked)}
    assert found == {
        "/criterion": (False, False),
        "/recover/0": (True, False),
        "/recover/1": (True, True),
    }


def test_a_dry_run_may_have_data():
    asked = PlanSpec.model_validate(
        {
            "model_id": "mdl_1",
            "data": {"train": "dst_1"},
            "prune": {"step": "prune", "criterion": "wanda", "budget": HALF},
        }
    )
    assert asked.as_job_spec().data.train == "dst_1"


ZERO = {"algorithm": "zero", "budget": {"sparsity": 0.5}}
SHIFT = {"algorithm": "shift"}
PAIRS = {"match": "a", "pairs": [[3, 1]]}


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({"criterion": "taylr"}, ("criterion",), "choose one of magnitude"),
        ({"criterion": 1}, ("criterion",), "is its name, or an object with a name and options"),
        ({"criterion": {"name": "taylr"}}, ("criterion", "name"), "Input should be 'magnitude'"),
        ({"criterion": {"name": "random", "norm": "l1"}}, ("criterion",), "no option norm"),
        ({"criterion": {"name": "wanda", "batch_size": 0}}, ("criterion", "batch_size"), "greater"),
        ({"budget": {"macs": -0.5}}, ("budget", "macs"), "greater than 0"),
        ({"budget": {"macs": 1}}, ("budget", "macs"), "less than 1"),
        ({"budget": {"keep": 0}}, ("budget", "keep"), "greater than or equal to 1"),
        ({"budget": {"keep": 2.5}}, ("budget", "keep"), "integer"),
        ({"budget": {"threshold": float("nan")}}, ("budget", "threshold"), "finite"),
        ({"budget": {"macs": 0.5, "keep": 3}}, ("budget",), "given: keep, macs"),
        ({"budget": {}}, ("budget",), "given: none"),
        ({"budget": None}, ("budget",), "say how much"),
        ({"budget": {"sparsity": 0.5}}, ("budget",), "goes with algorithm 'zero'"),
        ({"floor": -0.1}, ("floor",), "greater than or equal to 0"),
        ({"channel_multiple": 0}, ("channel_multiple",), "greater than or equal to 1"),
        ({"algorithm": "merge"}, ("algorithm",), "'cut', 'shift' or 'zero'"),
        ({"aggregation": "product"}, ("aggregation",), "'geometric_mean'"),
        ({"pattern": "2:4"}, ("pattern",), "goes with algorithm 'zero'"),
        (ZERO | {"pattern": "4:2"}, ("pattern",), "N below M"),
        (ZERO | {"pattern": "4:4"}, ("pattern",), "N below M"),
        (ZERO | {"pattern": "0x4"}, ("pattern",), "'AxB'"),
        (ZERO | {"pattern": "2:4"}, ("budget",), "says how much stays"),
        (ZERO | {"budget": HALF}, ("budget",), "removes none; use one of sparsity"),
        (ZERO | {"criterion": "sensitivity"}, ("criterion",), "scores single weights"),
        (ZERO | {"granularity": "heads"}, ("granularity",), "say `pattern`"),
        (ZERO | {"channel_multiple": 8}, ("channel_multiple",), "removes none"),
        (SHIFT | {"granularity": "layers"}, ("granularity",), "goes with algorithm 'cut'"),
        ({"granularity": "layers", "channel_multiple": 8}, ("channel_multiple",), "whole blocks"),
        ({"overrides": [{"match": "a"}]}, ("overrides", 0), "given: none"),
        ({"overrides": [{"match": "", "keep": 1}]}, ("overrides", 0, "match"), "at least 1"),
        ({"overrides": [PAIRS]}, ("overrides",), "'pairs' does not go with algorithm 'cut'"),
        (
            ZERO | {"overrides": [{"match": "a", "keep": 3}]},
            ("overrides",),
            "takes sparsity, threshold",
        ),
        (
            SHIFT | {"overrides": [PAIRS | {"pairs": [[-1, 2]]}]},
            ("overrides", 0, "pairs", 0, 0),
            "greater than or equal to 0",
        ),
        (SHIFT | {"overrides": [PAIRS | {"pairs": [[2, 2]]}]}, ("overrides", 0), "onto itself"),
        (
            SHIFT | {"overrides": [PAIRS | {"pairs": [[2, 3], [3, 4]]}]},
            ("overrides", 0),
            "onto 3, which goes too",
        ),
        (
            SHIFT | {"overrides": [PAIRS | {"pairs": [[2, 3], [2, 4]]}]},
            ("overrides", 0),
            "2 is the first of two pairs",
        ),
        (SHIFT | {"overrides": [PAIRS], "rounds": 2}, ("rounds",), "first round alone"),
        ({"recover": [{"step": "recalibrate"}]}, ("recover",), "say `rounds`"),
        ({"rounds": 2, "recover": [{"step": "prune"}]}, ("recover", 0), "recalibrate"),
        ({"rounds": 0}, ("rounds",), "greater than or equal to 1"),
        ({"schedule": "cosine", "rounds": 2}, ("schedule",), "'linear', 'cubic' or 'exponential'"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_place(fields, place, said):
    with pytest.raises(ValidationError) as caught:
        step(**fields)
    found = {each["loc"]: each["msg"] for each in caught.value.errors()}
    assert place in found
    assert said in found[place]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        (SHIFT | {"overrides": [PAIRS | {"pairs": [[2, 2]]}]}, ("overrides", 0)),
        (ZERO | {"pattern": "4:2"}, ("pattern",)),
    ],
)
def test_how_much_is_not_asked_of_those_who_said_it_wrongly(fields, place):
    with pytest.raises(ValidationError) as caught:
        step(**{**fields, "budget": None})
    assert [each["loc"] for each in caught.value.errors()] == [place]


def test_a_budget_may_be_left_out_where_something_else_says_how_much():
    assert step(algorithm="zero", pattern="2:4", budget=None).budget is None
    assert step(budget=None, overrides=[{"match": "a", "keep": 2}]).budget is None
