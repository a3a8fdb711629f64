"""`sft-dpo inbox`: show what a line makes of each file in its inbox, and return refused batches."""

from pathlib import Path

from alignment.config.file import load
from alignment.rounds.inbox import Arrival, scan
from alignment.rounds.inbox_files import SkippedFile
from alignment.rounds.intake import what_became_of
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import Note, brief
from alignment.rounds.state import State
from alignment.rounds.steps import inbox_of
from flows.printing import say
from flows.stores import configured_store


def show_inbox(config: Path, overrides: list[str], *, retry: bool) -> None:
    """Print every file with what became of it; with `retry`, return refused batches first."""
    settings = load(config, overrides)
    inbox = inbox_of(settings)
    line = RoundLine(store=configured_store(settings), name=inbox.line)
    if retry:
        _return_all(line)
    state = line.state()
    for file in scan(inbox, known=state.spent | state.refused.keys()):
        say(brief(Note.of(file.file, _status(file, state))))
    for batch in state.returned:
        say(f"{batch.shown_file}: the next round looks at it again")


def _return_all(line: RoundLine) -> None:
    state = line.state()
    batches = (*(refused.batch for refused in state.refused.values()), *state.set_aside)
    line.give_back(batches, "a person wants them tried again")


def _status(file: Arrival | SkippedFile, state: State) -> str:
    if isinstance(file, SkippedFile):
        return file.why
    return what_became_of(file.digest, state)
