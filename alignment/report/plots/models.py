"""The figures with a row per model: a metric with its interval, and distributions over rows."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.evaluate.evaluators import evaluator_of
from alignment.evaluate.metrics import reward_margin
from alignment.records.evaluation import Estimate, EvalReport, Generation, PairScore
from alignment.report.plots.canvas import (
    BLUE,
    DASHED,
    MARKS,
    MUTED,
    PAPER,
    empty_figure,
    height_for,
    legend,
    name_rows,
)


def model_estimates(reports: Sequence[EvalReport], metric: str) -> Figure:
    """One metric of every model with its interval, and the series its evaluator adds.

    Models run from top to bottom. If the metric has a chance level, a dashed line shows it.
    """
    evaluator = evaluator_of(metric)
    series = evaluator.series(frozenset(name for report in reports for name in report.overall))
    figure, axes = empty_figure(height=height_for(len(reports)))
    for number, (name, label) in enumerate(series.items()):
        shift = 0.22 * (number - (len(series) - 1) / 2)
        points = [(row + shift, report.overall.get(name)) for row, report in enumerate(reports)]
        known = [(row, estimate) for row, estimate in points if estimate is not None]
        _draw_estimates(axes, known, label=label, mark=MARKS[number % len(MARKS)])
    name_rows(axes, [report.model for report in reports])
    if evaluator.share:
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".50", ".75", "1"])
    if evaluator.chance is not None:
        axes.axvline(evaluator.chance, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    axes.set_xlabel(evaluator.in_words)
    if len(series) > 1:
        legend(axes)
    return figure


def reply_lengths(generations: Mapping[str, Sequence[Generation]]) -> Figure:
    """Reply tokens of every model."""
    tokens = {label: [reply.tokens for reply in rows] for label, rows in generations.items()}
    figure = _spreads(tokens)
    figure.axes[0].set_xlim(left=0)
    figure.axes[0].set_xlabel("tokens of a greedy reply")
    return figure


def margins(pairs: Mapping[str, Sequence[PairScore]]) -> Figure:
    """Margins of every model; the base model's are 0 by definition."""
    figure = _spreads({label: list(map(reward_margin, rows)) for label, rows in pairs.items()})
    figure.axes[0].axvline(0, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    figure.axes[0].set_xlabel("margin of a pair, nats")
    return figure


def _spreads(values: Mapping[str, Sequence[float]]) -> Figure:
    """Values of every model: middle half as a bar, 5 to 95 % as a line, median as a dot."""
    figure, axes = empty_figure(height=height_for(len(values)))
    for row, numbers in enumerate(values.values()):
        p5, q1, median, q3, p95 = np.quantile(numbers, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        axes.plot([p5, p95], [row, row], color=BLUE, linewidth=1.5, zorder=2)
        axes.plot([q1, q3], [row, row], color=BLUE, linewidth=7, alpha=0.45, zorder=3)
        axes.plot([median], [row], "o", color=PAPER, markeredgecolor=BLUE, markersize=7, zorder=4)
    name_rows(axes, list(values))
    return figure


def _draw_estimates(
    axes: Axes,
    known: Sequence[tuple[float, Estimate]],
    *,
    label: str,
    mark: tuple[str, str],
) -> None:
    """Draws one mark with its interval per (height, estimate)."""
    colour, marker = mark
    axes.errorbar(
        [estimate.value for _, estimate in known],
        [row for row, _ in known],
        xerr=[
            [max(0.0, estimate.value - estimate.low) for _, estimate in known],
            [max(0.0, estimate.high - estimate.value) for _, estimate in known],
        ],
        fmt=marker,
        color=colour,
        markersize=6,
        elinewidth=1.6,
        label=label,
    )
