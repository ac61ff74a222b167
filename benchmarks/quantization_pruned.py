"""Half of the multiply-accumulates, then 8 bits."""

from collections.abc import Iterator

from benchmarks import cifar, served
from benchmarks.quantized import SETTING, Bench, Subject, table
from worker.engine.config import DistillConfig, PruneConfig, ReconstructConfig
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.recovery.distill import distill
from worker.engine.recovery.reconstruct import Reference, reconstruct
from worker.engine.recovery.remaining import Remaining

_INSIDE = ("conv1.weight",)
"""Excluded, so that channels go inside of blocks alone: all others are those of the stem."""

_DISTILL = DistillConfig(epochs=2, **cifar.TUNING)


def lines(bench: Bench) -> list[str]:
    """A table: how right, how large, how fast, by how many threads."""
    subject = bench.subject
    programs = {"float": subject.program, **dict(_pruned(subject))}
    files = {
        name: subject.written(program, str(at))
        for at, (name, program) in enumerate(programs.items())
    }
    times = [
        served.ratios(files, subject.inputs[:size], base="float", threads=threads, rounds=rounds)
        for threads in (1, 2)
        for size, rounds in ((1, 200), (64, 30))
    ]
    whole = count(couple(subject.program))
    rows = []
    for name, program in programs.items():
        sizes = subject.sizes(program)
        share = [f"{sizes[each] / subject.float_sizes[each]:.3f}" for each in ("onnx", "pt2")]
        unit = " ms" if name == "float" else ""
        speed = [f"{each[name]:.2f}{unit}" for each in times]
        rows.append([name, *subject.in_onnxruntime(files[name]).cells[:2], *share, *speed])
    header = ["", "accuracy", "as float", "`.onnx`", "`.pt2`"]
    header += [
        f"{size}, {threads}"
        for threads in ("1 thread", "2 threads")
        for size in ("1 row", "64 rows")
    ]
    left = [
        f"* {name}: {counts.macs / whole.macs:.3f} of the multiply-accumulates, "
        f"{counts.parameters / whole.parameters:.3f} of the parameters"
        for name, counts in (
            (name, count(couple(each)))
            for name, each in programs.items()
            if "int8" not in name and name != "float"
        )
    ]
    return [*table(header, rows), "", *left]


def _pruned(subject: Subject) -> Iterator[tuple[str, Program]]:
    yield "int8", _int8(subject, subject.program)
    for normalization, amount, multiple in (("per_mac", 0.5, 1), ("none", 0.5, 8)):
        by = f"multiples of {multiple}" if multiple > 1 else "any number"
        name = f"pruned to {amount:g} ({normalization}, {by})"
        program = _halved(subject, normalization, amount, multiple)
        # A copy: training changes it in place.
        yield f"{name}, reconstructed", program.copy()
        yield f"{name}, reconstructed, int8", _int8(subject, program)
        distill(program, _DISTILL, subject.train, subject.program, SETTING)
        yield f"{name}, {_DISTILL.epochs} epochs distilled", program
        yield f"{name}, {_DISTILL.epochs} epochs distilled, int8", _int8(subject, program)


def _halved(subject: Subject, normalization: str, amount: float, multiple: int) -> Program:
    # A copy: what is pruned shares with its original what stays, and is trained in place.
    coupling = couple(subject.program.copy(), exclude=_INSIDE)
    config = PruneConfig(
        criterion="reconstruction",
        options={"sample_count": 512, "batch_size": 64},
        normalization=normalization,
        macs=amount,
        channel_multiple=multiple,
        exclude=_INSIDE,
    )
    plan = decide(coupling, config, seed=SETTING.seed, rows=subject.train)
    program = cut(coupling, plan.keep)
    reference = Reference(subject.program, Remaining()).after(coupling, plan.keep)
    reconstruct(
        program,
        reference,
        ReconstructConfig(),
        subject.train,
        seed=SETTING.seed,
        on_progress=SETTING.on_progress,
    )
    return program


def _int8(subject: Subject, program: Program) -> Program:
    return subject.quantized_from(program, activations="static", bias_correction=True)
