"""One raw row and what a format reads out of it: texts, chats, a common beginning.

Every text is stripped of white space at both ends: a reply that starts with a space or a line
break would melt into the last token of the turn marker before it. A system turn without text is
dropped. Not here: which columns a format reads (`formats.py`).
"""

from dataclasses import dataclass
from typing import get_args

from alignment.data.clean import Reason, Rejected
from alignment.records import Conversation, Json, Message, PreferencePair, Role

Turns = tuple[Message, ...]

_ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read.

    Attributes:
        file: the source's name for people.
        row: 1-based line or row in it.
        task_type, source: labels that its records carry to the metrics.
    """

    file: str
    row: int
    fields: Json
    task_type: str
    source: str

    def text(self, column: str) -> str:
        """The text of a column, stripped.

        Raises:
            Rejected: the column is missing or holds something else.
        """
        return _text(self.fields.get(column), where=f"column {column!r}")

    def messages(self, column: str) -> Turns:
        """The chat in a column: a list of `{role, content}`.

        Raises:
            Rejected: it is no such list, or a role is unknown.
        """
        value = self.fields.get(column)
        if not isinstance(value, list):
            raise Rejected(Reason.malformed, f"column {column!r} holds {_what(value)}, not a list")
        messages = tuple(_message(item, where=f"{column}[{at}]") for at, item in enumerate(value))
        blank_system = messages and messages[0].role == "system" and not messages[0].content
        return messages[1:] if blank_system else messages

    def turns(self, column: str, *, role: Role) -> Turns:
        """The chat in a column, or its text as one turn of this role.

        Raises:
            Rejected: it is neither.
        """
        if isinstance(self.fields.get(column), list):
            return self.messages(column)
        return (Message(role=role, content=self.text(column)),)

    def conversation(self, messages: Turns) -> Conversation:
        """This chat with the row's labels."""
        return Conversation.of(messages, task_type=self.task_type, source=self.source)

    def pair(
        self, prompt: Turns, *, chosen: Turns, rejected: Turns, strength: float | None = None
    ) -> PreferencePair:
        """These two replies with the row's labels."""
        return PreferencePair.of(
            prompt,
            chosen=chosen,
            rejected=rejected,
            task_type=self.task_type,
            source=self.source,
            strength=strength,
        )


def exchange(question: str, answer: str) -> Turns:
    """A chat of one question and one answer."""
    return Message(role="user", content=question), Message(role="assistant", content=answer)


def split_at_common_prefix(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(prompt, chosen, rejected): the messages both chats begin with, and what follows.

    Both keep at least their last message, so two equal chats give two equal replies.
    """
    longest = max(0, min(len(chosen), len(rejected)) - 1)
    pairs = zip(chosen[:longest], rejected[:longest], strict=True)
    common = next((at for at, (one, other) in enumerate(pairs) if one != other), longest)
    return chosen[:common], chosen[common:], rejected[common:]


def _message(item: object, *, where: str) -> Message:
    if not isinstance(item, dict):
        raise Rejected(Reason.malformed, f"{where} holds {_what(item)}, not {{role, content}}")
    role = item.get("role")
    if role not in _ROLES:
        reason = Reason.role_order if isinstance(role, str) else Reason.malformed
        raise Rejected(reason, f"{where}: role {role!r} is none of {', '.join(_ROLES)}")
    return Message(role=role, content=_text(item.get("content"), where=f"{where}: content"))


def _text(value: object, *, where: str) -> str:
    if not isinstance(value, str):
        raise Rejected(Reason.malformed, f"{where} holds {_what(value)}, not text")
    return value.strip()


def _what(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
