"""Programs that check whether a reply follows its prompt.

A verifier is a frozen model with a literal `name` and one method, `__call__(reply) -> bool`.
All are strict about format and ignore only white space around the whole reply.
"""

import json
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from alignment.records import Frozen, Message


class ExactText(Frozen):
    """The reply is this text."""

    name: Literal["exact_text"] = "exact_text"
    text: str

    def __call__(self, reply: str) -> bool:
        """True if nothing but white space at the ends differs."""
        return reply.strip() == self.text


class JsonFields(Frozen):
    """The reply is one JSON object with these fields and no others, in any order."""

    name: Literal["json_fields"] = "json_fields"
    fields: dict[str, str | int]

    def __call__(self, reply: str) -> bool:
        """True if the object's fields equal `fields`; 31 is neither "31" nor 31.0."""
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError):
            return False
        return json.dumps(found, sort_keys=True) == json.dumps(self.fields, sort_keys=True)


class TextLines(Frozen):
    """The reply is these lines in this order; white space at the ends of a line is ignored."""

    name: Literal["text_lines"] = "text_lines"
    lines: tuple[str, ...] = Field(min_length=1)

    def __call__(self, reply: str) -> bool:
        """True if the lines are exactly these."""
        return tuple(line.strip() for line in reply.strip().splitlines()) == self.lines


class StartsWith(Frozen):
    """The reply begins with this text."""

    name: Literal["starts_with"] = "starts_with"
    text: str

    def __call__(self, reply: str) -> bool:
        """True if the first characters are `text`."""
        return reply.strip().startswith(self.text)


class EndsWith(Frozen):
    """The reply ends with this text."""

    name: Literal["ends_with"] = "ends_with"
    text: str

    def __call__(self, reply: str) -> bool:
        """True if the last characters are `text`."""
        return reply.strip().endswith(self.text)


class Mentions(Frozen):
    """The reply contains this text."""

    name: Literal["mentions"] = "mentions"
    text: str

    def __call__(self, reply: str) -> bool:
        """True if `text` occurs; case-sensitive."""
        return self.text in reply


class AtMostWords(Frozen):
    """The reply has at most this many words, separated by white space, and at least one."""

    name: Literal["at_most_words"] = "at_most_words"
    words: PositiveInt

    def __call__(self, reply: str) -> bool:
        """True for 1 to `words` words."""
        return 0 < len(reply.split()) <= self.words


class AllOf(Frozen):
    """The reply passes all parts."""

    name: Literal["all_of"] = "all_of"
    parts: tuple["Verifier", ...] = Field(min_length=1)

    def __call__(self, reply: str) -> bool:
        """True if every part returns True."""
        return all(part(reply) for part in self.parts)


Verifier = Annotated[
    ExactText | JsonFields | TextLines | StartsWith | EndsWith | Mentions | AtMostWords | AllOf,
    Field(discriminator="name"),
]

AllOf.model_rebuild()


class VerifiablePrompt(Frozen):
    """A prompt whose reply a program can judge.

    Attributes:
        prompt: the turns before the reply; the last one is the user's.
        unseen: whether the prompt uses a phrasing that training never does.
    """

    id: str
    prompt: tuple[Message, ...]
    verifier: Verifier
    task_type: str
    source: str
    unseen: bool
