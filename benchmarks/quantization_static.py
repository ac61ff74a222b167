"""Weights and activations of 8 bits: all that ours can be calibrated by, and both peers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import cifar, quantizers, served
from benchmarks.quantized import Bench, Result, Subject, table

_CALIBRATIONS = ("minmax", "percentile", "entropy", "mse")


def lines(bench: Bench) -> list[str]:
    """The table, and which operators onnxruntime runs."""
    subject = bench.subject
    files = {"float": subject.float_file}
    in_torch = {"float": subject.in_torch(subject.program)}
    for calibration in _CALIBRATIONS:
        for corrects in (False, True):
            name = f"Secateur, {calibration}{', biases corrected' if corrects else ''}"
            program = subject.quantized(
                activations="static", calibration=calibration, bias_correction=corrects
            )
            files[name] = subject.written(program, f"{calibration}-{corrects}")
            in_torch[name] = subject.in_torch(program)
    for calibration in quantizers.CALIBRATIONS:
        files[f"onnxruntime, {calibration}"] = _by_onnxruntime(subject, calibration)
    times = [
        served.ratios(files, subject.inputs[:rows], base="float", rounds=rounds)
        for rows, rounds in ((1, 200), (64, 30))
    ]
    rows = [_row(name, path, subject, in_torch.get(name), times) for name, path in files.items()]
    found = _by_pt2e(bench)
    accuracy, *others = found.cells
    rows.append(["torchao pt2e, X86InductorQuantizer", "", accuracy, *others, "", "", ""])
    header = ["", "accuracy", "in torch", "as float", "error of logits", "bytes"]
    found_lines = table([*header, "time, 1 row", "64 rows"], rows)
    return [*found_lines, *_operators(files, bench.folder)]


def _row(
    name: str,
    path: Path,
    subject: Subject,
    in_torch: Result | None,
    times: Sequence[Mapping[str, float]],
) -> list[str]:
    accuracy, *others = subject.in_onnxruntime(path).cells
    unit = " ms" if name == "float" else ""
    speed = [f"{each[name]:.2f}{unit}" for each in times]
    again = "" if in_torch is None else f"{in_torch.accuracy:.2%}"
    return [name, accuracy, again, *others, f"{path.stat().st_size:,}", *speed]


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
