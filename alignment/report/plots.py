"""The figures of a run. Each function takes records and returns a matplotlib `Figure`.

Nothing is saved, and pyplot with its global list of open figures is not used. Sizes are in pixels
at the width that the page shows, so a label of size 11 is 11 pixels high. The colours of Okabe and
Ito (2008) work for every kind of colour vision, and no series is identified by colour alone;
`svg.py` replaces them by the page's own colours, light or dark.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from alignment.evaluate.evaluators import evaluator_of
from alignment.evaluate.metrics import reward_margin
from alignment.records import Estimate, EvalReport, Generation, PairScore
from alignment.report.metric import MINUS, show, show_value
from alignment.report.table import printable
from alignment.report.tables import tasks_with

INK, MUTED, GRID, PAPER = "#24292f", "#6b7280", "#e3e6ea", "#fefefe"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"

History = Sequence[Mapping[str, object]]
"""Rows as a trainer logs them: `step` and any of `loss`, `eval_loss`, `rewards/margins`, ..."""

WIDTH = 480
_PIXELS_PER_INCH = 72
_MOST_POINTS = 400
_LONGEST_LABEL = 22


_MARKS = ((BLUE, "o"), (VERMILION, "D"), (GREEN, "s"), (PURPLE, "^"))
"""Colour and marker of each series in a plot."""


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
        _draw_estimates(axes, known, label=label, mark=_MARKS[number % len(_MARKS)])
    name_rows(axes, [report.model for report in reports])
    if evaluator.share:
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".50", ".75", "1"])
    if evaluator.chance is not None:
        dashed = (0, (3, 3))
        axes.axvline(evaluator.chance, color=MUTED, linewidth=1, linestyle=dashed, zorder=1)
    axes.set_xlabel(evaluator.in_words)
    if len(series) > 1:
        legend(axes)
    return figure


def reply_lengths(generations: Mapping[str, Sequence[Generation]]) -> Figure:
    """Reply tokens of every model: middle half as a bar, 5 to 95 % as a line, median as a dot."""
    figure, axes = empty_figure(height=height_for(len(generations)))
    for row, replies in enumerate(generations.values()):
        lengths = [reply.tokens for reply in replies]
        p5, q1, median, q3, p95 = np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        axes.plot([p5, p95], [row, row], color=BLUE, linewidth=1.5, zorder=2)
        axes.plot([q1, q3], [row, row], color=BLUE, linewidth=7, alpha=0.45, zorder=3)
        axes.plot([median], [row], "o", color=PAPER, markeredgecolor=BLUE, markersize=7, zorder=4)
    name_rows(axes, list(generations))
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens of a greedy reply")
    return figure


def margin_by_length(pairs: Sequence[PairScore]) -> Figure:
    """Margin of each pair against how much longer its chosen reply is.

    A slope means that the model partly learned a preference for length.
    """
    figure, axes = empty_figure(height=300)
    longer = [float(pair.chosen_tokens - pair.rejected_tokens) for pair in pairs]
    margins = [reward_margin(pair) for pair in pairs]
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(0, color=MUTED, linewidth=1)
    for chosen_gained, colour, marker in ((True, BLUE, "o"), (False, VERMILION, "D")):
        points = [(x, y) for x, y in zip(longer, margins, strict=True) if (y > 0) == chosen_gained]
        xs, ys = zip(*_thinned(points), strict=True) if points else ((), ())
        label = "chosen gained" if chosen_gained else "rejected gained"
        axes.plot(xs, ys, marker, color=colour, alpha=0.5, markersize=5, label=label)
    axes.set_xlabel(f"chosen {MINUS} rejected, tokens{_correlation(longer, margins)}")
    axes.set_ylabel("margin, nats")
    legend(axes)
    return figure


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


def task_heat_map(reports: Sequence[EvalReport], metric: str) -> Figure:
    """One cell per task type and model; a higher value has a darker colour."""
    tasks = tasks_with(metric, reports)
    found = {
        (column, row): report.by_task_type[task][metric].value
        for row, task in enumerate(tasks)
        for column, report in enumerate(reports)
        if metric in report.by_task_type.get(task, {})
    }
    # Shares have the same colour scale in every plot; other metrics have no common scale.
    low, high = (0.0, 1.0) if evaluator_of(metric).share else _extremes(found.values())
    cells = min(96 * len(reports), max(60 * len(reports), 740))
    figure, axes = empty_figure(height=40 + 26 * len(tasks), width=140 + cells)
    for (column, row), value in found.items():
        depth = (value - low) / (high - low)
        _cell(axes, column, row, depth, show_value(metric, value))
    axes.set_xlim(-0.5, len(reports) - 0.5)
    name_rows(axes, tasks)
    axes.set_xticks(range(len(reports)), [_label(report.model) for report in reports])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(visible=False)
    return figure


def _extremes(values: Collection[float]) -> tuple[float, float]:
    """The lowest and the highest value, made different if they are equal."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return low, high if high > low else low + 1.0


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
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _label(text: str) -> str:
    """A short text, with `$` escaped so that matplotlib does not parse it as a formula."""
    line = printable(text)
    clipped = line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
    return clipped.replace("$", r"\$")


def legend(axes: Axes) -> None:
    """Adds a one-line legend above the plot, without series that have no data."""
    drawn = [
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


def _cell(axes: Axes, column: int, row: int, depth: float, text: str) -> None:
    axes.add_patch(
        Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=BLUE, alpha=0.06 + 0.9 * depth)
    )
    colour = PAPER if depth > 0.7 else INK
    axes.text(column, row, text, color=colour, fontsize=11, ha="center", va="center_baseline")


def _column(history: History, name: str) -> list[tuple[float, float]]:
    """(step, value) of every row that has a finite number under this name."""
    points = []
    for row in history:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, int | float) and isinstance(value, int | float):
            points.append((float(step), float(value)))
    return _thinned([point for point in points if math.isfinite(point[1])])


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every k-th point, so that a long run does not make a heavy page."""
    return points[:: math.ceil(len(points) / _MOST_POINTS) or 1]


def _correlation(first: Sequence[float], second: Sequence[float]) -> str:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return ""
    return f"   (r = {show(statistics.correlation(first, second), digits=2)})"
