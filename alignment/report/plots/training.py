"""The curves of one training step."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from alignment.report.plots.canvas import (
    BLUE,
    GREEN,
    PURPLE,
    VERMILION,
    empty_figure,
    legend,
    thinned,
)

History = Sequence[Mapping[str, object]]
"""Rows as a trainer logs them: `step` and any of `loss`, `eval_loss`, `rewards/margins`, ..."""


def training_curves(history: History) -> Figure:
    """Loss of one training step, and below it the reward margin if it was logged."""
    margins = _column(history, "rewards/margins")
    figure, axes = empty_figure(height=340 if margins else 230, rows=2 if margins else 1)
    axes.plot(*_xy(_column(history, "loss")), color=BLUE, linewidth=1.6, label="training loss")
    held_out = _column(history, "eval_loss")
    axes.plot(*_xy(held_out), "D-", color=VERMILION, markersize=5, label="held-out loss")
    axes.set_ylabel("loss")
    if margins:
        below = figure.axes[1]
        below.plot(*_xy(margins), color=GREEN, linewidth=1.6, label="training margin")
        held_out = _column(history, "eval_rewards/margins")
        below.plot(*_xy(held_out), "D-", color=PURPLE, markersize=5, label="held-out margin")
        below.set_ylabel("reward margin")
        legend(below)
    legend(axes)
    figure.axes[-1].set_xlabel("optimiser step")
    return figure


def _column(history: History, name: str) -> Sequence[tuple[float, float]]:
    """(step, value) of every row that has a finite number under this name."""
    points = []
    for row in history:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, int | float) and isinstance(value, int | float):
            points.append((float(step), float(value)))
    return thinned([point for point in points if math.isfinite(point[1])])


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
