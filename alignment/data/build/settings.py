"""Settings of a prepared set: where its rows come from, and which of them are kept."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import Source
from alignment.data.split import Part
from alignment.records.base import Frozen, digest_of


class SetConfig(Frozen):
    """Settings common to all prepared sets. Abstract."""

    sources: tuple[Source, ...] = Field(min_length=1, description="Where the rows come from.")
    held_out_share: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="Share of prompts to hold out from training, 0 to 0.5. Chosen by hash of the "
        "prompt.",
    )
    part: Part | None = Field(
        default=None,
        description="Use one of several disjoint parts of the sources, so that rounds can share "
        "a file without sharing a prompt. Default: everything.",
    )
    limit: PositiveInt | None = Field(
        default=None,
        description="Keep at most this many rows, including held-out ones: the first in hash "
        "order. Default: all.",
    )
    task_limits: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="Keep at most this many rows of a task type, for example {math: 500}, "
        "including held-out ones: the first in hash order. Default: all.",
    )
    evaluation_prompts: tuple[Source, ...] = Field(
        default=(),
        description="Prompts of an evaluation, from any source. Training rows that contain most of "
        "one of these prompts are dropped.",
    )
    near_duplicates: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="Drop rows that share at least this much of their text with an earlier row, or "
        "with a row of an earlier round; above 0.5 and up to 1 (usually 0.9). Default: drop only "
        "equal rows.",
    )
    max_per_prompt: PositiveInt | None = Field(
        default=None,
        description="Keep at most this many rows with the same whole prompt, the first ones. "
        "Default: all, since each may compare different replies.",
    )
    markers: Literal["quarantine", "as_text"] = Field(
        default="quarantine",
        description="What to do with rows whose text contains a control token or turn marker. "
        "`quarantine`: drop them. `as_text`: insert a space into control tokens, so that they stay "
        "text.",
    )
    max_malformed_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of rows that may be unreadable, 0 to 1. The run fails if more are.",
    )
    min_rows: NonNegativeInt = Field(
        default=1,
        description="The run fails if fewer training rows remain. 0 for a set used only for "
        "evaluation.",
    )

    def with_seed(self, seed: int) -> Self:
        """This set with `seed` for the practice sources that set none of their own."""
        sources = tuple(
            source.model_copy(update={"seed": seed})
            if isinstance(source, PracticeSource) and source.seed is None
            else source
            for source in self.sources
        )
        return self.model_copy(update={"sources": sources})

    def digest(self) -> str:
        """Digest of the content of its sources and evaluation prompts, for cache keys."""
        rows = [source.digest() for source in self.sources]
        prompts = [source.digest() for source in self.evaluation_prompts]
        return digest_of([rows, prompts] if prompts else rows)


class ConversationSetConfig(SetConfig):
    """A prepared set of conversations to imitate."""

    # Not written where it is the default, so that keys from before it existed stay.
    too_long: Literal["quarantine", "truncate_oldest_turns"] = Field(
        default="quarantine",
        exclude_if=lambda chosen: chosen == "quarantine",
        description="What to do with conversations of more than `training.max_length` tokens. "
        "`quarantine`: drop them. `truncate_oldest_turns`: drop their oldest exchanges, as few as "
        "necessary; the system turn and the last exchange stay, and rows that still do not fit are "
        "quarantined. No turn is ever cut in the middle.",
    )


class PairSetConfig(SetConfig):
    """A prepared set of preference pairs for one round."""


class Lengths(Frozen):
    """Length limits of a pair in tokens under the chat template, as training applies them.

    Attributes:
        prompt: a longer prompt loses its oldest turns, never its system turn or last user turn.
        whole: prompt and reply together; training truncates longer replies.
        reply: minimum tokens of a truncated reply; pairs with fewer are dropped.
    """

    prompt: PositiveInt
    whole: PositiveInt
    reply: PositiveInt
