"""A report as a table: before, after pruning, after recovery, side by side."""

from collections.abc import Callable, Sequence
from math import prod

from secateur.plan import Plan
from secateur.report import Measurement, Quality, Report

_MISSING = "-"
_Cell = Callable[[Measurement], float | None]
_Of = Callable[[Quality], float | None]


def report_table(report: Report) -> str:
    """The numbers of a report, a line each; the last column says what became of the first."""
    columns = (report.before, report.after_prune, report.after_recovery)
    rows: list[tuple[str, ...]] = [("", "before", "pruned", "recovered", "change")]
    for name, cell, shown, change in _LINES:
        values = [cell(column) for column in columns]
        if any(value is not None for value in values):
            cells = [_MISSING if value is None else shown(value) for value in values]
            rows.append((name, *cells, _changed(values[0], values[-1], change)))
    if report.latency is not None:
        rows.append(("speedup", "", "", "", f"{report.latency.speedup:.2f}x"))
    return aligned(rows)


def plan_table(plan: Plan) -> str:
    """What a plan would take away: the whole, and every channel group."""
    rows = [("", "now", "planned", "change")]
    for name, field in (("parameters", "parameters"), ("MACs", "macs"), ("bytes", "size_bytes")):
        before, after = getattr(plan.baseline, field), getattr(plan.predicted, field)
        rows.append((name, f"{before:,}", f"{after:,}", _ratio(before, after)))
    for weight in plan.sparse:
        size = prod(weight.shape)
        left = size - weight.zero_count
        rows.append((weight.parameter, f"{size:,}", f"{left:,}", _ratio(size, left)))
    for group in plan.channel_groups:
        before, after = group.channel_count, len(group.keep)
        rows.append((group.name, f"{before:,}", f"{after:,}", _ratio(before, after)))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns: the first to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.1%}" if before else _MISSING


def _points(before: float, after: float) -> str:
    return f"{(after - before) * 100:+.2f} points"


def _nothing(before: float, after: float) -> str:
    del before, after
    return ""


def _worst_class(quality: Quality) -> float | None:
    """The lowest accuracy of any class: not of the same class in every column."""
    known = [value for value in quality.class_accuracy or () if value is not None]
    return min(known, default=None)


def _quality(value: _Of) -> _Cell:
    return lambda measured: None if measured.quality is None else value(measured.quality)


def _changed(
    before: float | None, after: float | None, change: Callable[[float, float], str]
) -> str:
    return "" if before is None or after is None else change(before, after)


_LINES: tuple[tuple[str, _Cell, Callable[[float], str], Callable[[float, float], str]], ...] = (
    ("parameters", lambda m: m.counts.parameters, _count, _ratio),
    ("MACs", lambda m: m.counts.macs, _count, _ratio),
    ("weight bytes", lambda m: m.counts.size_bytes, _count, _ratio),
    ("zeros", lambda m: m.sparsity or None, _percent, _nothing),
    ("file bytes", lambda m: m.file_bytes, _count, _ratio),
    ("accuracy", _quality(lambda q: q.accuracy), _percent, _points),
    ("top-5", _quality(lambda q: q.top5_accuracy), _percent, _points),
    ("worst class", _quality(_worst_class), _percent, _points),
    ("with noise", _quality(lambda q: q.noise_accuracy), _percent, _points),
    ("attacked", _quality(lambda q: q.fgsm_accuracy), _percent, _points),
    ("loss", _quality(lambda q: q.loss), _number, _nothing),
    ("agreement", _quality(lambda q: q.agreement), _percent, _nothing),
    ("output MSE", _quality(lambda q: q.output_mse), _number, _nothing),
    ("latency p50", lambda m: m.latency.p50_ms if m.latency else None, _ms, _ratio),
    ("latency p95", lambda m: m.latency.p95_ms if m.latency else None, _ms, _ratio),
)
"""What a line shows: its name, where the value is, how it is written, and how it has changed."""
