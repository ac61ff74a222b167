"""Training through quantization: an epoch for each, and beside that of torchao (pt2e)."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from benchmarks import cifar, quantizers
from benchmarks.quantized import SETTING, Bench, Result, Subject, table, told
from worker.engine.config import DistillConfig, FinetuneConfig
from worker.engine.program import Program
from worker.engine.quantize.learning import learner, relearned
from worker.engine.recovery.distill import distill
from worker.engine.recovery.finetune import finetune

_RATE, _BATCH = 0.0002, 128
"""Ten times as much is right with batch norms; once they are folded, networks fall apart at it."""

_SETTINGS: Mapping[str, object] = {
    "epochs": 1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": _RATE,
    "schedule": "constant",
    "batch_size": _BATCH,
    "keep": "last",
}
_FORMATS: Mapping[str, Mapping[str, object]] = {
    "int4 weights": {"weights": "int4"},
    "int2 weights": {"weights": "int2", "rounding": "compensated"},
    "ternary weights": {"weights": "ternary", "rounding": "compensated"},
}


def lines(bench: Bench) -> list[str]:
    """Before and after, in torch."""
    subject = bench.subject
    rows = []
    for name, asked in _FORMATS.items():
        before = subject.quantized(**asked, bias_correction=True)
        after = _distilled(subject, before)
        rows.append(_row(f"Secateur, {name}, distilled", subject, before, after))
    before = subject.quantized(activations="static")
    after = _distilled(subject, before)
    rows.append(_row("Secateur, int8 static, distilled", subject, before, after))
    taught = learner(before)
    finetune(taught, FinetuneConfig(**_SETTINGS), subject.train, SETTING)  # type: ignore[arg-type]
    after = relearned(before, taught)
    rows.append(_row("Secateur, int8 static, fine-tuned on labels", subject, before, after))
    untrained = _pt2e(bench)
    for rate in (_RATE, 10 * _RATE):
        name = f"torchao pt2e, int8 static, fine-tuned on labels, rate {rate:g}"
        rows.append(told([name, *_cells(untrained, _pt2e(bench, rate))]))
    return table(["", "before", "after", "error of logits", "after"], rows)


def _row(name: str, subject: Subject, before: Program, after: Program) -> list[str]:
    return told([name, *_cells(subject.in_torch(before), subject.in_torch(after))])


def _cells(before: Result, after: Result) -> list[str]:
    return [
        f"{before.accuracy:.2%}",
        f"{after.accuracy:.2%}",
        f"{before.error:.1e}",
        f"{after.error:.1e}",
    ]


def _distilled(subject: Subject, program: Program) -> Program:
    taught = learner(program)
    config = DistillConfig(**_SETTINGS)  # type: ignore[arg-type]
    distill(taught, config, subject.train, subject.program, SETTING)
    return relearned(program, taught)


def _pt2e(bench: Bench, rate: float | None = None) -> Result:
    """Calibrated alone, or trained as well."""
    subject = bench.subject
    targets = torch.from_numpy(subject.train.targets)  # type: ignore[arg-type]
    inputs = torch.from_numpy(subject.train.inputs[0])  # type: ignore[arg-type]

    def train(network: nn.Module) -> None:
        generator = torch.Generator().manual_seed(SETTING.seed)
        assert rate is not None
        optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, nesterov=True)
        for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()

    exported = cifar.exported(bench.network, subject.inputs)
    calibration = torch.from_numpy(subject.calibration)
    if rate is not None:
        network = quantizers.trained_by_pt2e(exported, calibration, train)
    else:
        network = quantizers.static_by_pt2e(exported, calibration)
    return subject.result(subject.logits_of(network))
