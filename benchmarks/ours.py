"""What this engine does with one architecture: export, analyse, cut, prove."""

from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from benchmarks.architecture import Inputs
from worker.engine.config import PruneConfig
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut, cut_module
from worker.engine.prune.plan import Plan, decide
from worker.engine.prune.verify import verify_cut

CONFIG = PruneConfig(criterion="magnitude", scope="local", channel_ratio=0.5)
LEAST_REMOVED = 30.0


@dataclass
class Ours:
    """One row of results. A stage that was not reached keeps its first value.

    Attributes:
        exported: ``dynamic`` or ``static`` batch, or ``no``.
        removed: Parameters removed, in percent.
        macs: Multiply-accumulates that remain, in percent.
        runs: The cut module takes the example inputs.
        exact: ``exact``, ``exempt`` (proved up to the named normalizations), or ``no``.
        exempt: The normalizations over a dimension that was cut.
        error: Largest relative difference to the silenced original.
        reexported: The cut program exports again.
        frozen: Operators that may not lose channels, with the reason and how often.
        seconds: By stage.
        difference: How much the outputs of two rows of the example differ, relative.
        failure: The first stage that failed, and with what.
    """

    exported: str = "no"
    removed: float = 0.0
    macs: float = 100.0
    runs: bool = False
    exact: str = "no"
    exempt: list[str] = field(default_factory=list)
    error: float | None = None
    reexported: bool = False
    frozen: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    difference: float = 0.0
    failure: str = ""


class Stages:
    """Times the stages of one row, and notes the first that fails."""

    def __init__(self, row: Ours) -> None:
        self.row = row
        self.name = ""
        self.start = 0.0

    def __call__(self, name: str) -> "Stages":
        self.name = name
        return self

    def __enter__(self) -> None:
        self.start = perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.row.seconds[self.name] = perf_counter() - self.start
        if error is None or not isinstance(error, Exception):
            return False
        self.row.failure = self.row.failure or f"{self.name}: {described(error)}"
        return True


def described(error: BaseException) -> str:
    """An error in one line, with where it was raised and what caused it."""
    text = " ".join(str(error).split())[:400]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        where = f" [{name}:{trace.tb_lineno}]"
    cause = f" <- {described(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}: {text}{where}{cause}"


def export(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, str]:
    """Export with a dynamic batch where the model allows it."""
    args, kwargs = inputs
    dynamic: Any = (
        {name: {0: Dim.DYNAMIC} for name in kwargs}
        if kwargs
        else tuple({0: Dim.DYNAMIC} for _ in args)
    )
    try:
        return (
            torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=dynamic),
            "dynamic",
        )
    except Exception:  # noqa: BLE001 (whatever the exporter raises: a static batch is next)
        return torch.export.export(model, args, kwargs, strict=False), "static"


def analyse_and_cut(program: Program) -> tuple[Plan, GraphModule]:
    """All that a user waits for between a program and its pruned module."""
    coupling = couple(program)
    plan = decide(coupling, CONFIG, seed=0)
    return plan, cut_module(coupling, plan.keep)


def measure(model: nn.Module, inputs: Inputs, row: Ours) -> Program | None:
    """Fill in one row, as far as it goes; the program, where it could be read."""
    stage = Stages(row)
    exported: ExportedProgram | None = None
    program: Program | None = None
    with stage("export"):
        exported, row.exported = export(model, inputs)
    if exported is None:
        return None
    with stage("read"):
        program = Program.from_exported(exported)
    if program is not None:
        cut_and_prove(program, row, stage)
    return program


def cut_and_prove(program: Program, row: Ours, stage: Stages) -> None:
    """Fill in what a program loses, and whether what is left is right."""
    with stage("couple"):
        coupling = couple(program)
        reasons = Counter(f"{frozen.operator}: {frozen.reason}" for frozen in coupling.frozen)
        row.frozen = [f"{text} ({count})" for text, count in reasons.items()]
    if row.failure:
        return
    with stage("decide"):
        plan = decide(coupling, CONFIG, seed=0)
        before, after = plan.baseline, plan.predicted
        row.parameters = before.parameters
        row.removed = 100 * (1 - after.parameters / before.parameters)
        row.macs = 100 * after.macs / before.macs if before.macs else 100.0
    if row.failure:
        return
    pruned: Program | None = None
    with stage("cut_module"):
        pruned = program.with_module(cut_module(coupling, plan.keep))
    if pruned is None:
        return
    with stage("run"), torch.no_grad():
        pruned.run(program.example_leaves)
        row.runs = True
    with stage("reexport"):
        pruned = cut(coupling, plan.keep)
        row.reexported = True
    with stage("verify"):
        proof = verify_cut(coupling, plan.keep, pruned, seed=0)
        row.error = proof.max_relative_error
        row.exempt = list(proof.exempt_operators)
        row.exact = "exempt" if proof.exempt_operators else "exact"
