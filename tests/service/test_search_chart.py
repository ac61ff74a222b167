"""A search as a picture."""

import re
from xml.etree import ElementTree

import pytest

from secateur.search import Minimize
from secateur.trials import SearchReport
from service.search_chart import _KINDS, _front, _points, search_chart
from store.jobs import Jobs
from store.session import session_scope
from tests.service.helpers import assert_problem, prune_spec, report, search, services_of, trial
from tests.service.test_jobs import NOW

TRIALS = (
    trial(1, 0.5, 0.90),
    trial(2, 0.75, 0.945),
    trial(3, 0.7, 0.94, is_confirmed=False),
    trial(4, 0.8, 0.943),
    trial(5, 0.6, None),
)


def tried(*trials, **fields):
    return SearchReport.model_validate(search(*trials or TRIALS, **fields))


def svg(report, **options):
    text = search_chart(report, "svg", title="job_1", **options).decode()
    ElementTree.fromstring(text)  # It is XML.
    return text


@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_equal_searches_make_equal_bytes(file_format):
    drawn = search_chart(tried(), file_format, title="a")
    assert search_chart(tried(), file_format, title="a") == drawn
    assert search_chart(tried(delivered_trial=2), file_format, title="a") != drawn
    assert b"date" not in drawn.lower()


def test_what_became_of_a_trial_is_told_by_marker_and_by_color():
    assert len({kind.marker for kind in _KINDS}) == len({kind.color for kind in _KINDS}) == 4
    text = svg(tried(delivered_trial=2))
    for kind in _KINDS:
        assert f"<!-- {kind.label} -->" in text
        assert kind.color in text
    assert "<!-- delivered -->" not in svg(tried())


def test_the_original_and_the_limit_are_dashed_lines():
    text = svg(tried())
    assert "<!-- original -->" in text
    assert "<!-- promised limit -->" in text
    # In the picture and in the legend.
    assert len(re.findall("stroke-dasharray", text)) == 4


def test_the_front_joins_what_nothing_else_is_better_than():
    points = _points(tried(), Minimize.MACS)
    front = [point.left for point in _front(points, is_more_better=True)]
    assert front == [0.5, 0.7, 0.75]
    points = _points(tried(budget="loss"), Minimize.MACS)
    assert [point.left for point in _front(points, is_more_better=False)] == front


def test_a_trial_without_a_number_is_no_point():
    assert "4 of 5 trials have numbers" in svg(tried())


@pytest.mark.parametrize(
    ("against", "name"),
    [
        (None, "MACs"),
        (Minimize.MACS, "MACs"),
        (Minimize.PARAMETERS, "parameters"),
        (Minimize.BYTES, "weight bytes"),
    ],
)
def test_it_is_against_what_is_asked_for(against, name):
    text = svg(tried(), against=against)
    assert f"<!-- {name} left, fraction of the original -->" in text
    assert "<!-- accuracy on validation rows -->" in text


def test_it_is_against_what_was_minimized():
    trials = [trial(1, 0.5, 0.9, latency_ratio=0.7), trial(2, 0.6, 0.9)]
    text = svg(tried(*trials, minimize="latency"))
    assert "<!-- latency left, fraction of the original -->" in text
    assert "1 of 2 trials have numbers" in text


def test_a_loss_is_shown_where_it_was_promised():
    text = svg(tried(budget="loss"))
    assert "<!-- loss on validation rows (lower is better) -->" in text
    assert "<!-- promised limit -->" in text


def test_what_was_not_measured_is_said():
    text = svg(tried(), against=Minimize.LATENCY)
    assert "no trial has its latency and its accuracy measured" in text
    assert "Pareto front" not in text


class TestRoutes:
    @pytest.fixture
    def finished(self, client, app, model_id):
        """Make a job that has this report; give its path."""

        def finish(result, **fields):
            job_id = client.post("/v1/jobs", json=prune_spec(model_id, **fields)).json()["id"]
            with session_scope(services_of(app).engine) as session:
                assert Jobs(session).claim(job_id, NOW) is not None
                assert Jobs(session).succeed(
                    job_id, attempt=1, now=NOW, result=result, artifacts=[]
                )
            return f"/v1/jobs/{job_id}"

        return finish

    def test_trials_are_drawn(self, client, finished):
        path = finished({**report(), "search": search(*TRIALS)}, label="mine")
        response = client.get(f"{path}/chart.svg")
        assert response.headers["content-type"].startswith("image/svg+xml")
        assert "sandbox" in response.headers["content-security-policy"]
        assert "<!-- mine -->" in response.text
        assert client.get(f"{path}/chart.svg?against=macs").content == response.content
        assert "weight bytes left" in client.get(f"{path}/chart.svg?against=bytes").text
        response = client.get(f"{path}/chart.png")
        assert response.headers["content-type"] == "image/png"
        assert response.content.startswith(b"\x89PNG\r\n")

    def test_what_it_is_against_is_one_of_four(self, client, finished):
        path = finished({**report(), "search": search(*TRIALS)})
        problem = assert_problem(
            client.get(f"{path}/chart.svg?against=size"), 422, "request.invalid"
        )
        assert problem.errors[0].pointer == "query:against"

    @pytest.mark.parametrize("file_format", ["svg", "png"])
    def test_a_job_that_tried_nothing_has_no_chart(self, client, finished, model_id, file_format):
        path = f"{finished(report())}/chart.{file_format}"
        assert_problem(client.get(path), 409, "job.no_search")
        waiting = client.post("/v1/jobs", json=prune_spec(model_id)).json()["id"]
        path = f"/v1/jobs/{waiting}/chart.{file_format}"
        assert_problem(client.get(path), 409, "job.not_finished")
        client.post(f"/v1/jobs/{waiting}/cancel")
        assert_problem(client.get(path), 409, "job.no_result")
        assert_problem(client.get(f"/v1/jobs/job_0/chart.{file_format}"), 404, "job.not_found")
