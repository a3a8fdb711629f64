"""The figures of the page, in order, each with a caption.

A figure that would show nothing is left out: one without rows, or with the same value everywhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from matplotlib.figure import Figure

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator
from alignment.evaluate.metrics import reward_margin
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.report import plots
from alignment.report.svg import to_svg
from alignment.report.tables import tasks_with
from alignment.report.trail import Trail

Row = TypeVar("Row")
FEW_ROUNDS = 8
"""So many rounds fit into a figure of a phone's width."""
FEWEST = 3
"""Distinct values that a distribution needs to be drawn."""


class Picture(NamedTuple):
    """A figure, its caption, its width in pixels, and whether it takes a whole row.

    `svg` is markup that matplotlib wrote and escaped; the page includes it unescaped.
    """

    caption: str
    svg: str
    width: int
    wide: bool = False


def result_pictures(reports: Sequence[EvalReport]) -> Iterator[Picture]:
    """The metrics of every model."""
    for evaluator in evaluators.EVALUATORS:
        if evaluator.plotted and _differs(_values(reports, evaluator.name)):
            name = evaluator.name.replace("_", "-")
            figure = plots.model_estimates(reports, evaluator.name)
            yield _picture(name, _caption(evaluator), figure)


def row_pictures(
    reports: Sequence[EvalReport],
    *,
    final: str,
    generations: Mapping[str, Sequence[Generation]],
    pairs: Mapping[str, Sequence[PairScore]],
) -> Iterator[Picture]:
    """What lies behind the metrics: lengths, margins, and how confident ones come true."""
    if lengths := _that_vary(generations, lambda reply: reply.tokens):
        caption = "Reply length: median, middle half, and 5 to 95 %."
        yield _picture("length", caption, plots.reply_lengths(lengths))
    if margins := _that_vary(pairs, reward_margin):
        caption = "Margin: median, middle half, and 5 to 95 %."
        yield _picture("margins", caption, plots.margins(margins))
    final_pairs = pairs.get(final, ())
    if len({pair.chosen_tokens - pair.rejected_tokens for pair in final_pairs}) >= FEWEST:
        caption = f"Margin of {final} by length: a slope means a preference for length."
        yield _picture("margin", caption, plots.margin_by_length(final_pairs))
    for report in reports:
        if report.model == final and len(report.reliability) >= FEWEST:
            caption = f"How often {final} is right at each confidence (reliability)."
            yield _picture("reliability", caption, plots.reliability(report.reliability))


def anchor_picture(trail: Trail | None) -> Iterator[Picture]:
    """The rounds since the anchor; one round is told by the numbers beside it."""
    if trail is not None and len(trail.rounds) > 1 and trail.points:
        caption = f"Each round against {trail.anchor}. Bars reach down to what is not excluded."
        yield _picture(
            "trail", caption, plots.since_anchor(trail), wide=len(trail.rounds) > FEW_ROUNDS
        )


def task_picture(reports: Sequence[EvalReport], metric: str) -> Iterator[Picture]:
    """The heat map of one metric, if it is known for several task types."""
    if len(tasks_with(metric, reports)) > 1:
        caption = "Darker colour means a higher value."
        yield _picture("tasks", caption, plots.task_heat_map(reports, metric), wide=True)


def training_pictures(histories: Mapping[str, plots.History]) -> Iterator[Picture]:
    """The curves of every step that logged several losses."""
    for number, (step, history) in enumerate(histories.items()):
        if sum("loss" in row for row in history) > 1:
            yield _picture(f"training-{number}", step, plots.training_curves(history))


def _values(reports: Sequence[EvalReport], name: str) -> list[float]:
    return [report.overall[name].value for report in reports if name in report.overall]


def _differs(values: Sequence[float]) -> bool:
    """Whether a chart of these would show more than one of them does."""
    return len(set(values)) > 1


def _that_vary(
    rows: Mapping[str, Sequence[Row]], value: Callable[[Row], float]
) -> dict[str, Sequence[Row]]:
    """The models whose values have a distribution worth drawing."""
    return {label: some for label, some in rows.items() if len(set(map(value, some))) >= FEWEST}


def _caption(evaluator: Evaluator) -> str:
    metric = evaluator.in_words[:1].upper() + evaluator.in_words[1:]
    if evaluator.chance is None:
        return f"{metric} with 95 % intervals."
    return f"{metric}; the dashed line is chance."


def _picture(name: str, caption: str, figure: Figure, *, wide: bool = False) -> Picture:
    width = round(figure.get_figwidth() * figure.dpi)
    return Picture(caption=caption, svg=to_svg(figure, name=name), width=width, wide=wide)
