"""The numbers of a report, written beside the page as JSON: what its tables and figures show.

The page is made from the same object, so the two cannot disagree. Not here: single rows.
"""

from typing import Literal

from pydantic import Field

from alignment.evaluate.verdict import Verdict
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport
from alignment.records.refs import DataRef
from alignment.report.compare import Comparison
from alignment.report.cost import Spent
from alignment.report.differences import ModelDifferences
from alignment.report.own_answers import OwnCounts
from alignment.report.trail import Trail


class StepNumbers(Frozen):
    """One step of the run.

    Attributes:
        seconds: of the process that built it.
        this_run: seconds that this run spent on it; None: reused, or unknown.
    """

    name: str
    key: str
    seconds: float
    this_run: float | None
    metrics: dict[str, float]


class Numbers(Frozen):
    """All numbers of a page.

    Attributes:
        final: label of the model that the run produces.
        models: key of each model, by its label.
        outcomes: the verdict on each round in a word or two: "kept", "cannot be judged".
        comparisons: the final model against the others, row by row.
        differences: the final model minus its parent, anchor, SFT and base, in every metric.
        own: what became of the answers of each round on own answers.
        next: commands on the final model.
    """

    format: Literal[1] = 1
    title: str
    created: str
    command: str
    headline: str
    notes: tuple[str, ...]
    final: str | None
    models: dict[str, str]
    trail: Trail | None
    verdicts: tuple[Verdict, ...]
    outcomes: dict[str, str] = Field(default_factory=dict)
    evaluations: tuple[EvalReport, ...]
    comparisons: tuple[Comparison, ...]
    differences: tuple[ModelDifferences, ...] = ()
    data: dict[str, DataRef]
    own: tuple[OwnCounts, ...] = ()
    cost: tuple[Spent, ...]
    steps: tuple[StepNumbers, ...]
    next: tuple[str, ...]
