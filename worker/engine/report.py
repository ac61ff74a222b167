"""The report of a run: what was measured, as a document."""

from collections.abc import Sequence
from typing import Any

from worker.engine.deliver import Delivered
from worker.engine.found import Found
from worker.engine.measure.latency import Latency, percentiles

FORMAT_VERSION = 1


def report_of(
    found: Found,
    after: dict[str, Any],
    safety: dict[str, Any] | None,
    timed: Latency | None,
    formats: Sequence[Delivered] = (),
) -> dict[str, Any]:
    """Put together what a run has found.

    Args:
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
        before = {**before, "latency": percentiles(timed.original_ms)}
        after = {**after, "latency": percentiles(timed.compressed_ms)}
    return {
        "format_version": FORMAT_VERSION,
        "before": before,
        "after_prune": found.after_prune or None,
        "after_recovery": after,
        "latency": None if timed is None else timed.as_json(),
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
