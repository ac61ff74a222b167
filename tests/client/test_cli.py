"""The command line: exit codes, words, and what goes where."""

import io
import json
from datetime import UTC, datetime

import pytest

import secateur
from secateur.asked import evaluation, grid, objective, prune_step, recipe
from secateur.cli import DONE, FAILED, MISUSED, _parser, main
from secateur.client import Client
from secateur.jobs import Job, Progress, Stage
from secateur.progress import ProgressLine, bar
from secateur.pruning import PruneStep
from secateur.spec import Evaluation, JobSpec
from tests.client.conftest import KEY, Service
from tests.client.test_client import spec
from tests.service.files import labeled_dataset_file, model_file
from tests.service.helpers import report, search, trial
from tests.worker.programs import plan


@pytest.fixture
def here(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    monkeypatch.setenv("SECATEUR_API_KEY", KEY)


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(model_file())
    return path


def misused(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    assert stopped.value.code == MISUSED


def test_capabilities_for_people_and_for_programs(here: None, capsys) -> None:
    assert main(["capabilities"]) == DONE
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("magnitude", "accuracy", "distill", "tagging"))
    assert main(["capabilities", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["spec_version"] == 1


def test_jobs_are_listed_and_canceled(here: None, client: Client, model_path, capsys) -> None:
    job = client.create_job(spec(client.upload_model(model_path).id, label="cli"))
    assert main(["jobs", "--label", "cli"]) == DONE
    assert f"{job.id}  queued" in capsys.readouterr().out
    assert main(["cancel", job.id]) == DONE
    assert capsys.readouterr().out == f"{job.id} canceled\n"
    assert main(["cancel", "job_none"]) == FAILED
    assert "(job.not_found)" in capsys.readouterr().err


def test_a_bad_spec_names_the_field(here: None, model_path, capsys) -> None:
    assert main(["compress", str(model_path), "--macs", "1.5"]) == MISUSED
    assert "recipe.0.prune.budget.macs: Input should be less than 1" in capsys.readouterr().err


def test_what_does_not_fit_is_the_services_to_say(here: None, model_path, tmp_path, capsys) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(labeled_dataset_file()[:-10])
    assert main(["compress", str(model_path), "--macs", "0.5", "--train", str(data)]) == FAILED
    assert capsys.readouterr().err.splitlines()[-1].endswith(")")


def test_wrong_command_lines_say_what_is_right(here: None, model_path, capsys) -> None:
    misused("compress", "nowhere.pt2", "--macs", "0.5")
    assert "there is no file or folder nowhere.pt2" in capsys.readouterr().err
    misused("compress", model_path)
    assert "--macs, --parameters, --bytes, --latency, --accuracy" in capsys.readouterr().err
    misused("compress", model_path, "--macs", "0.5", "--finetune", "2")
    assert "give --train" in capsys.readouterr().err
    misused()


def test_a_promise_is_a_measure_and_a_number(here: None, model_path, capsys) -> None:
    misused("compress", model_path, "--macs", "0.5", "--max-drop", "speed=1")
    assert "'speed' is no measure; there are accuracy, top5" in capsys.readouterr().err
    for drop in ("accuracy", "accuracy=", "accuracy=1%"):
        misused("compress", model_path, "--macs", "0.5", "--max-drop", drop)
        assert "write accuracy=0.01" in capsys.readouterr().err
    arguments = ["compress", str(model_path), "--macs", "0.5", "--max-drop"]
    assert main([*arguments, "accuracy=5"]) == MISUSED
    assert "safety.max_drop.accuracy: Input should be less" in capsys.readouterr().err
    assert main([*arguments, "noise_accuracy=0.1"]) == MISUSED
    assert "safety.max_drop.noise_accuracy: noise_accuracy is measured" in capsys.readouterr().err
    assert main([*arguments, "noise_accuracy=0.1", "--noise-std", "1"]) == FAILED
    assert "needs test data" in capsys.readouterr().err


def test_a_plan_instead_of_a_budget(here: None, model_path, tmp_path, capsys) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{")
    misused("compress", model_path, "--plan", path)
    assert "is no JSON" in capsys.readouterr().err
    path.write_text(json.dumps({**plan([]), "channel_groups": [{"id": "g0", "keep": [0]}]}))
    misused("compress", model_path, "--plan", path, "--macs", "0.5")
    assert "not allowed with argument --plan" in capsys.readouterr().err
    misused("compress", model_path, "--plan", path, "--scope", "local", "--channel-multiple", "2")
    assert "leave out --scope, --channel-multiple" in capsys.readouterr().err
    misused("compress", model_path, "--plan", path, "--trials", "2")
    assert "leave out --minimize, --trials, --search-seconds, or" in capsys.readouterr().err
    assert main(["compress", str(model_path), "--plan", str(path)]) == FAILED
    assert "(plan.mismatch)" in capsys.readouterr().err
    path.write_text(json.dumps({**plan([]), "channel_groups": [{"id": "g0"}]}))
    assert main(["compress", str(model_path), "--plan", str(path)]) == MISUSED
    assert "plan.channel_groups.0.keep: Field required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--macs 0.5", {"budget": {"macs": 0.5}}),
        ("--parameters 0.5 --criterion lamp", {"budget": {"parameters": 0.5}, "criterion": "lamp"}),
        (
            "--keep 8 --scope local --option norm=linf",
            {
                "budget": {"keep": 8},
                "scope": "local",
                "criterion": {"name": "magnitude", "norm": "linf"},
            },
        ),
        (
            "--threshold 0.1 --criterion taylor --option targets=outputs --option sample_count=64",
            {
                "budget": {"threshold": 0.1},
                "criterion": {"name": "taylor", "targets": "outputs", "sample_count": 64},
            },
        ),
        ("--latency 0.5", {"budget": {"latency": 0.5}}),
        ("--loss 0.1", {"budget": {"loss": 0.1}}),
        (
            "--accuracy 0.01 --minimize latency --trials 8 --search-seconds 60",
            {
                "budget": {"accuracy": 0.01},
                "search": {"minimize": "latency", "trials": 8, "seconds": 60},
            },
        ),
        ("--algorithm zero --pattern 2:4", {"algorithm": "zero", "pattern": "2:4"}),
        (
            "--algorithm zero --pattern 4x4 --sparsity 0.5",
            {"algorithm": "zero", "pattern": "4x4", "budget": {"sparsity": 0.5}},
        ),
        (
            "--algorithm zero --sparsity 0.7 --floor 0.2",
            {"algorithm": "zero", "budget": {"sparsity": 0.7}, "floor": 0.2},
        ),
        (
            "--bytes 0.5 --rounds 3 --schedule cubic --round-finetune 2 --batch-size 8",
            {
                "budget": {"bytes": 0.5},
                "rounds": 3,
                "schedule": "cubic",
                "recover": [{"step": "finetune", "epochs": 2, "batch_size": 8}],
            },
        ),
    ],
)
def test_what_the_command_line_says_of_pruning_is_in_the_spec(model_path, arguments, expected):
    options = _parser().parse_args(["compress", str(model_path), *arguments.split()])
    step = prune_step(options)
    assert step == {"step": "prune", **expected}
    PruneStep.model_validate(step)


def training(step, **fields):
    return {"step": step, "epochs": 3, **fields, "batch_size": 64}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", [{"step": "recalibrate"}]),
        ("--reconstruct", [{"step": "reconstruct"}]),
        ("--distill 3", [{"step": "recalibrate"}, training("distill")]),
        (
            "--reconstruct --distill 3 --finetune 3 --optimizer sgd",
            [
                {"step": "reconstruct"},
                training("distill", optimizer="sgd"),
                training("finetune", optimizer="sgd"),
            ],
        ),
    ],
)
def test_what_regains_quality_is_in_the_recipe(model_path, arguments, expected):
    data = ["--macs", "0.5", "--train", str(model_path)]
    options = _parser().parse_args(["compress", str(model_path), *data, *arguments.split()])
    steps = recipe(options)
    assert steps[1:] == expected
    JobSpec.model_validate({"model_id": "mdl_1", "recipe": steps})
    grid_options = _parser().parse_args(
        ["compare", str(model_path), *data, "--criteria", "random", *arguments.split()]
    )
    assert grid(grid_options)["then"] == expected


@pytest.mark.parametrize("command", [["compress"], ["compare", "--criteria", "random"]])
def test_how_it_is_judged_and_measured_is_in_the_spec(model_path, command):
    arguments = [*command, "--macs", "0.5", "--latency-rounds", "3", "--", str(model_path)]
    options = _parser().parse_args(arguments)
    assert objective(options) == {}
    assert evaluation(options) == {"latency_rounds": 3}
    more = ["--task", "multi_label", "--output-index", "1"]
    more += ["--latency-batch-size", "8", "--compiled"]
    options = _parser().parse_args([*command, *more, "--macs", "0.5", "--", str(model_path)])
    assert objective(options) == {"task": "multi_label", "output": 1}
    said = evaluation(options)
    assert said == {"latency_rounds": 50, "latency_batch_size": 8, "latency_mode": "compiled"}
    Evaluation.model_validate(said)


def test_a_comparison_has_any_budget(model_path):
    arguments = "--criteria lamp --accuracy 0.01 0.02 --minimize bytes"
    options = _parser().parse_args(["compare", str(model_path), *arguments.split()])
    assert grid(options)["budgets"] == [{"accuracy": 0.01}, {"accuracy": 0.02}]
    assert grid(options)["prune"] == {"search": {"minimize": "bytes"}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--accuracy 0.01", "--accuracy tries models on rows of labeled data: give --train"),
        ("--loss 0.1", "--loss tries models on rows of labeled data: give --train"),
        ("--macs 0.5 --reconstruct", "--reconstruct needs inputs, without labels: give --train"),
        ("--macs 0.5 --distill 2", "--distill needs inputs, without labels: give --train"),
    ],
)
def test_what_needs_data_says_so(here: None, model_path, capsys, arguments, said):
    misused("compress", model_path, *arguments.split())
    assert said in capsys.readouterr().err
    misused("compare", model_path, "--criteria", "random", *arguments.split())
    assert said in capsys.readouterr().err


def test_nothing_is_searched_for_with_a_budget_that_is_counted(here: None, model_path, capsys):
    assert main(["compress", str(model_path), "--macs", "0.5", "--trials", "3"]) == MISUSED
    assert "recipe.0.prune.search: there is nothing to search for" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["--accuracy", "--loss"])
def test_what_is_met_by_trying_has_no_plan(here: None, model_path, capsys, budget):
    assert main(["plan", str(model_path), budget, "0.01"]) == MISUSED
    said = "secateur: prune: a budget of accuracy or loss is met by trying models"
    assert said in capsys.readouterr().err


def test_a_search_leaves_its_trials_as_table_and_picture(
    here: None, service: Service, model_path, tmp_path, monkeypatch, capsys
) -> None:
    made = []

    def wait(client: Client, job: Job, **_options: object) -> Job:
        made.append(job)
        service.claim(job)
        tried = search(trial(1, 0.5, 0.945), delivered_trial=1)
        service.succeed(job, {**report(), "search": tried}, model__pt2=b"made")
        return client.job(job)

    monkeypatch.setattr(Client, "wait", wait)
    data = tmp_path / "train.npz"
    data.write_bytes(labeled_dataset_file())
    out = tmp_path / "out"
    arguments = ["compress", str(model_path), "--accuracy", "0.01", "--train", str(data)]
    more = ["--validation-fraction", "0.5", "--task", "classification", "-o", str(out)]
    assert main([*arguments, *more]) == DONE
    assert {path.name for path in out.iterdir()} == {"model.pt2", "search.svg"}
    assert (out / "search.svg").read_bytes().startswith(b"<?xml")
    shown = capsys.readouterr().out
    assert "least MACs with accuracy 0.01 lower at most: found" in shown
    assert "model.pt2, search.svg in" in shown
    [job] = made
    assert job.spec.data.validation_fraction == 0.5
    assert job.spec.objective.task == "classification"


def test_what_a_prune_step_cannot_mean_names_its_place(here: None, model_path, capsys) -> None:
    arguments = ["plan", str(model_path), "--macs", "0.5", "--algorithm", "zero"]
    assert main(arguments) == MISUSED
    assert "prune.budget: " in capsys.readouterr().err
    misused("plan", model_path, "--macs", "0.5", "--option", "norm")
    assert "'norm' is no NAME=VALUE" in capsys.readouterr().err
    misused("compress", model_path, "--macs", "0.5", "--rounds", "2", "--round-finetune", "1")
    assert "give --train" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "compress"])
def test_nothing_is_sent_before_it_is_said_how_much(here: None, model_path, capsys, command):
    misused(command, model_path, "--criterion", "lamp")
    assert "say how much: give one of --macs" in capsys.readouterr().err
    misused(command, model_path, "--macs", "0.5", "--keep", "3")
    assert "not allowed with argument --macs" in capsys.readouterr().err


def test_a_comparison_of_zeros_has_a_pattern(model_path):
    arguments = "--criteria lamp --algorithms zero --sparsity 0.5 --pattern 4x4"
    options = _parser().parse_args(["compare", str(model_path), *arguments.split()])
    assert grid(options)["prune"] == {"pattern": "4x4"}


def test_without_a_service_or_a_key_nothing_starts(capsys, monkeypatch) -> None:
    misused("jobs")
    assert "SECATEUR_URL" in capsys.readouterr().err
    misused("--url", "http://127.0.0.1:1", "jobs")
    assert "SECATEUR_API_KEY" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def job_at(stage: Stage | None, done: int = 0) -> Job:
    progress = None if stage is None else Progress(done=done, total=4, unit="epochs")
    return Job.model_construct(
        id="job_1",
        state="running",
        stage=stage,
        progress=progress,
        attempt=1,
        created_at=datetime.now(UTC),
    )


def test_a_terminal_has_one_line_that_is_written_over() -> None:
    terminal = Terminal()
    with ProgressLine(terminal) as line:
        line.job(job_at(Stage.RECOVERING, 1))
        line.job(job_at(Stage.RECOVERING, 3))
    shown = terminal.getvalue().split("\r")
    assert shown[1] == "recovering   [######..................] 1/4 epochs"
    assert shown[2] == "recovering   [##################......] 3/4 epochs"
    assert shown[-2:] == [" " * len(shown[2]), ""]


def test_a_log_has_a_line_for_each_stage() -> None:
    log = io.StringIO()
    with ProgressLine(log) as line:
        line.job(job_at(None))
        line.job(job_at(Stage.LOADING, 0))
        line.job(job_at(Stage.LOADING, 4))
        line.job(job_at(Stage.PRUNING, 1))
    assert log.getvalue() == "running\nloading\npruning\n"


def test_a_bar_stays_in_its_bounds() -> None:
    assert bar(-1) == bar(0)
    assert bar(2) == bar(1)


def test_the_public_names_are_sorted_and_there() -> None:
    assert sorted(secateur.__all__) == secateur.__all__
    assert all(hasattr(secateur, name) for name in secateur.__all__)
