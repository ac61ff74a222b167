"""Sweeps over HTTP: asked for, followed, compared, canceled, deleted."""

import csv
import io
import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pytest

from secateur.comparison import Comparison, ComparisonRow
from secateur.failures import Failure, FailureCode
from secateur.jobs import Job
from secateur.sweeps import Sweep, SweepPage, SweepState
from store.artifacts import NewArtifact
from store.blobs import put
from store.jobs import Jobs
from store.session import session_scope
from tests.service.files import dataset_file
from tests.service.helpers import (
    assert_problem,
    kept,
    prune_spec,
    report,
    services_of,
    sweep_spec,
)

UNKNOWN = "swp_" + "0" * 24
ROWS = np.zeros((5, 1, 6, 6), np.float32)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def sweep(client, model_id):
    return Sweep.model_validate(client.post("/v1/sweeps", json=sweep_spec(model_id)).json())


@pytest.fixture
def path(sweep):
    return f"/v1/sweeps/{sweep.id}"


@pytest.fixture
def work(app):
    """Do to a job what a worker does."""
    services = services_of(app)

    def claim(job_id):
        with session_scope(services.engine) as session:
            assert Jobs(session).claim(job_id, NOW) is not None

    def succeed(job_id, result, content=b"a"):
        claim(job_id)
        made = NewArtifact("a", "text/plain", put(services.blobs, [content]), len(content))
        with session_scope(services.engine) as session:
            assert Jobs(session).succeed(
                job_id, attempt=1, now=NOW, result=result, artifacts=[made]
            )

    def fail(job_id):
        claim(job_id)
        failure = Failure.of(FailureCode.DATA_UNREADABLE, "why")
        with session_scope(services.engine) as session:
            assert Jobs(session).fail(job_id, attempt=1, now=NOW, failure=failure)

    return {"claim": claim, "succeed": succeed, "fail": fail}


def pointers(problem):
    return {each.pointer for each in problem.errors}


class TestCreate:
    def test_a_job_for_each_cell_is_queued_and_one_worker_is_woken(
        self, client, model_id, messages
    ):
        response = client.post("/v1/sweeps", json=sweep_spec(model_id, label="mine", seed=3))
        assert response.status_code == 202
        sweep = Sweep.model_validate(response.json())
        assert response.headers["location"] == f"/v1/sweeps/{sweep.id}"
        assert int(response.headers["retry-after"]) > 0
        assert (sweep.state, sweep.counts.queued, sweep.label) == (SweepState.RUNNING, 4, "mine")
        assert [(child.method, child.amount) for child in sweep.children] == [
            ("magnitude", "macs 0.7"),
            ("magnitude", "macs 0.5"),
            ("random", "macs 0.7"),
            ("random", "macs 0.5"),
        ]
        assert messages.sent == [sweep.children[0].job_id]
        job = Job.model_validate(client.get(f"/v1/jobs/{sweep.children[3].job_id}").json())
        assert (job.sweep_id, job.label, job.spec.seed) == (sweep.id, "mine", 3)
        step = job.spec.recipe[0]
        assert (str(step.criterion), step.budget.macs) == ("random", 0.5)

    def test_recipes_are_named(self, client, model_id):
        step = {"step": "prune", "budget": {"channel_ratio": 0.5}}
        recipes = [
            {"name": "once", "recipe": [step]},
            {"name": "twice", "recipe": [step, {**step, "budget": {"macs": 0.3}}]},
        ]
        sweep = client.post("/v1/sweeps", json={"model_id": model_id, "recipes": recipes}).json()
        assert [(child["method"], child["amount"]) for child in sweep["children"]] == [
            ("once", "channel_ratio 0.5"),
            ("twice", "channel_ratio 0.5, macs 0.3"),
        ]

    def test_what_is_wrong_is_said_once_where_it_is(self, client, model_id):
        grid = {
            "criteria": ["magnitude", "guess"],
            "budgets": [{"macs": 0.5}, {"macs": 7}, {}],
            "then": [{"step": "finetune", "epochs": 0}],
            "prune": {"scope": "nowhere"},
        }
        response = client.post("/v1/sweeps", json={"model_id": model_id, "grid": grid})
        problem = assert_problem(response, 422, "request.invalid")
        found = [each.pointer for each in problem.errors]
        assert sorted(found) == [
            "/grid/budgets/1/macs",
            "/grid/budgets/2",
            "/grid/criteria/1",
            "/grid/prune/scope",
            "/grid/then/0/epochs",
        ]

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"criteria": ["magnitude", 3]}, "/grid/criteria/1"),
            ({"criteria": []}, "/grid/criteria"),
            ({"criteria": ["random", "random"]}, "/grid/criteria/1"),
            ({"budgets": []}, "/grid/budgets"),
            ({"budgets": [{"macs": n / 300} for n in range(1, 200)]}, "/grid"),
            ({"prune": {"budget": {"macs": 0.5}}}, "/grid/prune"),
        ],
    )
    def test_a_grid_that_is_none_is_refused(self, client, model_id, changes, pointer):
        spec = sweep_spec(model_id)
        spec["grid"] |= changes
        problem = assert_problem(client.post("/v1/sweeps", json=spec), 422, "request.invalid")
        assert pointers(problem) == {pointer}

    def test_either_a_grid_or_recipes(self, client, model_id):
        recipes = [{"name": "a", "recipe": prune_spec(model_id)["recipe"]}]
        for spec in ({"model_id": model_id}, sweep_spec(model_id, recipes=recipes)):
            problem = assert_problem(client.post("/v1/sweeps", json=spec), 422, "request.invalid")
            assert "exactly one of grid, recipes" in problem.detail

    def test_what_it_names_has_to_be_there(self, client, app):
        before = kept(app)
        response = client.post("/v1/sweeps", json=sweep_spec("mdl_none"))
        assert pointers(assert_problem(response, 422, "spec.unknown_id")) == {"/model_id"}
        assert kept(app) == before

    def test_every_job_needs_its_data_and_none_is_made_without(self, client, app, model_id):
        before = kept(app)
        spec = sweep_spec(model_id)
        spec["grid"]["then"] = [{"step": "recalibrate"}, {"step": "finetune"}]
        problem = assert_problem(client.post("/v1/sweeps", json=spec), 422, "data.missing")
        assert [each.pointer for each in problem.errors] == ["/grid/then/0", "/grid/then/1"]
        assert kept(app) == before

    @pytest.mark.parametrize(
        ("asked", "pointer"),
        [
            ({"safety": {"max_drop": {"accuracy": 0.1}}}, "/data/test"),
            ({"evaluation": {"noise_std": 0.1}}, "/evaluation/noise_std"),
        ],
    )
    def test_what_cannot_be_measured_is_refused_as_it_is_of_a_job(
        self, client, app, model_id, asked, pointer
    ):
        before = kept(app)
        response = client.post("/v1/sweeps", json={**sweep_spec(model_id), **asked})
        problem = assert_problem(response, 422, "data.missing")
        assert [each.pointer for each in problem.errors] == [pointer]
        alone = client.post("/v1/jobs", json={**prune_spec(model_id), **asked})
        assert assert_problem(alone, 422, "data.missing").errors == problem.errors
        assert kept(app) == before

    def test_plans_of_another_model_are_pointed_at(self, client, model_id):
        plan = {
            "format_version": 3,
            "model_sha256": "1" * 64,
            "channel_groups": [{"id": "g0", "keep": [1]}],
        }
        recipes = [
            {"name": "fresh", "recipe": prune_spec(model_id)["recipe"]},
            {"name": "planned", "recipe": [{"step": "apply_plan", "plan": plan}]},
        ]
        response = client.post("/v1/sweeps", json={"model_id": model_id, "recipes": recipes})
        problem = assert_problem(response, 422, "plan.mismatch")
        assert pointers(problem) == {"/recipes/1/recipe/0/plan/model_sha256"}

    def test_all_criteria_are_those_whose_needs_are_met(self, client, model_id, capabilities):
        spec = sweep_spec(model_id)
        spec["grid"]["criteria"] = "all"
        sweep = client.post("/v1/sweeps", json=spec).json()
        assert {child["method"] for child in sweep["children"]} == {
            criterion["name"]
            for criterion in capabilities["criteria"]
            if not criterion["needs_data"] and not criterion["needs_labels"]
        }
        assert sweep["spec"]["grid"]["criteria"] == "all"

    def test_all_criteria_without_labels_leave_out_those_that_need_them(
        self, client, model_id, capabilities
    ):
        dataset = client.post("/v1/datasets", content=dataset_file(inputs=ROWS)).json()
        spec = sweep_spec(model_id, data={"train": dataset["id"]})
        spec["grid"]["criteria"] = "all"
        sweep = client.post("/v1/sweeps", json=spec).json()
        assert {child["method"] for child in sweep["children"]} == {
            criterion["name"]
            for criterion in capabilities["criteria"]
            if not criterion["needs_labels"]
        }

    def test_how_many_jobs_it_may_have_can_be_asked(self, capabilities):
        assert capabilities["limits"]["sweep_jobs"] == 200

    @pytest.fixture
    def capabilities(self, client):
        return client.get("/v1/capabilities").json()


class TestIdempotency:
    def post(self, client, spec):
        return client.post("/v1/sweeps", json=spec, headers={"Idempotency-Key": "a-key"})

    def test_a_repetition_gets_the_first_answer_again(self, client, model_id, messages, work):
        first = self.post(client, sweep_spec(model_id))
        work["fail"](first.json()["children"][0]["job_id"])
        second = self.post(client, sweep_spec(model_id))
        assert (second.status_code, second.content) == (202, first.content)
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert len(messages.sent) == 1

    def test_another_spec_with_the_same_key_is_refused(self, client, model_id):
        self.post(client, sweep_spec(model_id))
        response = self.post(client, sweep_spec(model_id, seed=1))
        assert_problem(response, 422, "request.idempotency")


class TestGet:
    def test_what_has_not_changed_is_not_sent_again(self, client, sweep, path, work):
        etag = client.get(path).headers["etag"]
        response = client.get(path, headers={"If-None-Match": etag})
        assert (response.status_code, response.content) == (304, b"")
        work["claim"](sweep.children[0].job_id)
        response = client.get(path, headers={"If-None-Match": etag})
        assert (response.status_code, response.json()["counts"]["running"]) == (200, 1)

    def test_one_that_goes_on_says_when_to_ask_again(self, client, path):
        assert "retry-after" in client.get(path).headers
        client.post(f"{path}/cancel")
        assert "retry-after" not in client.get(path).headers

    def test_a_list_has_no_specs_and_can_be_narrowed(self, client, model_id, sweep):
        other = client.post("/v1/sweeps", json=sweep_spec(model_id, label="mine")).json()
        page = SweepPage.model_validate(client.get("/v1/sweeps").json())
        assert [row.id for row in page.data] == [other["id"], sweep.id]
        assert page.data[1].model_dump() == sweep.model_dump(exclude={"children", "spec"})
        [mine] = client.get("/v1/sweeps?label=mine").json()["data"]
        assert mine["id"] == other["id"]
        assert client.get("/v1/sweeps?model_id=mdl_none").json()["data"] == []
        cursor = client.get("/v1/sweeps?limit=1").json()["next_cursor"]
        [last] = client.get("/v1/sweeps", params={"cursor": cursor}).json()["data"]
        assert last["id"] == sweep.id
        response = client.get("/v1/jobs", params={"cursor": cursor})
        assert_problem(response, 400, "request.cursor")

    def test_its_jobs_are_jobs_like_others(self, client, model_id, sweep):
        other = client.post("/v1/jobs", json=prune_spec(model_id)).json()
        assert other["sweep_id"] is None
        rows = client.get("/v1/jobs", params={"sweep_id": sweep.id}).json()["data"]
        assert {row["id"] for row in rows} == {child.job_id for child in sweep.children}
        assert {row["sweep_id"] for row in rows} == {sweep.id}


class TestCancel:
    def test_all_that_has_not_ended_is_stopped(self, client, sweep, path, messages, work):
        first, second, *rest = (child.job_id for child in sweep.children)
        work["succeed"](first, report())
        work["claim"](second)
        response = client.post(f"{path}/cancel")
        assert response.status_code == 202
        states = [child["state"] for child in response.json()["children"]]
        assert states == ["succeeded", "canceling", "canceled", "canceled"]
        assert set(messages.announced) == {second, *rest, sweep.id}
        assert response.json()["state"] == "running"
        assert client.post(f"{path}/cancel").status_code == 202

    def test_one_whose_jobs_all_wait_is_canceled_at_once(self, client, path):
        for _ in range(2):
            response = client.post(f"{path}/cancel")
            assert (response.status_code, response.json()["state"]) == (200, "canceled")

    def test_one_that_has_ended_otherwise_is_not_canceled(self, client, sweep, path, work):
        for child in sweep.children:
            work["fail"](child.job_id)
        assert client.get(path).json()["state"] == "failed"
        assert_problem(client.post(f"{path}/cancel"), 409, "sweep.terminal")

    def test_whoever_cancels_a_job_tells_those_who_watch_its_sweep(self, client, sweep, messages):
        job_id = sweep.children[0].job_id
        client.post(f"/v1/jobs/{job_id}/cancel")
        assert messages.announced == [job_id, sweep.id]


class TestDelete:
    def test_it_goes_with_its_jobs_and_what_they_made(self, client, app, sweep, path, work):
        before = kept(app)
        work["succeed"](sweep.children[0].job_id, report())
        work["succeed"](sweep.children[1].job_id, report())
        problem = assert_problem(client.delete(path), 409, "sweep.not_final")
        assert "2 of 4 jobs" in problem.detail
        client.post(f"{path}/cancel")
        response = client.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        assert (kept(app).blobs, kept(app).rows) == (before.blobs, before.rows - 5)
        assert_problem(client.get(path), 404, "sweep.not_found")

    def test_a_job_of_a_sweep_stays(self, client, sweep, path):
        client.post(f"{path}/cancel")
        response = client.delete(f"/v1/jobs/{sweep.children[0].job_id}")
        assert sweep.id in assert_problem(response, 409, "job.in_sweep").detail


class TestComparison:
    def test_the_original_and_what_is_known_by_now(self, client, sweep, path, work):
        first, second, third, _ = (child.job_id for child in sweep.children)
        empty = Comparison.model_validate(client.get(f"{path}/result").json())
        assert [row.accuracy for row in empty.rows] == [None] * 5
        work["succeed"](second, report(accuracy=0.9, macs=500))
        work["fail"](third)
        comparison = Comparison.model_validate(client.get(f"{path}/result").json())
        assert (comparison.sweep_id, comparison.state) == (sweep.id, SweepState.RUNNING)
        original, waiting, done, failed, _ = comparison.rows
        assert original.model_dump() == {
            **dict.fromkeys(ComparisonRow.model_fields),
            "method": "original",
            "accuracy": 0.95,
            "agreement": 1.0,
            "loss": 0.25,
            "output_mse": 0.5,
            "parameters": 100,
            "macs": 1000,
            "size_bytes": 500,
            "sparsity": 0.0,
            "file_bytes": 2000,
            "file_ratio": 1.0,
            "latency_p50_ms": 2.0,
        }
        assert (waiting.job_id, waiting.state, waiting.macs) == (first, "queued", None)
        assert done.model_dump() == {
            "method": "magnitude",
            "amount": "macs 0.5",
            "job_id": second,
            "state": "succeeded",
            "failure_code": None,
            "accuracy": 0.9,
            "accuracy_after_prune": pytest.approx(0.8),
            "agreement": 1.0,
            "loss": 0.25,
            "output_mse": 0.5,
            "parameters": 50,
            "macs": 500,
            "size_bytes": 250,
            "sparsity": 0.0,
            "file_bytes": 1000,
            "file_ratio": 0.5,
            "latency_p50_ms": 1.5,
            "speedup": 1.25,
            "seconds": 3.5,
        }
        assert (failed.failure_code, failed.accuracy) == ("data.unreadable", None)

    @pytest.mark.parametrize(
        ("accept", "is_csv"),
        [
            (None, False),
            ("*/*", False),
            ("text/csv", True),
            ("TEXT/CSV; q=0.5", True),
            ("text/csv, application/json;q=0.9", True),
            ("application/json, text/csv;q=0.9", False),
            ("text/csv;q=0", False),
            ("text/csv;q=nan,,;", True),
        ],
    )
    def test_csv_comes_to_those_who_prefer_it(self, client, path, accept, is_csv):
        headers = {} if accept is None else {"Accept": accept}
        response = client.get(f"{path}/result", headers=headers)
        kind = response.headers["content-type"].partition(";")[0]
        assert kind == ("text/csv" if is_csv else "application/json")
        assert response.headers["vary"] == "Accept"

    def test_csv_is_what_the_rows_are(self, client, sweep, path, work):
        work["succeed"](sweep.children[0].job_id, report())
        headers = {"Accept": "application/json"}
        response = client.get(f"{path}/result?format=csv", headers=headers)
        rows = list(csv.DictReader(io.StringIO(response.text)))
        expected = client.get(f"{path}/result").json()["rows"]
        assert [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for row in expected
        ] == rows
        assert sweep.id in response.headers["content-disposition"]

    def test_no_name_is_a_formula_in_a_spreadsheet(self, client, model_id):
        recipe = prune_spec(model_id)["recipe"]
        names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", 'a "b", c']
        recipes = [{"name": name, "recipe": recipe} for name in names]
        sweep = client.post("/v1/sweeps", json={"model_id": model_id, "recipes": recipes}).json()
        text = client.get(f"/v1/sweeps/{sweep['id']}/result?format=csv").text
        methods = [row["method"] for row in csv.DictReader(io.StringIO(text, newline=""))]
        assert methods == [
            "original",
            *(f"'{name}" for name in names[:6]),
            "plain",
            'a "b", c',
        ]

    def test_a_format_that_is_none_is_refused(self, client, path):
        response = client.get(f"{path}/result?format=xlsx")
        problem = assert_problem(response, 422, "request.invalid")
        assert problem.errors[0].pointer == "query:format"


class TestChart:
    def test_it_is_drawn_as_svg(self, client, sweep, path, work):
        for position, child in enumerate(sweep.children):
            work["succeed"](child.job_id, report(accuracy=0.9 - position / 100))
        response = client.get(f"{path}/chart.svg")
        assert response.headers["content-type"].startswith("image/svg+xml")
        assert "sandbox" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        root = ElementTree.fromstring(response.text)
        assert root.tag.endswith("svg")
        for words in ("original", "magnitude", "random", "accuracy"):
            assert re.search(f"<!-- {words} -->", response.text)
        assert "4 of 4 jobs" in response.text
        assert client.get(f"{path}/chart.svg").content == response.content

    def test_it_is_drawn_as_png_before_any_job_has_ended(self, client, path):
        response = client.get(f"{path}/chart.png")
        assert response.headers["content-type"] == "image/png"
        assert response.content.startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/result"),
        ("GET", "/chart.svg"),
        ("GET", "/chart.png"),
    ],
)
@pytest.mark.parametrize("sweep_id", [UNKNOWN, "nonsense", "swp_%00", "%F0%9F%90%88"])
def test_an_unknown_sweep_is_not_found(client, method, path, sweep_id):
    response = client.request(method, f"/v1/sweeps/{sweep_id}{path}")
    assert_problem(response, 404, "sweep.not_found")
