"""The report of a run: what was measured, as a document."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from worker.engine.config import Request
from worker.engine.deliver import Delivered
from worker.engine.found import Found
from worker.engine.measure.latency import Latency

FORMAT_VERSION = 1


def report_of(
    request: Request,
    found: Found,
    after: dict[str, Any],
    safety: dict[str, Any] | None,
    timed: Latency | None,
    formats: Sequence[Delivered] = (),
) -> dict[str, Any]:
    """Put together what a run has found.

    Args:
        request: What was asked.
        found: What was measured on the way.
        after: What was measured on the file as saved.
        safety: What became of promises.
        timed: Latency of both programs; None where nobody asked for it.
        formats: What became of each format that was asked for.
    """
    exempt = [name for proof in found.exactness for name in proof.exempt_operators]
    if found.zeros:
        found.warn(
            "zero: weights that are zero keep their place, so that a dense runtime computes with "
            "them and is no faster; model.sparse.safetensors stores them in a bit each"
        )
    before = found.before
    if timed is not None:
        before = {**before, "latency": _percentiles(timed.original_ms)}
        after = {**after, "latency": _percentiles(timed.compressed_ms)}
    return {
        "format_version": FORMAT_VERSION,
        "before": before,
        "after_prune": found.after_prune or None,
        "after_recovery": after,
        "latency": None if timed is None else comparison(request, timed),
        "search": found.search,
        "latency_table": found.latency_table,
        "safety": safety,
        "formats": [each.as_json() for each in formats],
        "steps": found.steps,
        "verification": {
            "is_exact": not exempt,
            "max_relative_error": max((p.max_relative_error for p in found.exactness), default=0.0),
            "exempt_operators": exempt,
            "counts_match": True,
            "reload_matches": True,
        },
        "stage_seconds": {name: round(spent, 3) for name, spent in found.seconds.items()},
        "warnings": found.warnings,
    }


def comparison(request: Request, timed: Latency) -> dict[str, Any]:
    """Latencies of both programs, as the report has them."""
    return {
        "speedup": timed.speedup,
        "round_count": len(timed.original_ms),
        "batch_size": timed.batch_size,
        "mode": request.evaluation.latency_mode,
        "device": request.device,
        "thread_count": torch.get_num_threads(),
    }


def _percentiles(times_ms: np.ndarray) -> dict[str, float]:
    p50, p95 = np.quantile(times_ms, (0.5, 0.95)).tolist()
    return {"p50_ms": p50, "p95_ms": p95}
