"""Two models of a store beside each other: configs, metrics on the same rows, replies.

Usually the models of two runs. What they are compared on are the held-out rows that both have seen,
found by id; rows of one alone are counted, not compared. Not here: which models (`flows/commands`).
"""

from collections.abc import Sequence
from typing import Any

from alignment.errors import UsageError
from alignment.records.base import Frozen, Json
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.report import compare, examples, tables
from alignment.report.gates import rows_of
from alignment.report.page import environment
from alignment.report.table import Cell, Table
from alignment.store.runs import Change, changes
from alignment.store.store import Store


class Side(Frozen):
    """One of the two.

    Attributes:
        label: what it is called in tables: its run and its model.
        run: reference of its run; empty if the model is of none.
        model, evaluation: keys.
        config: the config of its run; None if the model is of no run.
        command: that of its run.
    """

    label: str
    run: str = ""
    model: str
    evaluation: str
    config: Json | None = None
    command: str = ""


class Rows(Frozen):
    """How many held-out rows both sides have, and how many only one of them."""

    both: int
    only_first: int
    only_second: int


class TwoRuns(Frozen):
    """The comparison: the first is what there was, the second what is judged."""

    first: Side
    second: Side
    changes: tuple[Change, ...]
    evaluations: tuple[EvalReport, EvalReport]
    pairs: Rows
    prompts: Rows
    comparisons: tuple[compare.Comparison, ...]
    generations: dict[str, tuple[Generation, ...]]

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if not self.comparisons:
            return (
                f"{self.first.label} and {self.second.label} have no held-out rows in common, so "
                "their numbers cannot be compared. Evaluate both on the same evaluation.data."
            )
        return compare.headline(self.comparisons)

    @property
    def differing(self) -> list[examples.SideBySide]:
        """Prompts that both answered, in different words; those that one passes come first."""
        found = examples.side_by_side(self.generations, self.second.label)
        return [row for row in found if len({reply.reply for reply in row.replies.values()}) > 1]

    def numbers(self) -> dict[str, Any]:
        """Everything but the replies, for programs."""
        dumped = self.model_dump(mode="json", exclude={"generations"})
        return {"headline": self.headline, **dumped}


def compare_two(store: Store, first: Side, second: Side) -> TwoRuns:
    """Compare two evaluated models of a store.

    Raises:
        UsageError: both are the same model on the same rows.
    """
    if first.evaluation == second.evaluation:
        raise UsageError(
            f"{first.label} and {second.label} are the same model ({first.model}). Name two runs, "
            "or models of runs as RUN/round-2: sft-dpo runs"
        )
    reports = [_report(store, side) for side in (first, second)]
    scored = [rows_of(store, report) for report in reports]
    labels = (first.label, second.label)
    pairs = dict(zip(labels, _common([row.pairs for row in scored]), strict=True))
    replies = dict(zip(labels, _common([row.generations for row in scored]), strict=True))
    return TwoRuns(
        first=first,
        second=second,
        changes=tuple(changes(first.config or {}, second.config or {})),
        evaluations=(reports[0], reports[1]),
        pairs=_counted(scored[0].pairs, scored[1].pairs),
        prompts=_counted(scored[0].generations, scored[1].generations),
        comparisons=compare.compare(second.label, generations=replies, pairs=pairs),
        generations={label: tuple(rows) for label, rows in replies.items()},
    )


def changes_table(found: TwoRuns) -> Table:
    """One row per setting that differs."""
    rows = [[Cell(text=c.key), Cell(text=c.before), Cell(text=c.after)] for c in found.changes]
    columns = ["Setting", found.first.label, found.second.label]
    return Table.of("What differs in the configs", columns, rows, align="lll")


def metrics_table(found: TwoRuns) -> Table:
    """The metrics of both on all of their own rows."""
    return tables.evaluation_table(found.evaluations)


def paired_table(found: TwoRuns) -> Table:
    """The differences on the rows that both have."""
    title = f"{found.second.label} against {found.first.label}, on the same rows"
    return compare.paired_table(found.comparisons).model_copy(update={"title": title})


def rows_in_words(found: TwoRuns) -> str:
    """How many rows were compared."""
    parts = []
    for kind, rows in (("pairs", found.pairs), ("prompts", found.prompts)):
        alone = rows.only_first + rows.only_second
        left = f" ({alone:,} that only one has are left out)" if alone else ""
        parts += [f"{rows.both:,} {kind}{left}"] if rows.both or alone else []
    return f"Compared on the same {' and '.join(parts)}." if parts else ""


def render(found: TwoRuns) -> str:
    """The comparison as one self-contained HTML page."""
    template = environment().get_template("two_runs.html.j2")
    return template.render(
        found=found,
        title=f"{found.second.label} against {found.first.label}",
        claims=compare.claims(found.comparisons),
        changes=changes_table(found),
        metrics=metrics_table(found),
        paired=paired_table(found),
        rows=rows_in_words(found),
        side_by_side=found.differing,
        kinds=examples.CHANGES,
    )


def _report(store: Store, side: Side) -> EvalReport:
    report = EvalReport.model_validate(store.open(side.evaluation).output)
    return report.model_copy(update={"model": side.label})


def _common(sides: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows of each side that all sides have."""
    shared = set.intersection(*({row.id for row in rows} for rows in sides))
    return [[row for row in rows if row.id in shared] for rows in sides]


def _counted(
    first: Sequence[PairScore | Generation], second: Sequence[PairScore | Generation]
) -> Rows:
    a, b = ({row.id for row in rows} for rows in (first, second))
    return Rows(both=len(a & b), only_first=len(a - b), only_second=len(b - a))
