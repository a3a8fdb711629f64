"""The large numbers at the top of a page."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.evaluate import evaluators
from alignment.evaluate.evaluators import evaluator_of
from alignment.records.evaluation import EvalReport
from alignment.report import metric
from alignment.report.trail import Trail


class Tile(NamedTuple):
    """One large number: the final model's value, and what to compare it with."""

    label: str
    value: str
    interval: str
    before: str
    tone: str = ""


def anchor_tiles(trail: Trail | None, final: str) -> Iterator[Tile]:
    """How far the final model lies above or below the anchor, in every metric with a margin."""
    if trail is None:
        return
    for point in trail.of_round(final):
        allowed = "" if trail.margin is None else f"{trail.margin:g} below is allowed"
        yield Tile(
            label=f"{evaluator_of(point.metric).label} since {trail.anchor}",
            value=metric.signed(point.difference),
            interval=f"at worst {metric.signed(point.at_worst)}, n = {point.n:,}",
            before=allowed,
            tone="bad" if trail.margin is not None and point.at_worst < -trail.margin else "",
        )


def metric_tiles(reports: Sequence[EvalReport], final: str) -> list[Tile]:
    """Decisive metrics of the final model, with the first model's values if it is another model."""
    by_model = {report.model: report.overall for report in reports}
    numbers = by_model.get(final, {})
    first = reports[0].model if reports and reports[0].model != final else None
    before = by_model[first] if first is not None else {}
    return [
        Tile(
            label=f"{shown.label}, {final}",
            value=metric.show_value(shown.name, numbers[shown.name].value),
            interval=metric.show_interval(shown.name, numbers[shown.name]),
            before=f"{first} {metric.show_value(shown.name, before[shown.name].value)}"
            if shown.name in before
            else "",
        )
        for shown in evaluators.EVALUATORS
        if shown.column and shown.decides and shown.name in numbers
    ]
