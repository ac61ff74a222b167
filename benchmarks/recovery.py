"""How much accuracy comes back, against Torch-Pruning with its batch norms recalibrated.

    python -m benchmarks.recovery --data FOLDER [--epochs N] [--write docs/recovery.md]

The folder has `cifar10_jpeg_train10k.npz`, `cifar10_jpeg_test2k.npz` and
`cifar_resnet20.safetensors`; each can be named by itself. Both sides get the same network, the same
rows of the training images, and the same fraction of the MACs to leave; the peer is its best
criterion on the test images. What it takes is printed beside it; the same seed gives the same
numbers.
"""

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from benchmarks import cifar, peer
from worker.engine.config import (
    FinetuneConfig,
    PruneConfig,
    RecalibrateConfig,
    ReconstructConfig,
)
from worker.engine.data import Rows
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import decide
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.recalibrate import recalibrate
from worker.engine.recovery.reconstruct import Reference, reconstruct
from worker.engine.recovery.remaining import Remaining
from worker.engine.recovery.setting import Setting

AMOUNTS = (0.7, 0.5, 0.35)
SAMPLES = 1024
INSIDE = ("conv1.weight",)
"""Excluded, so that channels go inside of blocks alone: all others are those of the stem."""
CRITERION = {"sample_count": 512, "batch_size": 64}


@dataclass(frozen=True)
class Row:
    """One result: fractions of test images that are right, and how long it took."""

    who: str
    where: str
    amount: float
    macs: float
    pruned: float
    recovered: float | None = None
    recalibrated: float | None = None
    tuned: float | None = None
    seconds: float | None = None


def main() -> None:
    """Run everything, and print it as a page."""
    options = _options()
    bench = Bench(options)
    rows = []
    for row in chain(bench.ours(), bench.theirs()):
        print(row, file=sys.stderr)
        rows.append(row)
    page = _page(bench, rows, options)
    print(page)
    if options.write is not None:
        options.write.write_text(page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the three files")
    parser.add_argument("--train", type=Path, help="instead of the one in the folder")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=0, help="fine-tune both at one half so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args()
    options.train = options.train or options.data / "cifar10_jpeg_train10k.npz"
    options.test = options.test or options.data / "cifar10_jpeg_test2k.npz"
    options.weights = options.weights or options.data / "cifar_resnet20.safetensors"
    return options


class Bench:
    """The network, the data, and what is done to them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.network = cifar.resnet20(options.weights)
        train, self.test = cifar.images(options.train), cifar.images(options.test)
        self.train = Rows((train.inputs,), train.targets)
        self.seed, self.epochs = options.seed, options.epochs
        self.original = self.program(self.network)
        self.macs = count(couple(self.original)).macs
        self.accuracy = self.measured(self.original)

    def program(self, network: nn.Module) -> Program:
        return Program.from_exported(cifar.exported(network, self.test.inputs))

    @torch.no_grad()
    def measured(self, program: Program) -> float:
        parts = torch.from_numpy(self.test.inputs).split(500)
        found = torch.cat([program.run([part])[0].argmax(1) for part in parts]).numpy()
        return float((found == self.test.targets).mean())

    def ours(self) -> Iterator[Row]:
        for where, exclude in (("inside", INSIDE), ("inside and between", ())):
            for amount in AMOUNTS:
                for normalization in ("per_mac", "none"):
                    yield self._ours(where, exclude, amount, normalization)

    def _ours(self, where: str, exclude: tuple[str, ...], amount: float, normalization: str) -> Row:
        config = PruneConfig(
            criterion="reconstruction",
            options=CRITERION,
            normalization=normalization,
            macs=amount,
            exclude=exclude,
        )
        coupling = couple(self.original, exclude=exclude)
        plan = decide(coupling, config, seed=self.seed, rows=self.train)
        program = cut(coupling, plan.keep)
        pruned = self.measured(program)
        reference = Reference(self.original, Remaining()).after(coupling, plan.keep)
        began = perf_counter()
        reconstruct(
            program,
            reference,
            ReconstructConfig(sample_count=SAMPLES),
            self.train,
            seed=self.seed,
            on_progress=_ignore,
        )
        seconds = perf_counter() - began
        recovered = self.measured(program)
        other = program.copy()
        self.recalibrate(other)
        return Row(
            f"Secateur, {normalization}",
            where,
            amount,
            plan.predicted.macs / self.macs,
            pruned,
            recovered,
            self.measured(other),
            self.tuned(program, amount, where) if normalization == "per_mac" else None,
            seconds,
        )

    def theirs(self) -> Iterator[Row]:
        """Inside of blocks: with shortcuts that pad channels, it makes a network that fails."""
        inputs = torch.from_numpy(self.train.inputs[0][np.arange(256)])
        assert self.train.targets is not None
        targets = torch.from_numpy(self.train.targets[np.arange(256)])
        for amount in AMOUNTS:
            found = []
            for criterion in peer.CRITERIA:
                torch.manual_seed(self.seed)
                network = peer.pruned_to(
                    self.network, criterion, inputs, targets, fraction=amount, ignored=_residual
                )
                program = self.program(network)
                pruned = self.measured(program)
                self.recalibrate(program)
                found.append((self.measured(program), criterion, pruned, program))
            recalibrated, criterion, pruned, program = max(found, key=lambda each: each[0])
            yield Row(
                f"Torch-Pruning, {criterion}",
                "inside",
                amount,
                count(couple(program)).macs / self.macs,
                max(each[2] for each in found),
                None,
                recalibrated,
                self.tuned(program, amount, "inside"),
            )

    def recalibrate(self, program: Program) -> None:
        config = RecalibrateConfig(sample_count=SAMPLES)
        recalibrate(program, config, self.train, seed=self.seed, on_progress=_ignore)

    def tuned(self, program: Program, amount: float, where: str) -> float | None:
        """Accuracy after fine-tuning, the same for both sides; at one half, inside of blocks."""
        if not self.epochs or amount != 0.5 or where != "inside":
            return None
        config = FinetuneConfig(epochs=self.epochs, **cifar.TUNING)
        program = program.copy()
        finetune(program, config, self.train, Setting(seed=self.seed))
        return self.measured(program)


def _residual(network: nn.Module) -> list[nn.Module]:
    """What writes the residual stream, and the output."""
    assert isinstance(network, cifar.ResNet20)
    blocks = (module for module in network.modules() if isinstance(module, cifar.Block))
    return [network.conv1, network.linear, *(block.conv2 for block in blocks)]


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


_HEAD = """# Recovery

How much of the accuracy that a cut takes comes back, without labels and without training. Made by

    {command}

ResNet-20 for CIFAR-10 on images stored as JPEG: {accuracy:.2%} of {count:,} test images are right
before anything goes, and one image is {one:.2f} points. Secateur chooses by the criterion
`reconstruction`, as it is (`normalization: none`) or for what a channel costs (`per_mac`), and
reconstructs on {samples:,} unlabeled training images (`reconstruct`). Torch-Pruning {version} is
pruned to the same MACs, with a global ranking, by each of {criteria}, the best of which on the
test images is shown; its batch norms are recalibrated on as many images. *Inside*: only channels
inside of blocks go. *Between*: those of the residual stream too, which Torch-Pruning cannot
(shortcuts that pad channels do not run afterwards).

torch {torch}; {machine}.
"""

_SAME = (
    "\nThe same, fine-tuned for {epochs} epochs on {rows:,} images: SGD, learning rate 0.01 with a "
    "cosine, weight decay 5e-4, batches of 128, flips and crops.\n"
)


def _page(bench: Bench, rows: Sequence[Row], options: argparse.Namespace) -> str:
    arguments = " ".join(
        ["--data FOLDER", *([f"--epochs {options.epochs}"] if options.epochs else [])]
    )
    parts = [
        _HEAD.format(
            command=f"python -m benchmarks.recovery {arguments}",
            accuracy=bench.accuracy,
            count=len(bench.test.targets),
            one=100 / len(bench.test.targets),
            samples=SAMPLES,
            version=metadata.version("torch-pruning"),
            criteria=", ".join(peer.CRITERIA),
            torch=torch.__version__,
            machine=f"{torch.get_num_threads()} threads of {platform.machine()}",
        ),
        _table(rows, bench.accuracy),
    ]
    tuned = [row for row in rows if row.tuned is not None]
    if tuned:
        parts.append(_SAME.format(epochs=bench.epochs, rows=len(bench.train)))
        parts.append(_line(["", "before", "after"]) + "\n" + _line(["---", "--:", "--:"]))
        parts += [_line([row.who, _best(row), f"{row.tuned:.2%}"]) for row in tuned]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row], accuracy: float) -> str:
    header = [
        "channels go",
        "MACs asked",
        "MACs left",
        "who",
        "cut alone",
        "recovered",
        "and recalibrated",
        "points below the original",
        "seconds",
    ]
    lines = [_line(header), _line(["---", "--:", "--:", "---", *["--:"] * 5])]
    places = list(dict.fromkeys(row.where for row in rows))
    ordered = sorted(rows, key=lambda row: (places.index(row.where), AMOUNTS.index(row.amount)))
    lines += [_row(row, accuracy) for row in ordered]
    return "\n".join(lines)


def _row(row: Row, accuracy: float) -> str:
    best = max(row.recovered or 0.0, row.recalibrated or 0.0)
    shown = ["" if value is None else f"{value:.1%}" for value in (row.recovered, row.recalibrated)]
    return _line(
        [
            row.where,
            f"{row.amount:g}",
            f"{row.macs:.3f}",
            row.who,
            f"{row.pruned:.1%}",
            *shown,
            f"{100 * (accuracy - best):.1f}",
            "" if row.seconds is None else f"{row.seconds:.1f}",
        ]
    )


def _best(row: Row) -> str:
    return f"{max(row.recovered or 0.0, row.recalibrated or 0.0):.2%}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
