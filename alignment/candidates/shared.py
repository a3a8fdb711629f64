"""A journal that the processes of a step on several devices write together, each its own part.

A part outlives a kill: whoever builds the step next, on however many devices, first puts the parts
into the whole, each row once. Not here: which rows a process makes (`scoring/ranks.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel, answer_id
from alignment.scoring.ranks import Ranks
from alignment.store.durable import remove
from alignment.store.journal import Journal
from alignment.store.workspace import Workspace

LineT = TypeVar("LineT", Answer, AnswerLabel)


@contextmanager
def shared_journal(workspace: Workspace, name: str, kind: type[LineT]) -> Iterator[Journal[LineT]]:
    """The journal `name` of a step's artifact; each process adds its rows, and at the end has all.

    `kind` is the class of the rows.
    """
    ranks, whole = Ranks.current(), workspace.out / name

    def join() -> list[LineT]:
        return _join(Journal(whole, kind), sorted(workspace.parts.glob(f"*-{name}")))

    known = ranks.first(join)
    part = workspace.parts / f"{ranks.number}-{name}" if ranks.number else whole
    journal = Journal(part, kind)
    journal.rows[:] = known
    yield journal
    ranks.gathered(None)  # all have written their parts
    journal.rows[:] = ranks.first(join)


def _join(journal: Journal[LineT], parts: list[Path]) -> list[LineT]:
    """The rows of a journal, after those of the parts were added to it."""
    known = {answer_id(row) for row in journal.rows}
    for part in parts:
        for row in Journal(part, journal.kind).rows:
            if answer_id(row) not in known:
                journal.append(row)
                known.add(answer_id(row))
        remove("journal.part", part)
    return journal.rows
