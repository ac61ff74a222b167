"""Models of Keras, TensorFlow, transformers and ONNX: in over HTTP, and back as what they were."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from secateur.client import Client
from secateur.errors import JobFailed, ProblemError
from secateur.failures import FailureCode
from secateur.jobs import Job
from secateur.models import ModelFormat
from secateur.outputs import OutputFormat
from secateur.report import Report
from tests.e2e.test_main_job import Place, client, embedded_alone, place
from tests.engine.pretrained import MODELS, transformers_archive
from worker.engine.load import load_program

__all__ = ["Place", "client", "place"]

pytestmark = [
    embedded_alone,
    pytest.mark.filterwarnings("ignore"),  # Of the libraries that make models.
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_keras.py"
HAS_TENSORFLOW = all(find_spec(name) for name in ("tensorflow", "tf2onnx"))


def keras(*arguments: object, backend: str = "torch") -> str:
    """The example, in a process of its own."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits CNN of Keras, and its data."""
    folder = tmp_path_factory.mktemp("digits")
    keras("train", folder, "--epochs", 3)
    return folder


def compressed(
    client: Client, model_id: str, folder: Path, to: Path, **fields: Any
) -> tuple[Job, Report]:
    """Half the MACs, and an epoch on the digits."""
    data = {use: client.upload_dataset(folder / f"{use}.npz").id for use in ("train", "test")}
    job = client.create_job(
        {
            "model_id": model_id,
            "recipe": [
                {"step": "prune", "budget": {"macs": 0.5}},
                {"step": "finetune", "epochs": 2, "learning_rate": 0.002},
            ],
            "data": data,
            "evaluation": {"latency_rounds": 3},
            **fields,
        }
    )
    client.wait(job)
    client.download_all(job, to)
    return job, client.report(job)


def accuracy_of(report: Report) -> float:
    quality = report.after_recovery.quality
    assert quality is not None
    assert quality.accuracy is not None
    assert report.after_recovery.counts.macs <= 0.5 * report.before.counts.macs
    return quality.accuracy


def right_in_onnxruntime(file: Path, test: Path) -> float:
    """The accuracy of an ONNX file, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with np.load(test) as data:
        [logits] = session.run(None, {session.get_inputs()[0].name: data["inputs"]})
        return float((logits.argmax(1) == data["targets"]).mean())


def test_a_model_of_keras_comes_back_as_a_smaller_one(
    client: Client, digits: Path, tmp_path: Path
) -> None:
    model = client.upload_model(digits / "digits.keras")
    assert model.format is ModelFormat.KERAS
    _, report = compressed(client, model.id, digits, tmp_path)
    [found] = report.formats
    assert found.format is OutputFormat.KERAS
    assert found.reason is None
    file = tmp_path / "model.keras"
    assert found.size_bytes == file.stat().st_size < (digits / "digits.keras").stat().st_size
    checked = json.loads(keras("check", file, digits / "test.npz"))
    assert checked["accuracy"] == pytest.approx(accuracy_of(report), abs=1e-9)
    assert checked["parameters"] == report.after_recovery.counts.parameters


@pytest.mark.tensorflow
@pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow and tf2onnx are not installed")
def test_a_saved_model_comes_back_smaller(
    client: Client, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.mktemp("tensorflow")
    keras("train", folder, "--epochs", 3, "--saved-model", backend="tensorflow")
    model = client.upload_model(folder / "saved_model")
    assert model.format is ModelFormat.SAVED_MODEL
    statuses = {each.name: each.is_available for each in client.capabilities().models}
    assert statuses["saved_model"]
    _, report = compressed(client, model.id, folder, tmp_path)
    assert [each.format for each in report.formats] == [OutputFormat.ONNX]
    right = right_in_onnxruntime(tmp_path / "model.onnx", folder / "test.npz")
    assert right == pytest.approx(accuracy_of(report), abs=1e-9)


@pytest.mark.skipif(HAS_TENSORFLOW, reason="a worker reads it")
def test_a_saved_model_without_a_worker_that_reads_it_is_refused_with_what_to_do(
    client: Client,
) -> None:
    """Before anything is done; the model itself is kept, for another worker may come."""
    fixture = Path(__file__).parents[1] / "formats" / "data" / "cnn.zip"
    model = client.upload_model(fixture)
    spec = {"model_id": model.id, "recipe": [{"step": "prune", "budget": {"macs": 0.5}}]}
    with pytest.raises(ProblemError) as error:
        client.create_job(spec)
    assert error.value.code == "model.no_worker"
    assert "python -m tf2onnx.convert --saved-model" in str(error.value)
    assert not client.validate(spec).valid


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_model_of_transformers_is_loaded_by_from_pretrained(
    client: Client, name: str, tmp_path: Path
) -> None:
    import transformers

    transformers_archive(tmp_path / "model.zip", name)
    folder = tmp_path / "model-folder"  # As save_pretrained left it.
    model = client.upload_model(folder)
    assert model.format is ModelFormat.SAFETENSORS
    job = client.create_job(
        {
            "model_id": model.id,
            "recipe": [{"step": "prune", "scope": "local", "budget": {"channel_ratio": 0.5}}],
            "evaluation": {"latency_rounds": 3},
            "output_formats": ["transformers", "onnx"],
        }
    )
    client.wait(job)
    made = {path.name: path for path in client.download_all(job, tmp_path / "made")}
    assert [each.reason for each in client.report(job).formats] == [None, None]
    with zipfile.ZipFile(made["model.transformers.zip"]) as archive:
        archive.extractall(tmp_path / "loaded")
    pruned = getattr(transformers, MODELS[name][0]).from_pretrained(tmp_path / "loaded").eval()
    program = load_program(made["model.pt2"])
    _, inputs = program.example_inputs
    with torch.no_grad():
        torch.testing.assert_close(
            pruned(**inputs, use_cache=False).logits, program.module()(**inputs)["logits"]
        )
    count = sum(parameter.numel() for parameter in pruned.parameters())
    assert count == client.report(job).after_recovery.counts.parameters


def test_a_model_of_onnx_comes_back_with_its_dynamic_batch(
    client: Client, digits: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
    ).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        network, (torch.randn(2, 14, 14, 1),), dynamic_shapes=({0: batch},)
    )
    made = torch.onnx.export(program, dynamo=True, verbose=False, external_data=False)
    assert made is not None
    made.save(tmp_path / "mlp.onnx")
    model = client.upload_model(tmp_path / "mlp.onnx")
    assert model.inputs is not None
    assert [each.shape[1:] for each in model.inputs] == [[14, 14, 1]]
    _, report = compressed(client, model.id, digits, tmp_path / "made")
    assert [each.format for each in report.formats] == [OutputFormat.ONNX]
    right = right_in_onnxruntime(tmp_path / "made" / "model.onnx", digits / "test.npz")
    assert right == pytest.approx(accuracy_of(report), abs=1e-9)


def test_a_format_that_the_upload_does_not_lead_to_is_refused(client: Client, digits: Path) -> None:
    model = client.upload_model(digits / "digits.keras")
    with pytest.raises(ProblemError) as error:
        client.create_job(
            {
                "model_id": model.id,
                "recipe": [{"step": "prune", "budget": {"macs": 0.5}}],
                "output_formats": ["onnx", "transformers"],
            }
        )
    assert error.value.code == "output.unavailable"
    [problem] = error.value.problem.errors
    assert problem.pointer == "/output_formats/1"


def test_weights_of_another_architecture_end_the_job_with_their_names(
    client: Client, tmp_path: Path
) -> None:
    transformers_archive(tmp_path / "model.zip", "bert")
    folder = tmp_path / "model-folder"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    job = client.create_job(
        {
            "model_id": client.upload_model(folder).id,
            "recipe": [{"step": "prune", "budget": {"macs": 0.5}}],
        }
    )
    with pytest.raises(JobFailed) as error:
        client.wait(job)
    assert error.value.failure.code is FailureCode.MODEL_UNREADABLE
    assert "[48] by config.json" in error.value.failure.detail
