"""SavedModels that write and read files: each is proven to, and refused before TensorFlow sees it.

The files are TensorFlow's own work (see ``tests/formats/data/make_saved_models.py``), so that the
refusals are tested where it is not installed.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from formats.errors import FormatError, UnsafeFile
from formats.saved_model import inspect_saved_model
from tests.attacks import prove_saved_model
from worker.engine.readers.saved_model import read_saved_model, tensorflow_is_here

DATA = Path(__file__).parent / "data"
# What becomes of each in plain TensorFlow, and how it is refused.
ATTACKS = {
    "write_file": ("on_call", UnsafeFile, "WriteFile, which reads or writes files"),
    "write_file_in_a_branch": ("on_call", UnsafeFile, "WriteFile, which reads or writes files"),
    "print": ("on_call", UnsafeFile, "PrintV2, which can write files"),
    "read_file": ("leaks", UnsafeFile, "ReadFile, which reads or writes files"),
    "on_load": ("on_load", FormatError, "WriteFile"),
    # Python's functions are in the process that made them, and RestoreV2 reads checkpoints alone.
    "python": (None, UnsafeFile, "EagerPyFunc (tf.py_function), which calls Python"),
    "restore": (None, UnsafeFile, "RestoreV2, which reads or writes files"),
}
PROVEN = [name for name, (effect, *_) in ATTACKS.items() if effect]


def path_of(name):
    return DATA / f"saved_model_{name}.zip"


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    for name in PROVEN:
        with zipfile.ZipFile(path_of(name)) as archive:
            archive.extractall(folder)
    done = subprocess.run(
        [sys.executable, prove_saved_model.__file__, *(f"saved_model_{name}" for name in PROVEN)],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        check=True,
        timeout=240,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return dict(zip(PROVEN, lines, strict=True))


@pytest.mark.tensorflow
@pytest.mark.skipif(not tensorflow_is_here(), reason="TensorFlow and tf2onnx are not installed")
@pytest.mark.parametrize("name", PROVEN)
def test_attack_works_in_plain_tensorflow(name, proven):
    assert proven[name][ATTACKS[name][0]]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("read", [inspect_saved_model, read_saved_model])
def test_attack_is_refused_and_leaves_no_marker(name, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, kind, reason = ATTACKS[name]
    with pytest.raises(kind) as refusal:
        read(path_of(name))
    assert reason in refusal.value.detail
    assert not list(tmp_path.iterdir())


def test_every_file_is_an_attack_that_is_listed():
    assert {path.stem for path in DATA.iterdir()} == {f"saved_model_{name}" for name in ATTACKS}
