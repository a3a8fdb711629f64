"""The table of what a gate found, round by round."""

from collections.abc import Sequence

from alignment.evaluate.verdict import Verdict
from alignment.report.table import Cell, Table


def gate_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per check of the gate on a round, with its result."""
    rows = []
    for verdict in verdicts:
        first_cells = [
            Cell(text=verdict.candidate),
            Cell(text=verdict.word, tone="good" if verdict.kept else "bad"),
        ]
        for check in verdict.checks:
            rows.append([*first_cells, Cell(text=check.words, tone="" if check.passed else "bad")])
            first_cells = [Cell(text=""), Cell(text="")]
    return Table.of(
        "Findings of the gate",
        ["Round", "Verdict", "Against the model it started from, and the anchor"],
        rows,
        align="lll",
        note=_rule_of(verdicts),
    )


def _rule_of(verdicts: Sequence[Verdict]) -> str:
    if any(verdict.anchor for verdict in verdicts):
        return (
            "A round is kept if, on the same held-out rows, it is shown not to lie below the "
            "anchor (the model approved last) by more than the margin, is not shown to be worse "
            "than the model it started from, and stays within every budget."
        )
    return (
        "A round is kept unless it is shown to be worse on the same held-out rows (interval "
        "and sign test) or exceeds one of the limits."
    )
