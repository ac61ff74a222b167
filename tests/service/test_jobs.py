"""Jobs over HTTP: asked for, followed, canceled, deleted."""

import base64
import json
from datetime import UTC, datetime

import pytest

from secateur.failures import Failure, FailureCode
from secateur.jobs import Job, JobState
from secateur.spec import JobSpec
from store.artifacts import NewArtifact
from store.blobs import put
from store.jobs import Jobs
from store.session import session_scope
from tests.service.files import labeled_dataset_file
from tests.service.helpers import assert_problem, kept, prune_spec, services_of

UNKNOWN = "job_" + "0" * 24
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def job_id(client, model_id):
    return client.post("/v1/jobs", json=prune_spec(model_id)).json()["id"]


@pytest.fixture
def work(app):
    """Do to a job what a worker does."""

    def call(method, job_id, **arguments):
        with session_scope(services_of(app).engine) as session:
            if method == "claim":
                return Jobs(session).claim(job_id, NOW)
            return getattr(Jobs(session), method)(job_id, attempt=1, now=NOW, **arguments)

    return call


def finish(app, work, job_id, *, files):
    services = services_of(app)
    work("claim", job_id)
    artifacts = [
        NewArtifact(name, "text/plain", put(services.blobs, [content]), len(content))
        for name, content in files.items()
    ]
    assert work("succeed", job_id, result={"speedup": 2.0}, artifacts=artifacts)


def test_a_job_is_queued_and_a_worker_is_woken(client, model_id, messages):
    response = client.post("/v1/jobs", json=prune_spec(model_id, label="mine"))
    assert response.status_code == 202
    job = Job.model_validate(response.json())
    assert (job.state, job.model_id, job.label) == (JobState.QUEUED, model_id, "mine")
    assert response.headers["location"] == f"/v1/jobs/{job.id}"
    assert int(response.headers["retry-after"]) > 0
    assert messages.sent == [job.id]


def test_the_message_leaves_after_the_row_is_there_to_be_found(
    client, app, model_id, messages, monkeypatch
):
    found = []

    def send(job_id, model_format):
        found.append(services_of(app).jobs.get(job_id).state)

    monkeypatch.setattr(messages, "send", send)
    client.post("/v1/jobs", json=prune_spec(model_id))
    assert found == [JobState.QUEUED]


def given_plan(client, model_id, **fields):
    sha256 = client.get(f"/v1/models/{model_id}").json()["sha256"]
    group = {"id": "g0", "keep": [1], "name": "conv.weight", "members": []}
    return {"format_version": 3, "model_sha256": sha256, "channel_groups": [group], **fields}


def apply_spec(model_id, plan):
    return {"model_id": model_id, "recipe": [{"step": "apply_plan", "plan": plan}]}


def test_a_plan_is_taken_back_and_kept_without_what_is_not_read(client, model_id):
    plan = given_plan(client, model_id, warnings=["x" * 1000], seed=3)
    response = client.post("/v1/jobs", json=apply_spec(model_id, plan))
    assert response.status_code == 202
    [step] = response.json()["spec"]["recipe"]
    assert step["plan"].keys() == {
        "format_version",
        "model_sha256",
        "granularity",
        "exclude",
        "channel_groups",
    }
    assert step["plan"]["channel_groups"] == [
        {"id": "g0", "keep": [1], "channel_count": None, "merges": []}
    ]


def test_a_plan_of_another_model_is_refused_at_once(client, model_id):
    spec = apply_spec(model_id, given_plan(client, model_id, model_sha256="1" * 64))
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "plan.mismatch")
    assert [each.pointer for each in problem.errors] == ["/recipe/0/plan/model_sha256"]
    assert "1" * 64 in problem.detail
    assert "name the plan's model" in problem.detail
    checked = client.post("/v1/jobs/validate", json=spec).json()
    assert [each["code"] for each in checked["problems"]] == ["plan.mismatch"]


def test_a_typo_in_a_plan_is_pointed_at(client, model_id):
    plan = given_plan(client, model_id, channel_groups=[{"id": "g0", "keeps": [1]}])
    answer = client.post("/v1/jobs", json=apply_spec(model_id, plan))
    problem = assert_problem(answer, 422, "request.invalid")
    assert {each.pointer for each in problem.errors} == {
        "/recipe/0/plan/channel_groups/0/keep",
        "/recipe/0/plan/channel_groups/0/keeps",
    }


def test_a_plan_is_a_job_of_one_prune_step(client, model_id):
    plan = {"model_id": model_id, "prune": {"step": "prune", "budget": {"macs": 0.5}}}
    response = client.post("/v1/plans", json=plan)
    assert response.status_code == 202
    job = Job.model_validate(response.json())
    assert job.kind == "plan"
    assert len(job.spec.recipe) == 1


class TestIdempotency:
    def post(self, client, spec, key="a-key", path="/v1/jobs"):
        return client.post(path, json=spec, headers={"Idempotency-Key": key})

    def test_a_repetition_gets_the_first_answer_again(self, client, model_id, messages, work):
        first = self.post(client, prune_spec(model_id))
        work("claim", first.json()["id"])
        second = self.post(client, prune_spec(model_id))
        assert (second.status_code, second.content) == (202, first.content)
        assert second.headers["location"] == first.headers["location"]
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert messages.sent == [first.json()["id"]]

    def test_a_repetition_is_answered_when_the_model_is_gone(self, client, model_id):
        first = self.post(client, prune_spec(model_id))
        client.post(f"{first.headers['location']}/cancel")
        client.delete(f"/v1/models/{model_id}")
        assert self.post(client, prune_spec(model_id)).content == first.content

    @pytest.mark.parametrize("change", [{"seed": 1}, {"label": "other"}])
    def test_another_spec_with_the_same_key_is_refused(self, client, model_id, change):
        self.post(client, prune_spec(model_id))
        response = self.post(client, prune_spec(model_id, **change))
        assert_problem(response, 422, "request.idempotency")

    def test_a_plan_is_not_the_job_with_the_same_spec(self, client, model_id):
        step = {"step": "prune", "budget": {"channel_ratio": 0.5}}
        self.post(client, prune_spec(model_id))
        response = self.post(client, {"model_id": model_id, "prune": step}, path="/v1/plans")
        assert_problem(response, 422, "request.idempotency")

    def test_a_key_that_is_too_long_is_refused(self, client, model_id):
        response = self.post(client, prune_spec(model_id), key="x" * 256)
        problem = assert_problem(response, 422, "request.invalid")
        assert problem.errors[0].pointer == "header:idempotency-key"


class TestGet:
    def test_a_job_that_goes_on_says_when_to_ask_again(self, client, job_id, app, work):
        assert "retry-after" in client.get(f"/v1/jobs/{job_id}").headers
        finish(app, work, job_id, files={})
        assert "retry-after" not in client.get(f"/v1/jobs/{job_id}").headers

    def test_what_has_not_changed_is_not_sent_again(self, client, job_id, work):
        path = f"/v1/jobs/{job_id}"
        etag = client.get(path).headers["etag"]
        for value in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            response = client.get(path, headers={"If-None-Match": value})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        work("claim", job_id)
        response = client.get(path, headers={"If-None-Match": etag})
        assert (response.status_code, response.json()["state"]) == (200, "running")

    def test_waiting_for_news_that_nobody_brings_is_answered_at_once(self, client, job_id):
        assert client.get(f"/v1/jobs/{job_id}?wait=3600").json()["state"] == "queued"

    @pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon"])
    def test_a_wait_that_is_no_time_is_refused(self, client, job_id, wait):
        response = client.get(f"/v1/jobs/{job_id}", params={"wait": wait})
        problem = assert_problem(response, 422, "request.invalid")
        assert problem.errors[0].pointer == "query:wait"

    def test_a_failed_job_is_no_error(self, client, job_id, work):
        work("claim", job_id)
        failure = Failure.of(FailureCode.DATA_UNREADABLE, "what happened")
        work("fail", job_id, failure=failure)
        response = client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200
        assert response.json()["failure"] == failure.model_dump(mode="json")

    def test_times_are_utc(self, client, job_id):
        created_at = client.get(f"/v1/jobs/{job_id}").json()["created_at"]
        assert created_at.endswith("Z")


class TestLists:
    def ids(self, client, **params):
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["data"]]

    def test_pages_are_followed_to_the_end(self, client, model_id):
        ids = [
            client.post("/v1/jobs", json=prune_spec(model_id, seed=seed)).json()["id"]
            for seed in range(3)
        ]
        page = client.get("/v1/jobs?limit=2").json()
        assert [job["id"] for job in page["data"]] == [ids[2], ids[1]]
        rest = client.get("/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert [job["id"] for job in rest["data"]] == [ids[0]]
        assert rest["next_cursor"] is None

    def test_a_list_is_without_specs_which_may_hold_plans(self, client, job_id):
        whole = client.get(f"/v1/jobs/{job_id}").json()
        [row] = client.get("/v1/jobs").json()["data"]
        assert {**row, "spec": whole["spec"]} == whole
        assert "spec" not in row

    def test_filters_narrow_the_list(self, client, model_id):
        mine = client.post("/v1/jobs", json=prune_spec(model_id, label="mine")).json()["id"]
        other = client.post("/v1/jobs", json=prune_spec(model_id)).json()["id"]
        client.post(f"/v1/jobs/{other}/cancel")
        assert self.ids(client, label="mine") == [mine]
        assert self.ids(client, state="canceled") == [other]
        assert self.ids(client, model_id=model_id) == [other, mine]
        assert self.ids(client, model_id="mdl_none") == []

    @pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"state": "done"}])
    def test_a_filter_that_is_none_is_refused(self, client, params):
        assert_problem(client.get("/v1/jobs", params=params), 422, "request.invalid")

    @pytest.mark.parametrize(
        "position",
        [
            None,
            "job",
            ["jobs", "0001-01-01T00:00:00+23:59", UNKNOWN],
            ["jobs", "9999-12-31T23:59:59-23:59", UNKNOWN],
            ["jobs", "today", UNKNOWN],
            ["jobs", "2026-01-31T12:00:00+00:00", "' OR 1=1 --"],
            ["artifacts", "2026-01-31T12:00:00+00:00", UNKNOWN],
            [["jobs"], {}, 1],
        ],
    )
    def test_a_forged_cursor_is_refused(self, client, position):
        for kind in ("jobs", "models", "datasets"):
            forged = json.dumps(position).replace("jobs", kind)
            cursor = base64.urlsafe_b64encode(forged.encode()).decode()
            response = client.get(f"/v1/{kind}", params={"cursor": cursor})
            assert_problem(response, 400, "request.cursor")

    @pytest.mark.parametrize("cursor", ["", "x", "\0", "é", "=" * 200])
    def test_what_is_no_cursor_is_refused(self, client, cursor):
        response = client.get("/v1/jobs", params={"cursor": cursor})
        assert_problem(response, 400, "request.cursor")

    def test_a_cursor_of_another_list_is_refused(self, client, model_id):
        for seed in range(2):
            client.post("/v1/jobs", json=prune_spec(model_id, seed=seed))
        cursor = client.get("/v1/jobs?limit=1").json()["next_cursor"]
        response = client.get("/v1/models", params={"cursor": cursor})
        assert_problem(response, 400, "request.cursor")

    @pytest.mark.parametrize("name", ["model_id", "label"])
    def test_a_text_that_no_database_keeps_is_refused(self, client, name):
        response = client.get("/v1/jobs", params={name: "a\0b"})
        assert_problem(response, 422, "request.invalid")


class TestCancel:
    def test_a_queued_job_is_canceled_at_once(self, client, job_id, messages):
        response = client.post(f"/v1/jobs/{job_id}/cancel")
        assert (response.status_code, response.json()["state"]) == (200, "canceled")
        assert messages.announced == [job_id]

    def test_a_running_job_is_told_to_stop(self, client, job_id, messages, work):
        work("claim", job_id)
        for _ in range(2):
            response = client.post(f"/v1/jobs/{job_id}/cancel")
            assert (response.status_code, response.json()["state"]) == (202, "canceling")
        assert messages.announced == [job_id]

    def test_canceling_twice_is_no_error(self, client, job_id):
        client.post(f"/v1/jobs/{job_id}/cancel")
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200

    def test_a_job_that_has_ended_otherwise_is_not_canceled(self, client, app, job_id, work):
        finish(app, work, job_id, files={})
        assert_problem(client.post(f"/v1/jobs/{job_id}/cancel"), 409, "job.terminal")


class TestDelete:
    def test_a_job_goes_with_what_it_made(self, client, app, job_id, work):
        before = kept(app)
        finish(app, work, job_id, files={"a.txt": b"a", "b.txt": b"b"})
        assert kept(app).blobs == before.blobs + 2
        response = client.delete(f"/v1/jobs/{job_id}")
        assert (response.status_code, response.content) == (204, b"")
        assert kept(app).blobs == before.blobs
        assert_problem(client.get(f"/v1/jobs/{job_id}"), 404, "job.not_found")

    def test_a_file_that_something_else_has_too_stays(self, client, app, job_id, work):
        content = labeled_dataset_file()
        dataset = client.post("/v1/datasets", content=content).json()
        finish(app, work, job_id, files={"copy.npz": content})
        client.delete(f"/v1/jobs/{job_id}")
        assert services_of(app).blobs.contains(dataset["sha256"])

    def test_a_job_that_has_not_ended_stays(self, client, job_id, work):
        assert_problem(client.delete(f"/v1/jobs/{job_id}"), 409, "job.not_final")
        work("claim", job_id)
        assert_problem(client.delete(f"/v1/jobs/{job_id}"), 409, "job.not_final")


class TestResult:
    def test_a_result_is_there_when_the_job_has_succeeded(self, client, app, job_id, work):
        path = f"/v1/jobs/{job_id}/result"
        response = client.get(path)
        assert_problem(response, 409, "job.not_finished")
        assert "retry-after" in response.headers
        finish(app, work, job_id, files={})
        assert client.get(path).json() == {"speedup": 2.0}

    def test_a_failed_job_says_why_it_has_none(self, client, job_id, work):
        work("claim", job_id)
        work("fail", job_id, failure=Failure.of(FailureCode.DATA_UNREADABLE, "what happened"))
        problem = assert_problem(client.get(f"/v1/jobs/{job_id}/result"), 409, "job.no_result")
        assert "data.unreadable" in problem.detail

    def test_a_job_that_broke_a_promise_has_its_report(self, client, app, job_id, work):
        work("claim", job_id)
        failure = Failure.of(FailureCode.SAFETY_PROMISE_BROKEN, "accuracy fell")
        digest = put(services_of(app).blobs, [b"{}"])
        artifact = NewArtifact("report.json", "application/json", digest, 2)
        assert work("fail", job_id, failure=failure, result={"a": 1}, artifacts=[artifact])
        job = client.get(f"/v1/jobs/{job_id}").json()
        assert (job["state"], job["failure"]["code"]) == ("failed", "safety.promise_broken")
        response = client.get(f"/v1/jobs/{job_id}/result")
        assert (response.status_code, response.json()) == (200, {"a": 1})
        [kept_one] = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
        assert client.get(f"/v1/artifacts/{kept_one['id']}").content == b"{}"
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
        assert not services_of(app).blobs.contains(digest)

    def test_a_canceled_job_has_none(self, client, job_id):
        client.post(f"/v1/jobs/{job_id}/cancel")
        assert_problem(client.get(f"/v1/jobs/{job_id}/result"), 409, "job.no_result")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/result"),
        ("GET", "/artifacts"),
        ("GET", "/chart.svg"),
        ("GET", "/chart.png"),
    ],
)
@pytest.mark.parametrize("job_id", [UNKNOWN, "nonsense", "job_%00", "%F0%9F%90%88"])
def test_an_unknown_job_is_not_found(client, method, path, job_id):
    response = client.request(method, f"/v1/jobs/{job_id}{path}")
    problem = assert_problem(response, 404, "job.not_found")
    assert problem.instance.startswith("/v1/jobs/")


class TestValidate:
    def test_a_good_spec_is_written_out(self, client, model_id, messages):
        spec = prune_spec(model_id)
        answer = client.post("/v1/jobs/validate", json=spec).json()
        assert (answer["valid"], answer["problems"]) == (True, [])
        assert JobSpec.model_validate(answer["canonical_spec"]) == JobSpec.model_validate(spec)
        assert answer["spec_sha256"] == JobSpec.model_validate(spec).sha256
        assert messages.sent == []

    def test_all_that_is_wrong_with_the_fields_is_said(self, client):
        spec = {"model_id": 1, "recipe": [{"step": "prune", "budget": {"macs": 2}}], "seed": "x"}
        answer = client.post("/v1/jobs/validate", json=spec)
        assert answer.status_code == 200
        pointers = [problem["pointer"] for problem in answer.json()["problems"]]
        assert pointers == ["/model_id", "/seed", "/recipe/0/budget/macs"]

    def test_all_that_does_not_fit_is_said(self, client):
        spec = prune_spec("mdl_none")
        spec["recipe"].append({"step": "finetune"})
        answer = client.post("/v1/jobs/validate", json=spec).json()
        assert answer["valid"] is False
        found = [(problem["pointer"], problem["code"]) for problem in answer["problems"]]
        assert found == [("/model_id", "spec.unknown_id"), ("/recipe/1", "data.missing")]
