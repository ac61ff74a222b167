"""How much accuracy stays when layers are taken apart, with and without a look at the data.

    python -m benchmarks.lowrank --data FOLDER [--epochs N] [--write docs/lowrank.md]

The folder has the three files of `benchmarks.recovery`. Every method gets the same network and the
same fraction of the MACs to leave, once with training images, unlabeled, and once without. The same
seed gives the same numbers.
"""

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from benchmarks import cifar
from worker.engine.config import FactorizeConfig, FinetuneConfig, RecalibrateConfig
from worker.engine.data import Rows
from worker.engine.factorize import factorize
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.measure.latency import latency
from worker.engine.program import Program
from worker.engine.recovery.finetune import finetune
from worker.engine.recovery.recalibrate import recalibrate
from worker.engine.recovery.setting import Setting

METHODS = ("tucker", "svd", "cp")
AMOUNTS = (0.7, 0.5)
TUNED = ("tucker", 0.5)
SAMPLES = 512
BATCH = 64
ROUNDS = 9


@dataclass(frozen=True)
class Row:
    """One result: fractions of test images that are right, and what it costs."""

    method: str
    is_weighed: bool
    amount: float
    macs: float
    parameters: float
    accuracy: float
    recalibrated: float
    tuned: float | None
    speedup: float
    seconds: float


class Bench:
    """The network, the data, and what is done to them."""

    def __init__(self, folder: Path, seed: int, epochs: int) -> None:
        train = cifar.images(folder / "cifar10_jpeg_train10k.npz")
        self.test = cifar.images(folder / "cifar10_jpeg_test2k.npz")
        self.train = Rows((train.inputs,), train.targets)
        self.seed, self.epochs = seed, epochs
        network = cifar.resnet20(folder / "cifar_resnet20.safetensors")
        self.original = Program.from_exported(cifar.exported(network, self.test.inputs))
        self.counts = count(couple(self.original))
        self.accuracy = self.measured(self.original)

    @torch.no_grad()
    def measured(self, program: Program) -> float:
        parts = torch.from_numpy(self.test.inputs).split(500)
        found = torch.cat([program.run([part])[0].argmax(1) for part in parts]).numpy()
        return float((found == self.test.targets).mean())

    def rows(self) -> Iterator[Row]:
        for amount in AMOUNTS:
            for method in METHODS:
                for is_weighed in (False, True):
                    yield self._row(method, is_weighed, amount)

    def _row(self, method: str, is_weighed: bool, amount: float) -> Row:
        config = FactorizeConfig(method=method, macs=amount, sample_count=SAMPLES)
        began = perf_counter()
        rows = self.train if is_weighed else None
        program = factorize(self.original, config, rows, Setting(seed=self.seed)).program
        seconds = perf_counter() - began
        counts = count(couple(program))
        timed = latency(
            self.original, program, batch_size=BATCH, rounds=ROUNDS, on_round=lambda *_: None
        )
        recalibrated = program.copy()
        recalibrate(
            recalibrated,
            RecalibrateConfig(sample_count=1024),
            self.train,
            seed=self.seed,
            on_progress=lambda *_: None,
        )
        return Row(
            method,
            is_weighed,
            amount,
            counts.macs / self.counts.macs,
            counts.parameters / self.counts.parameters,
            self.measured(program),
            self.measured(recalibrated),
            self._tuned(program) if (method, amount) == TUNED and self.epochs else None,
            timed.speedup,
            seconds,
        )

    def _tuned(self, program: Program) -> float:
        config = FinetuneConfig(epochs=self.epochs, **cifar.TUNING)
        program = program.copy()
        finetune(program, config, self.train, Setting(seed=self.seed))
        return self.measured(program)


_HEAD = """# Low rank

How much accuracy stays when convolutions become products of smaller ones. Made by

    python -m benchmarks.lowrank --data FOLDER --epochs {epochs}

ResNet-20 for CIFAR-10 on images stored as JPEG: {accuracy:.2%} of {count:,} test images are right
before, and one image is {one:.2f} points. Step `factorize` with a budget of MACs, `weighed` by what
{samples} unlabeled training images show, or `plain`: all entries of a weight count the same. Beside
it: after batch norms were recalibrated on 1,024 images, and, for `tucker` at one half, after
fine-tuning for {epochs} epoch on {train:,} (SGD, learning rate 0.01 with a cosine, weight decay
5e-4, batches of 128, flips and crops). Speedup: median of the latency before over that after,
batches of {batch}, eager; many small layers gain less time than MACs.

torch {torch}; {threads} threads of {machine}.
"""


def _page(bench: Bench, rows: Sequence[Row]) -> str:
    head = _HEAD.format(
        epochs=bench.epochs,
        accuracy=bench.accuracy,
        count=len(bench.test.targets),
        one=100 / len(bench.test.targets),
        samples=SAMPLES,
        train=len(bench.train),
        batch=BATCH,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        machine=platform.machine(),
    )
    titles = ["MACs asked", "method", "", "MACs left", "parameters left", "as it is"]
    titles += ["recalibrated", "fine-tuned", "speedup", "seconds"]
    lines = [_line(titles), _line(["--:", "---", "---", *["--:"] * 7])]
    for row in rows:
        cells = [
            f"{row.amount:g}",
            f"`{row.method}`",
            "weighed" if row.is_weighed else "plain",
            f"{row.macs:.3f}",
            f"{row.parameters:.3f}",
            f"{row.accuracy:.1%}",
            f"{row.recalibrated:.1%}",
            "" if row.tuned is None else f"{row.tuned:.1%}",
            f"{row.speedup:.2f}",
            f"{row.seconds:.1f}",
        ]
        lines.append(_line(cells))
    return "\n".join([head, *lines]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run everything, and print it as a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the three files")
    parser.add_argument("--epochs", type=int, default=1, help="tune `tucker` at one half; 0: not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args()
    bench = Bench(options.data, options.seed, options.epochs)
    rows = []
    for row in bench.rows():
        print(row, file=sys.stderr)
        rows.append(row)
    page = _page(bench, rows)
    print(page)
    if options.write is not None:
        options.write.write_text(page)


if __name__ == "__main__":
    main()
