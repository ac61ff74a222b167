"""The sweep spec: what is taken, what it comes to, and where it says that something is wrong."""

import pytest
from pydantic import ValidationError

from secateur.capabilities import CRITERIA
from secateur.grids import Grid
from secateur.jobs import JobState
from secateur.spec import JobFrame, JobSpec
from secateur.sweeps import MOST_JOBS, JobCounts, SweepSpec, SweepState

GRID = {"criteria": ["magnitude", "random"], "budgets": [{"macs": 0.5}, {"channel_ratio": 0.2}]}
STEP = {"step": "prune", "budget": {"macs": 0.5}}


def spec(**fields):
    return SweepSpec.model_validate({"model_id": "mdl_1", **fields})


def cells(*, has_data=True, has_labels=True, **fields):
    grid = Grid.model_validate({**GRID, **fields})
    found = list(grid.cells(has_data=has_data, has_labels=has_labels))
    assert len(found) == grid.count(has_data=has_data, has_labels=has_labels)
    return found


def test_a_spec_survives_json():
    for each in (spec(grid=GRID), spec(recipes=[{"name": "a", "recipe": [STEP]}])):
        assert SweepSpec.model_validate_json(each.model_dump_json()) == each


def test_its_jobs_are_asked_what_it_is_asked():
    frame = {
        "data": {"train": "dst_1", "test": "dst_2"},
        "objective": {"task": "tagging", "ignore_class": 0},
        "evaluation": {"latency_rounds": 3},
        "output_formats": ["onnx"],
        "safety": {"max_drop": {"accuracy": 0.01}},
        "seed": 7,
        "label": "mine",
        "run_timeout_s": 9,
    }
    assert {"model_id", *frame} == set(JobFrame.model_fields)
    sweep = spec(
        grid={**GRID, "then": [{"step": "finetune"}], "prune": {"scope": "local"}}, **frame
    )
    children = [child.spec() for child in sweep.children(has_labels=True)]
    assert len(children) == 4
    recipe = [
        {
            "step": "prune",
            "scope": "local",
            "criterion": "random",
            "budget": {"channel_ratio": 0.2},
        },
        {"step": "finetune"},
    ]
    assert children[3] == JobSpec.model_validate({"model_id": "mdl_1", "recipe": recipe, **frame})


def test_a_cell_is_named_by_what_differs():
    criteria = ["magnitude", {"name": "magnitude"}, {"name": "magnitude", "norm": "l1", "p": 2}]
    found = cells(criteria=criteria, budgets=[{"macs": 0.5, "other": None}])
    assert [cell.method for cell in found] == [
        "magnitude",
        "magnitude",
        "magnitude (norm=l1, p=2)",
    ]
    assert {cell.amount for cell in found} == {"macs 0.5"}


def test_algorithms_are_part_of_the_method_and_by_default_the_steps_own():
    assert all("algorithm" not in cell.recipe[0] for cell in cells())
    found = cells(criteria=["magnitude"], algorithms=["cut", "shift"])
    assert [(cell.method, cell.amount, cell.recipe[0]["algorithm"]) for cell in found] == [
        ("magnitude, cut", "macs 0.5", "cut"),
        ("magnitude, cut", "channel_ratio 0.2", "cut"),
        ("magnitude, shift", "macs 0.5", "shift"),
        ("magnitude, shift", "channel_ratio 0.2", "shift"),
    ]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((0, "prune", "criterion"), ("criteria", 1)),
        ((0, "criterion", "norm"), ("criteria", 1, "norm")),
        ((0, "prune", "budget", "macs"), ("budgets", 1, "macs")),
        ((0, "prune", "algorithm"), ("algorithms", 0)),
        ((0, "prune", "scope"), ("prune", "scope")),
        ((0, "prune"), ()),
        ((0,), ()),
        ((), ()),
        ((2, "finetune", "epochs"), ("then", 1, "finetune", "epochs")),
    ],
)
def test_a_place_in_a_recipe_has_one_in_the_grid(path, place):
    assert cells(algorithms=["cut"])[-1].place(path) == place


def test_all_criteria_are_those_whose_needs_are_met(monkeypatch):
    for has_data, has_labels in ((False, False), (True, False), (True, True)):
        found = cells(criteria="all", has_data=has_data, has_labels=has_labels)
        assert {cell.method for cell in found} == {
            str(name)
            for name, needs in CRITERIA.items()
            if (has_data or not needs.data) and (has_labels or not needs.labels)
        }


def wrong(**fields):
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    return {(each["loc"], each["type"]) for each in caught.value.errors()}


def test_what_is_wrong_has_its_place_in_the_spec():
    assert wrong(grid={**GRID, "criteria": ["magnitude", "{guess}"]}) == {
        (("grid", "criteria", 1), "enum")
    }
    assert wrong(grid={**GRID, "budgets": [{"macs": 0.5}, {"macs": 2}]}) == {
        (("grid", "budgets", 1, "macs"), "less_than")
    }
    assert wrong(grid={**GRID, "prune": {"step": "finetune"}}) == {
        (("grid", "prune"), "value_error")
    }
    assert wrong(grid={**GRID, "budgets": [{"macs": 0.5}] * 2}) == {
        (("grid", "budgets", 1), "repeated")
    }
    one_twice = ["magnitude", {"name": "magnitude", "norm": "l2"}]
    assert wrong(grid={**GRID, "criteria": one_twice}) == {(("grid", "criteria", 1), "repeated")}
    assert wrong(recipes=[{"name": "a", "recipe": [{"step": "finetune"}]}]) == {
        (("recipes", 0, "recipe"), "value_error")
    }
    assert wrong(recipes=[{"name": "a", "recipe": [STEP]}] * 2) == {
        (("recipes", 1, "name"), "repeated")
    }
    assert wrong(grid=GRID, recipes=[{"name": "a", "recipe": [STEP]}]) == {((), "value_error")}
    assert wrong(grid=GRID, seed=-1) == {(("seed",), "greater_than_equal")}


def test_a_grid_of_too_many_is_refused_without_being_made():
    budgets = [{"macs": n / 1000} for n in range(1, 200)]
    criteria = [{"name": "magnitude", "n": n} for n in range(200)]
    algorithms = [str(n) for n in range(200)]
    grid = {"criteria": criteria, "budgets": budgets, "algorithms": algorithms}
    with pytest.raises(ValidationError, match=f"{MOST_JOBS} jobs at most, this one has 7960000"):
        spec(grid=grid)


def test_as_many_as_allowed_are_taken():
    budgets = [{"macs": (n + 1) / 1000} for n in range(100)]
    sweep = spec(grid={"criteria": ["magnitude", "random"], "budgets": budgets})
    assert len(sweep.children(has_labels=False)) == MOST_JOBS


PLAN = {
    "format_version": 3,
    "model_sha256": "0" * 64,
    "channel_groups": [{"id": "g0", "keep": [0]}],
}
INT8 = {"step": "quantize", "activations": "static"}


@pytest.mark.parametrize(
    ("recipe", "amount"),
    [
        (
            [STEP, {"step": "recalibrate"}, {"step": "apply_plan", "plan": PLAN}],
            "macs 0.5, as planned",
        ),
        ([INT8], "int8 static"),
        ([{"step": "quantize", "activations": "dynamic"}], "int8 dynamic"),
        ([STEP, {"step": "quantize", "weights": "int4"}], "macs 0.5, int4"),
        ([{"step": "quantize", "weights": "codebook"}], "codebook 16"),
        ([{"step": "quantize", "weights": "codebook", "codebook_size": 4}], "codebook 4"),
        ([{"step": "cast", "dtype": "bfloat16"}], "bfloat16"),
        ([{"step": "factorize", "rank": {"macs": 0.5}}], "rank macs 0.5"),
        ([{"step": "factorize", "rank": {"vbmf": True}}], "rank vbmf"),
        (
            [
                STEP,
                {"step": "factorize", "rank": {"energy": 0.9}},
                {"step": "cast", "dtype": "float16"},
                {"step": "quantize", "weights": "ternary"},
            ],
            "macs 0.5, rank energy 0.9, float16, ternary",
        ),
    ],
)
def test_the_amount_of_a_recipe_is_that_of_its_steps(recipe, amount):
    [child] = spec(recipes=[{"name": "mine", "recipe": recipe}]).children(has_labels=False)
    assert (child.method, child.amount) == ("mine", amount)


def test_the_amount_of_a_cell_has_what_follows_every_cell():
    grid = {"criteria": ["random"], "budgets": [{"macs": 0.5}], "then": [INT8]}
    [child] = spec(grid=grid).children(has_labels=False)
    assert child.amount == "macs 0.5, int8 static"


@pytest.mark.parametrize(
    "step",
    [
        {"step": "quantize", "weights": ["int8"]},
        {"step": "quantize", "weights": {}, "activations": None},
        {"step": "factorize", "rank": "half"},
        {"step": "factorize", "rank": {"macs": {}}},
        {"step": "cast", "dtype": 16},
        {"step": "prune", "budget": 1, "pattern": 2},
        {"step": ["cast"]},
    ],
)
def test_what_follows_and_is_wrong_is_pointed_at(step):
    grid = {"criteria": ["random"], "budgets": [{"macs": 0.5}], "then": [step]}
    with pytest.raises(ValidationError) as caught:
        spec(grid=grid)
    assert all(error["loc"][:3] == ("grid", "then", 0) for error in caught.value.errors())


@pytest.mark.parametrize(
    ("counts", "is_canceled", "state"),
    [
        ({JobState.QUEUED: 1, JobState.FAILED: 1}, False, SweepState.RUNNING),
        ({JobState.CANCELING: 1}, True, SweepState.RUNNING),
        ({JobState.FAILED: 2}, False, SweepState.FAILED),
        ({JobState.FAILED: 2}, True, SweepState.CANCELED),
        ({JobState.FAILED: 2, JobState.SUCCEEDED: 1}, False, SweepState.SUCCEEDED),
        ({JobState.SUCCEEDED: 1, JobState.CANCELED: 1}, False, SweepState.SUCCEEDED),
        ({JobState.SUCCEEDED: 1, JobState.CANCELED: 1}, True, SweepState.CANCELED),
    ],
)
def test_the_state_follows_from_those_of_the_jobs(counts, is_canceled, state):
    counted = JobCounts.of(counts)
    assert counted.state(is_canceled=is_canceled) is state
    assert counted.total == sum(counts.values())
