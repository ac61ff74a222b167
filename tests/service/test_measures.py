"""What a spec measures and promises, against the data that was uploaded."""

import numpy as np
import pytest

from tests.service.files import dataset_file, token_model_file
from tests.service.helpers import assert_problem, prune_spec

INPUTS = np.zeros((5, 1, 6, 6), np.float32)


@pytest.fixture
def upload(client):
    """Upload a data set that fits the model."""

    def call(**arrays):
        content = dataset_file(inputs=INPUTS, **arrays)
        return client.post("/v1/datasets", content=content).json()["id"]

    return call


@pytest.fixture
def labeled(upload):
    return upload(targets=np.zeros(5, np.int64))


def asked(model_id, test=None, *, max_drop=None, **evaluation):
    safety = None if max_drop is None else {"max_drop": max_drop}
    data = {} if test is None else {"test": test}
    return prune_spec(model_id, data=data, safety=safety, evaluation=evaluation)


def found(client, spec, code):
    """The pointers and details of a refusal, which `validate` tells alike."""
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, code)
    checked = client.post("/v1/jobs/validate", json=spec).json()
    assert not checked["valid"]
    told = [(each["pointer"], each["detail"]) for each in checked["problems"]]
    assert told == [(each.pointer, each.detail) for each in problem.errors]
    return told


def test_promises_about_labeled_rows_are_taken(client, model_id, labeled):
    max_drop = {"accuracy": 0.1, "noise_accuracy": 0.1, "fgsm_accuracy": 0.1, "loss": 1}
    spec = asked(model_id, labeled, max_drop=max_drop, noise_std=0.1, fgsm_epsilon=0.1)
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 202, response.text
    assert response.json()["spec"]["safety"]["max_drop"]["accuracy"] == 0.1


def test_a_promise_without_test_data_is_named(client, model_id):
    spec = asked(model_id, max_drop={"accuracy": 0.1, "loss": 1})
    [(first, accuracy), (second, loss)] = found(client, spec, "data.missing")
    assert first == second == "/data/test"
    assert "the promise /safety/max_drop/accuracy needs test data with class numbers" in accuracy
    assert "the promise /safety/max_drop/loss needs test data with labels" in loss


def test_a_promise_needs_labels(client, model_id, upload):
    spec = asked(model_id, upload(), max_drop={"class_accuracy": 0.1})
    [(pointer, detail)] = found(client, spec, "data.missing")
    assert pointer == "/data/test"
    assert "class_accuracy needs class numbers, and the data set" in detail


def test_only_a_loss_can_be_promised_of_float_targets(client, model_id, upload):
    floats = upload(targets=np.zeros((5, 3), np.float32))
    [(pointer, detail)] = found(
        client, asked(model_id, floats, max_drop={"agreement": 0.1, "loss": 1}), "data.missing"
    )
    assert pointer == "/data/test"
    assert "agreement" in detail
    assert "float32" in detail
    assert client.post("/v1/jobs", json=asked(model_id, floats, max_drop={"loss": 1})).is_success


@pytest.mark.parametrize("name", ["noise_std", "fgsm_epsilon"])
class TestProbes:
    def test_they_need_test_data_with_labels(self, client, model_id, upload, name):
        for spec in (asked(model_id, **{name: 0.1}), asked(model_id, upload(), **{name: 0.1})):
            [(pointer, detail)] = found(client, spec, "data.missing")
            assert pointer == f"/evaluation/{name}"
            assert "/data/test" in detail

    def test_they_need_classes(self, client, model_id, upload, name):
        floats = upload(targets=np.zeros((5, 3), np.float32))
        [(pointer, detail)] = found(client, asked(model_id, floats, **{name: 0.1}), "data.mismatch")
        assert pointer == f"/evaluation/{name}"
        assert "needs class numbers as targets" in detail

    def test_they_do_nothing_to_tokens(self, client, name):
        model_id = client.post("/v1/models", content=token_model_file()).json()["id"]
        content = dataset_file(inputs=np.zeros((5, 4), np.int64), targets=np.zeros(5, np.int64))
        dataset_id = client.post("/v1/datasets", content=content).json()["id"]
        [(pointer, detail)] = found(
            client, asked(model_id, dataset_id, **{name: 0.1}), "data.mismatch"
        )
        assert pointer == f"/evaluation/{name}"
        assert "is int64" in detail


def test_five_of_three_classes_promise_nothing(client, model_id, labeled):
    spec = asked(model_id, labeled, max_drop={"top5_accuracy": 0.1})
    [(pointer, detail)] = found(client, spec, "data.mismatch")
    assert pointer == "/safety/max_drop/top5_accuracy"
    assert "gives 3" in detail


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate"])
def test_a_promise_that_nobody_measures_is_pointed_at(client, model_id, labeled, path):
    spec = asked(model_id, labeled, max_drop={"fgsm_accuracy": 0.1})
    answer = client.post(path, json=spec).json()
    [problem] = answer["problems" if path.endswith("validate") else "errors"]
    assert problem["pointer"] == "/safety/max_drop/fgsm_accuracy"
    assert "evaluation.fgsm_epsilon" in problem["detail"]


def test_an_id_that_is_nobodys_is_all_that_is_said(client, model_id):
    spec = asked(model_id, "dst_none", max_drop={"accuracy": 0.1}, noise_std=0.1)
    assert_problem(client.post("/v1/jobs", json=spec), 422, "spec.unknown_id")
    assert len(client.post("/v1/jobs/validate", json=spec).json()["problems"]) == 1
