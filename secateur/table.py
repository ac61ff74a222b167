"""A report as tables: before, after pruning, after recovery, side by side; and what was tried."""

from collections.abc import Callable, Iterator, Sequence
from math import prod

from secateur.plan import Plan
from secateur.report import FormatReport, LayerReport, Measurement, Quality, Report, StepReport
from secateur.trials import GroupLatency, SearchEnd, SearchOutcome, SearchReport, Trial

_MISSING = "-"
_MOST_LAYERS, _MOST_NAMES = 20, 3
_Cell = Callable[[Measurement], float | None]
_Of = Callable[[Quality], float | None]


def report_table(report: Report) -> str:
    """The numbers of a report, a line each; the last column says what became of the first.

    Below, where there are any: the layers of each step that stores them anew, the files, the trials
    of a search, and what a latency budget was met by.
    """
    columns = (report.before, report.after_prune, report.after_recovery)
    rows: list[tuple[str, ...]] = [("", "before", "pruned", "recovered", "change")]
    for name, cell, shown, change in _LINES:
        values = [None if column is None else cell(column) for column in columns]
        if any(value is not None for value in values):
            cells = [_shown(value, shown) for value in values]
            rows.append((name, *cells, _changed(values[0], values[-1], change)))
    if report.latency is not None:
        rows.append(("speedup", "", "", "", _times(report.latency.speedup)))
    tables = [aligned(rows)]
    tables += [_step_table(step) for step in report.steps if step.layers]
    if report.formats:
        tables.append(_format_table(report.formats))
    if report.search is not None:
        tables.append(_search_table(report.search))
    if report.latency_table:
        tables.append(_latency_table(report.latency_table))
    return "\n".join(tables)


def _format_table(formats: Sequence[FormatReport]) -> str:
    """Each format that was asked for: its file and what was measured in what ran it, or nothing."""
    header = ("format", "file", "bytes", "difference", "accuracy", "speedup", "ran in")
    rows: list[tuple[str, ...]] = [header]
    for each in formats:
        accuracy = _shown(each.quality.accuracy if each.quality else None, _percent)
        if each.file is None:
            rows.append((each.format, "none, see below", "", "", accuracy, "", ""))
        else:
            size, error = _shown(each.size_bytes, _count), f"{each.max_relative_error:.1g}"
            speedup = _shown(each.latency.speedup if each.latency else None, _times)
            ran_in = each.runtime or _MISSING
            rows.append((each.format, each.file, size, error, accuracy, speedup, ran_in))
    return aligned(rows)


def _step_table(step: StepReport) -> str:
    """What a step made of layers: those with the largest error, and why others were kept."""
    changed = [layer for layer in step.layers if layer.reason is None]
    title = f"step {step.index}, {step.step}: {len(changed)} of {len(step.layers)} layers"
    lines = [", ".join((title, *_after_step(step)))]
    if changed:
        rows: list[tuple[str, ...]] = [
            ("layer", "became", "bytes", "now", "weight error", "output error")
        ]
        rows += [_layer_row(each) for each in sorted(changed, key=_error)[:_MOST_LAYERS]]
        lines.append(aligned(rows).rstrip("\n"))
    if more := changed[_MOST_LAYERS:]:
        lines.append(f"and {len(more)} more with smaller errors, see report.json")
    kept: dict[str, list[LayerReport]] = {}
    for layer in step.layers:
        if layer.reason is not None:
            kept.setdefault(layer.reason, []).append(layer)
    return "\n".join([*lines, *map(_kept, kept.values(), kept)]) + "\n"


def _after_step(step: StepReport) -> Iterator[str]:
    """How the model is after it."""
    yield f"{step.counts.size_bytes:,} weight bytes"
    quality = step.quality
    if quality is not None and quality.accuracy is not None:
        yield f"accuracy {_percent(quality.accuracy)}"
    elif quality is not None and quality.loss is not None:
        yield f"loss {_number(quality.loss)}"
    if step.latency is not None:
        yield f"{step.latency.speedup:.2f}x as .pt2"


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    before, after = f"{layer.bytes_before:,}", f"{layer.bytes_after:,}"
    errors = (_shown(each, _percent) for each in (layer.weight_error, layer.output_error))
    return (layer.layer, layer.became, before, after, *errors)


def _error(layer: LayerReport) -> tuple[float, float]:
    """Orders layers from the largest error of their output, or else of their weight, down."""
    return -(layer.output_error or 0.0), -(layer.weight_error or 0.0)


def _kept(layers: Sequence[LayerReport], reason: str) -> str:
    """How many layers stayed for one reason, and the first of them."""
    names = ", ".join(layer.layer for layer in layers[:_MOST_NAMES])
    names += ", ..." if len(layers) > _MOST_NAMES else ""
    count = f"{len(layers)} layers" if len(layers) > 1 else "1 layer"
    size = sum(layer.bytes_after for layer in layers)
    return f"kept: {count}, {size:,} bytes: {reason} ({names})"


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


def _search_table(search: SearchReport) -> str:
    """How a search ended, and below it every model that it tried."""
    has_latency = any(trial.latency_ratio is not None for trial in search.trials)
    is_accuracy = search.budget == "accuracy"

    def row(name: str, macs: str, latency: str, quality: str, *last: str) -> tuple[str, ...]:
        return (name, macs, *((latency,) if has_latency else ()), quality, *last)

    def shown(value: float | None) -> str:
        return _shown(value, _percent if is_accuracy else _number)

    width = len(str(len(search.trials)))
    whole = search.original_counts.macs
    original = search.original_accuracy if is_accuracy else search.original_loss
    rows = [
        row("trial", "MACs", "latency", search.budget, "promise", ""),
        row("original", _ratio(whole, whole), "100.0%", shown(original), "", ""),
    ]
    rows += [
        row(
            f"{trial.number:>{width}}  {trial.reason}",
            _ratio(whole, trial.counts.macs),
            _shown(trial.latency_ratio, _share),
            shown(trial.accuracy if is_accuracy else trial.loss),
            _promise(trial),
            "delivered" if trial.number == search.delivered_trial else "",
        )
        for trial in search.trials
    ]
    return f"{_outcome(search)}\n{aligned(rows)}"


def _outcome(search: SearchReport) -> str:
    change = "lower" if search.budget == "accuracy" else "higher"
    promise = f"{search.budget} {search.allowed:g} {change} at most"
    sought = f"least {search.minimize.label} with {promise}"
    ending = f"{len(search.trials)} tried, {_ENDINGS[search.ended_by]}"
    if search.outcome is SearchOutcome.FOUND:
        return f"{sought}: found ({ending})"
    return f"{sought}: no model keeps the promise ({ending})"


def _promise(trial: Trial) -> str:
    """Whether a trial keeps it: on the validation rows, and on the test data where asked."""
    if not trial.is_kept:
        return "not kept"
    return "not kept on test data" if trial.is_confirmed is False else "kept"


def _latency_table(groups: Sequence[GroupLatency]) -> str:
    """The model's latency by how many channels one group keeps, a line for each group."""
    most = max(len(group.kept) for group in groups)
    rows = [("latency by channels kept", "of", *[""] * most)]
    for group in groups:
        cells = [
            f"{kept:,}: {_share(ratio)}"
            for kept, ratio in zip(group.kept, group.ratio, strict=True)
        ]
        padding = [""] * (most - len(cells))
        rows.append((group.name, f"{group.channel_count:,}", *cells, *padding))
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


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _shown(value: float | None, how: Callable[[float], str]) -> str:
    return _MISSING if value is None else how(value)


def _ratio(before: float, after: float) -> str:
    return _share(after / before) if before else _MISSING


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

_ENDINGS: dict[SearchEnd, str] = {
    SearchEnd.CONVERGED: "nothing smaller left to try",
    SearchEnd.TRIALS: "no more allowed",
    SearchEnd.SECONDS: "out of time",
}
