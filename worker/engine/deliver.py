"""Give the compressed model in the formats that were asked for, each proved to stand alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.config import Request
from worker.engine.difference import relative_error, tolerance
from worker.engine.errors import OutputsDifferError
from worker.engine.inputs import longer, repeated
from worker.engine.program import Program
from worker.engine.readers import Source
from worker.engine.reload import outputs_in_fresh_process
from worker.engine.wording import first_line
from worker.engine.writers import OWN, WRITERS, InexpressibleError, Writer

_log = logging.getLogger(__name__)

_OTHER_ROWS = 3
"""The example inputs have one or two, mostly: a batch that became fixed shows with another."""


@dataclass(frozen=True)
class Delivered:
    """What became of one format: a file with its proof, or the reason why there is none.

    Attributes:
        quality: On the test data, in its runtime; a file that was taken back for it has it too.
        latency: In its runtime, beside the original in the same format.
        unmeasured: Why something of this was not measured that was asked for.
    """

    format: str
    file: str | None = None
    size_bytes: int | None = None
    max_relative_error: float | None = None
    runtime: str | None = None
    reason: str | None = None
    quality: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    unmeasured: str | None = None

    def refused(self, reason: str) -> "Delivered":
        """The same without a file."""
        return replace(self, file=None, size_bytes=None, max_relative_error=None, reason=reason)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def wanted(request: Request, source: Source) -> list[str]:
    """The formats to write besides those that every job gives."""
    if request.output_formats is not None:
        return [name for name in request.output_formats if name in WRITERS]
    own = OWN.get(request.model_format)
    return [own] if own is not None and WRITERS[own].can_write(source.origin) else []


def comparable(request: Request, made: Sequence[Delivered]) -> str:
    """The file whose size is compared with the upload's: in the upload's format, if it is there."""
    own = OWN.get(request.model_format)
    return next((each.file for each in made if each.format == own and each.file), "model.pt2")


def _as_it_is(made: Delivered) -> Delivered:
    return made


def delivered(
    names: Sequence[str],
    program: Program,
    origin: object,
    folder: Path,
    on_progress: Callable[[int, int], None],
    *,
    measured: Callable[[Delivered], Delivered] = _as_it_is,
) -> list[Delivered]:
    """Write the program in each format; what cannot be written has a reason.

    Args:
        names: The formats, in the table of writers.
        program: As it was read from ``model.pt2``.
        origin: What the reader left for the writer.
        folder: Where files are written.
        on_progress: Called after each.
        measured: Adds what is measured in the file's own runtime, or takes the file back.
    """
    program = program.to("cpu")
    found = []
    for number, name in enumerate(names, 1):
        try:
            found.append(measured(_written(name, program, origin, folder)))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (InexpressibleError, OutputsDifferError) as error:
            found.append(Delivered(name, reason=str(error)))
        except Exception as error:  # noqa: BLE001 - the boundary to other libraries
            # A writer that is wrong costs a file, and not the job.
            _log.exception("no %s", name)
            reason = f"it could not be written ({first_line(error)}); report it with the model"
            found.append(Delivered(name, reason=reason))
        if found[-1].file is None:
            (folder / WRITERS[name].file).unlink(missing_ok=True)
        on_progress(number, len(names))
    return found


def _written(name: str, program: Program, origin: object, folder: Path) -> Delivered:
    writer = WRITERS[name]
    if not writer.can_write(origin):
        raise InexpressibleError(f"the upload was none that can be given back as {name}")
    if program.packed and not writer.has_codes:
        raise InexpressibleError(
            f"{name} has no place for quantized weights: ask for onnx in /output_formats"
        )
    path = folder / writer.file
    writer.write(program, origin, path)
    error = difference(writer, path, program, folder)
    if not error <= (allowed := tolerance(program)):
        raise InexpressibleError(
            f"{writer.file} gives other outputs than model.pt2 (relative difference {error:.2g}, "
            f"at most {allowed:g} is allowed): it is not delivered; report it with the model"
        )
    return Delivered(name, writer.file, path.stat().st_size, error, writer.runtime)


@torch.no_grad()
def difference(writer: Writer, path: Path, program: Program, folder: Path) -> float:
    """How far a file's outputs are from the program's, on example inputs of several sizes.

    Args:
        writer: Of the file's format.
        path: The file, which is run in a fresh process.
        program: On the CPU.
        folder: For what goes in and comes out.

    Raises:
        OutputsDifferError: The file does not load or run.
    """
    calls = [program.example_leaves]
    if program.rows_per_call(_OTHER_ROWS) == _OTHER_ROWS:
        calls.append(repeated(program, _OTHER_ROWS))
    calls += longer(program)
    expected = [output for call in calls for output in program.run(call)]
    tensors = [[leaf for leaf in call if isinstance(leaf, Tensor)] for call in calls]
    found = outputs_in_fresh_process(path, folder, runner=writer.runner, calls=tensors)
    return relative_error(found, expected)
