"""The trail of a line: how far each round lies above or below the anchor."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignment.evaluate.evaluators import evaluator_of
from alignment.report.metric import signed
from alignment.report.plots.canvas import (
    DASHED,
    INK,
    MARKS,
    MUTED,
    PAPER,
    VERMILION,
    WIDTH,
    empty_figure,
    legend,
    short_label,
)
from alignment.report.trail import Point, Trail

_LETTER = 6.5
"""Width of a letter of size 11, in pixels; generous, so that names do not touch."""
_BESIDE = 150
"""Width of what stands left and right of the rounds, in pixels."""
_ROUND = "round "


def since_anchor(trail: Trail) -> Figure:
    """Each round against the anchor, in every metric that has a margin.

    A mark is the difference, hollow if the round was not kept; its bar reaches down to what the
    gate cannot exclude. The dashed line is the margin.
    """
    width = min(WIDTH + max(0, len(trail.rounds) - 8) * 40, 1000)
    figure, axes = empty_figure(height=260, width=width)
    axes.axhline(0, color=INK, linewidth=1)
    _beside(axes, 0, trail.anchor, MUTED)
    if trail.margin is not None:
        axes.axhline(-trail.margin, color=VERMILION, linewidth=1.4, linestyle=DASHED)
        _beside(axes, -trail.margin, "margin", VERMILION)
    metrics = trail.metrics
    for number, metric in enumerate(metrics):
        shift = 0.14 * (number - (len(metrics) - 1) / 2)
        places = [(round_ + shift, point) for round_, point in trail.places(metric)]
        _draw(axes, places, mark=MARKS[number % len(MARKS)])
    _name_rounds(axes, trail.rounds, width)
    axes.set_ylabel(f"difference to {short_label(trail.anchor)}")
    axes.yaxis.set_major_formatter(lambda share, _: signed(share, digits=2))
    axes.grid(visible=False, axis="x")
    legend(axes, list(_keys(trail)))
    return figure


def _keys(trail: Trail) -> Iterator[Line2D]:
    """The entries of the legend: each metric, and what a hollow mark means."""
    for metric, (colour, marker) in zip(trail.metrics, cycle(MARKS), strict=False):
        yield Line2D([], [], color=colour, marker=marker, label=evaluator_of(metric).in_words)
    if not all(point.kept for point in trail.points):
        yield Line2D([], [], color=PAPER, marker="o", markeredgecolor=MUTED, label="not kept")


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    """A name at the right end of a horizontal line."""
    axes.text(
        1.005,
        height,
        short_label(text),
        transform=axes.get_yaxis_transform(),
        color=colour,
        fontsize=11,
        va="center",
    )


def _draw(axes: Axes, places: Sequence[tuple[float, Point]], *, mark: tuple[str, str]) -> None:
    colour, marker = mark
    for x, point in places:
        axes.plot([x, x], [point.at_worst, point.difference], color=colour, linewidth=1.6, zorder=2)
    for kept, fill in ((True, colour), (False, PAPER)):
        some = [(x, point.difference) for x, point in places if point.kept is kept]
        axes.plot(
            [x for x, _ in some],
            [y for _, y in some],
            marker,
            color=fill,
            markeredgecolor=colour,
            markersize=7,
            zorder=3,
        )


def _name_rounds(axes: Axes, rounds: Sequence[str], width: int) -> None:
    """Names below the axis, as many as have room; "round 1" to "round 12" become numbers."""
    numbered = all(name.startswith(_ROUND) for name in rounds)
    names = [short_label(name.removeprefix(_ROUND) if numbered else name) for name in rounds]
    room = (width - _BESIDE) / len(rounds)
    step = math.ceil((max(map(len, names)) + 2) * _LETTER / room)
    shown = range(0, len(rounds), step)
    axes.set_xticks(list(shown), [names[number] for number in shown])
    axes.set_xlim(-0.5, len(rounds) - 0.5)
    if numbered:
        axes.set_xlabel("round")
