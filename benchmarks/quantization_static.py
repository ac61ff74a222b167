"""Weights and activations of 8 bits: all that ours can be calibrated by, and both peers."""

from collections import Counter
from pathlib import Path

import torch

from benchmarks import cifar, quantizers, served
from benchmarks.quantized import Bench, Result, Subject, table

_CALIBRATIONS = ("minmax", "percentile", "entropy", "mse")
_PT2 = ", in torch"


def lines(bench: Bench) -> list[str]:
    """The table, and which operators onnxruntime runs."""
    subject = bench.subject
    files = {"float": subject.float_file}
    found: dict[str, Result] = {}
    for calibration in _CALIBRATIONS:
        for corrects in (False, True):
            name = f"Secateur, {calibration}{', biases corrected' if corrects else ''}"
            program = subject.quantized(
                activations="static", calibration=calibration, bias_correction=corrects
            )
            files[name] = subject.written(program, f"{calibration}-{corrects}")
            found[name] = subject.in_onnxruntime(files[name])
            found[f"{name}{_PT2}"] = subject.in_torch(program)
    for calibration in quantizers.CALIBRATIONS:
        name = f"onnxruntime, {calibration}"
        files[name] = _by_onnxruntime(subject, calibration)
        found[name] = subject.in_onnxruntime(files[name])
    found["torchao pt2e, X86InductorQuantizer, in torch"] = _by_pt2e(bench)
    found = {"float": subject.in_onnxruntime(subject.float_file), **found}
    times = [
        served.ratios(files, subject.inputs[:rows], base="float", rounds=rounds)
        for rows, rounds in ((1, 200), (64, 30))
    ]
    rows = []
    for name, result in found.items():
        size = [f"{files[name].stat().st_size:,}"] if name in files else [""]
        unit = " ms" if name == "float" else ""
        speed = [f"{each[name]:.2f}{unit}" if name in each else "" for each in times]
        rows.append([name, *result.cells, *size, *speed])
    header = ["", "accuracy", "as float", "error of logits", "bytes", "time, 1 row", "64 rows"]
    return [*table(header, rows), *_operators(files, bench.folder)]


def _by_onnxruntime(subject: Subject, calibration: str) -> Path:
    path = subject.folder / f"onnxruntime-{calibration}.onnx"
    quantizers.static_by_onnxruntime(
        subject.float_file, path, subject.input_name, subject.calibration, calibration
    )
    return path


def _by_pt2e(bench: Bench) -> Result:
    subject = bench.subject
    exported = cifar.exported(bench.network, subject.inputs)
    network = quantizers.static_by_pt2e(exported, torch.from_numpy(subject.calibration))
    return subject.result(subject.logits_of(network))


def _operators(files: dict[str, Path], folder: Path) -> list[str]:
    """What the optimized graphs of both sides are made of."""
    found = ["", "What onnxruntime runs:", ""]
    for name in ("float", "Secateur, mse", "onnxruntime, MinMax"):
        counts = Counter(served.operators(files[name], folder)).most_common()
        found.append(f"* {name}: {', '.join(f'{count} {kind}' for kind, count in counts)}")
    return found
