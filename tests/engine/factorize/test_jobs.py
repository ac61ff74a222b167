"""Whole jobs: factorized and fine-tuned, factorized and pruned, on three kinds of networks."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.compress import compress
from worker.engine.config import (
    EvaluationConfig,
    FactorizeConfig,
    FinetuneConfig,
    PruneConfig,
    Request,
)
from worker.engine.errors import TargetUnreachableError
from worker.engine.load import load_program
from worker.engine.program import Program


def _silent(stage: str, done: int, total: int, unit: str) -> None:
    """Nobody watches."""


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = self.norm(self.first(x[:, None])).relu()
        return self.head(self.second(x).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.hidden = nn.Linear(12, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.hidden(self.lstm(x)[0][:, -1]).relu())


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


NETS = {"convolutions": Convolutions, "recurrent": Recurrent, "transformer": Transformer}


def _asked(net: str, method: str, share: float) -> FactorizeConfig:
    kind = "macs" if net == "convolutions" else "parameters"
    return FactorizeConfig(method=method, sample_count=64, batch_size=32, **{kind: share})


RECIPES = {
    "convolutions, fine-tuned": (
        "convolutions",
        (_asked("convolutions", "tucker", 0.5), FinetuneConfig(epochs=1, batch_size=32)),
    ),
    "convolutions, pruned": (
        "convolutions",
        (_asked("convolutions", "auto", 0.6), PruneConfig(macs=0.7)),
    ),
    "recurrent, fine-tuned": (
        "recurrent",
        (_asked("recurrent", "auto", 0.9), FinetuneConfig(epochs=1, batch_size=32)),
    ),
    "recurrent, pruned": (
        "recurrent",
        (_asked("recurrent", "auto", 0.9), PruneConfig(parameters=0.7)),
    ),
    "transformer, fine-tuned": (
        "transformer",
        (_asked("transformer", "auto", 0.6), FinetuneConfig(epochs=1, batch_size=32)),
    ),
    "transformer, pruned": (
        "transformer",
        (_asked("transformer", "svd", 0.7), PruneConfig(parameters=0.8)),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 4, 160)
    inputs = draw.normal(0, 0.5, (160, 8, 8)).astype(np.float32)
    inputs[np.arange(160), targets] += 1
    np.savez(folder / "train.npz", inputs=inputs[:96], targets=targets[:96])
    np.savez(folder / "test.npz", inputs=inputs[96:], targets=targets[96:])
    for name, build in NETS.items():
        torch.manual_seed(0)
        exported = export(build().eval(), torch.from_numpy(inputs[:2].copy()))
        torch.export.save(exported, folder / f"{name}.pt2")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_job_delivers_what_its_report_says(name, folder, tmp_path):
    net, recipe = RECIPES[name]
    model = folder / f"{net}.pt2"
    request = Request(
        model,
        hashlib.sha256(model.read_bytes()).hexdigest(),
        recipe,
        tmp_path,
        train=folder / "train.npz",
        test=folder / "test.npz",
        evaluation=EvaluationConfig(latency_rounds=0),
    )
    report = compress(request, on_progress=_silent)
    [step] = report["steps"]
    assert step["step"] == "factorize"
    kind = "macs" if net == "convolutions" else "parameters"
    share = getattr(recipe[0], kind)
    before = report["before"]["counts"][kind]
    assert (share - 0.1) * before < step["counts"][kind] <= share * before
    assert any(line["output_error"] for line in step["layers"])
    if net == "recurrent":
        kept = {line["layer"]: line["reason"] for line in step["layers"]}
        assert "recurrent" in kept["lstm.weight_ih_l0"]
        assert "recurrent" in kept["lstm.weight_hh_l0"]
    saved = Program.from_exported(load_program(tmp_path / "model.pt2"))
    held = sum(tensor.numel() for tensor in saved.module.parameters())
    assert held == report["after_recovery"]["counts"]["parameters"]
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == report["steps"]


def test_a_budget_that_cannot_be_met_points_at_the_step(folder, tmp_path):
    model = folder / "recurrent.pt2"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    recipe = (FinetuneConfig(batch_size=32), _asked("recurrent", "auto", 0.1))
    request = Request(model, digest, recipe, tmp_path, train=folder / "train.npz")
    with pytest.raises(TargetUnreachableError) as error:
        compress(request, on_progress=_silent)
    assert error.value.pointer == "/recipe/1/rank/parameters"
