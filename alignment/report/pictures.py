"""The figures of the page, in order, each with a caption.

A figure without rows is omitted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator
from alignment.records import EvalReport, Generation, PairScore
from alignment.report import plots
from alignment.report.svg import to_svg
from alignment.report.tables import tasks_with


class Picture(NamedTuple):
    """A figure, its caption, its width in pixels, and whether it takes a whole row.

    `svg` is markup that matplotlib wrote and escaped; the page includes it unescaped.
    """

    caption: str
    svg: str
    width: int
    wide: bool = False


def result_pictures(
    reports: Sequence[EvalReport],
    *,
    final: str,
    generations: Mapping[str, Sequence[Generation]],
    pairs: Sequence[PairScore],
) -> Iterator[Picture]:
    """The figures of the evaluation. `pairs` are the scores of `final`."""
    for evaluator in evaluators.EVALUATORS:
        if evaluator.plotted and any(evaluator.name in report.overall for report in reports):
            name = evaluator.name.replace("_", "-")
            figure = plots.model_estimates(reports, evaluator.name)
            yield _picture(name, _caption(evaluator), figure)
    if replies := {label: rows for label, rows in generations.items() if rows}:
        caption = "Reply length: median, middle half, and 5 to 95 %."
        yield _picture("length", caption, plots.reply_lengths(replies))
    if pairs:
        caption = f"Margin of {final} by length: a slope means a preference for length."
        yield _picture("margin", caption, plots.margin_by_length(pairs))


def task_picture(reports: Sequence[EvalReport], metric: str) -> Iterator[Picture]:
    """The heat map of one metric, if some report has it by task type."""
    if tasks_with(metric, reports):
        caption = "Darker colour means a higher value."
        yield _picture("tasks", caption, plots.task_heat_map(reports, metric), wide=True)


def training_pictures(histories: Mapping[str, plots.History]) -> Iterator[Picture]:
    """The curves of every step that logged a loss."""
    for number, (step, history) in enumerate(histories.items()):
        if any("loss" in row for row in history):
            yield _picture(f"training-{number}", step, plots.training_curves(history))


def _caption(evaluator: Evaluator) -> str:
    metric = evaluator.in_words[:1].upper() + evaluator.in_words[1:]
    if evaluator.chance is None:
        return f"{metric} with 95 % intervals."
    return f"{metric}; the dashed line is chance."


def _picture(name: str, caption: str, figure: Figure, *, wide: bool = False) -> Picture:
    width = round(figure.get_figwidth() * figure.dpi)
    return Picture(caption=caption, svg=to_svg(figure, name=name), width=width, wide=wide)
