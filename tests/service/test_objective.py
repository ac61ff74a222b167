"""What right means, against the data and the model that were uploaded."""

import numpy as np
import pytest

from tests.service.files import dataset_file, token_model_file
from tests.service.helpers import assert_problem, prune_spec, sweep_spec

IMAGES = np.zeros((5, 1, 6, 6), np.float32)
TOKENS = np.zeros((5, 4), np.int64)
BY_LABELS = [{"step": "prune", "criterion": "taylor", "budget": {"channel_ratio": 0.5}}]


@pytest.fixture
def upload(client):
    def call(**arrays):
        content = dataset_file(**arrays)
        return client.post("/v1/datasets", content=content).json()["id"]

    return call


@pytest.fixture
def token_model_id(client):
    return client.post("/v1/models", content=token_model_file()).json()["id"]


def refusals(client, spec, code):
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, code)
    return [(each.pointer, each.detail) for each in problem.errors]


def test_tokens_need_no_other_labels(client, token_model_id, upload):
    tokens = upload(inputs=TOKENS)
    spec = {
        **prune_spec(token_model_id),
        "recipe": [*BY_LABELS, {"step": "finetune"}],
        "data": {"train": tokens, "test": tokens},
        "safety": {"max_drop": {"accuracy": 0.1, "class_accuracy": 0.1, "loss": 1}},
    }
    told = refusals(client, spec, "data.missing")
    assert {"/recipe/0/criterion", "/recipe/1", "/data/test"} == {pointer for pointer, _ in told}
    spec["objective"] = {"task": "language_modelling"}
    assert client.post("/v1/jobs", json=spec).is_success


def test_nor_do_plans_and_sweeps(client, token_model_id, upload):
    asked = {"data": {"train": upload(inputs=TOKENS)}, "objective": {"task": "language_modelling"}}
    plan = {"model_id": token_model_id, "prune": BY_LABELS[0], **asked}
    assert client.post("/v1/plans", json=plan).is_success
    sweep = sweep_spec(token_model_id, **asked)
    sweep["grid"]["criteria"] = ["taylor"]
    assert client.post("/v1/sweeps", json=sweep).is_success


def test_inputs_that_are_no_tokens_are_no_labels(client, model_id, upload):
    spec = {
        **prune_spec(model_id, data={"train": upload(inputs=IMAGES)}),
        "recipe": BY_LABELS,
        "objective": {"task": "language_modelling"},
    }
    [(pointer, _)] = refusals(client, spec, "data.missing")
    assert pointer == "/recipe/0/criterion"


@pytest.mark.parametrize(
    ("task", "dtype", "promise", "is_taken"),
    [
        ("multi_label", np.float32, "accuracy", True),
        ("multi_label", np.int64, "class_accuracy", False),
        ("regression", np.int64, "agreement", False),
        ("regression", np.int64, "loss", True),
        (None, np.int64, "accuracy", True),
        (None, np.bool_, "accuracy", True),
        (None, np.float32, "accuracy", False),
    ],
)
def test_a_promise_is_about_what_the_task_tells(
    client, model_id, upload, task, dtype, promise, is_taken
):
    spec = prune_spec(
        model_id,
        data={"test": upload(inputs=IMAGES, targets=np.zeros((5, 3), dtype))},
        objective={"task": task},
        safety={"max_drop": {promise: 0.1}},
    )
    if is_taken:
        assert client.post("/v1/jobs", json=spec).is_success
        return
    [(pointer, detail)] = refusals(client, spec, "data.missing")
    assert pointer == "/data/test"
    assert f"{promise} needs class numbers" in detail


def test_an_output_that_the_model_has_not_is_named_with_how_many_it_has(client, model_id):
    spec = prune_spec(model_id, objective={"output": 1})
    [(pointer, detail)] = refusals(client, spec, "data.mismatch")
    assert pointer == "/objective/output"
    assert "output is 1, and the model has 1" in detail


@pytest.mark.parametrize(
    ("objective", "pointer"),
    [
        ({"task": "guessing"}, "/objective/task"),
        ({"output": -1}, "/objective/output"),
        ({"ignore_class": 0.5}, "/objective/ignore_class"),
        ({"ignore": 0}, "/objective/ignore"),
    ],
)
def test_what_is_no_objective_is_pointed_at(client, model_id, objective, pointer):
    answer = client.post("/v1/jobs", json=prune_spec(model_id, objective=objective))
    problem = assert_problem(answer, 422, "request.invalid")
    assert [each.pointer for each in problem.errors] == [pointer]
