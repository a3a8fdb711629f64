"""The trail of a line: how far each round lies above or below the anchor."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

_MOST_NAMES = 16


def since_anchor(trail: Trail) -> Figure:
    """Each round against the anchor, in every metric that has a margin.

    A mark is the difference, filled if the round was kept; its bar reaches down to what the gate
    cannot exclude. The dashed line is the margin.
    """
    wide = max(0, len(trail.rounds) - 8) * 40
    figure, axes = empty_figure(height=260, width=min(WIDTH + wide, 1000))
    axes.axhline(0, color=INK, linewidth=1)
    _beside(axes, 0, trail.anchor, MUTED)
    if trail.margin is not None:
        axes.axhline(-trail.margin, color=VERMILION, linewidth=1.4, linestyle=DASHED)
        _beside(axes, -trail.margin, "margin", VERMILION)
    metrics = trail.metrics
    for number, metric in enumerate(metrics):
        shift = 0.14 * (number - (len(metrics) - 1) / 2)
        places = [(round_ + shift, point) for round_, point in trail.places(metric)]
        _draw(axes, places, label=evaluator_of(metric).in_words, mark=MARKS[number % len(MARKS)])
    _name_rounds(axes, trail.rounds)
    axes.set_ylabel(f"difference to {short_label(trail.anchor)}")
    axes.yaxis.set_major_formatter(lambda share, _: signed(share, digits=2))
    axes.grid(visible=False, axis="x")
    legend(axes)
    return figure


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


def _draw(
    axes: Axes, places: Sequence[tuple[float, Point]], *, label: str, mark: tuple[str, str]
) -> None:
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
            label=label if kept else f"{label}, not kept",
        )


def _name_rounds(axes: Axes, rounds: Sequence[str]) -> None:
    step = len(rounds) // _MOST_NAMES + 1
    shown = range(0, len(rounds), step)
    axes.set_xticks(list(shown), [short_label(rounds[number]) for number in shown])
    axes.set_xlim(-0.5, len(rounds) - 0.5)
