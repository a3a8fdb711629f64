"""The step that measures a judge on pairs labelled by people, before anything is answered."""

from typing import Any, Literal

from alignment.candidates.records import JudgeCall
from alignment.candidates.settings import JudgeLabel, PeopleConfig
from alignment.errors import DataError
from alignment.pipeline.step import Context, Outcome, Step
from alignment.pipeline.steps.data import prefix_errors
from alignment.records.base import digest_of
from alignment.records.refs import RowsRef
from alignment.store.journal import Journal

CALLS = "calls.jsonl"
UNPAID = frozenset(
    {
        "max_tokens",
        "max_cost",
        "price_read",
        "price_written",
        "key_file",
        "seconds",
        "retries",
        "backoff",
        "people",
    }
)
"""Settings of a judge that decide how it is reached, paid and measured, but no choice of it."""


class MeasureJudge(Step):
    """Measure how often a judge agrees with people; `digest` identifies their pairs.

    Rounds that use the same judge and pairs share one measurement.
    """

    stage: Literal["agreement"] = "agreement"
    title = "compare judge with people"
    produces = RowsRef
    headline = ("agreement", "pairs", "undecided")
    nominal_seconds = 5.0
    notes_matter = True
    label: JudgeLabel
    people: PeopleConfig
    digest: str

    @property
    def key(self) -> str:
        """As for any step, without its name, and how the judge is reached and paid."""
        left_out: dict[str, Any] = {
            "name": True,
            "label": UNPAID,
        }
        fields = self.model_dump(mode="json", exclude=left_out)
        return f"{self.stage}-{digest_of([self.stage, self.version, fields])[:24]}"

    def build(self, context: Context) -> Outcome:
        """Write the calls that an earlier attempt has not made, and count."""
        from alignment.candidates.people import measure_judge

        calls = Journal(context.workspace.out / CALLS, JudgeCall)
        with prefix_errors(self):
            if self.people.digest() != self.digest:
                raise DataError("the people's pairs were changed; run the command again.")
            found = measure_judge(self.label, self.people, calls, context.progress)
        return Outcome(
            output=RowsRef(rows=f"store:{self.key}/{CALLS}", count=len(calls.rows)),
            metrics={
                "agreement": found.share,
                "pairs": float(found.pairs),
                "undecided": float(found.undecided),
            },
            notes=(found.in_words(),),
        )
