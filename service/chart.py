"""A comparison as a picture: what is left of the quality, against what is left of the work."""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from secateur.comparison import Comparison, ComparisonRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

_WIDTH_IN, _LEAST_HEIGHT_IN, _DPI = 10.0, 5.6, 144
_ABOVE_IN, _BELOW_IN = 0.5, 0.6
# Of the legend: it is the picture that grows, for small letters are for nobody.
_ROW_IN = 0.195
_MOST_CHARACTERS = 36

# Told apart by color (the first are Tol's, for people who see colors differently) and by marker. As
# the numbers of both have no common divisor, all lines of a sweep differ in one of them.
_COLORS = (
    *("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#882255", "#44aa99"),
    *("#332288", "#ee7733", "#777777", "#000000", "#997700", "#bb99dd", "#88cc66", "#bb5566"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d", "8", "H")

_UNDATED: dict[Format, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}
"""What matplotlib would say of when and with what it drew."""

# Fonts are read by one thread at a time, and the drawing takes a fraction of a second.
_DRAWING = threading.Lock()


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
    # Here, as it takes a second, and most processes never draw.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _DRAWING:
        mpl.rcParams["svg.hashsalt"] = "secateur"  # Ids in the file are random without it.
        figure = Figure(figsize=(_WIDTH_IN, _height_in(comparison)), dpi=_DPI)
        description = _draw(figure, comparison)
        metadata = {
            "Title": _title(comparison),
            "Description": description,
            **_UNDATED[file_format],
        }
        file = io.BytesIO()
        figure.savefig(file, format=file_format, metadata=metadata)
    return file.getvalue()


def _height_in(comparison: Comparison) -> float:
    rows = len({row.method for row in comparison.rows})
    return max(_LEAST_HEIGHT_IN, _ABOVE_IN + rows * _ROW_IN + _BELOW_IN)


def _title(comparison: Comparison) -> str:
    return _printable(comparison.label or comparison.sweep_id)


def _draw(figure: "Figure", comparison: Comparison) -> str:
    """Fill the figure; say in words what it shows."""
    original, *jobs = comparison.rows
    measure = next(
        (each for each in _MEASURES if any(each.value(row) is not None for row in jobs)),
        _MEASURES[0],
    )
    height = figure.get_figheight()
    bottom = _BELOW_IN / height
    axes = figure.add_axes((0.10, bottom, 0.58, 1 - bottom - _ABOVE_IN / height))
    axes.set_title(_title(comparison), loc="left", fontsize=12, parse_math=False)
    across = _across(original, jobs)
    axes.set_xlabel(f"{across.name} left, fraction of the original")
    axes.set_ylabel(measure.title)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if measure.is_fraction:
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.1%}")
    lines = _lines(original, jobs, measure, across)
    _draw_lines(axes, lines, original=measure.value(original))
    counted = f"{sum(len(points) for _, points in lines)} of {len(jobs)} jobs"
    if not lines:
        axes.text(
            0.5, 0.5, "no job has numbers yet", transform=axes.transAxes, ha="center", color="#666"
        )
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
# What pruning makes zero in passing, by weights that were zero before, is less.
_ZEROS = 0.02


def _across(original: ComparisonRow, jobs: Sequence[ComparisonRow]) -> _Amount:
    """MACs, unless weights were made zero, which leaves all MACs."""
    most = max((row.sparsity or 0.0 for row in jobs), default=0.0)
    return _NONZERO if most > (original.sparsity or 0.0) + _ZEROS else _MACS


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
    handles, labels = [], []
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
        labels.append(_printable(method))
    if handles:
        legend = axes.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            borderaxespad=0.0,
            frameon=False,
            fontsize=9,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # A name with dollars in it is no formula.


def _printable(text: str) -> str:
    """What the font has a picture for, and not more of it than there is room."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap()
    shown = "".join(c if c.isprintable() and ord(c) in known else "?" for c in text)
    if len(shown) > _MOST_CHARACTERS:
        shown = f"{shown[: _MOST_CHARACTERS - 1]}…"
    # Names that begin with an underscore are left out of legends.
    return f" {shown}" if shown.startswith("_") else shown
