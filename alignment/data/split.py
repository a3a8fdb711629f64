"""Who goes where, decided by hashes: no row's place depends on another row.

A row is known by the hash of its first user turn, normalised. So two answers to one prompt, or
two rows of one thread, share a split and a part, and a row that is added moves no other.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from alignment.errors import ArtifactError
from alignment.records import Frozen, Message


class Part(Frozen):
    """One of several disjoint shares of a source, e.g. one for each round."""

    index: PositiveInt = Field(description="which part, from 1 to `of`")
    of: PositiveInt = Field(description="number of parts of about equal size; no prompt is in two")

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.index > self.of:
            raise ValueError(f"part {self.index} of {self.of} does not exist; count from 1")
        return self

    def holds(self, key: str, *, salt: str) -> bool:
        """Whether the prompt of this key belongs to this part."""
        return int(unit_hash(key, salt=f"part:{salt}") * self.of) == self.index - 1


class PromptKeys(Frozen):
    """The prompts that a prepared set has claimed, as keys; later sets keep off them.

    Attributes:
        trained: keys of its training rows, sorted.
        held_out: keys of its held-out rows, sorted.
    """

    kind: Literal["conversations", "pairs"]
    trained: tuple[str, ...]
    held_out: tuple[str, ...]

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """The keys of its training rows, to look one up."""
        return frozenset(self.trained)

    @classmethod
    def read(cls, path: Path) -> "PromptKeys":
        """The keys that a set's preparation has written.

        Raises:
            ArtifactError: the file is missing or is not such a record.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{path} does not list the prompts of a prepared set; prepare that set again"
            ) from error


def normalise(text: str) -> str:
    """Text without what rarely makes it another prompt: NFKC, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def first_user_turn(messages: Iterable[Message]) -> str:
    """The first user message's text; empty where there is none."""
    return next((message.content for message in messages if message.role == "user"), "")


def prompt_key(messages: Iterable[Message]) -> str:
    """16 hex digits that stand for a chat's first user turn, normalised."""
    text = normalise(first_user_turn(messages))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def unit_hash(key: str, *, salt: str) -> float:
    """A number in [0, 1) that only the key and the salt decide; evenly spread."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def held_out(key: str, share: float, *, salt: str) -> bool:
    """Whether the prompt of this key is never trained on.

    With one salt, what a small share holds out a larger share holds out too, so sets of one
    run that see the same prompt agree about it.
    """
    return unit_hash(key, salt=f"held-out:{salt}") < share
