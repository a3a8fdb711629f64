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


class Comparison:
    """A session: the chat, and votes on two replies to each message, in random order.

    The chat goes on with the preferred reply. Each vote is in the file before the next message.

    Args:
        first: one model.
        second: the other.
        inbox: folder for the pairs, in one file for each session.

    Attributes:
        turns: the chat, up to the message that waits for a vote.
        replies: two replies to it; empty if none waits.
    """

    def __init__(self, first: Contender, second: Contender, inbox: Path) -> None:
        self._path = inbox / f"chat-{datetime.now():%Y%m%d-%H%M%S}.jsonl"
        self._models = [first, second]
        self._counts: Counter[str] = Counter()
        self._shown: list[Contender] = []
        self.turns: Turns = []
        self.replies: list[str] = []

    def ask(self, text: str) -> None:
        """Ask both models; if they say the same, the chat goes on without a vote."""
        shown = random.sample(self._models, 2)
        turns = [*self.turns, ("user", text)]
        replies = [model.reply(turns) for model in shown]
        self.turns, self.replies, self._shown = turns, replies, shown
        if replies[0] == replies[1]:
            self.vote(None)

    def vote(self, at: int | None) -> None:
        """Prefer reply 0 or 1; with None neither, and the chat goes on with the first."""
        if at is not None:
            self._add(self.replies[at], self.replies[1 - at])
        self._counts[NEITHER if at is None else self._shown[at].name] += 1
        self.turns = [*self.turns, ("assistant", self.replies[at or 0])]
        self.replies = []

    def start_again(self) -> None:
        """Start a new chat."""
        self.turns, self.replies = [], []

    def result(self) -> list[str]:
        """Which model was preferred how often, and where the pairs are."""
        names = [*(model.name for model in self._models), NEITHER]
        lines = ["; ".join(f"{name}: {self._counts[name]}" for name in names)]
        return [*lines, f"pairs: {self._path}"] if self._path.exists() else lines

    def _add(self, chosen: str, rejected: str) -> None:
        """Append a pair to the file, which is made with the first one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        pair = PreferencePair.of(
            _messages(self.turns),
            chosen=_messages([("assistant", chosen)]),
            rejected=_messages([("assistant", rejected)]),
            task_type="chat",
            source="chat",
        )
        Journal(self._path, PreferencePair).append(pair)


def compare_chat(session: Comparison, read: Callable[[str], str | None]) -> None:
    """Hold a session on a terminal; an empty line starts a new chat.

    Args:
        session: the session.
        read: reads a line of the user with a prompt; None at the end of the input.
    """
    while (line := read("> ")) is not None:
        if not line:
            session.start_again()
            continue
        session.ask(line)
        if session.replies:
            session.vote(_vote(session.replies, read))
        else:
            say(f"both: {session.turns[-1][1]}")
    for line in session.result():
        say(line)


def _vote(replies: Sequence[str], read: Callable[[str], str | None]) -> int | None:
    """Which of two replies the user prefers: 0 or 1; None for neither."""
    for number, reply in enumerate(replies, start=1):
        say(f"[{number}] {reply}")
    while (answer := read("better, 1 or 2 (Enter: neither)? ")) not in ("1", "2", "", None):
        say("1, 2 or Enter", error=True)
    return int(answer) - 1 if answer else None


def _messages(turns: Turns) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)
