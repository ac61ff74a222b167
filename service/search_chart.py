"""A search for the smallest model as a picture: every model that was tried."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from secateur.plan import Counts
from secateur.search import Minimize
from secateur.trials import SearchReport, Trial
from service.picture import Format, add_legend, name_axes, picture, say_empty

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class _Kind:
    """How a trial is drawn: told apart by color (Tol's) and by marker."""

    label: str
    color: str
    marker: str
    size: float


_DELIVERED = _Kind("delivered", "#228833", "*", 240)
_KEPT = _Kind("keeps the promise", "#4477aa", "o", 60)
_NOT_CONFIRMED = _Kind("breaks it on the test data", "#aa3377", "D", 50)
_NOT_KEPT = _Kind("breaks the promise", "#ee6677", "X", 60)
_KINDS = (_NOT_KEPT, _NOT_CONFIRMED, _KEPT, _DELIVERED)
"""From below to above."""

_COUNTS: dict[Minimize, Callable[[Counts], int]] = {
    Minimize.MACS: lambda counts: counts.macs,
    Minimize.PARAMETERS: lambda counts: counts.parameters,
    Minimize.BYTES: lambda counts: counts.size_bytes,
}


@dataclass(frozen=True)
class _Point:
    """A trial with both of its numbers."""

    left: float
    quality: float
    kind: _Kind


def search_chart(
    search: SearchReport, file_format: Format, *, title: str, against: Minimize | None = None
) -> bytes:
    """Draw a search: a point for each trial, the best of them joined by a line.

    The quality is that which the budget is about: accuracy or loss, on the validation rows.

    Args:
        search: What was tried.
        file_format: `svg` or `png`.
        title: In any characters.
        against: What the horizontal axis shows; by default what was minimized.
    """
    return picture(
        partial(_draw, search=search, against=against or search.minimize),
        title=title,
        legend_rows=len(_KINDS) + 3,
        file_format=file_format,
    )


def _draw(axes: "Axes", *, search: SearchReport, against: Minimize) -> str:
    """Fill the axes; say in words what they show."""
    is_accuracy = search.budget == "accuracy"
    up = "accuracy on validation rows" if is_accuracy else "loss on validation rows"
    name = against.label
    shown = up if is_accuracy else f"{up} (lower is better)"
    name_axes(axes, name, shown, is_up_fraction=is_accuracy)
    points = _points(search, against)
    handles, labels = _draw_limits(axes, search)
    if points:
        front = _front(points, is_more_better=is_accuracy)
        handles += axes.plot(
            [point.left for point in front],
            [point.quality for point in front],
            color="#777777",
            linewidth=1.4,
            zorder=1.5,
        )
        labels.append("Pareto front")
    else:
        say_empty(axes, f"no trial has its {name} and its {search.budget} measured")
    for kind in _KINDS:
        of_kind = [point for point in points if point.kind is kind]
        if of_kind:
            handles.append(
                axes.scatter(
                    [point.left for point in of_kind],
                    [point.quality for point in of_kind],
                    s=kind.size,
                    color=kind.color,
                    marker=kind.marker,
                    edgecolors="white",
                    linewidths=0.7,
                    zorder=3,
                )
            )
            labels.append(kind.label)
    add_legend(axes, handles, labels)
    return (
        f"{up} against {name} left, a point for each trial: {len(points)} of "
        f"{len(search.trials)} trials have numbers."
    )


def _draw_limits(axes: "Axes", search: SearchReport) -> tuple[list["Artist"], list[str]]:
    """The original's quality and the least that was promised, as dashed lines."""
    is_accuracy = search.budget == "accuracy"
    original = search.original_accuracy if is_accuracy else search.original_loss
    if original is None:
        return [], []
    promised = original - search.allowed if is_accuracy else original + search.allowed
    return [
        axes.axhline(original, color="#222222", linestyle="--", linewidth=1.2),
        axes.axhline(promised, color="#ee7733", linestyle="--", linewidth=1.2),
    ], ["original", "promised limit"]


def _points(search: SearchReport, against: Minimize) -> list[_Point]:
    points = []
    for trial in search.trials:
        left = _left(trial, search.original_counts, against)
        quality = trial.accuracy if search.budget == "accuracy" else trial.loss
        if left is not None and quality is not None:
            is_delivered = trial.number == search.delivered_trial
            points.append(_Point(left, quality, _kind(trial, is_delivered=is_delivered)))
    return points


def _left(trial: Trial, original: Counts, against: Minimize) -> float | None:
    """What remains of the original; None where it was not measured."""
    if against is Minimize.LATENCY:
        return trial.latency_ratio
    count = _COUNTS[against]
    return count(trial.counts) / count(original) if count(original) else None


def _kind(trial: Trial, *, is_delivered: bool) -> _Kind:
    if is_delivered:
        return _DELIVERED
    if not trial.is_kept:
        return _NOT_KEPT
    return _NOT_CONFIRMED if trial.is_confirmed is False else _KEPT


def _front(points: Sequence[_Point], *, is_more_better: bool) -> list[_Point]:
    """The points than which none is as good and smaller, or as small and better."""
    sign = 1 if is_more_better else -1
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.left, -sign * point.quality)):
        if not front or sign * point.quality > sign * front[-1].quality:
            front.append(point)
    return front
