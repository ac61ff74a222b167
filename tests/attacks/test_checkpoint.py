"""Weights with their architecture, made to run code or to open files: proven, and refused."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from formats import inspect_model
from formats.errors import FormatError
from tests.formats.checkpoints import RESNET, WEIGHT, safetensors, write
from worker.engine.errors import EngineError
from worker.engine.readers import read_model

_PLAIN_TORCH = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
_PLAIN_TIMM = """
import json, sys
from worker.engine.readers.architecture.offline import import_offline

import_offline()  # torchvision's operators do not load everywhere; no more is taken from there.
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(json.loads(sys.argv[1])))
"""


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def hostile_pickle(marker):
    """A file of torch.save, whose weights are code."""
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2), "code": Touch(marker)}, file)
    return file.getvalue()


def refused(path):
    with pytest.raises((FormatError, EngineError)) as error:
        read_model(path, "safetensors")
    return str(error.value)


def test_a_pickle_runs_its_code_in_plain_torch(tmp_path, marker):
    path = tmp_path / "w.pth"
    path.write_bytes(hostile_pickle(marker))
    subprocess.run([sys.executable, "-c", _PLAIN_TORCH, path], check=True, capture_output=True)
    assert marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["w__pth", "pytorch_model__bin"])
def test_a_pickle_in_an_archive_runs_nothing(tmp_path, marker, name):
    path = write(tmp_path / "m.zip", architecture__json=RESNET, **{name: hostile_pickle(marker)})
    assert "more than tensors" in refused(path)
    assert not marker.exists()


def test_a_pickle_of_old_is_refused_at_the_door(tmp_path, marker):
    path = write(tmp_path / "m.zip", architecture__json=RESNET, w__pth=pickle.dumps(Touch(marker)))
    with pytest.raises(FormatError, match="no state dict of a current"):
        inspect_model(path, "safetensors")
    assert not marker.exists()


def test_a_configuration_opens_files_in_plain_transformers(tmp_path):
    """timm loads what `checkpoint_path` names, and says what is in it, or that it is not there."""
    secret = tmp_path / "secret.pth"
    torch.save({"a_name_in_a_foreign_file": torch.ones(1)}, secret)
    arguments = {"checkpoint_path": str(secret)}
    config = {"architecture": "resnet10t", "num_classes": 3, "model_args": arguments}
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_TIMM, json.dumps(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "a_name_in_a_foreign_file" in done.stderr


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_type": "timm_wrapper", "architecture": "local-dir:/etc"},
        {"model_type": "bert", "model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_type": "detr", "backbone": "/etc", "use_timm_backbone": True},
        {"model_type": "detr", "backbone_config": {"model_type": "timm_backbone"}},
        {"model_type": "bert", "auto_map": {"AutoModel": "code.Model"}},
    ],
)
def test_a_configuration_that_opens_files_is_refused_at_the_door(tmp_path, config):
    path = write(tmp_path / "m.zip", w__safetensors=safetensors(WEIGHT), config__json=config)
    with pytest.raises(FormatError) as error:
        inspect_model(path, "safetensors")
    assert error.value.code == "model.architecture"
    assert "/etc" not in refused(path)
