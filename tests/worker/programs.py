"""What children run in these tests: functions with the engine's face, each with one habit."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from worker.engine.config import OnProgress, Request
from worker.engine.errors import NothingToPruneError, PromiseBrokenError

HERE = __name__


def plan(warnings: list[str]) -> dict[str, Any]:
    counts = {"parameters": 1, "macs": 1, "size_bytes": 4}
    return {
        "format_version": 3,
        "model_sha256": "0" * 64,
        "algorithm": "cut",
        "criterion": "magnitude",
        "scope": "global",
        "aggregation": "sum",
        "normalization": "mean",
        "granularity": "channels",
        "budget": {"channel_ratio": 0.5},
        "exclude": [],
        "seed": 0,
        "baseline": counts,
        "predicted": counts,
        "channel_groups": [],
        "sparse": [],
        "keep_sha256": "0" * 64,
        "sizes": [],
        "frozen": [],
        "warnings": warnings,
    }


def deliver(request: Request, warnings: list[str]) -> dict[str, Any]:
    made = plan(warnings)
    (request.output_dir / "plan.json").write_text(json.dumps(made))
    return made


def report(*promises: dict[str, Any]) -> dict[str, Any]:
    measurement = {
        "counts": {"parameters": 1, "macs": 1, "size_bytes": 4},
        "sparsity": 0.0,
        "file_bytes": None,
        "quality": None,
        "latency": None,
    }
    return {
        "format_version": 1,
        "before": measurement,
        "after_prune": measurement,
        "after_recovery": measurement,
        "latency": None,
        "search": None,
        "latency_table": None,
        "safety": {"promises": list(promises)} if promises else None,
        "verification": {
            "is_exact": True,
            "max_relative_error": 0.0,
            "exempt_operators": [],
            "counts_match": True,
            "reload_matches": True,
        },
        "formats": [],
        "steps": [],
        "stage_seconds": {},
        "warnings": [],
    }


def promise(*, is_kept: bool, allowed: float = 0.25) -> dict[str, Any]:
    after = 0.75 if is_kept else 0.5
    return {
        "name": "accuracy",
        "before": 1.0,
        "after": after,
        "drop": 1.0 - after,
        "allowed": allowed,
        "is_kept": is_kept,
        "worst_class": None,
        "broken_classes": None,
    }


def compressed(request: Request, made: dict[str, Any]) -> dict[str, Any]:
    (request.output_dir / "report.json").write_text(json.dumps(made))
    for name in ("model.pt2", "model.safetensors", "plan.json"):
        (request.output_dir / name).write_text("{}")
    return made


def keep_promise(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return compressed(request, report(promise(is_kept=True)))


def break_promise(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    made = compressed(request, report(promise(is_kept=False)))
    raise PromiseBrokenError("accuracy fell by 0.5", made)


def break_promise_and_deliver(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return compressed(request, report(promise(is_kept=False)))


def promise_less(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return compressed(request, report(promise(is_kept=True, allowed=0.75)))


def promise_nothing(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return compressed(request, report())


def fail_while_all_is_kept(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    raise PromiseBrokenError("none", compressed(request, report(promise(is_kept=True))))


def break_promise_without_a_file(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    raise PromiseBrokenError("accuracy fell by 0.5", report(promise(is_kept=False)))


def break_promise_of_a_plan(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    raise PromiseBrokenError("of a plan", deliver(request, []))


def read_model(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    on_progress("loading", 1, 1, "files")
    for done in range(1000):
        on_progress("scoring", done, 1000, "channels")
    on_progress("scoring", 1000, 1000, "channels")
    return deliver(request, [request.model.read_text()])


def refuse(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    raise NothingToPruneError("all 3 channel groups are excluded: exclude less")


def break_down(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    raise LookupError("secret/path")


def hang(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    on_progress("scoring", os.getpid(), 1, "process")
    threading.Event().wait()
    raise AssertionError


def hang_on(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hang(request, on_progress=on_progress)


def hang_with_offspring(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    """Start a process, tell its id, and hang."""
    process = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    on_progress("scoring", process.pid, 1, "process")
    threading.Event().wait()
    raise AssertionError


def crash(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    ctypes.string_at(0)
    raise AssertionError


def devour(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return {"all": bytearray(2**40)}


def devour_with_torch(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    import torch

    return {"all": torch.zeros(2**38)}


def look_around(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    return deliver(
        request,
        [
            json.dumps(
                {
                    "environment": Path("/proc/self/environ").read_text().split("\0"),
                    "interfaces": [name for _, name in socket.if_nameindex()],
                    "descriptors": sorted(
                        str(descriptor.readlink()).partition(":")[0]
                        for descriptor in Path("/proc/self/fd").iterdir()
                        if int(descriptor.name) > 2 and descriptor.is_symlink()
                    ),
                    "session": os.getsid(0) == os.getpid(),
                    "umask": os.umask(0o077),
                }
            )
        ],
    )


def link(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    made = plan([])
    (request.output_dir / "plan.json").symlink_to("/etc/passwd")
    return made


def lie(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    deliver(request, [])
    return {"made": "up"}


def babble(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    """Send what is no progress, straight to the pipe."""
    descriptor = on_progress._descriptor  # type: ignore[attr-defined]
    os.write(descriptor, b"{}\n\xff\xfe\nnull\n" + b"x" * 200_000)
    return deliver(request, [])
