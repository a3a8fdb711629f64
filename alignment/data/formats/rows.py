"""A raw row, how formats read texts and chats from it, and what of it they have not read.

A row remembers the columns that a format asks for. What belongs to the chat but not to any format
is read here, for all of them: a column with the system turn, the history, the functions that may
be called. Not here: the notation of turns (`messages.py`); which columns a format reads (the other
files of `formats/`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from alignment.data.formats import messages
from alignment.data.formats.messages import Turns, describe, is_blank, is_message, text
from alignment.data.row import Reason, Record, Rejected, turns
from alignment.records.base import Json
from alignment.records.text import Conversation, Message, PreferencePair, Prompt, Role

SYSTEM = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
"""Columns with the text of the system turn."""
TOOLS = ("tools", "functions")
"""Columns with the functions that the chat may call."""
HISTORY = "history"
"""Column with the earlier turns, if it holds a list."""
MORE = ("input", "context")
"""Columns with more of a question, placed below it; a context only if it is not in it already."""

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Columns with what a chat is about and no text model is given."""

_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as read, before its columns are interpreted.

    Attributes:
        file: display name of the file or source.
        row: 1-based line or row in it.
        task_type, source: labels by which metrics of its records are reported.
        used: columns that have been asked for; `metadata.x` for a field of an object.
        left: fields of objects that were read, but not these.
    """

    file: str
    row: int
    fields: Json
    task_type: str
    source: str
    used: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def get(self, column: str) -> object:
        """The value of a column, which counts as read; None if it is missing."""
        self.used.add(column)
        return self.fields.get(column)

    def get_in(self, column: str, key: str) -> object:
        """The value of a field of the object in a column; None if either is missing."""
        value = self.fields.get(column)
        if not isinstance(value, dict):
            return None
        self.used.add(f"{column}.{key}")
        return value.get(key)

    def leave(self, column: str, item: object, *read: str) -> None:
        """Note the fields of an object in a list that say something and are not in `read`."""
        fields = item.items() if isinstance(item, dict) else ()
        self.left.update(
            f"{column}[].{key}" for key, value in fields if key not in read and not is_blank(value)
        )

    def text(self, column: str) -> str:
        """The text of a column, as `messages.text` trims it.

        Raises:
            Rejected: the column is missing or does not hold text.
        """
        value = self.get(column)
        if isinstance(value, str) and _MESSAGES.match(value):
            detail = f"column {column!r} holds texts, and this one is a list of messages"
            raise Rejected(Reason.malformed, detail)
        return text(value, where=f"column {column!r}")

    def question(self, column: str) -> str:
        """The text of a column, and below it what the columns `MORE` add to it."""
        question = self.text(column)
        for name in MORE:
            if name != column and isinstance(self.fields.get(name), str):
                more = self.text(name)
                if name == "input" or more not in question:
                    question = f"{question}\n\n{more}".strip("\n")
        return question

    def messages(self, column: str) -> Turns:
        """The chat in a column.

        Raises:
            Rejected: the column does not hold a list of messages, or a role is unknown.
        """
        value = self.get(column)
        if not isinstance(value, list):
            raise Rejected(
                Reason.malformed, f"column {column!r} holds {describe(value)}, not a list"
            )
        chat = messages.chat(value, where=column, left=self.left)
        return chat[1:] if chat and chat[0].role == "system" and not chat[0].text else chat

    def turns(self, column: str, *, role: Role) -> Turns:
        """The chat or single message in a column, or its text as one turn with this role.

        Raises:
            Rejected: the column holds none of these.
        """
        value = self.fields.get(column)
        if isinstance(value, list) and not (len(value) == 1 and isinstance(value[0], str)):
            return self.messages(column)
        if is_message(value):
            self.used.add(column)
            return (messages.message(value, where=column, left=self.left),)
        if isinstance(value, list):
            self.used.add(column)
            return (Message(role=role, content=text(value[0], where=column)),)
        found = self.question(column) if role == "user" else self.text(column)
        return (Message(role=role, content=found),)

    def conversation(self, chat: Turns) -> Conversation:
        """A chat with this row's labels, and the columns that belong before it."""
        return Conversation.of(self.opened(chat), task_type=self.task_type, source=self.source)

    def prompt(self, chat: Turns) -> Prompt:
        """A prompt with this row's labels, and the columns that belong before it."""
        return Prompt.of(self.opened(chat), task_type=self.task_type, source=self.source)

    def pair(
        self, prompt: Turns, *, chosen: Turns, rejected: Turns, strength: float | None = None
    ) -> PreferencePair:
        """A preference pair with this row's labels, and the columns that belong before it."""
        return PreferencePair.of(
            self.opened(prompt),
            chosen=_as_targets(chosen),
            rejected=_as_targets(rejected),
            task_type=self.task_type,
            source=self.source,
            strength=strength,
        )

    def unread(self, record: Record) -> Iterator[str]:
        """Columns and fields that say something which is not in the row's record.

        A text that is the same as one of the record's turns is not counted: nothing of it is lost.
        """
        yield from self.left
        columns = self.fields.keys() - self.used
        if not columns:
            return
        known = {message.content for message in turns(record)}
        for column in columns:
            value = self.fields[column]
            if is_blank(value) or _is_among(value, known):
                continue
            inner = value.items() if isinstance(value, dict) else ()
            named = [f"{column}.{key}" for key, one in inner if not is_blank(one)]
            yield from (name for name in named or (column,) if name not in self.used)

    def opened(self, chat: Turns) -> Turns:
        """The chat after this row's history, under its system turn, with the functions to call."""
        if not chat:
            return chat
        self._check_media()
        if _is_history(self.fields.get(HISTORY)):
            chat = self._after_history(chat)
        for column in SYSTEM:
            if column in self.fields and _is_system(self.fields[column]):
                chat = self._under_system(chat, column)
        for column in TOOLS:
            if isinstance(self.fields.get(column), list | str):
                chat = self._with_tools(chat, column)
        return chat

    def _check_media(self) -> None:
        """Refuse a row whose text is about something that a text model is not given."""
        for name in MEDIA:
            value = self.fields.get(name)
            if isinstance(value, str | list | dict) and not is_blank(value):
                detail = f"column {name!r} belongs to the chat and is no text; to read the row "
                raise Rejected(Reason.malformed, f"{detail}without it, --column {name}=")

    # --- what belongs before a chat ---------------------------------------------------------------

    def _after_history(self, chat: Turns) -> Turns:
        earlier = self.messages(HISTORY)
        start = 1 if chat[0].role == "system" and earlier[:1] != chat[:1] else 0
        if chat[start : start + len(earlier)] == earlier:
            return chat
        return (*chat[:start], *earlier, *chat[start:])

    def _under_system(self, chat: Turns, column: str) -> Turns:
        content = messages.content_text(self.get(column), where=column, left=self.left)
        if chat[0].role != "system":
            return (Message(role="system", content=content), *chat)
        if chat[0].content and chat[0].content != content:
            detail = f"column {column!r} and the chat have different system turns"
            raise Rejected(Reason.contradictory, detail)
        return (chat[0].model_copy(update={"content": content}), *chat[1:])

    def _with_tools(self, chat: Turns, column: str) -> Turns:
        """The chat, with the functions that it may call on its system turn."""
        value = self.fields[column]
        if isinstance(value, str) and value.strip()[:1] not in ("", "[", "{", '"'):
            return chat  # prose about tools, which is counted as not read
        tools = messages.tools(self.get(column))
        if not tools:
            return chat
        if chat[0].role != "system":
            return (Message(role="system", content="", tools=tools), *chat)
        if chat[0].tools and chat[0].tools != tools:
            raise Rejected(
                Reason.contradictory, f"column {column!r} and the chat have different functions"
            )
        return (chat[0].model_copy(update={"tools": tools}), *chat[1:])


def _as_targets(reply: Turns) -> Turns:
    """The replies of a pair, which DPO compares whatever its source says about imitating them."""
    return tuple(
        message.model_copy(update={"untrained": False}) if message.untrained else message
        for message in reply
    )


def as_prompt(question: str) -> Turns:
    """A question as a prompt of one user turn."""
    return (Message(role="user", content=question),)


def as_reply(answer: str) -> Turns:
    """An answer as a reply of one assistant turn."""
    return (Message(role="assistant", content=answer),)


def exchange(question: str, answer: str) -> Turns:
    """A chat of one question and one answer."""
    return as_prompt(question) + as_reply(answer)


def split_at_common_prefix(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(prompt, chosen, rejected): the messages with which both chats begin, and the rest of each.

    At least the last message of each is a reply, so two equal chats give two equal replies.

    Raises:
        Rejected: they have no turn in common.
    """
    longest = max(0, min(len(chosen), len(rejected)) - 1)
    pairs = zip(chosen[:longest], rejected[:longest], strict=True)
    common = next((at for at, (one, other) in enumerate(pairs) if one != other), longest)
    if longest and not common:
        raise Rejected(Reason.contradictory, "the two chats of the pair open with different turns")
    if chosen and rejected and not longest:
        raise Rejected(Reason.empty, "a chat of the pair has only one turn, so it has no prompt")
    return chosen[:common], chosen[common:], rejected[common:]


def _is_history(value: object) -> bool:
    """Whether it holds turns: messages, exchanges, or as many texts of answers as of questions."""
    if not isinstance(value, list) or not value:
        return False
    texts = len(value) % 2 == 0 and all(isinstance(item, str) for item in value)
    return texts or is_message(value[0]) or messages.is_exchange(value[0])


def _is_system(value: object) -> bool:
    """Whether it holds the text of a system turn: a text, parts of one, or an object with these."""
    if isinstance(value, dict):
        return bool({"content", "parts", "text"} & value.keys())
    return isinstance(value, str | list) and not is_blank(value)


def _is_among(value: object, known: set[str]) -> bool:
    """Whether each text of a cell, alone or as a list of messages, is one of these."""
    texts = [value]
    if isinstance(value, list):
        texts = [text for item in value for text in _texts_of(item)]
    return all(isinstance(text, str) and text.strip() in known for text in texts)


def _texts_of(item: object) -> list[object]:
    """What a message or an exchange says; nothing known of anything else."""
    if isinstance(item, dict) and messages.is_exchange(item):
        return list(item.values())
    return [item.get("content", item.get("value"))] if isinstance(item, dict) else [None]
