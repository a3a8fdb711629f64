"""`sft-dpo chat --compare A B`: two replies to each message, blind; a vote becomes a pair."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from alignment.records.text import Message, PreferencePair
from alignment.store.journal import Journal
from flows.printing import say

Turns = list[tuple[str, str]]
Reply = Callable[[Turns], str]
"""From the turns so far, as (role, text), to a model's reply."""
NEITHER = "neither"


class Contender(NamedTuple):
    """A model as the user named it."""

    name: str
    reply: Reply


def compare_chat(
    first: Contender, second: Contender, inbox: Path, read: Callable[[str], str | None]
) -> None:
    """Show both replies to each line in random order, and note which one is preferred.

    The chat goes on with that reply; which model wrote it is said at the end. An empty line starts
    a new chat.

    Args:
        first: one model.
        second: the other.
        inbox: folder for the pairs, in one file for each session.
        read: reads a line of the user with a prompt; None at the end of the input.
    """
    votes = Votes(inbox / f"chat-{datetime.now():%Y%m%d-%H%M%S}.jsonl")
    turns: Turns = []
    while (line := read("> ")) is not None:
        if not line:
            turns = []
            continue
        turns.append(("user", line))
        shown = random.sample((first, second), 2)
        replies = [model.reply(turns) for model in shown]
        at = _vote(replies, read)
        if at is None:
            votes.counts[NEITHER] += 1
        else:
            votes.add(turns, replies[at], replies[1 - at], shown[at].name)
        turns.append(("assistant", replies[at or 0]))
    votes.report([first.name, second.name])


class Votes:
    """The votes of a session; each is in the file before the next message."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.counts: Counter[str] = Counter()

    def add(self, turns: Turns, chosen: str, rejected: str, winner: str) -> None:
        """Append a pair to the file, which is made with the first one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pair = PreferencePair.of(
            _messages(turns),
            chosen=_messages([("assistant", chosen)]),
            rejected=_messages([("assistant", rejected)]),
            task_type="chat",
            source="chat",
        )
        Journal(self._path, PreferencePair).append(pair)
        self.counts[winner] += 1

    def report(self, names: Sequence[str]) -> None:
        """Say which model was preferred how often, and where the pairs are."""
        say("; ".join(f"{name}: {self.counts[name]}" for name in [*names, NEITHER]))
        if self.counts.total() > self.counts[NEITHER]:
            say(f"pairs: {self._path}")


def _vote(replies: Sequence[str], read: Callable[[str], str | None]) -> int | None:
    """Which of two replies the user prefers: 0 or 1; None for neither."""
    if replies[0] == replies[1]:
        say(f"both: {replies[0]}")
        return None
    for number, reply in enumerate(replies, start=1):
        say(f"[{number}] {reply}")
    while (answer := read("better, 1 or 2 (Enter: neither)? ")) not in ("1", "2", "", None):
        say("1, 2 or Enter", error=True)
    return int(answer) - 1 if answer else None


def _messages(turns: Turns) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)
