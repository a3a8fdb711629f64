"""Programs that check whether a reply follows its prompt.

A verifier is a frozen model with a literal `name` and one method, `__call__(reply) -> bool`. Those
up to `AllOf` are strict about format and ignore only white space around the whole reply; `Says` and
those after it look for an answer anywhere in it.
"""

import json
import re
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, PositiveInt, model_validator

from alignment.data.refusals import is_refusal
from alignment.extras import require
from alignment.records.base import Frozen
from alignment.records.text import Message


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


class Says(Frozen):
    """The reply contains this text as whole words, whatever their case."""

    name: Literal["says"] = "says"
    text: str = Field(min_length=1)

    def __call__(self, reply: str) -> bool:
        """True if the text occurs and no letter or digit adjoins it."""
        words = rf"(?<!\w){re.escape(self.text)}(?!\w)"
        return re.search(words, reply, re.IGNORECASE) is not None


class LastNumber(Frozen):
    """The last number in the reply is this one; commas may separate thousands."""

    name: Literal["last_number"] = "last_number"
    number: int | float

    def __call__(self, reply: str) -> bool:
        """True if they are equal: 12, 12.0 and 12.00 are."""
        found = _NUMBER.findall(reply)
        return bool(found) and Decimal(found[-1].replace(",", "")) == Decimal(str(self.number))


_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


class Refuses(Frozen):
    """The reply begins with an English phrase of refusal."""

    name: Literal["refuses"] = "refuses"

    def __call__(self, reply: str) -> bool:
        """True for a refusal."""
        return is_refusal(reply)


class Answers(Frozen):
    """The reply is not empty and does not begin with an English phrase of refusal."""

    name: Literal["answers"] = "answers"

    def __call__(self, reply: str) -> bool:
        """True for anything that is not a refusal."""
        return bool(reply.strip()) and not is_refusal(reply)


class MathAnswer(Frozen):
    """The reply's answer equals this one as a mathematical expression, by math-verify."""

    name: Literal["math_answer"] = "math_answer"
    answer: str = Field(min_length=1, description="In LaTeX or plain: 1/2, 0.5, \\frac{1}{2}.")
    needs: ClassVar[tuple[str, str]] = ("math_verify", "math")

    def __call__(self, reply: str) -> bool:
        """True if math-verify finds both equal.

        Raises:
            ValueError: math-verify does not understand `answer`.
        """
        library = require(self.needs[0], extra=self.needs[1])
        expected = library.parse(f"${self.answer}$", raise_on_error=True)
        if all(isinstance(form, str) for form in expected):  # what it does not understand, as text
            raise ValueError(f"math-verify finds no expression in the answer {self.answer!r}")
        found = library.parse(reply, raise_on_error=True)
        return bool(library.verify(expected, found, raise_on_error=True))


class Instructions(Frozen):
    """The reply follows all of these instructions, as IFEval checks them (Zhou et al. 2023).

    The checks are lm-eval's, strict. Those that count sentences or capital words need the data
    `punkt_tab` of NLTK, which lm-eval downloads when it is imported.
    """

    name: Literal["instructions"] = "instructions"
    ids: tuple[str, ...] = Field(min_length=1, description="Such as punctuation:no_comma.")
    arguments: tuple[dict[str, JsonValue], ...] = Field(
        default=(), description="Of each instruction, in their order; none by default."
    )
    prompt: str = Field(default="", description="The prompt, for those that ask to repeat it.")
    needs: ClassVar[tuple[str, str]] = ("lm_eval.tasks.ifeval.utils", "lm-eval")

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.arguments and len(self.arguments) != len(self.ids):
            raise ValueError(f"{len(self.arguments)} arguments for {len(self.ids)} instructions")
        return self

    def __call__(self, reply: str) -> bool:
        """True if every instruction is followed.

        Raises:
            KeyError: IFEval has no such instruction.
        """
        checks = require(self.needs[0], extra=self.needs[1])
        require("langdetect", extra=self.needs[1]).DetectorFactory.seed = 0
        arguments = self.arguments or ({},) * len(self.ids)
        asked = checks.InputExample(0, list(self.ids), self.prompt, [*map(dict, arguments)])
        found = checks.test_instruction_following_strict(asked, reply)
        return bool(found.follow_all_instructions)


Verifier = Annotated[
    ExactText
    | JsonFields
    | TextLines
    | StartsWith
    | EndsWith
    | Mentions
    | AtMostWords
    | AllOf
    | Says
    | LastNumber
    | Refuses
    | Answers
    | MathAnswer
    | Instructions,
    Field(discriminator="name"),
]

AllOf.model_rebuild()


def check_installed(verifier: Verifier) -> None:
    """Refuse a verifier whose package is not installed.

    Raises:
        ConfigError: it is not installed.
    """
    if isinstance(verifier, AllOf):
        for part in verifier.parts:
            check_installed(part)
    elif isinstance(verifier, MathAnswer | Instructions):
        require(verifier.needs[0], extra=verifier.needs[1])


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
