"""The network that is quantized, its data, and what is measured of a result."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import cifar, served
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.quantize import quantize
from worker.engine.recovery.setting import Setting
from worker.engine.save import save_program, save_weights
from worker.engine.writers import onnx as onnx_writer

SAMPLES = 512
SETTING = Setting(seed=0)


@dataclass(frozen=True)
class Result:
    """How close outputs are to those of the float network.

    Attributes:
        accuracy: Fraction of test rows that are right.
        agreement: Fraction whose class is that of the float network.
        error: Mean square of the difference of logits over the mean square of the float ones.
    """

    accuracy: float
    agreement: float
    error: float

    @property
    def cells(self) -> list[str]:
        return [f"{self.accuracy:.2%}", f"{self.agreement:.2%}", f"{self.error:.1e}"]


@dataclass(frozen=True)
class Subject:
    """A float program with data; ``float_file`` is what it is as ONNX."""

    program: Program
    train: Rows
    inputs: np.ndarray
    targets: np.ndarray
    folder: Path

    @cached_property
    def float_file(self) -> Path:
        return self.written(self.program, "float")

    @property
    def input_name(self) -> str:
        return str(served.session(self.float_file).get_inputs()[0].name)

    @cached_property
    def logits(self) -> np.ndarray:
        return self.logits_of(self.run(self.program))

    @property
    def calibration(self) -> np.ndarray:
        """The rows that everybody calibrates on: those that the seed draws for ours."""
        order = np.random.default_rng(SETTING.seed).permutation(len(self.train))[:SAMPLES]
        return self.train.inputs[0][np.sort(order)]

    def run(self, program: Program) -> Callable[[Tensor], Tensor]:
        return lambda rows: program.run([rows])[0]

    @torch.no_grad()
    def logits_of(self, network: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Outputs on the test rows, in torch."""
        return torch.cat(
            [network(rows) for rows in torch.from_numpy(self.inputs).split(250)]
        ).numpy()

    def result(self, logits: np.ndarray) -> Result:
        """What outputs on the test rows are worth."""
        found, before = logits.argmax(1), self.logits.argmax(1)
        difference = np.square(logits - self.logits).sum() / np.square(self.logits).sum()
        return Result(
            float((found == self.targets).mean()),
            float((found == before).mean()),
            float(difference),
        )

    def in_torch(self, program: Program) -> Result:
        return self.result(self.logits_of(self.run(program)))

    def in_onnxruntime(self, path: Path) -> Result:
        return self.result(served.outputs(path, self.inputs))

    def quantized(self, **asked: object) -> Program:
        """The program with a quantize step done."""
        return self.quantized_from(self.program, **asked)

    def quantized_from(self, program: Program, **asked: object) -> Program:
        config = QuantizeConfig(sample_count=SAMPLES, **asked)  # type: ignore[arg-type]
        return quantize(program, config, self.train, SETTING).program

    def written(self, program: Program, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        onnx_writer.write(program, None, path)
        return path

    def sizes(self, program: Program) -> Mapping[str, int]:
        """Bytes of each file that a job delivers, by what its name ends with."""
        files = {
            ending: self.folder / f"size.{ending}" for ending in ("safetensors", "pt2", "onnx")
        }
        save_weights(program, files["safetensors"], program.packed)
        save_program(program, files["pt2"])
        onnx_writer.write(program, None, files["onnx"])
        return {ending: path.stat().st_size for ending, path in files.items()}

    @cached_property
    def float_sizes(self) -> Mapping[str, int]:
        return self.sizes(self.program)


class Bench:
    """ResNet-20 and its images, read when a part asks for them."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder

    @cached_property
    def network(self) -> cifar.ResNet20:
        return cifar.resnet20(self.data / "cifar_resnet20.safetensors")

    @cached_property
    def subject(self) -> Subject:
        train = cifar.images(self.data / "cifar10_jpeg_train10k.npz")
        test = cifar.images(self.data / "cifar10_jpeg_test2k.npz")
        program = Program.from_exported(cifar.exported(self.network, test.inputs))
        rows = Rows((train.inputs,), train.targets)
        return Subject(program, rows, test.inputs, test.targets, self.folder)


def told(row: list[str]) -> list[str]:
    """A row as it is, once who waits has seen it."""
    print(line(row), file=sys.stderr, flush=True)
    return row


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table; all columns but the first are numbers."""
    return [line(header), line(["---", *["--:"] * (len(header) - 1)]), *map(line, rows)]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
