"""Steps that store weights anew, over HTTP: what is refused before any work, and where."""

import numpy as np
import pytest

from secateur.quantization import LEAST_ROWS
from tests.service.files import dataset_file
from tests.service.helpers import assert_problem
from worker.engine.quantize.sample import LEAST_ROWS as LEAST_ROWS_OF_ENGINE

PRUNE = {"step": "prune", "budget": {"channel_ratio": 0.5}}
INT8 = {"step": "quantize", "activations": "static"}
HALF = {"step": "cast", "dtype": "float16"}


def rows(client, count):
    """The id of a data set with so many rows of what the model reads."""
    content = dataset_file(inputs=np.zeros((count, 1, 6, 6), np.float32))
    return client.post("/v1/datasets", content=content).json()["id"]


def spec(model_id, *recipe, **data):
    return {"model_id": model_id, "recipe": recipe, "data": data}


def refused(client, body, code="request.invalid"):
    """The one problem with it; the check before submission finds it too."""
    problem = assert_problem(client.post("/v1/jobs", json=body), 422, code)
    [error] = problem.errors
    if code != "request.invalid":
        found = client.post("/v1/jobs/validate", json=body).json()["problems"]
        assert [each["pointer"] for each in found] == [error.pointer]
    return error


@pytest.mark.parametrize(
    "fields",
    [
        {"activations": "static"},
        {"weights": "int4", "rounding": "compensated"},
        {"bias_correction": True},
        {"smooth": 0.5},
        {"float_layers": 1},
    ],
)
def test_what_calibrates_needs_training_data(client, model_id, messages, fields):
    step = {"step": "quantize", **fields}
    error = refused(client, spec(model_id, PRUNE, step), "data.missing")
    assert error.pointer == "/recipe/1"
    assert "step 'quantize' needs training data: give a data set in /data/train" in error.detail
    assert messages.sent == []
    taken = client.post("/v1/jobs", json=spec(model_id, PRUNE, step, train=rows(client, 16)))
    assert taken.status_code == 202


@pytest.mark.parametrize(
    "step",
    [
        {"step": "quantize"},
        {"step": "quantize", "activations": "dynamic"},
        {"step": "quantize", "weights": "codebook", "equalize": True},
        {"step": "factorize", "rank": {"macs": 0.5}},
        HALF,
    ],
)
def test_what_reads_weights_alone_needs_none(client, model_id, step):
    assert client.post("/v1/jobs", json=spec(model_id, step)).status_code == 202
    few = spec(model_id, step, train=rows(client, 3))
    assert client.post("/v1/jobs", json=few).status_code == 202


def test_too_few_rows_to_calibrate_on_are_refused_at_the_data_set(client, model_id):
    assert LEAST_ROWS == LEAST_ROWS_OF_ENGINE
    body = spec(model_id, PRUNE, INT8, train=rows(client, 15))
    error = refused(client, body, "data.mismatch")
    assert error.pointer == "/data/train"
    assert "has 15: give at least 16" in error.detail


def test_a_sweep_has_as_many_rows_as_its_jobs_need(client, model_id):
    recipes = [{"name": name, "recipe": [INT8]} for name in ("a", "b")]
    sweep = {"model_id": model_id, "recipes": recipes, "data": {"train": rows(client, 15)}}
    problem = assert_problem(client.post("/v1/sweeps", json=sweep), 422, "data.mismatch")
    assert {error.pointer for error in problem.errors} == {"/data/train"}
    grid = {"criteria": ["random"], "budgets": [{"macs": 0.5}], "then": [INT8]}
    problem = assert_problem(
        client.post("/v1/sweeps", json={"model_id": model_id, "grid": grid}), 422, "data.missing"
    )
    assert [error.pointer for error in problem.errors] == ["/grid/then/0"]


@pytest.mark.parametrize(
    ("recipe", "at", "detail"),
    [
        ([INT8, INT8], 1, "steps 0 and 1 are both 'quantize'"),
        ([HALF, HALF], 1, "steps 0 and 1 are both 'cast'"),
        ([INT8, PRUNE], 1, "step 1 is 'prune' and comes after 'quantize'"),
        ([INT8, {"step": "reconstruct"}], 1, "step 1 is 'reconstruct' and comes after 'quantize'"),
        ([HALF, PRUNE], 1, "step 1 is 'prune' and comes after 'cast'"),
        ([HALF, {"step": "finetune"}], 1, "step 1 is 'finetune' and comes after 'cast'"),
        ([INT8, HALF], 1, "step 1 is 'cast' and comes after 'quantize'"),
        ([HALF, INT8], 1, "step 1 computes with integers, and step 0 with floats of fewer bits"),
    ],
)
def test_steps_in_an_order_that_cannot_be_are_named(client, model_id, recipe, at, detail):
    error = refused(client, spec(model_id, *recipe))
    assert error.pointer == f"/recipe/{at}"
    assert detail in error.detail


@pytest.mark.parametrize(
    ("step", "pointer", "detail"),
    [
        (
            {"step": "quantize", "codebook_size": 16},
            "/recipe/0",
            "codebook_size is of weights 'codebook', and weights is 'int8': leave one out",
        ),
        (
            {"step": "quantize", "weights": "codebook", "codebook_size": 257},
            "/recipe/0/codebook_size",
            "less than or equal to 256",
        ),
        (
            {"step": "quantize", "weights": "int4", "activations": "static"},
            "/recipe/0",
            "activations 'static' go with weights 'int8', and weights is 'int4'",
        ),
        ({"step": "quantize", "group_size": 32}, "/recipe/0", "group_size is of granularity"),
        ({"step": "quantize", "weights": "int3"}, "/recipe/0/weights", "'int2'"),
        (
            {**INT8, "sample_count": 15},
            "/recipe/0/sample_count",
            "greater than or equal to 16",
        ),
        (
            {"step": "factorize", "rank": {"macs": 0.5, "energy": 0.9}},
            "/recipe/0/rank",
            "give exactly one of energy, macs, parameters, vbmf; given: energy, macs",
        ),
        ({"step": "factorize", "rank": {}}, "/recipe/0/rank", "given: none"),
        ({"step": "factorize"}, "/recipe/0/rank", "Field required"),
        ({"step": "factorize", "rank": {"macs": 1}}, "/recipe/0/rank/macs", "less than 1"),
        ({"step": "cast", "dtype": "float64"}, "/recipe/0/dtype", "'bfloat16'"),
        ({"step": "cast"}, "/recipe/0/dtype", "Field required"),
    ],
)
def test_a_step_that_cannot_be_says_what_can(client, model_id, step, pointer, detail):
    error = refused(client, spec(model_id, step, train=rows(client, 16)))
    assert error.pointer == pointer
    assert detail in error.detail
