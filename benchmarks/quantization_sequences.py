"""A transformer and an LSTM, against onnxruntime's quantization."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from benchmarks import quantizers, sequences, served
from benchmarks.quantized import Bench, Subject, table
from worker.engine.data import Rows
from worker.engine.program import Program

_GROUPED: Mapping[str, object] = {"weights": "int4", "granularity": "per_group"}
_ASKED: Mapping[str, Mapping[str, object]] = {
    "int8 weights": {},
    "dynamic": {"activations": "dynamic"},
    "static": {"activations": "static"},
    "static, smooth 0.5": {"activations": "static", "smooth": 0.5},
    "int4 weights, groups of 64": _GROUPED,
    "int4 weights, groups of 64, compensated": {**_GROUPED, "rounding": "compensated"},
}
_NETWORKS = {"Transformer": sequences.Transformer, "LSTM": sequences.Recurrent}


def lines(bench: Bench) -> list[str]:
    """A table of both networks, in onnxruntime."""
    found = []
    for name, kind in _NETWORKS.items():
        torch.manual_seed(0)
        folder = bench.folder / name
        folder.mkdir()
        rows = _rows(kind(), folder)
        found += [["**" + name + "**", *[""] * (len(rows[0]) - 1)], *rows]
    header = ["", "accuracy", "as float", "error of logits", "bytes", "time, 1 row", "64 rows"]
    return table(header, found)


def _rows(network: nn.Module, folder: Path) -> list[list[str]]:
    train, test = sequences.digits()
    exported = sequences.exported(sequences.trained(network, train), test.inputs)
    program = Program.from_exported(exported)
    rows = Rows((train.inputs,), train.targets)
    subject = Subject(program, rows, test.inputs, test.targets, folder)
    files = {"float": subject.float_file}
    for name, asked in _ASKED.items():
        is_smooth = "smooth" in asked
        if not is_smooth or isinstance(network, sequences.Transformer):
            files[f"Secateur, {name}"] = subject.written(subject.quantized(**asked), name)
    files["onnxruntime, dynamic"] = folder / "dynamic-theirs.onnx"
    quantizers.dynamic_by_onnxruntime(subject.float_file, files["onnxruntime, dynamic"])
    files["onnxruntime, static"] = folder / "static-theirs.onnx"
    quantizers.static_by_onnxruntime(
        subject.float_file,
        files["onnxruntime, static"],
        subject.input_name,
        subject.calibration,
        "MinMax",
    )
    times = [
        served.ratios(files, test.inputs[:size], base="float", rounds=rounds)
        for size, rounds in ((1, 500), (64, 200))
    ]
    found = []
    for name, path in files.items():
        unit = " ms" if name == "float" else ""
        speed = [f"{each[name]:.2f}{unit}" for each in times]
        result = subject.in_onnxruntime(path)
        found.append([name, *result.cells, f"{path.stat().st_size:,}", *speed])
    return found
