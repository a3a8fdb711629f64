"""Asks a judge which of two answers is better, within its budget.

Every call is on disk before the next one is made, with what the judge said, so none is paid twice.
Not here: what is asked (`judge.py`, `people.py`), what it may cost (`budget.py`), how a call is
made (`endpoint.py`).
"""

from collections.abc import Sequence
from functools import reduce

from alignment.candidates.budget import JudgeQuestion, Paid, check_budget
from alignment.candidates.records import JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.errors import ConfigError, DataError
from alignment.store.journal import Journal
from alignment.store.progress import Progress

ENOUGH = 20
"""Calls after which a judge that has not replied with a letter is asked no more."""


def ask_judge(
    label: JudgeLabel,
    questions: Sequence[JudgeQuestion],
    calls: Journal[JudgeCall],
    progress: Progress,
) -> None:
    """Make every call that is not in `calls` yet.

    Raises:
        ConfigError: the budget cannot suffice, or the endpoint refuses the call.
        DataError: the judge answered no call with a letter.
        Interrupted: the endpoint is overloaded or away; the same command goes on.
    """
    done = {(row.prompt_id, row.sample, row.swapped) for row in calls.rows}
    missing = [one for one in questions if one.id not in done]
    spent = reduce(Paid.plus, calls.rows, Paid())
    check_budget(label, missing, spent)
    from alignment.candidates.endpoint import asking  # with httpx

    with asking(label, progress) as ask:
        for number, one in enumerate(missing):
            if number == ENOUGH:
                _check_letters(calls.rows)
            if limit := spent.exceeds(label):
                raise ConfigError(
                    f"{limit} is spent after {len(calls.rows)} of {len(questions)} calls; raise it "
                    "and run again: no call is repeated."
                )
            call = ask(one)
            calls.append(call)
            spent = spent.plus(call)
            progress.update("judging", len(calls.rows), len(questions))
    _check_letters(calls.rows)


def _check_letters(calls: Sequence[JudgeCall]) -> None:
    if calls and all(row.choice is None for row in calls):
        raise DataError(
            f"in {len(calls)} calls the judge never replied with A, B or C: {calls[0].raw!r:.200}. "
            "Use another label.model or label.instruction, or a larger label.reply_tokens."
        )


def decision(choices: Sequence[float | None]) -> float | None:
    """What both orders say together: 1 better, -1 worse, 0 undecided; None if a reply says nothing.

    A judge that changes its mind with the order has not decided.
    """
    if None in choices:
        return None
    return choices[0] if len(set(choices)) == 1 else 0.0


def decisions(calls: Sequence[JudgeCall]) -> dict[tuple[str, int], float | None]:
    """What the judge thinks of each answer, by its prompt and number."""
    choices: dict[tuple[str, int], list[float | None]] = {}
    for row in calls:
        choices.setdefault((row.prompt_id, row.sample), []).append(row.choice)
    return {name: decision(both) for name, both in choices.items()}
