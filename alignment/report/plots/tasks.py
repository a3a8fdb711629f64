"""The heat map of one metric by task type and model."""

from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignment.evaluate.evaluators import evaluator_of
from alignment.records.evaluation import EvalReport
from alignment.report.metric import show_value
from alignment.report.plots.canvas import BLUE, INK, PAPER, empty_figure, name_rows, short_label
from alignment.report.tables import tasks_with


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
    axes.set_xticks(range(len(reports)), [short_label(report.model) for report in reports])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(visible=False)
    return figure


def _extremes(values: Collection[float]) -> tuple[float, float]:
    """The lowest and the highest value, made different if they are equal."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return low, high if high > low else low + 1.0


def _cell(axes: Axes, column: int, row: int, depth: float, text: str) -> None:
    axes.add_patch(
        Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=BLUE, alpha=0.06 + 0.9 * depth)
    )
    colour = PAPER if depth > 0.7 else INK
    axes.text(column, row, text, color=colour, fontsize=11, ha="center", va="center_baseline")
