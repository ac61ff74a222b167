"""Every criterion and every algorithm on the demo's network, over HTTP."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur.client import Client
from secateur.criteria import CRITERIA
from secateur.errors import JobFailed, ProblemError
from secateur.failures import FailureCode
from secateur.jobs import JobState
from secateur.sparse import load_sparse
from secateur.sweeps import Sweep, SweepState
from tests.e2e.test_main_job import Place, client, embedded_alone, place

__all__ = ["client", "place"]

pytestmark = embedded_alone

SHIFT_OF_PAIRS = {
    "step": "prune",
    "algorithm": "shift",
    "overrides": [{"match": "conv1.weight", "pairs": [[3, 1], [5, 1]]}],
}
RECIPES = {
    "2:4": [{"step": "prune", "algorithm": "zero", "pattern": "2:4"}],
    "blocks": [
        {
            "step": "prune",
            "algorithm": "zero",
            "criterion": "wanda",
            "pattern": "4x4",
            "budget": {"parameters": 0.5},
        },
        {"step": "finetune"},
    ],
    "rounds": [
        {
            "step": "prune",
            "criterion": {"name": "taylor", "targets": "outputs"},
            "budget": {"macs": 0.5},
            "rounds": 2,
            "schedule": "cubic",
            "recover": [{"step": "finetune"}],
        }
    ],
    "pairs": [SHIFT_OF_PAIRS],
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network and data, as files."""
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    import digits_model as demo

    folder = tmp_path_factory.mktemp("digits")
    images, targets, test_images, test_targets = demo.digits()
    demo.save(demo.train(images, targets), images, folder / "digits.pt2")
    demo.save_rows(images, targets, folder / "train.npz")
    demo.save_rows(test_images, test_targets, folder / "test.npz")
    return folder


def asked(client: Client, digits: Path, **what: object) -> dict[str, object]:
    return {
        "model_id": client.upload_model(digits / "digits.pt2").id,
        "data": {use: client.upload_dataset(digits / f"{use}.npz").id for use in ("train", "test")},
        "evaluation": {"latency_rounds": 0, "batch_size": 450},
        **what,
    }


@pytest.fixture(scope="module")
def special(place: Place, digits: Path) -> Iterator[Sweep]:
    """What a grid cannot say, done."""
    recipes = [{"name": name, "recipe": recipe} for name, recipe in RECIPES.items()]
    with Client(place.url, place.key) as client:
        yield client.wait_sweep(client.create_sweep(asked(client, digits, recipes=recipes)))


def test_every_criterion_prunes_the_demos_network(client: Client, digits: Path) -> None:
    assert {each.name for each in client.capabilities().criteria} == set(CRITERIA)
    grid = {"criteria": "all", "budgets": [{"macs": 0.7}], "algorithms": ["shift"]}
    sweep = client.wait_sweep(client.create_sweep(asked(client, digits, grid=grid)))
    assert sweep.state is SweepState.SUCCEEDED
    original, *rows = client.comparison(sweep).rows
    assert [row.method for row in rows] == [f"{name}, shift" for name in CRITERIA]
    assert original.accuracy > 0.9
    for row in rows:
        assert row.state is JobState.SUCCEEDED, row
        assert row.macs <= 0.7 * original.macs
        assert row.accuracy > 0.5, row  # Of ten classes; most have over 0.9.


def test_recipes_that_a_grid_cannot_say(client: Client, special: Sweep) -> None:
    assert {child.method: child.failure for child in special.children} == dict.fromkeys(RECIPES)
    assert [child.amount for child in special.children] == [
        "2:4",
        "parameters 0.5",
        "macs 0.5",
        "by layer",
    ]


def job_of(sweep: Sweep, method: str) -> str:
    return next(child.job_id for child in sweep.children if child.method == method)


@pytest.mark.parametrize(("method", "least"), [("2:4", 0.45), ("blocks", 0.5)])
def test_zeros_are_there_and_cost_little(
    client: Client, special: Sweep, tmp_path: Path, method: str, least: float
) -> None:
    job_id = job_of(special, method)
    report = client.report(job_id)
    assert report.before.sparsity < 0.01
    assert report.after_recovery.sparsity >= least
    assert report.after_recovery.counts == report.before.counts
    assert "no faster" in report.warnings[-1]
    paths = {path.name: path for path in client.download_all(job_id, tmp_path)}
    dense, sparse = paths["model.safetensors"], paths["model.sparse.safetensors"]
    assert sparse.stat().st_size < 0.65 * dense.stat().st_size
    expected, found = load_file(dense), load_sparse(sparse)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_rounds_leave_a_plan_each(client: Client, special: Sweep) -> None:
    job_id = job_of(special, "rounds")
    names = {artifact.name for artifact in client.artifacts(job_id)}
    assert {"plan-0.json", "plan-1.json"} < names
    report = client.report(job_id)
    assert report.after_recovery.counts.macs <= 0.5 * report.before.counts.macs


def test_pairs_by_hand_are_merged(client: Client, special: Sweep, tmp_path: Path) -> None:
    job_id = job_of(special, "pairs")
    plan = next(each for each in client.artifacts(job_id) if each.name == "plan.json")
    written = client.download(plan, tmp_path / "plan.json").read_text()
    assert '"source": 3' in written
    report = client.report(job_id)
    # 4 of 6 channels of the first convolution are left: 9 weights and a bias each, and 16 readers.
    lost = report.before.counts.parameters - report.after_recovery.counts.parameters
    assert lost == 2 * (9 + 1 + 16 * 9)


def test_a_pair_out_of_range_points_into_the_spec(client: Client, digits: Path) -> None:
    override = {"match": "conv1.weight", "pairs": [[3, 1], [4, 6]]}
    spec = asked(client, digits, recipe=[SHIFT_OF_PAIRS | {"overrides": [override]}])
    with pytest.raises(JobFailed, match="channels 0 to 5, and no 6") as caught:
        client.wait(client.create_job(spec))
    failure = caught.value.failure
    assert failure.code is FailureCode.PLAN_PAIR
    assert failure.pointer == "/recipe/0/overrides/0/pairs/1/1"


def test_a_budget_that_cannot_be_met_points_at_it(client: Client, digits: Path) -> None:
    recipe = [{"step": "prune", "budget": {"macs": 0.0001}}]
    with pytest.raises(JobFailed) as caught:
        client.wait(client.create_job(asked(client, digits, recipe=recipe)))
    failure = caught.value.failure
    assert failure.code is FailureCode.PLAN_TARGET_UNREACHABLE
    assert failure.pointer == "/recipe/0/budget/macs"


def test_a_criterion_without_its_data_is_refused_at_the_criterion(
    client: Client, digits: Path
) -> None:
    recipe = [{"step": "prune", "criterion": "wanda", "budget": {"macs": 0.5}}]
    with pytest.raises(ProblemError) as caught:
        client.create_job(asked(client, digits, recipe=recipe, data={}))
    assert caught.value.problem.code == "data.missing"
    assert [each.pointer for each in caught.value.problem.errors] == ["/recipe/0/criterion"]
