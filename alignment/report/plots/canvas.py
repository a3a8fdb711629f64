"""What every figure of a report has in common: size, colours, markers, labels, legend.

Nothing is saved, and pyplot with its global list of open figures is not used. Sizes are in pixels
at the width that the page shows, so a label of size 11 is 11 pixels high. The colours of Okabe and
Ito (2008) work for every kind of colour vision, and no series is identified by colour alone;
`svg.py` replaces them by the page's own colours, light or dark.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignment.report.table import printable

T = TypeVar("T")
INK, MUTED, GRID, PAPER = "#24292f", "#6b7280", "#e3e6ea", "#fefefe"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
MARKS = ((BLUE, "o"), (VERMILION, "D"), (GREEN, "s"), (PURPLE, "^"))
"""Colour and marker of each series in a plot."""
DASHED = (0, (3, 3))

WIDTH = 480
_PIXELS_PER_INCH = 72
_MOST_POINTS = 400
_LONGEST_LABEL = 22


def empty_figure(*, height: int, width: int = WIDTH, rows: int = 1) -> tuple[Figure, Axes]:
    """An empty figure of this size in pixels, and its first axes."""
    size = (width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH)
    figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")
    figure.patch.set_alpha(0)
    for axes in figure.subplots(rows, 1, sharex=True, squeeze=False).flat:
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=1)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=11, labelcolor=INK, pad=6)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=MUTED, fontsize=11)
    return figure, figure.axes[0]


def height_for(rows: int) -> int:
    """Height in pixels for this many named rows."""
    return 84 + 34 * rows


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Labels the rows on the left with names, from top to bottom."""
    axes.set_yticks(range(len(names)), [short_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def short_label(text: str) -> str:
    """A short text, with `$` escaped so that matplotlib does not parse it as a formula."""
    line = printable(text)
    clipped = line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
    return clipped.replace("$", r"\$")


def thinned(points: Sequence[T]) -> Sequence[T]:
    """Every k-th point, so that a long run does not make a heavy page."""
    return points[:: math.ceil(len(points) / _MOST_POINTS) or 1]


def legend(axes: Axes, keys: Sequence[Line2D] = ()) -> None:
    """Adds a one-line legend above the plot, without series that have no data.

    Args:
        axes: the plot.
        keys: marks with labels to show instead of those of the series.
    """
    drawn: list[tuple[object, object]] = [(key, key.get_label()) for key in keys]
    for key in keys:
        key.set(linestyle="", markersize=7)
    drawn = drawn or [
        (handle, label)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        if not _is_empty(handle)
    ]
    if drawn:
        handles, labels = zip(*drawn, strict=True)
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(drawn),
            frameon=False,
            fontsize=11,
            labelcolor=INK,
            handletextpad=0.5,
            columnspacing=1.6,
            borderaxespad=0.2,
        )


def _is_empty(handle: object) -> bool:
    return isinstance(handle, Line2D) and not np.size(handle.get_xdata())
