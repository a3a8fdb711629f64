"""Splits by hash: which rows are held out and which part they belong to.

The hash is of the row's first user turn, normalised. So two replies to one prompt, or two rows of
one thread, are always on the same side, and adding a row never moves another.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from alignment.errors import ArtifactError
from alignment.records.base import Frozen
from alignment.records.text import Message


class Part(Frozen):
    """One of several disjoint shares of a source, e.g. one for each round."""

    index: PositiveInt = Field(description="Number of this part, from 1 to `of`.")
    of: PositiveInt = Field(
        description="Number of parts. They are about equal in size and share no prompt."
    )

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.index > self.of:
            raise ValueError(f"part {self.index} of {self.of} does not exist; count from 1")
        return self

    def contains(self, key: str, *, salt: str) -> bool:
        """Whether the prompt with this key belongs to this part."""
        return int(unit_hash(key, salt=f"part:{salt}") * self.of) == self.index - 1


class PromptKeys(Frozen):
    """Keys of the prompts that a prepared set uses, so that later sets can avoid them.

    Attributes:
        trained: keys of its training rows, sorted.
        held_out: keys of its held-out rows, sorted.
    """

    kind: Literal["conversations", "pairs"]
    trained: tuple[str, ...]
    held_out: tuple[str, ...]

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """`trained` as a set, for lookups."""
        return frozenset(self.trained)

    @classmethod
    def read(cls, path: Path) -> "PromptKeys":
        """The keys in a prepared set's `prompt_keys.json`.

        Raises:
            ArtifactError: the file is missing or does not hold such a record.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{path} does not list the prompts of a prepared set; prepare that set again"
            ) from error


def normalise(text: str) -> str:
    """Text with NFKC applied, case folded and white space collapsed to single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def first_user_turn(messages: Iterable[Message]) -> str:
    """Text of the first user message, or an empty string if there is none."""
    return next((message.content for message in messages if message.role == "user"), "")


def prompt_key(messages: Iterable[Message]) -> str:
    """Hash of a chat's first user turn, normalised: 16 hex digits."""
    text = normalise(first_user_turn(messages))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def unit_hash(key: str, *, salt: str) -> float:
    """A number in [0, 1), uniformly distributed, determined by key and salt alone."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def is_held_out(key: str, share: float, *, salt: str) -> bool:
    """Whether the prompt with this key is held out, i.e. never trained on.

    With the same salt, a larger share holds out everything that a smaller one does. So the sets of
    one run agree on a prompt that they share.
    """
    return unit_hash(key, salt=f"held-out:{salt}") < share
