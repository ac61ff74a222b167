"""Take networks in as ONNX: ``python -m benchmarks.onnx_zoo``.

Each architecture is exported to ONNX with random weights, imported, compared with ONNX Runtime, and
pruned by half. Each has a process of its own, which is killed at the time limit.
"""

import argparse
import contextlib
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import shorten
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks import ours
from benchmarks.architecture import Inputs
from benchmarks.architectures import ARCHITECTURES
from benchmarks.page import put
from benchmarks.randomize import randomize
from worker.engine.program import Program
from worker.engine.readers.onnx import program_of

EXPORTERS = ("dynamo", "torchscript")
TOLERANCE = 1e-4
LARGEST_ROUNDING = 1e-3


@dataclass
class Row:
    """What one architecture came to, by one exporter.

    Attributes:
        nodes: Of the exported graph.
        operators: Different ones.
        error: Largest relative difference to ONNX Runtime: norm of the difference over norm.
        rounding: Where that is above the tolerance, the difference of ONNX Runtime to the imported
            program in 64 bits: what 32 bits leave open.
        dynamic: Dynamic dimensions in the file, and how many of them became fixed.
        removed: Parameters removed by the cut, in percent.
        exact: What the proof of the cut says: ``exact``, ``exempt`` or ``no``.
        seconds: By stage.
        failure: The stage that failed, and with what.
    """

    name: str
    exporter: str
    nodes: int = 0
    operators: int = 0
    error: float | None = None
    rounding: float | None = None
    dynamic: int = 0
    fixed: int = 0
    removed: float = 0.0
    exact: str = "no"
    parameters: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether the difference is none, or no larger than that of rounding."""
        if self.error is None:
            return False
        is_rounded = self.rounding is not None and self.rounding <= LARGEST_ROUNDING
        return self.error <= TOLERANCE or (is_rounded and self.error <= 2 * (self.rounding or 0))

    @property
    def outcome(self) -> str:
        """``passed``, or the stage that failed; what its exporter refuses is no failure of ours."""
        if not self.failure:
            return "passed" if self.removed >= ours.LEAST_REMOVED else "little removed"
        return self.failure.partition(":")[0]


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names, like 'hf/*'")
    parser.add_argument("--exporters", choices=[*EXPORTERS, "both"], default="dynamo")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds for each")
    parser.add_argument("--json", type=Path, help="one line of results for each")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json holds")
    parser.add_argument("--write", type=Path, help="put the results into this page")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "EXPORTER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    rows = _kept(arguments)
    done = {(row.name, row.exporter) for row in rows}
    exporters = EXPORTERS if arguments.exporters == "both" else (arguments.exporters,)
    chosen = [
        (name, exporter)
        for name in ARCHITECTURES
        if any(fnmatchcase(name, pattern) for pattern in arguments.only)
        for exporter in exporters
        if (name, exporter) not in done
    ]
    for number, (name, exporter) in enumerate(chosen, 1):
        row = _run(name, exporter, arguments.time_limit)
        rows.append(row)
        print(f"{number:3}/{len(chosen)} {line(row)}", flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    print("\n" + "\n".join(summary(rows)))
    if arguments.write:
        put(arguments.write, "python -m benchmarks.onnx_zoo", [*summary(rows), "", *table(rows)])


def _kept(arguments: argparse.Namespace) -> list[Row]:
    if not arguments.json or not arguments.json.exists():
        return []
    if not arguments.resume:
        arguments.json.write_text("")
        return []
    return [Row(**json.loads(text)) for text in arguments.json.read_text().splitlines()]


def _run(name: str, exporter: str, limit: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.onnx_zoo", "--child", name, exporter]
    row = Row(name, exporter)
    start = perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            out, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            row.failure = f"time limit: {limit:.0f} s"
            return row
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:] or ["nothing on stderr"]
    texts = out.strip().splitlines()
    if child.returncode or not texts:
        row.failure = f"process: exit status {child.returncode}: {last[0][:300]}"
        return row
    row = Row(**json.loads(texts[-1]))
    row.seconds["all"] = perf_counter() - start
    return row


def _child(name: str, exporter: str) -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    warnings.filterwarnings("ignore")
    torch._logging.set_logs(all=50)  # noqa: SLF001 (the exporter logs each of its attempts)
    row = Row(name, exporter)
    with contextlib.suppress(_Failed):
        _measure(row)
    print(json.dumps(asdict(row)), file=out, flush=True)


class _Failed(Exception):
    """The row says why."""


@contextlib.contextmanager
def _stage(row: Row, name: str) -> Iterator[None]:
    start = perf_counter()
    try:
        yield
    except Exception as error:
        # Whatever it is: it is the result.
        row.failure = f"{name}: {ours.described(error)}"
        raise _Failed from error
    finally:
        row.seconds[name] = perf_counter() - start


def _measure(row: Row) -> None:
    with _stage(row, "build"):
        torch.manual_seed(0)
        architecture = ARCHITECTURES[row.name]
        model, inputs = architecture.build().eval(), architecture.inputs()
        randomize(model, inputs, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with _stage(row, "to onnx"):
            export_onnx(model, inputs, path, row.exporter)
            stored = onnx.load(path)
            row.nodes = len(stored.graph.node)
            row.operators = len({node.op_type for node in stored.graph.node})
        with _stage(row, "import"):
            source = program_of(stored)
            row.fixed = len(source.warnings)
            row.dynamic = row.fixed + sum(
                not isinstance(size, int)
                for node in source.exported.graph.find_nodes(op="placeholder")
                if node.name in source.exported.graph_signature.user_inputs
                for size in node.meta["val"].shape
            )
        with _stage(row, "compare"):
            row.error, row.rounding = _errors(path, stored, inputs, source.exported)
            if not row.is_equal:
                raise ValueError(
                    f"differs from ONNX Runtime by {row.error:.2g}, and that from what 64 bits "
                    f"give by {row.rounding or 0:.2g}"
                )
    del model, stored
    with _stage(row, "read"):
        program = Program.from_exported(source.exported)
    found = ours.Ours()
    ours.cut_and_prove(program, found, ours.Stages(found))
    row.removed, row.exact, row.parameters = found.removed, found.exact, found.parameters
    row.seconds |= found.seconds
    row.failure = found.failure


def export_onnx(model: nn.Module, inputs: Inputs, path: Path, exporter: str) -> None:
    """Write a module as ONNX, with a dynamic batch where the exporter can."""
    args, kwargs = inputs
    if exporter == "dynamo":
        _by_dynamo(model, inputs, path)
        return
    names = [*(f"input_{at}" for at in range(len(args))), *kwargs]
    axes = {name: {0: "batch"} for name in names}
    for dynamic in (axes, None):
        try:
            torch.onnx.export(
                model,
                args,
                path,
                kwargs=kwargs,
                input_names=names,
                dynamic_axes=dynamic,
                dynamo=False,
            )
        except Exception:
            if dynamic is None:
                raise
        else:
            return


def _by_dynamo(model: nn.Module, inputs: Inputs, path: Path) -> None:
    program, batch = ours.export(model, inputs)
    try:
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception:
        if batch == "static":
            raise
        # The exporter cannot take a dynamic batch through all operators.
        program = torch.export.export(model, *inputs, strict=False)
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    made.save(path)


def _errors(
    path: Path, stored: onnx.ModelProto, inputs: Inputs, exported: Any
) -> tuple[float, float | None]:
    """The largest difference to ONNX Runtime, relative, of all outputs; and that of rounding."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    args, kwargs = inputs
    constants = {tensor.name for tensor in stored.graph.initializer}
    names = [given.name for given in stored.graph.input if given.name not in constants]
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    given = dict(zip(names, leaves, strict=False)) | {n: t for n, t in kwargs.items() if n in names}
    if unknown := [name for name in names if name not in given]:
        raise ValueError(f"the exporter made inputs of what the model has none for: {unknown}")
    ordered = [given[name] for name in names]
    wanted = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    module = exported.module(check_guards=False)
    error = _largest(wanted, module, ordered)
    if error <= TOLERANCE:
        return error, None
    wide = [leaf.double() if leaf.is_floating_point() else leaf for leaf in ordered]
    return error, _largest(wanted, copy.deepcopy(module).double(), wide)


def _largest(wanted: list[np.ndarray], module: Any, given: list[Tensor]) -> float:
    with torch.no_grad():
        found = module(*given)
    found = found if isinstance(found, tuple) else (found,)
    return max(_relative(one, other) for one, other in zip(wanted, found, strict=True))


def _relative(wanted: np.ndarray, found: Tensor) -> float:
    one, other = wanted.astype(np.float64), found.detach().double().numpy()
    if one.shape != other.shape:
        raise ValueError(f"an output has shape {other.shape} instead of {one.shape}")
    if not one.size:
        return 0.0
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-30))


def line(row: Row) -> str:
    """One row for a terminal."""
    text = f"{row.outcome:10} {row.name:36} {row.exporter:11} {row.seconds.get('all', 0):5.0f}s"
    if row.error is not None:
        kept = f"{row.dynamic - row.fixed}/{row.dynamic}"
        text += f"  {row.nodes} nodes, error {row.error:.1e}, dynamic {kept}"
    if row.parameters:
        text += f", -{row.removed:.0f}% {row.exact}"
    return text if not row.failure else f"{text}\n        {row.failure[:600]}"


def summary(rows: list[Row]) -> list[str]:
    """What the rows come to, as a list of Markdown."""
    lines = []
    for exporter in EXPORTERS:
        own = [row for row in rows if row.exporter == exporter]
        if not own:
            continue
        outcomes = Counter(row.outcome for row in own)
        exportable = [row for row in own if row.outcome not in ("build", "to onnx")]
        equal = sum(row.is_equal for row in exportable)
        rounded = sum(row.is_equal and row.rounding is not None for row in exportable)
        lines.append(
            f"- Exporter {exporter}: {len(own)} architectures, {len(exportable)} of them exported. "
            f"Imported and equal to ONNX Runtime within {TOLERANCE}: {equal}, of which {rounded} "
            "within what it differs itself from 64 bits. "
            f"Pruned by half and proved: {outcomes['passed']}."
        )
        others = {name: n for name, n in outcomes.items() if name != "passed"}
        lines += [f"- Not passed, {name}: {count}." for name, count in others.items()]
    return lines


def table(rows: list[Row]) -> list[str]:
    """All rows, as a table of Markdown."""
    head = "| Architecture | Exporter | Nodes | Error | Dynamic | Removed | Proof | Result |"
    lines = [head, "|---|---|--:|--:|--:|--:|---|---|"]
    for row in rows:
        error = "" if row.error is None else f"{row.error:.1e}"
        plain = re.sub(r"\x1b\[[0-9;]*m", "", row.failure)
        plain = plain.replace("|", "/").replace("<", "&lt;")
        result = shorten(plain, 160, placeholder=" ...") or row.outcome
        lines.append(
            f"| `{row.name}` | {row.exporter} | {row.nodes} | {error} "
            f"| {row.dynamic - row.fixed} of {row.dynamic} | {row.removed:.0f}% | {row.exact} "
            f"| {result} |"
        )
    return lines


if __name__ == "__main__":
    main()
