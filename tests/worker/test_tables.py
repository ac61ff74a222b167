"""The worker's tables have a row for everything that there is."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import worker.engine.errors
from formats.errors import DatasetFormatError, FormatError
from secateur.failures import Failure, FailureCode
from secateur.jobs import JobKind
from secateur.messages import RUN_JOB
from secateur.spec import JobSpec, Step
from worker.app import make_app
from worker.engine.config import (
    ApplyPlanConfig,
    DistillConfig,
    EvaluationConfig,
    FinetuneConfig,
    GroupConfig,
    ObjectiveConfig,
    PruneConfig,
    RecalibrateConfig,
    ReconstructConfig,
    SearchConfig,
)
from worker.engine.errors import EngineError
from worker.engine.safety import SafetyConfig
from worker.failures import failure_of
from worker.functions import FUNCTIONS
from worker.launch import Launcher
from worker.order import InputFile, Order, Outcome
from worker.recipe import BUILDERS, recipe_of, request_of
from worker.results import REQUIRED, RESULTS
from worker.settings import WorkerSettings

GIB = 2**30


def leaves(kind: type) -> Iterator[type]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for each in below:
        yield from leaves(each)


@pytest.mark.parametrize("kind", list(leaves(EngineError)))
def test_every_engine_error_has_a_failure_code(kind: type[EngineError]) -> None:
    failure = failure_of(kind("why"), memory_bytes=GIB)
    assert failure.code == kind.code
    assert failure.detail == "why"
    assert kind.__module__ == worker.engine.errors.__name__


@pytest.mark.parametrize("kind", list(leaves(FormatError)))
def test_every_format_error_is_about_the_model_or_the_data(kind: type[FormatError]) -> None:
    error = kind.__new__(kind)
    code = failure_of(error, memory_bytes=GIB).code
    if issubclass(kind, DatasetFormatError):
        assert code is FailureCode.DATA_UNREADABLE
    elif kind.code in set(FailureCode):
        assert code == kind.code  # The same code, whether the door or a worker found it.
    else:
        assert code is FailureCode.MODEL_UNREADABLE


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("float32")),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_a_lack_of_memory_is_known_by_its_many_names(error: BaseException) -> None:
    assert failure_of(error, memory_bytes=GIB).code is FailureCode.RESOURCE_OUT_OF_MEMORY


def test_a_lack_of_memory_is_no_word_about_the_model() -> None:
    error = worker.engine.errors.UnreadableModelError("cannot be read")
    error.__cause__ = MemoryError()
    assert failure_of(error, memory_bytes=GIB).code is FailureCode.RESOURCE_OUT_OF_MEMORY


def test_anything_else_is_internal_and_says_nothing() -> None:
    failure = failure_of(OSError("/secret/path"), memory_bytes=GIB)
    assert failure.code is FailureCode.INTERNAL
    assert "/secret" not in failure.detail


def test_every_step_has_a_builder() -> None:
    union, _ = get_args(Step)
    assert set(get_args(union)) == BUILDERS.keys()


@pytest.mark.parametrize("code", [None, *FailureCode])
@pytest.mark.parametrize("result", [None, {}])
def test_an_outcome_has_a_result_if_its_ending_has_one(code, result) -> None:
    fields = {
        "result": result,
        "failure": None if code is None else Failure.of(code, "why"),
        "device": "cpu",
        "versions": {},
    }
    if (code in (None, FailureCode.SAFETY_PROMISE_BROKEN)) is (result is not None):
        assert Outcome(**fields).result == result
    else:
        with pytest.raises(ValidationError, match="a result"):
            Outcome(**fields)


def test_every_kind_of_job_has_a_function_and_a_result() -> None:
    assert set(JobKind) == FUNCTIONS.keys() == RESULTS.keys() == REQUIRED.keys()
    for name in FUNCTIONS.values():
        module, _, function = name.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_every_message_has_a_task(tmp_path) -> None:
    app, runtime = make_app(WorkerSettings(data_dir=tmp_path), Launcher([]))
    assert RUN_JOB in app.tasks
    runtime.close()


def test_a_spec_is_the_engines_request(tmp_path) -> None:
    spec = JobSpec.model_validate(
        {
            "model_id": "mdl_1",
            "recipe": [
                {
                    "step": "prune",
                    "budget": {"macs": 0.25},
                    "criterion": "random",
                    "scope": "local",
                    "granularity": "heads",
                    "exclude": ["head.*"],
                    "channel_multiple": 8,
                },
                {
                    "step": "apply_plan",
                    "plan": {
                        "format_version": 3,
                        "model_sha256": "3" * 64,
                        "granularity": "head_dim",
                        "exclude": ["tail.*"],
                        "channel_groups": [
                            {"id": "g0", "keep": [2, 1], "channel_count": 3},
                            {"id": "g4", "keep": []},
                        ],
                    },
                },
                {"step": "reconstruct", "sample_count": 5, "batch_size": 6, "damping": 0.5},
                {"step": "recalibrate", "sample_count": 3, "batch_size": 4},
                {
                    "step": "finetune",
                    "epochs": 5,
                    "learning_rate": 0.5,
                    "weight_decay": 0.25,
                    "batch_size": 6,
                },
                {"step": "distill", "augment": ["flip"], "labels": 0.5, "precision": "bfloat16"},
            ],
            "data": {"validation_fraction": 0.2},
            "objective": {"task": "tagging", "output": 2, "ignore_class": 255},
            "evaluation": {
                "batch_size": 7,
                "latency_batch_size": 8,
                "latency_rounds": 9,
                "latency_mode": "compiled",
                "noise_std": 0.75,
                "fgsm_epsilon": 0.125,
            },
            "safety": {"max_drop": {"accuracy": 0, "fgsm_accuracy": 0.5}},
            "seed": 10,
        }
    )
    order = Order(
        job_id="job_1",
        attempt=1,
        function="a:b",
        spec=spec,
        model=InputFile(path=tmp_path / "m", sha256="1" * 64),
        train=InputFile(path=tmp_path / "t", sha256="2" * 64),
        test=None,
        checkpoint=InputFile(path=tmp_path / "left", sha256="4" * 64),
        checkpoint_s=7.5,
        device="auto",
        memory_bytes=GIB,
        file_bytes=GIB,
        cpu_s=1,
    )
    request = request_of(order, output_dir=tmp_path / "output", device="cpu")
    assert request.recipe == (
        PruneConfig(
            criterion="random",
            scope="local",
            macs=0.25,
            granularity="heads",
            exclude=("head.*",),
            channel_multiple=8,
        ),
        ApplyPlanConfig(
            model_sha256="3" * 64,
            groups=(GroupConfig("g0", (1, 2), 3), GroupConfig("g4", ())),
            granularity="head_dim",
            exclude=("tail.*",),
        ),
        ReconstructConfig(sample_count=5, batch_size=6, damping=0.5),
        RecalibrateConfig(sample_count=3, batch_size=4),
        FinetuneConfig(epochs=5, learning_rate=0.5, weight_decay=0.25, batch_size=6),
        DistillConfig(augment=("flip",), labels=0.5, precision="bfloat16"),
    )
    assert request.validation_fraction == 0.2
    assert request.spec_sha256 == spec.sha256
    assert request.checkpoint == tmp_path / "checkpoint"
    assert request.resume == tmp_path / "left"
    assert request.checkpoint_s == 7.5
    assert request.model == tmp_path / "m"
    assert request.model_sha256 == "1" * 64
    assert request.train == tmp_path / "t"
    assert request.test is None
    assert request.objective == ObjectiveConfig("tagging", 2, 255)
    assert request.evaluation == EvaluationConfig(
        batch_size=7,
        latency_batch_size=8,
        latency_rounds=9,
        latency_mode="compiled",
        noise_std=0.75,
        fgsm_epsilon=0.125,
    )
    assert request.safety == SafetyConfig(accuracy=0.0, fgsm_accuracy=0.5)
    assert request.seed == 10
    assert request.device == "cpu"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, SearchConfig("macs", 24, 1200)),
        ({"minimize": "bytes", "trials": 3, "seconds": 4}, SearchConfig("bytes", 3, 4)),
    ],
)
def test_a_search_is_asked_for_in_full(asked, expected, tmp_path) -> None:
    prune = {"step": "prune", "budget": {"loss": 0.25}, **({"search": asked} if asked else {})}
    spec = JobSpec.model_validate({"model_id": "mdl_1", "recipe": [prune]})
    order = Order(
        job_id="job_1",
        attempt=1,
        function="a:b",
        spec=spec,
        model=InputFile(path=tmp_path / "m", sha256="1" * 64),
        train=None,
        test=None,
        device="auto",
        memory_bytes=GIB,
        file_bytes=GIB,
        cpu_s=1,
    )
    [step] = request_of(order, output_dir=tmp_path / "output", device="cpu").recipe
    assert isinstance(step, PruneConfig)
    assert (step.loss, step.search) == (0.25, expected)


def test_a_quantized_network_is_trained_at_a_lower_rate_unless_one_is_given():
    recipe = [
        {"step": "finetune"},
        {"step": "quantize"},
        {"step": "finetune"},
        {"step": "distill", "learning_rate": 0.5},
    ]
    spec = JobSpec.model_validate({"model_id": "mdl_a", "recipe": recipe})
    rates = [getattr(step, "learning_rate", None) for step in recipe_of(spec.recipe)]
    assert rates == [1e-3, None, 1e-4, 0.5]
