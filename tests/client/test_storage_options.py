"""What the command line says of lower rank, fewer bits and other types."""

import json

import pytest

from secateur.asked import grid, recipe
from secateur.cli import DONE, FAILED, MISUSED, _parser, main
from secateur.client import Client
from secateur.jobs import Job
from secateur.spec import JobSpec
from secateur.sweeps import SweepSpec
from tests.client.conftest import KEY, Service
from tests.service.files import labeled_dataset_file, model_file
from tests.service.helpers import report


@pytest.fixture
def here(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    monkeypatch.setenv("SECATEUR_API_KEY", KEY)


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(model_file())
    return path


def training(step: str) -> dict[str, object]:
    return {"step": step, "epochs": 3, "batch_size": 64}


PRUNE = {"step": "prune", "budget": {"macs": 0.5}}
CALIBRATE = {"step": "recalibrate"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--quantize int4", [{"step": "quantize", "weights": "int4"}]),
        (
            "--quantize int8 --activations static --calibration entropy --train X",
            [
                {
                    "step": "quantize",
                    "weights": "int8",
                    "activations": "static",
                    "calibration": "entropy",
                }
            ],
        ),
        (
            (
                "--quantize codebook --codebook-size 8 --quant-granularity per_channel "
                "--keep-float a.* --keep-float b"
            ),
            [
                {
                    "step": "quantize",
                    "weights": "codebook",
                    "codebook_size": 8,
                    "granularity": "per_channel",
                    "keep_float": ["a.*", "b"],
                }
            ],
        ),
        (
            (
                "--quantize int2 --group-size 32 --rounding compensated --bias-correction "
                "--equalize --smooth 0.5 --float-layers 2 --train X"
            ),
            [
                {
                    "step": "quantize",
                    "weights": "int2",
                    "group_size": 32,
                    "rounding": "compensated",
                    "bias_correction": True,
                    "equalize": True,
                    "smooth": 0.5,
                    "float_layers": 2,
                }
            ],
        ),
        ("--cast float16", [{"step": "cast", "dtype": "float16"}]),
        (
            "--cast bfloat16 --cast-inputs --keep-float head.*",
            [
                {
                    "step": "cast",
                    "dtype": "bfloat16",
                    "cast_inputs": True,
                    "keep_float": ["head.*"],
                }
            ],
        ),
        ("--rank macs=0.5", [{"step": "factorize", "rank": {"macs": 0.5}}]),
        (
            "--rank vbmf --factorize tucker --exclude stem.* --train X",
            [
                {
                    "step": "factorize",
                    "method": "tucker",
                    "rank": {"vbmf": True},
                    "exclude": ["stem.*"],
                },
                CALIBRATE,
            ],
        ),
        (
            (
                "--macs 0.5 --rank energy=0.9 --reconstruct --distill 3 --cast float16 "
                "--quantize int4 --train X"
            ),
            [
                PRUNE,
                {"step": "factorize", "rank": {"energy": 0.9}},
                {"step": "reconstruct"},
                training("distill"),
                {"step": "cast", "dtype": "float16"},
                {"step": "quantize", "weights": "int4"},
            ],
        ),
        (
            (
                "--macs 0.5 --finetune 3 --quantize int8 --distill-quantized 3 "
                "--finetune-quantized 3 --train X"
            ),
            [
                PRUNE,
                CALIBRATE,
                training("finetune"),
                {"step": "quantize", "weights": "int8"},
                training("distill"),
                training("finetune"),
            ],
        ),
    ],
)
def test_the_steps_are_in_the_order_in_which_they_may_be(model_path, arguments, expected):
    words = arguments.replace("X", str(model_path)).split()
    options = _parser().parse_args(["compress", str(model_path), *words])
    steps = recipe(options)
    assert steps == expected
    JobSpec.model_validate({"model_id": "mdl_1", "recipe": steps})


def test_behind_every_cell_of_a_comparison_it_is_quantized(model_path):
    arguments = ["compare", str(model_path), "--criteria", "random", "--macs", "0.7", "0.5"]
    more = ["--rank", "parameters=0.5", "--quantize", "int8", "--activations", "static"]
    options = _parser().parse_args([*arguments, *more, "--train", str(model_path)])
    asked = grid(options)
    assert [step["step"] for step in asked["then"]] == ["factorize", "recalibrate", "quantize"]
    spec = {"model_id": "mdl_1", "grid": asked, "data": {"train": "dst_1"}}
    children = SweepSpec.model_validate(spec).children(has_labels=False)
    assert [(child.method, child.amount) for child in children] == [
        ("random", "macs 0.7, rank parameters 0.5, int8 static"),
        ("random", "macs 0.5, rank parameters 0.5, int8 static"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--quantize int3", "invalid choice: 'int3'"),
        ("--rank macs", "'macs' says no rank: write one of energy=0.5, macs=0.5"),
        ("--rank macs=half", "'macs=half' says no rank"),
        ("--rank size=0.5", "'size=0.5' says no rank"),
        ("--factorize svd", "--factorize says more of --rank: give that, too"),
        (
            "--macs 0.5 --activations dynamic",
            "--activations says more of --quantize: give that, too",
        ),
        ("--cast float16 --equalize", "--equalize says more of --quantize"),
        ("--macs 0.5 --finetune-quantized 2", "--finetune-quantized says more of --quantize"),
        ("--quantize int8 --cast-inputs", "--cast-inputs says more of --cast"),
        ("--macs 0.5 --keep-float head.*", "--keep-float says more of --quantize or --cast"),
        ("--quantize int8 --scope local", "say how much: give one of --macs"),
        ("--quantize int8 --exclude head.*", "say how much: give one of --macs"),
        ("--quantize int8 --activations static", "--activations static needs inputs, without"),
        ("--quantize int4 --rounding compensated", "--rounding compensated needs inputs"),
        ("--quantize int4 --bias-correction", "--bias-correction needs inputs"),
        ("--quantize int8 --smooth 0.5", "--smooth needs inputs"),
        ("--quantize int8 --float-layers 1", "--float-layers needs inputs"),
        ("--quantize int8 --distill-quantized 1", "--distill-quantized needs inputs"),
        ("--quantize int8 --finetune-quantized 1", "--finetune-quantized needs labeled data"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_sent(
    here: None, model_path, capsys, arguments, said
):
    with pytest.raises(SystemExit) as stopped:
        main(["compress", str(model_path), *arguments.split()])
    assert stopped.value.code == MISUSED
    assert said in capsys.readouterr().err


def test_nothing_to_do_names_all_that_could_be_done(here: None, model_path, capsys):
    with pytest.raises(SystemExit):
        main(["compress", str(model_path)])
    assert "--plan, --rank, --quantize, --cast, --recipe JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ("--rank macs=1.5", "recipe.0.factorize.rank.macs: Input should be less than 1"),
        ("--quantize int4 --activations dynamic", "activations 'dynamic' go with weights 'int8'"),
        ("--quantize int8 --codebook-size 4", "codebook_size is of weights 'codebook'"),
        ("--cast float16 --quantize int8 --activations dynamic", "computes with integers"),
    ],
)
def test_what_a_spec_cannot_mean_names_its_place(here: None, model_path, capsys, arguments, place):
    assert main(["compress", str(model_path), *arguments.split()]) == MISUSED
    assert place in capsys.readouterr().err


@pytest.fixture
def recipe_path(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps([PRUNE, {"step": "quantize", "sample_count": 64}]))
    return path


def test_a_recipe_says_every_step(
    here: None, service: Service, model_path, recipe_path, tmp_path, monkeypatch, capsys
):
    made = []

    def wait(client: Client, job: Job, **_options: object) -> Job:
        made.append(job)
        service.claim(job)
        service.succeed(job, report(), model__pt2=b"made")
        return client.job(job)

    monkeypatch.setattr(Client, "wait", wait)
    data = tmp_path / "train.npz"
    data.write_bytes(labeled_dataset_file())
    arguments = ["compress", str(model_path), "--recipe", str(recipe_path), "--train", str(data)]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == DONE
    [job] = made
    assert [step.step for step in job.spec.recipe] == ["prune", "quantize"]
    assert job.spec.recipe[1].sample_count == 64
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--macs 0.5", "not allowed with argument --recipe"),
        ("--scope local --reconstruct", "leave out --scope, --reconstruct, or edit the recipe"),
        ("--quantize int8 --equalize", "leave out --quantize, --equalize, or edit the recipe"),
        ("--learning-rate 0.1", "leave out --learning-rate, or edit the recipe"),
        ("--batch-size 8 --trials 2", "leave out --minimize, --trials, --search-seconds, --batch"),
    ],
)
def test_a_recipe_goes_with_no_option_that_makes_steps(
    here: None, model_path, recipe_path, capsys, arguments, said
):
    with pytest.raises(SystemExit) as stopped:
        main(["compress", str(model_path), "--recipe", str(recipe_path), *arguments.split()])
    assert stopped.value.code == MISUSED
    assert said in capsys.readouterr().err


def test_a_recipe_that_is_none_names_the_place(here: None, model_path, recipe_path, capsys):
    arguments = ["compress", str(model_path), "--recipe", str(recipe_path)]
    for document, place in (
        ({}, "recipe: Input should be a valid tuple"),
        ([], "recipe: Tuple should have at least 1 item"),
        ([{"step": "shrink"}], "recipe.0: Input tag 'shrink'"),
    ):
        recipe_path.write_text(json.dumps(document))
        assert main(arguments) == MISUSED
        assert place in capsys.readouterr().err
    recipe_path.write_text(json.dumps([{"step": "quantize", "activations": "static"}]))
    assert main(arguments) == FAILED
    assert "(data.missing)" in capsys.readouterr().err
