"""A run that goes on from a checkpoint ends at the very bytes of one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.engine.verified import verify_here
from tests.zoo.exported import export
from worker.engine.compress import compress
from worker.engine.config import (
    DistillConfig,
    EvaluationConfig,
    FinetuneConfig,
    PruneConfig,
    RecalibrateConfig,
    ReconstructConfig,
    Request,
)

CUT = PruneConfig(channel_ratio=0.3)
TUNE = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}


class Net(nn.Module):
    """With all that makes training depend on more than weights: batch norms, dropout, a sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.other = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.norm(self.inner(x)).relu()
        x = x + self.other(x)
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture(autouse=True)
def _verified_here(monkeypatch):
    verify_here(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    for name, count in (("train", 80), ("test", 24)):
        inputs = draw.normal(0, 1, (count, 1, 6, 6)).astype(np.float32)
        targets = draw.integers(0, 4, count)
        np.savez(folder / f"{name}.npz", inputs=inputs, targets=targets)
    torch.manual_seed(0)
    torch.export.save(export(Net().eval(), torch.zeros(2, 1, 6, 6)), folder / "model.pt2")
    return folder


def request(folder: Path, output: Path, *recipe, **fields) -> Request:
    output.mkdir()
    evaluation = EvaluationConfig(latency_rounds=0)
    files = {"train": folder / "train.npz", "test": folder / "test.npz"}
    return Request(
        folder / "model.pt2", "0" * 64, recipe, output, evaluation=evaluation, **files, **fields
    )


class Stopped(Exception):
    """Somebody pulled the plug."""


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Nobody watches."""


def stopping_at(batch: int):
    """Stop when so many batches, or layers, of all recovery steps were reported."""
    seen = 0

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal seen
        seen += stage == "recovering" and done > 0
        if seen == batch:
            raise Stopped

    return progress


FINETUNES = {
    "adamw": FinetuneConfig(**TUNE),
    "sgd": FinetuneConfig(**TUNE, optimizer="sgd", gradient_clip=1.0, warmup=0.2),
    "ema": FinetuneConfig(**TUNE, ema=0.9, keep="last"),
    "patience": FinetuneConfig(**{**TUNE, "epochs": 6}, patience=3, ema=0.5),
    "augmented": FinetuneConfig(**TUNE, augment=("flip", "crop"), label_smoothing=0.1),
    "bfloat16": FinetuneConfig(**TUNE, precision="bfloat16"),
    "distill": DistillConfig(**TUNE, features=1.0, labels=0.5),
}
SOLVE = ReconstructConfig(sample_count=48, batch_size=16)

RECIPES = {
    "reconstruct": (CUT, SOLVE, PruneConfig(channel_ratio=0.2), SOLVE, FinetuneConfig(**TUNE)),
    "reconstruct in rounds": (
        PruneConfig(macs=0.5, rounds=2, recover=(SOLVE, FinetuneConfig(epochs=1, batch_size=16))),
        SOLVE,
    ),
    **{name: (CUT, RecalibrateConfig(), step) for name, step in FINETUNES.items()},
    "zeros": (PruneConfig(algorithm="zero", sparsity=0.5), FinetuneConfig(**TUNE, ema=0.9)),
    "layers": (PruneConfig(granularity="layers", keep=1), DistillConfig(**TUNE, features=1.0)),
    "rounds": (
        PruneConfig(
            macs=0.5,
            criterion="taylor",
            options={"sample_count": 32, "batch_size": 16, "targets": "labels"},
            rounds=3,
            recover=(FinetuneConfig(epochs=1, batch_size=16), RecalibrateConfig()),
        ),
        FinetuneConfig(epochs=1, batch_size=16),
    ),
}


def result(output: Path) -> tuple[bytes, dict[str, bytes], dict]:
    report = json.loads((output / "report.json").read_text())
    del report["stage_seconds"]
    for measured in ("before", "after_recovery"):
        del report[measured]["file_bytes"]
    plans = {path.name: path.read_bytes() for path in output.glob("plan*.json")}
    return (output / "model.safetensors").read_bytes(), plans, report


# In the middle of an epoch; where one ends; in one that is not the first.
@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, 7) for name in RECIPES), ("patience", 6), ("patience", 13), ("rounds", 12)],
)
def test_a_run_that_was_stopped_ends_at_the_same_bytes(folder, tmp_path, name, batch):
    whole = request(folder, tmp_path / "whole", *RECIPES[name])
    all_batches = count_batches(whole)
    first = request(
        folder,
        tmp_path / "first",
        *RECIPES[name],
        checkpoint=tmp_path / "checkpoint",
        checkpoint_s=0,
    )
    with pytest.raises(Stopped):
        compress(first, on_progress=stopping_at(batch))
    (tmp_path / "second").mkdir()
    again = replace(first, output_dir=tmp_path / "second", resume=first.checkpoint)
    assert count_batches(again) < all_batches
    assert result(again.output_dir) == result(whole.output_dir)


def count_batches(request: Request) -> int:
    """Do it, and tell how many batches were trained on."""
    count = 0

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal count
        count += stage == "recovering" and done > 0

    compress(request, on_progress=progress)
    return count


def test_a_run_that_is_stopped_again_and_again_ends_at_the_same_bytes(folder, tmp_path):
    whole = request(folder, tmp_path / "whole", *RECIPES["rounds"])
    compress(whole, on_progress=silent)
    checkpoint = tmp_path / "checkpoint"
    for attempt in range(100):
        asked = request(
            folder,
            tmp_path / f"{attempt}",
            *RECIPES["rounds"],
            checkpoint=checkpoint,
            resume=checkpoint if attempt else None,
            checkpoint_s=0,
        )
        try:
            compress(asked, on_progress=stopping_at(5))
        except Stopped:
            continue
        break
    assert attempt >= 3
    assert result(asked.output_dir) == result(whole.output_dir)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.engine.test_checkpoints import RECIPES, request, stopping_at
from worker.engine.compress import compress

folder, output = map(Path, sys.argv[1:])

def progress(stage, done, total, unit):
    if stage == "recovering" and done == 7:
        os.kill(os.getpid(), signal.SIGKILL)

asked = request(
    folder, output, *RECIPES["patience"], checkpoint=output.parent / "checkpoint", checkpoint_s=0
)
compress(asked, on_progress=progress)
"""


def test_a_run_that_was_killed_ends_at_the_same_bytes(folder, tmp_path):
    whole = request(folder, tmp_path / "whole", *RECIPES["patience"])
    all_batches = count_batches(whole)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folder, tmp_path / "killed"],
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert killed.returncode == -signal.SIGKILL
    again = request(
        folder, tmp_path / "again", *RECIPES["patience"], resume=tmp_path / "checkpoint"
    )
    assert count_batches(again) < all_batches
    assert result(again.output_dir) == result(whole.output_dir)


def test_a_checkpoint_is_plain_files_in_an_archive(folder, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    asked = request(
        folder,
        tmp_path / "out",
        *RECIPES["adamw"],
        checkpoint=checkpoint,
        checkpoint_s=0,
    )
    with pytest.raises(Stopped):
        compress(asked, on_progress=stopping_at(6))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["checkpoint"]
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "plans/plan.json",
            "program.pt2",
            "state.json",
            "training.safetensors",
        ]
        state = json.loads(archive.read("state.json"))
        tensors = load_file(archive.extract("training.safetensors", tmp_path / "out"))
    assert state["number"] == 2
    # The first batch of recalibration is reported, too.
    assert state["position"]["step"] == 4
    assert {name.partition("/")[0] for name in tensors} == {"state", "optimizer", "best"}


def _checkpoint(folder: Path, tmp_path: Path) -> Path:
    asked = request(
        folder,
        tmp_path / "first",
        *RECIPES["adamw"],
        checkpoint=tmp_path / "checkpoint",
        checkpoint_s=0,
    )
    with pytest.raises(Stopped):
        compress(asked, on_progress=stopping_at(6))
    return tmp_path / "checkpoint"


def _damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _rewritten(path: Path, **changes) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    state = json.loads(parts["state.json"])
    parts["state.json"] = json.dumps(state | changes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


SPOILED = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "damaged": _damaged,
    "another model": lambda path: _rewritten(path, model_sha256="1" * 64),
    "another request": lambda path: _rewritten(path, request_sha256="1" * 64),
    "another version": lambda path: _rewritten(path, format_version=0),
    "another torch": lambda path: _rewritten(path, torch="1.0"),
    "no findings": lambda path: _rewritten(path, found={}),
    "no position": lambda path: _rewritten(path, position={}),
    "no step": lambda path: _rewritten(path, number=99),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_checkpoint_that_does_not_fit_is_not_used(folder, tmp_path, how, caplog):
    whole = request(folder, tmp_path / "whole", *RECIPES["adamw"])
    trained = count_batches(whole)
    checkpoint = _checkpoint(folder, tmp_path)
    SPOILED[how](checkpoint)
    again = request(folder, tmp_path / "again", *RECIPES["adamw"], resume=checkpoint)
    assert count_batches(again) == trained
    assert result(again.output_dir) == result(whole.output_dir)
    assert "begins anew" in caplog.text


def test_a_checkpoint_of_another_spec_is_not_used(folder, tmp_path, caplog):
    checkpoint = _checkpoint(folder, tmp_path)
    for at, change in enumerate(({"seed": 1}, {"spec_sha256": "f" * 64})):
        again = request(folder, tmp_path / f"{at}", *RECIPES["adamw"], resume=checkpoint, **change)
        compress(again, on_progress=silent)
        assert "begins anew" in caplog.text
        caplog.clear()


def test_checkpoints_are_not_made_more_often_than_asked(folder, tmp_path):
    asked = request(
        folder,
        tmp_path / "out",
        *RECIPES["adamw"],
        checkpoint=tmp_path / "checkpoint",
        checkpoint_s=3600,
    )
    compress(asked, on_progress=silent)
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(folder, tmp_path, caplog):
    asked = request(
        folder,
        tmp_path / "out",
        *RECIPES["adamw"],
        checkpoint=tmp_path / "nowhere" / "checkpoint",
        checkpoint_s=0,
    )
    compress(asked, on_progress=silent)
    assert (asked.output_dir / "report.json").exists()
    assert "no checkpoint could be written" in caplog.text
