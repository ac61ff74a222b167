"""The state of a run in one file, and a run that goes on from it.

The file is a zip archive, not compressed:

* ``state.json``: which run it is of, what the run has found, and where it stands;
* ``program.pt2``: the program, whose tensors the next one replaces if it is there;
* ``training.safetensors``: of a training that has not ended, what it needs to go on;
* ``plans/``: the plans made so far.

Nothing in it is pickled, and the program is checked like an upload when it is read.
"""

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.engine.config import Request
from worker.engine.found import Found
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.prune.rounds import in_rounds
from worker.engine.recovery.setting import Position, Snapshot, Snapshots
from worker.engine.recovery.tensors import state_of
from worker.engine.save import save_program

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1

_STATE, _PROGRAM, _TRAINING, _PLANS = "state.json", "program.pt2", "training.safetensors", "plans/"
_PLAN = re.compile(r"plan(-\d+)?\.json")


@dataclass(frozen=True)
class Resumed:
    """Where an earlier attempt was.

    Attributes:
        found: What it had found.
        number: Of the step that comes next; of the one that goes on where there is a snapshot.
        program: What the steps before made.
        snapshot: Of the training that goes on.
    """

    found: Found
    number: int
    program: Program
    snapshot: Snapshot | None


def resumed(request: Request) -> Resumed | None:
    """Read the checkpoint to go on from, and put its plans into the output folder.

    None where there is none, and where it does not fit: it is of another run or another version,
    or damaged.
    """
    if request.resume is None:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="secateur-resume-") as folder:
            return _read(request, request.resume, Path(folder))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the run begins anew
        _log.warning("the checkpoint is not used, and the run begins anew: %r", error)
        return None


class Checkpoints:
    """Leaves the newest checkpoint of a run, no more often than asked."""

    def __init__(self, request: Request, describe: Callable[[], Found]) -> None:
        """Prepare it.

        Args:
            request: Says where, and how often.
            describe: Gives what the run has found when it is called.
        """
        self._request, self._describe = request, describe
        self._written_at = time.monotonic()

    @contextmanager
    def of_step(self, number: int, program: Program, last: Snapshot | None) -> Iterator[Snapshots]:
        """What a training uses, in step ``number``, on a program that it changes in place."""
        with tempfile.TemporaryDirectory(prefix="secateur-checkpoint-") as folder:
            yield _StepSnapshots(self, number, program, last, Path(folder) / _PROGRAM)

    def leave(self, number: int, program: Program) -> None:
        """Leave a checkpoint before step ``number``, if it is time for one."""
        if self.is_due:
            with tempfile.TemporaryDirectory(prefix="secateur-checkpoint-") as folder:
                path = Path(folder) / _PROGRAM
                self.write(number, lambda: _saved(program, path), None)

    @property
    def is_due(self) -> bool:
        waited = time.monotonic() - self._written_at
        return self._request.checkpoint is not None and waited >= self._request.checkpoint_s

    def write(
        self, number: int, program: Callable[[], Path], make: Callable[[], Snapshot] | None
    ) -> None:
        """Replace the checkpoint. One that cannot be written does not end the run."""
        assert self._request.checkpoint is not None
        unfinished = self._request.checkpoint.with_suffix(".unfinished")
        try:
            self._write(unfinished, number, program(), None if make is None else make())
            unfinished.replace(self._request.checkpoint)
        except Exception:  # noqa: BLE001 - whatever it is, the run is worth more
            _log.exception("no checkpoint could be written; the run goes on")
            unfinished.unlink(missing_ok=True)
        self._written_at = time.monotonic()

    def _write(self, path: Path, number: int, program: Path, snapshot: Snapshot | None) -> None:
        state = {
            **_identity(self._request),
            "number": number,
            "found": self._describe().as_json(),
            "position": None if snapshot is None else asdict(snapshot.position),
        }
        with ZipFile(path, "w", ZIP_STORED) as archive:
            archive.writestr(_STATE, json.dumps(state))
            archive.write(program, _PROGRAM)
            for plan in _plans_in(self._request.output_dir):
                archive.write(plan, f"{_PLANS}{plan.name}")
            if snapshot is not None:
                tensors = path.with_suffix(".tensors")
                try:
                    save_file(_on_cpu(snapshot.tensors), tensors)
                    archive.write(tensors, _TRAINING)
                finally:
                    tensors.unlink(missing_ok=True)


class _StepSnapshots:
    """Snapshots of one training, each a checkpoint of the run. They share the program's file."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        number: int,
        program: Program,
        last: Snapshot | None,
        path: Path,
    ) -> None:
        self._checkpoints, self._number = checkpoints, number
        self._program, self._last, self._path = program, last, path

    def last(self) -> Snapshot | None:
        return self._last

    def offer(self, make: Callable[[], Snapshot]) -> None:
        if self._checkpoints.is_due:
            self._checkpoints.write(self._number, self._program_file, make)

    def _program_file(self) -> Path:
        # Its tensors are those of the moment when it was written: a snapshot has newer ones.
        return self._path if self._path.exists() else _saved(self._program, self._path)


def _saved(program: Program, path: Path) -> Path:
    save_program(program, path)
    return path


def _read(request: Request, path: Path, folder: Path) -> Resumed:
    with ZipFile(path) as archive:
        if any(member.compress_type != ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")
        state = json.loads(archive.read(_STATE))
        for name, expected in _identity(request).items():
            if state[name] != expected:
                raise ValueError(f"its {name} is {state[name]}, this run's is {expected}")
        program = Program.from_exported(load_program(Path(archive.extract(_PROGRAM, folder))))
        snapshot = None
        if state["position"] is not None:
            tensors = load_file(archive.extract(_TRAINING, folder))
            snapshot = Snapshot(tensors, Position(**state["position"]))
            _check(snapshot, program)
        found = Found.from_json(state["found"])
        number = state["number"]
        if number not in range(len(in_rounds(request.recipe)) + 1):
            raise ValueError(f"it is before step {number}")
        plans = {
            name: archive.read(f"{_PLANS}{name}")
            for name in (each.removeprefix(_PLANS) for each in archive.namelist())
            if _PLAN.fullmatch(name)
        }
    for name, content in plans.items():
        (request.output_dir / name).write_bytes(content)
    return Resumed(found, number, program.to(request.device), snapshot)


def _check(snapshot: Snapshot, program: Program) -> None:
    for name, tensor in state_of(program).items():
        if (shape := snapshot.tensors[f"state/{name}"].shape) != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(shape)}, {tuple(tensor.shape)} in its program"
            )


def _identity(request: Request) -> dict[str, Any]:
    """What a checkpoint and a run have in common if they belong together."""
    asked = (
        request.spec_sha256,
        request.recipe,
        request.evaluation,
        request.safety,
        request.validation_fraction,
        request.seed,
    )
    return {
        "format_version": FORMAT_VERSION,
        "torch": str(torch.__version__),
        "model_sha256": request.model_sha256,
        "request_sha256": hashlib.sha256(repr(asked).encode()).hexdigest(),
    }


def _plans_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _PLAN.fullmatch(path.name))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies: the format has no shared memory, and knows no strides."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }
