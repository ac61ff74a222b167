"""Measure one architecture: ``python -m benchmarks.one NAME``.

Prints one JSON line for each part as it is done: ours, theirs, timing. So a crash or a kill in one
part leaves those before it.
"""

import argparse
import gc
import json
import os
import sys
import warnings
from dataclasses import asdict
from statistics import median
from time import perf_counter
from typing import Any, TextIO

import torch
from torch import nn

from benchmarks import ours, theirs
from benchmarks.architecture import Inputs
from benchmarks.architectures import ARCHITECTURES
from benchmarks.randomize import randomize
from worker.engine.program import Program


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Measure one architecture.")
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0 times nothing")
    parser.add_argument("--ours-only", action="store_true", help="leave Torch-Pruning out")
    arguments = parser.parse_args()
    out = _keep_stdout()
    warnings.filterwarnings("ignore")
    torch._logging.set_logs(all=50)  # noqa: SLF001 (the exporter logs each of its attempts)

    def say(part: str, row: dict[str, Any]) -> None:
        print(json.dumps({"part": part, **row}), file=out, flush=True)

    _measure(arguments, say)


def _measure(arguments: argparse.Namespace, say: Any) -> None:
    row = ours.Ours()
    stage = ours.Stages(row)
    with stage("build"):
        torch.manual_seed(0)
        architecture = ARCHITECTURES[arguments.name]
        model, inputs = architecture.build().eval(), architecture.inputs()
        row.parameters = sum(parameter.numel() for parameter in model.parameters())
        row.difference = randomize(model, inputs, seed=0)
    if row.failure:
        say("ours", asdict(row))
        return
    program = ours.measure(model, inputs, row)
    say("ours", asdict(row))
    if arguments.ours_only:
        return
    other = theirs.measure(model, inputs)
    say("theirs", asdict(other))
    if program is not None and row.runs and other.works and arguments.rounds:
        say("timing", _timing(model, inputs, program, arguments.rounds))


def _timing(model: nn.Module, inputs: Inputs, program: Program, rounds: int) -> dict[str, float]:
    """Medians of interleaved rounds, after one of each that does not count."""
    model.requires_grad_(True)
    names = theirs.output_layers(model, inputs)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    # What the libraries hold is not looked through again and again in the middle of a round.
    gc.collect()
    gc.freeze()
    for _ in range(rounds + 1):
        start = perf_counter()
        ours.analyse_and_cut(program)
        seconds["ours"].append(perf_counter() - start)
        own, ignored = theirs.prepared(model, names)
        start = perf_counter()
        theirs.prune(own, inputs, ignored)
        seconds["theirs"].append(perf_counter() - start)
    return {who: median(found[1:]) for who, found in seconds.items()}


def _keep_stdout() -> TextIO:
    """The real stdout, for results alone: what libraries print goes nowhere."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return out


if __name__ == "__main__":
    main()
