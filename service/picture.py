"""What all pictures share: a frame with room for a legend, names as text, and equal bytes."""

import io
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

_WIDTH_IN, _LEAST_HEIGHT_IN, _DPI = 10.0, 5.6, 144
_ABOVE_IN, _BELOW_IN = 0.5, 0.6
# Of the legend: it is the picture that grows, for small letters are for nobody.
_ROW_IN = 0.195
_MOST_CHARACTERS = 36

_UNDATED: dict[Format, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}
"""What matplotlib would say of when and with what it drew."""

# Fonts are read by one thread at a time, and the drawing takes a fraction of a second.
_DRAWING = threading.Lock()


def picture(
    draw: Callable[["Axes"], str], *, title: str, legend_rows: int, file_format: Format
) -> bytes:
    """Draw a picture. Equal ones are equal bytes, with one version of matplotlib.

    Args:
        draw: Fills the axes, and says in words what they show.
        title: In any characters.
        legend_rows: How many names the legend will have.
        file_format: `svg` or `png`.
    """
    # Here, as it takes a second, and most processes never draw.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _DRAWING:
        mpl.rcParams["svg.hashsalt"] = "secateur"  # Ids in the file are random without it.
        height_in = max(_LEAST_HEIGHT_IN, _ABOVE_IN + legend_rows * _ROW_IN + _BELOW_IN)
        figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI)
        shown = printable(title)
        metadata = {
            "Title": shown,
            "Description": draw(_framed(figure, shown)),
            **_UNDATED[file_format],
        }
        file = io.BytesIO()
        figure.savefig(file, format=file_format, metadata=metadata)
    return file.getvalue()


def _framed(figure: "Figure", title: str) -> "Axes":
    height_in = figure.get_figheight()
    bottom = _BELOW_IN / height_in
    axes = figure.add_axes((0.10, bottom, 0.58, 1 - bottom - _ABOVE_IN / height_in))
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def name_axes(axes: "Axes", across: str, up: str, *, is_up_fraction: bool) -> None:
    """Say what the axes show: across as a fraction of the original."""
    axes.set_xlabel(f"{across} left, fraction of the original")
    axes.set_ylabel(up)
    if is_up_fraction:
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.1%}")


def say_empty(axes: "Axes", why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="#666")


def add_legend(axes: "Axes", handles: Sequence["Artist"], labels: Sequence[str]) -> None:
    if not handles:
        return
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


def printable(text: str) -> str:
    """What the font has a picture for, and not more of it than there is room."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap()
    shown = "".join(c if c.isprintable() and ord(c) in known else "?" for c in text)
    if len(shown) > _MOST_CHARACTERS:
        shown = f"{shown[: _MOST_CHARACTERS - 1]}…"
    # Names that begin with an underscore are left out of legends.
    return f" {shown}" if shown.startswith("_") else shown
