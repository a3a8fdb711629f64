"""Settings of a prepared set: where its rows come from, and which of them are kept."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import Source
from alignment.data.split import Part
from alignment.records import Frozen, digest_of


class SetConfig(Frozen):
    """What every prepared set has in common. Abstract."""

    sources: tuple[Source, ...] = Field(min_length=1, description="where the rows come from")
    held_out_share: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="share of prompts that no stage trains on, 0 to 0.5; by hash of the prompt",
    )
    part: Part | None = Field(
        default=None,
        description="take one of several disjoint shares of the sources, so that rounds can use "
        "one file without sharing a prompt; default: everything",
    )
    limit: PositiveInt | None = Field(
        default=None,
        description="keep so many rows, held-out ones included: the first in hash order; "
        "default: all",
    )
    task_limits: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="keep so many rows of a task type, {math: 500}, held-out ones included: the "
        "first in hash order; default: all of every type",
    )
    evaluation_prompts: tuple[Source, ...] = Field(
        default=(),
        description="prompts that will be asked in an evaluation, from any source: no row is "
        "trained on that holds most of one",
    )
    near_duplicates: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="drop rows that share this much of their text with one further up or with an "
        "earlier round's, above 0.5 to 1 (0.9 is usual); default: equal rows only",
    )
    max_per_prompt: PositiveInt | None = Field(
        default=None,
        description="keep so many rows of one whole prompt, the first ones; default: all, as each "
        "may compare other replies",
    )
    markers: Literal["quarantine", "as_text"] = Field(
        default="quarantine",
        description="rows whose text holds a control token or a turn marker. quarantine: leave "
        "them out; as_text: spell control tokens out, with a space, so that they stay text",
    )
    max_malformed_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of rows that may be unreadable, 0 to 1; more fail the run",
    )
    min_rows: NonNegativeInt = Field(
        default=1,
        description="fewer rows to train on fail the run; 0 for a set that is only evaluated on",
    )

    def with_seed(self, seed: int) -> Self:
        """This set with its practice sources drawn by `seed` where they name none of their own."""
        sources = tuple(
            source.model_copy(update={"seed": seed})
            if isinstance(source, PracticeSource) and source.seed is None
            else source
            for source in self.sources
        )
        return self.model_copy(update={"sources": sources})

    def digest(self) -> str:
        """What a cache key must know of the content of its sources and evaluation prompts."""
        asked = [source.digest() for source in self.evaluation_prompts]
        read = [source.digest() for source in self.sources]
        return digest_of([read, asked] if asked else read)


class ConversationSetConfig(SetConfig):
    """Chats to imitate."""


class PairSetConfig(SetConfig):
    """Preference pairs of one round."""


class Lengths(Frozen):
    """How long a pair may be, in tokens under the chat template: as its training applies it.

    Attributes:
        prompt: a longer one loses its oldest turns, never its system turn or last user turn.
        whole: prompt and reply together; what is beyond is cut from the reply.
        reply: what a cut must leave of it.
    """

    prompt: PositiveInt
    whole: PositiveInt
    reply: PositiveInt
