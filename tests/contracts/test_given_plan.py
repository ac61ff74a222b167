"""A plan that is sent back: whole or only what matters, and what is said of typos."""

import pytest
from pydantic import ValidationError

from secateur.plan import PLAN_FORMAT_VERSION, ChannelGroup, Plan
from secateur.pruning import Granularity
from secateur.spec import (
    IGNORED_OF_GROUP,
    IGNORED_OF_PLAN,
    GivenGroup,
    GivenPlan,
    JobSpec,
    job_spec_schema,
)
from tests.worker.programs import plan

GROUP = {
    "id": "g1",
    "name": "conv1.weight",
    "granularity": "channels",
    "channel_count": 4,
    "keep": [0, 2, 3],
    "channel_names": None,
    "importance": [1.0, 0.5, 1.0, 1.0],
    "merges": [],
    "members": [{"parameter": "conv1.weight", "dim": 0, "channels": None}],
}
WHOLE = {
    **plan(["a warning"]),
    "channel_groups": [GROUP],
    "exclude": ["head.*"],
    "granularity": "heads",
}
BARE = {
    "format_version": 3,
    "model_sha256": "0" * 64,
    "granularity": "heads",
    "exclude": ["head.*"],
    "channel_groups": [{"id": "g1", "keep": [0, 2, 3], "channel_count": 4, "merges": []}],
}


def spec(given: object) -> JobSpec:
    return JobSpec.model_validate(
        {"model_id": "mdl_1", "recipe": [{"step": "apply_plan", "plan": given}]}
    )


def test_every_field_of_a_plan_is_read_or_known_to_be_ignored():
    assert set(Plan.model_fields) == set(GivenPlan.model_fields) | IGNORED_OF_PLAN
    assert set(ChannelGroup.model_fields) == set(GivenGroup.model_fields) | IGNORED_OF_GROUP
    assert not set(GivenPlan.model_fields) & IGNORED_OF_PLAN
    assert not set(GivenGroup.model_fields) & IGNORED_OF_GROUP
    assert GivenPlan.model_validate(BARE).format_version == PLAN_FORMAT_VERSION


@pytest.mark.parametrize("given", [WHOLE, BARE, Plan.model_validate(WHOLE)])
def test_a_whole_plan_is_the_same_spec_as_what_matters_of_it(given):
    taken = spec(given)
    assert taken.sha256 == spec(BARE).sha256
    assert taken.model_dump(mode="json")["recipe"] == [{"step": "apply_plan", "plan": BARE}]
    assert JobSpec.model_validate_json(taken.model_dump_json()) == taken


def test_little_is_needed():
    given = {
        "format_version": 3,
        "model_sha256": "0" * 64,
        "channel_groups": [{"id": "g", "keep": []}],
    }
    taken = GivenPlan.model_validate(given)
    assert taken.granularity is Granularity.CHANNELS
    assert taken.channel_groups[0].channel_count is None


def test_channels_are_sorted():
    taken = GivenPlan.model_validate(BARE | {"channel_groups": [{"id": "g1", "keep": [3, 0, 2]}]})
    assert taken.channel_groups[0].keep == (0, 2, 3)


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        ({"channel_groups": [{"id": "g1"}]}, ("channel_groups", 0, "keep"), "required"),
        (
            {"channel_groups": [{"id": "g1", "keeps": []}]},
            ("channel_groups", 0, "keep"),
            "required",
        ),
        (
            {"channel_groups": [{"id": "g1", "keep": [1], "kept": 1}]},
            ("channel_groups", 0, "kept"),
            "not permitted",
        ),
        (
            {"channel_groups": [{"id": "g1", "keep": [2, 1, 2]}]},
            ("channel_groups", 0, "keep"),
            "named more than once: 2",
        ),
        (
            {"channel_groups": [{"id": "g1", "keep": [-1]}]},
            ("channel_groups", 0, "keep", 0),
            "greater than or equal to 0",
        ),
        (
            {"channel_groups": [{"id": "g1", "keep": [2, True]}]},
            ("channel_groups", 0, "keep", 1),
            "valid integer",
        ),
        ({"channel_groups": [BARE["channel_groups"][0]] * 2}, (), "given more than once: g1"),
        ({"channel_groups": []}, ("channel_groups",), "at least 1"),
        ({"channel_groups": 3}, ("channel_groups",), "valid tuple"),
        ({"channel_groups": [3]}, ("channel_groups", 0), "valid dictionary"),
        ({"excludes": []}, ("excludes",), "not permitted"),
        ({"format_version": 1}, ("format_version",), "should be 3"),
        ({"model_sha256": "abc"}, ("model_sha256",), "pattern"),
    ],
)
def test_what_is_wrong_is_pointed_at(change, place, said):
    with pytest.raises(ValidationError) as caught:
        spec(WHOLE | change)
    found = caught.value.errors()
    at = ("recipe", 0, "apply_plan", "plan", *place)
    assert any(each["loc"] == at and said in each["msg"] for each in found), found


def test_the_schema_takes_a_whole_plan():
    definitions = job_spec_schema()["$defs"]
    assert "additionalProperties" not in definitions["GivenPlan"]
    assert "additionalProperties" not in definitions["GivenGroup"]
    assert definitions["ApplyPlanStep"]["additionalProperties"] is False
