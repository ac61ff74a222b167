"""Data types over HTTP: what workers have, and what is refused without them."""

from datetime import timedelta

import pytest

from secateur.models import ModelFormat
from secateur.precision import Precision
from service.clock import now
from store.session import session_scope
from store.workers import Workers
from tests.service.helpers import assert_problem, prune_spec, services_of


def worker(app, *precisions, name="wrk_1"):
    with session_scope(services_of(app).engine) as session:
        until = now() + timedelta(seconds=60)
        Workers(session).alive(name, [ModelFormat.PT2], precisions, now=now(), until=until)


def cast_spec(model_id, dtype):
    spec = prune_spec(model_id)
    return {**spec, "recipe": [*spec["recipe"], {"step": "cast", "dtype": dtype}]}


def test_capabilities_say_what_some_worker_has(client, app):
    def said():
        found = client.get("/v1/capabilities").json()["precisions"]
        assert all(each["summary"] for each in found)
        return {each["name"]: each["is_available"] for each in found}

    assert said() == {"float16": False, "bfloat16": False, "float8_e4m3fn": False}
    worker(app, Precision.FLOAT16)
    worker(app, Precision.FLOAT16, Precision.FLOAT8_E4M3, name="wrk_2")
    assert said() == {"float16": True, "bfloat16": False, "float8_e4m3fn": True}


def test_what_no_worker_has_is_refused_before_any_work(client, app, model_id, messages):
    worker(app, Precision.FLOAT16)
    spec = cast_spec(model_id, "bfloat16")
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "precision.unavailable")
    assert problem.retryable
    [error] = problem.errors
    assert error.pointer == f"/recipe/{len(spec['recipe']) - 1}/dtype"
    assert "cast to a type that one has (float16)" in problem.detail
    validation = client.post("/v1/jobs/validate", json=spec).json()
    assert [each["code"] for each in validation["problems"]] == ["precision.unavailable"]
    assert messages.sent == []
    assert client.post("/v1/jobs", json=cast_spec(model_id, "float16")).status_code == 202


def test_a_sweep_is_refused_at_the_recipe_that_casts(client, app, model_id):
    worker(app, Precision.FLOAT16)
    recipes = [
        {"name": dtype, "recipe": [{"step": "cast", "dtype": dtype}]}
        for dtype in ("float16", "bfloat16")
    ]
    sweep = {"model_id": model_id, "recipes": recipes}
    problem = assert_problem(client.post("/v1/sweeps", json=sweep), 422, "precision.unavailable")
    assert [error.pointer for error in problem.errors] == ["/recipes/1/recipe/0/dtype"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_every_worker_has_is_waited_for_while_none_is_up(client, model_id, dtype):
    assert client.post("/v1/jobs", json=cast_spec(model_id, dtype)).status_code == 202


def test_what_only_some_workers_have_is_not(client, model_id):
    spec = cast_spec(model_id, "float8_e4m3fn")
    assert_problem(client.post("/v1/jobs", json=spec), 422, "precision.unavailable")
