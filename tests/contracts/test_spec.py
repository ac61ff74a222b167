"""The job spec: what is taken, and what its digest stands for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from secateur.capabilities import CRITERIA, STEPS, needs_of_step
from secateur.criteria import Criterion
from secateur.spec import JobSpec, PlanSpec, job_spec_schema

PRUNE = {"step": "prune", "budget": {"channel_ratio": 0.5}}
SPEC = {"model_id": "mdl_1", "recipe": [PRUNE]}


def spec(**changes):
    return JobSpec.model_validate(SPEC | changes)


def test_a_spec_survives_json():
    assert JobSpec.model_validate_json(spec().model_dump_json()) == spec()


def test_a_default_written_out_is_the_same_spec():
    written_out = json.loads(spec().model_dump_json())
    assert JobSpec.model_validate(written_out).sha256 == spec().sha256


def test_the_order_of_fields_is_no_part_of_a_spec():
    assert JobSpec.model_validate(dict(reversed(SPEC.items()))).sha256 == spec().sha256


def test_the_label_is_no_part_of_what_is_asked():
    assert spec(label="mine").sha256 == spec().sha256


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "mdl_2"},
        {"seed": 1},
        {"recipe": [PRUNE | {"criterion": "random"}]},
        {"recipe": [PRUNE | {"granularity": "heads"}]},
        {"recipe": [PRUNE, {"step": "recalibrate"}]},
        {"data": {"test": "dst_1"}},
        {"run_timeout_s": 1},
    ],
)
def test_anything_else_is(change):
    assert spec(**change).sha256 != spec().sha256


@given(
    st.dictionaries(
        st.sampled_from(["seed", "label", "run_timeout_s", "data", "recipe", "typo"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
    )
)
def test_whatever_is_sent_is_taken_or_refused(changes):
    try:
        taken = spec(**changes)
    except ValidationError:
        return
    assert JobSpec.model_validate_json(taken.model_dump_json()) == taken


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": []},
        {"recipe": [{"step": "recalibrate"}]},
        {"recipe": [PRUNE | {"budget": {}}]},
        {"recipe": [PRUNE | {"budget": {"channel_ratio": 0.5, "macs": 0.5}}]},
        {"recipe": [PRUNE | {"budget": {"channel_ratio": 1}}]},
        {"typo": 1},
        {"seed": 2**63},
        {"label": "x" * 201},
        {"label": "\x00"},
        {"recipe": [{**PRUNE, "granularity": "layers", "channel_multiple": 8}]},
    ],
)
def test_what_cannot_be_meant_is_refused(change):
    with pytest.raises(ValidationError):
        spec(**change)


@pytest.mark.parametrize(
    "step",
    [
        {"step": "finetune", "optimizer": "adam"},
        {"step": "finetune", "momentum": 1},
        {"step": "finetune", "warmup": 1.1},
        {"step": "finetune", "gradient_clip": 0},
        {"step": "finetune", "label_smoothing": 1},
        {"step": "finetune", "ema": 1},
        {"step": "finetune", "precision": "float16"},
        {"step": "finetune", "augment": ["turn"]},
        {"step": "finetune", "keep": "last", "patience": 1},
        {"step": "finetune", "temperature": 1},
        {"step": "distill", "temperature": 0},
        {"step": "distill", "labels": 1.1},
        {"step": "distill", "features": -1},
        {"step": "distill", "loss": "l1"},
    ],
    ids=str,
)
def test_training_that_cannot_be_meant_is_refused(step):
    with pytest.raises(ValidationError):
        spec(recipe=[PRUNE, step])


@pytest.mark.parametrize("fraction", [0, 1])
def test_some_rows_are_held_out_and_some_are_not(fraction):
    with pytest.raises(ValidationError):
        spec(data={"validation_fraction": fraction})


def test_distillation_needs_labels_where_it_has_a_share_of_their_loss():
    one, other = (
        spec(recipe=[PRUNE, {"step": "distill", "labels": labels}]).recipe[1] for labels in (0, 0.1)
    )
    assert (needs_of_step(one).data, needs_of_step(one).labels) == (True, False)
    assert (needs_of_step(other).data, needs_of_step(other).labels) == (True, True)


def test_a_plan_is_the_spec_of_its_one_step():
    plan = PlanSpec.model_validate({"model_id": "mdl_1", "prune": PRUNE, "seed": 3, "label": "x"})
    assert plan.as_job_spec() == spec(seed=3, label="x")


def test_every_choice_is_described():
    schema = job_spec_schema()
    assert set(CRITERIA) == set(Criterion)
    assert set(STEPS) == {
        definition["properties"]["step"]["const"]
        for definition in schema["$defs"].values()
        if "step" in definition["properties" if "properties" in definition else "type"]
    }


@pytest.mark.parametrize("at", [0, 1])
def test_a_search_is_the_only_step_that_prunes(at):
    recipe = [{"step": "prune", "budget": {"macs": 0.5}}]
    recipe.insert(at, {"step": "prune", "budget": {"accuracy": 0.01}})
    with pytest.raises(ValidationError, match=f"step {at} looks for .* step {1 - at} prunes, too"):
        JobSpec.model_validate({"model_id": "mdl_1", "recipe": recipe})


def test_there_is_no_plan_of_a_search():
    prune = {"step": "prune", "budget": {"loss": 0.1}}
    with pytest.raises(ValidationError, match="nothing to plan"):
        PlanSpec.model_validate({"model_id": "mdl_1", "prune": prune})
