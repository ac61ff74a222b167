"""What runs in the child process of an attempt: confine itself, run the engine, say how it ended.

Imported once, by the fork server, so PyTorch and the engine are there already when a child starts.
"""

import importlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import secateur
from secateur.failures import Failure
from secateur.jobs import Progress, Stage
from worker import confine
from worker.computes import check_precisions
from worker.engine.errors import PromiseBrokenError
from worker.failures import failure_of
from worker.order import ORDER_FILE, OUTCOME_FILE, OUTPUT_FOLDER, Order, Outcome, Step
from worker.recipe import request_of

_log = logging.getLogger(__name__)

# The engine reports every batch. More lines than this a second would tell nobody anything.
_EVENT_INTERVAL_S = 0.05


def run(folder: Path, events: int) -> None:
    """Do one attempt. Never raises for what the engine raises: that is an outcome.

    Args:
        folder: The attempt's scratch folder, with the order in it.
        events: Descriptor of the progress pipe.
    """
    order = Order.model_validate_json((folder / ORDER_FILE).read_bytes())
    _confine(order, folder)
    device = _device(order.device)
    try:
        request = request_of(order, output_dir=folder / OUTPUT_FOLDER, device=device)
        check_precisions(request)
        result = _function(order.function)(request, on_progress=_Events(events))
        _leave(folder, device, result=result, failure=None)
    except BaseException as error:  # noqa: BLE001 - the process's boundary: SystemExit as well.
        _log.exception("%s, attempt %d: %s", order.job_id, order.attempt, type(error).__name__)
        failure = failure_of(error, memory_bytes=order.memory_bytes)
        report = error.report if isinstance(error, PromiseBrokenError) else None
        _leave(folder, device, result=report, failure=failure)


def _confine(order: Order, folder: Path) -> None:
    # Namespaces first: they need a process without threads.
    if not confine.leave_network():
        _log.info("%s keeps the network: this platform does not let it leave", order.job_id)
    confine.be_killed_first()
    confine.give_up_privileges()
    confine.limit(
        confine.Limits(
            memory_bytes=order.memory_bytes, file_bytes=order.file_bytes, cpu_s=order.cpu_s
        )
    )
    # What libraries cache and spill goes where it is removed afterwards.
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _function(name: str) -> Callable[..., dict[str, Any]]:
    """The function called `module:name`. The name comes from the worker, never from a user."""
    module, _, attribute = name.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), attribute)
    return function


def _leave(
    folder: Path, device: str, *, result: dict[str, Any] | None, failure: Failure | None
) -> None:
    outcome = Outcome(
        result=result,
        failure=failure,
        device=_device_name(device),
        versions={
            "secateur": secateur.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
    # Renamed into place: a half-written outcome is none.
    unfinished = folder / f"{OUTCOME_FILE}.unfinished"
    unfinished.write_text(outcome.model_dump_json())
    unfinished.replace(folder / OUTCOME_FILE)


def _device_name(device: str) -> str:
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


class _Events:
    """Progress as lines of JSON on the pipe: every change of stage, and the rest now and then."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stage: str | None = None
        self._next_at = 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if stage == self._stage and done < total and now < self._next_at:
            return
        self._stage = stage
        self._next_at = now + _EVENT_INTERVAL_S
        step = Step(stage=Stage(stage), progress=Progress(done=done, total=total, unit=unit))
        os.write(self._descriptor, step.model_dump_json().encode() + b"\n")
