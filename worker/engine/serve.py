"""Compressed models as files, measured in the runtimes that will serve them.

A runtime computes what it is given in its own way: with integers where the program rounds, with
layers joined that the program has apart. So both what a file predicts and how fast it is are
measured in its own runtime, beside the original in the same format.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.config import Request
from worker.engine.data import Rows
from worker.engine.deliver import Delivered, difference
from worker.engine.difference import tolerance
from worker.engine.errors import EngineError
from worker.engine.inputs import repeated
from worker.engine.measure.latency import Latency, compared
from worker.engine.measure.quality import quality
from worker.engine.program import Program
from worker.engine.readers.onnx_file import read_checked_onnx
from worker.engine.safety import broken, told
from worker.engine.wording import first_line
from worker.engine.writers import WRITERS, Call, InexpressibleError, Writer


@dataclass(frozen=True)
class Served:
    """A file in its runtime, on the CPU: takes the rows that its program takes.

    Attributes:
        call: The loaded file.
        program: What it was written from.
    """

    call: Call
    program: Program

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def row_limits(self) -> tuple[int, int | None]:
        return self.program.row_limits

    def rows_per_call(self, wanted: int) -> int:
        return self.program.rows_per_call(wanted)

    def run(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on flat inputs. What is no tensor is a part of the file."""
        return self.call([leaf for leaf in leaves if isinstance(leaf, Tensor)])


@dataclass(frozen=True)
class Serving:
    """All that files are measured with.

    Attributes:
        request: What was asked.
        original: The program of the upload, on the CPU.
        compressed: The program of ``model.pt2``, on the CPU.
        origin: What the reader left for the writer.
        test: Test data, if there is any.
        before: The original's quality, which promises are held against; None without test data.
    """

    request: Request
    original: Program
    compressed: Program
    origin: object
    test: Rows | None
    before: dict[str, Any] | None

    def measured(self, made: Delivered) -> Delivered:
        """Measure a file that was written, or take it back.

        It is taken back where it does not run on the test data, or breaks a promise there.

        Args:
            made: A file in the output folder.
        """
        assert made.file is not None
        writer = WRITERS[made.format]
        served = Served(writer.serve(self.request.output_dir / made.file), self.compressed)
        try:
            made = replace(made, quality=self._quality(served))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Whatever a runtime raises.
            raise InexpressibleError(
                f"{made.file} does not run on the test data in {writer.runtime} "
                f"({_reason(error)}): it is not delivered; report it with the model"
            ) from error
        if lost := self._lost(made):
            return made.refused(
                f"on the test data in {writer.runtime}, {lost}: it is not delivered; remove less, "
                "quantize less, or allow more in /safety/max_drop"
            )
        try:
            timed = self._latency(writer, served)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - as above
            said = f"its latency was not measured in {writer.runtime}: {_reason(error)}"
            return replace(made, unmeasured=said)
        return replace(made, latency=None if timed is None else timed.as_json())

    def _quality(self, served: Served) -> dict[str, Any] | None:
        if self.test is None:
            return None
        evaluation = self.request.evaluation
        return quality(
            served,
            self.original,
            self.test,
            batch_size=evaluation.batch_size,
            on_batch=_untold,
            noise_std=evaluation.noise_std,
            seed=self.request.seed,
        )

    def _lost(self, made: Delivered) -> str | None:
        """The promises that the file breaks, as a sentence."""
        if self.request.safety is None or self.before is None or made.quality is None:
            return None
        # No runtime has gradients: what an attack with them finds is asked of model.pt2 alone.
        promises = replace(self.request.safety, fgsm_accuracy=None)
        lost = broken(self.before, made.quality, promises)
        return told(lost) if lost else None

    def _latency(self, writer: Writer, served: Served) -> Latency | None:
        evaluation = self.request.evaluation
        if not evaluation.latency_rounds:
            return None
        folder = self.request.output_dir
        with tempfile.TemporaryDirectory(prefix="original-", dir=folder) as scratch:
            path = Path(scratch) / writer.file
            try:
                self._write_original(writer, path)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                # A ratio is to the original in the same runtime, or there is none.
                raise InexpressibleError(
                    f"there is no original of that format to compare it with ({_reason(error)})"
                ) from error
            return compared(
                Served(writer.serve(path), self.original),
                served,
                leaves=repeated(self.original, evaluation.latency_batch_size),
                rounds=evaluation.latency_rounds,
                on_round=_untold,
                runtime=writer.runtime,
            )

    def _write_original(self, writer: Writer, path: Path) -> None:
        """Write the original in a format: as it was uploaded, if that was ONNX.

        Raises:
            InexpressibleError: The format cannot say it, or says something else.
            OutputsDifferError: The file does not load or run.
        """
        if self.request.model_format == "onnx" and writer is WRITERS["onnx"]:
            # What was checked, and no more: a runtime opens what a file names as external data.
            path.write_bytes(read_checked_onnx(self.request.model).SerializeToString())
        else:
            writer.write(self.original, self.origin, path)
        error = difference(writer, path, self.original, path.parent)
        if not error <= (allowed := tolerance(self.original)):
            raise InexpressibleError(
                f"the original gives other outputs there than in PyTorch (relative difference "
                f"{error:.2g}, at most {allowed:g} is allowed)"
            )


def _reason(error: Exception) -> str:
    """What our own errors say; of others the first line."""
    is_own = isinstance(error, (EngineError, InexpressibleError))
    return str(error) if is_own else first_line(error)


def _untold(done: int, total: int) -> None:
    """One file of a few is progress enough."""
