"""A comparison as a picture: what is left of the quality, against what is left of the work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from secateur.comparison import Comparison, ComparisonRow
from service.picture import Format, add_legend, name_axes, picture, printable, say_empty

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Told apart by color (the first are Tol's, for people who see colors differently) and by marker. As
# the numbers of both have no common divisor, all lines of a sweep differ in one of them.
_COLORS = (
    *("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#882255", "#44aa99"),
    *("#332288", "#ee7733", "#777777", "#000000", "#997700", "#bb99dd", "#88cc66", "#bb5566"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d", "8", "H")


@dataclass(frozen=True)
class _Measure:
    """What the vertical axis may show: of the first of these that any job has."""

    name: str
    title: str
    is_fraction: bool
    value: Callable[[ComparisonRow], float | None]


_MEASURES = (
    _Measure("accuracy", "accuracy", True, lambda row: row.accuracy),
    _Measure("agreement", "agreement with the original", True, lambda row: row.agreement),
    _Measure("loss", "loss (lower is better)", False, lambda row: row.loss),
    _Measure("output MSE", "output MSE (lower is better)", False, lambda row: row.output_mse),
)


def chart(comparison: Comparison, file_format: Format) -> bytes:
    """Draw a comparison: a line for each method, the original as a dashed one.

    Equal comparisons make equal bytes, with one version of matplotlib.

    Args:
        comparison: Partial ones too; jobs without numbers are left out.
        file_format: `svg` or `png`.
    """
    return picture(
        partial(_draw, comparison=comparison),
        title=comparison.label or comparison.sweep_id,
        legend_rows=len({row.method for row in comparison.rows}),
        file_format=file_format,
    )


def _draw(axes: "Axes", *, comparison: Comparison) -> str:
    """Fill the axes; say in words what they show."""
    original, *jobs = comparison.rows
    measure = next(
        (each for each in _MEASURES if any(each.value(row) is not None for row in jobs)),
        _MEASURES[0],
    )
    across = _across(original, jobs)
    name_axes(axes, across.name, measure.title, is_up_fraction=measure.is_fraction)
    lines = _lines(original, jobs, measure, across)
    _draw_lines(axes, lines, original=measure.value(original))
    counted = f"{sum(len(points) for _, points in lines)} of {len(jobs)} jobs"
    if not lines:
        say_empty(axes, "no job has numbers yet")
    return (
        f"{measure.title} against {across.name} left, a line for each method: {counted} have "
        "numbers."
    )


@dataclass(frozen=True)
class _Amount:
    """What the horizontal axis shows, as a fraction of the original's."""

    name: str
    value: Callable[[ComparisonRow], float | None]


def _nonzero(row: ComparisonRow) -> float | None:
    if row.parameters is None or row.sparsity is None:
        return None
    return row.parameters * (1 - row.sparsity)


_MACS = _Amount("MACs", lambda row: row.macs)
_NONZERO = _Amount("parameters other than zero", _nonzero)
_BYTES = _Amount("weight bytes", lambda row: row.size_bytes)
# What pruning makes zero in passing, by weights that were zero before, is less; and so is what it
# changes in the mean bytes of a parameter, where some are of other types.
_ZEROS = 0.02
_FEWER = 0.9


def _across(original: ComparisonRow, jobs: Sequence[ComparisonRow]) -> _Amount:
    """MACs, unless weights were made zero or stored in fewer bits, which leaves all MACs."""
    most = max((row.sparsity or 0.0 for row in jobs), default=0.0)
    if most > (original.sparsity or 0.0) + _ZEROS:
        return _NONZERO
    whole = _bytes_each(original)
    least = min((each for row in jobs if (each := _bytes_each(row))), default=None)
    return _BYTES if whole and least and least < _FEWER * whole else _MACS


def _bytes_each(row: ComparisonRow) -> float | None:
    """Bytes of a parameter, in the mean."""
    return row.size_bytes / row.parameters if row.size_bytes and row.parameters else None


def _lines(
    original: ComparisonRow, jobs: Sequence[ComparisonRow], measure: _Measure, across: _Amount
) -> list[tuple[str, list[tuple[float, float]]]]:
    """The points of each method, from a little to much; none for what was not delivered."""
    lines: dict[str, list[tuple[float, float]]] = {}
    whole = across.value(original)
    for row in jobs:
        value, left = measure.value(row), across.value(row)
        if value is not None and left is not None and whole and row.failure_code is None:
            lines.setdefault(row.method, []).append((left / whole, value))
    return [(method, sorted(points)) for method, points in lines.items()]


def _draw_lines(
    axes: "Axes",
    lines: Sequence[tuple[str, list[tuple[float, float]]]],
    *,
    original: float | None,
) -> None:
    handles: list[Artist] = []
    labels: list[str] = []
    if original is not None:
        handles.append(axes.axhline(original, color="#222222", linestyle="--", linewidth=1.2))
        labels.append("original")
    for index, (method, points) in enumerate(lines):
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        handles += axes.plot(
            *zip(*points, strict=True),
            color=color,
            marker=marker,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.7,
            linewidth=1.6,
        )
        labels.append(printable(method))
    add_legend(axes, handles, labels)
