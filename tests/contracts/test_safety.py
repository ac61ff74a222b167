"""Promises as a caller writes them."""

import pytest
from pydantic import ValidationError

from secateur.safety import MaxDrop, PromiseReport, SafetyReport
from secateur.spec import JobSpec
from worker.engine.safety import SafetyConfig

PRUNE = {"step": "prune", "budget": {"channel_ratio": 0.5}}


def spec(max_drop, **evaluation):
    return JobSpec.model_validate(
        {
            "model_id": "mdl_1",
            "recipe": [PRUNE],
            "safety": {"max_drop": max_drop},
            "evaluation": evaluation,
        }
    )


def test_a_promise_survives_json_and_is_part_of_what_is_asked():
    given = spec({"accuracy": 0.01, "loss": 3.5})
    assert JobSpec.model_validate_json(given.model_dump_json()) == given
    assert given.safety.max_drop.given == {"accuracy": 0.01, "loss": 3.5}
    assert given.sha256 != spec({"accuracy": 0.02, "loss": 3.5}).sha256


def test_nothing_may_be_lost_is_a_promise():
    assert spec({"agreement": 0}).safety.max_drop.given == {"agreement": 0.0}


@pytest.mark.parametrize(
    "max_drop",
    [
        {},
        {"accuracy": None},
        {"accuracy": -0.01},
        {"accuracy": 5},  # Points, where a fraction is meant.
        {"loss": float("inf")},
        {"accuracy": float("nan")},
        {"latency": 0.1},
    ],
)
def test_what_cannot_be_meant_is_refused(max_drop):
    with pytest.raises(ValidationError):
        spec(max_drop)


@pytest.mark.parametrize(
    ("promise", "field"), [("noise_accuracy", "noise_std"), ("fgsm_accuracy", "fgsm_epsilon")]
)
def test_what_is_measured_on_request_has_to_be_requested(promise, field):
    with pytest.raises(ValidationError) as caught:
        spec({promise: 0.1})
    [found] = caught.value.errors()
    assert found["loc"] == ("safety", "max_drop", promise)
    assert f"evaluation.{field}" in found["msg"]
    assert spec({promise: 0.1}, **{field: 0.5}).safety.max_drop.given == {promise: 0.1}


@pytest.mark.parametrize("field", ["noise_std", "fgsm_epsilon"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_no_noise_and_no_step_are_none(field, value):
    with pytest.raises(ValidationError):
        spec({"accuracy": 0.1}, **{field: value})


def test_the_engine_knows_every_promise():
    everything = dict.fromkeys(MaxDrop.model_fields, 0.5)
    assert SafetyConfig(**everything).given == everything


def test_one_broken_promise_is_enough():
    def promise(*, is_kept):
        return PromiseReport(
            name="accuracy",
            before=1.0,
            after=0.5,
            drop=0.5,
            allowed=0.5,
            is_kept=is_kept,
            worst_class=None,
            broken_classes=None,
        )

    assert SafetyReport(promises=[promise(is_kept=True)]).is_kept
    assert not SafetyReport(promises=[promise(is_kept=True), promise(is_kept=False)]).is_kept
