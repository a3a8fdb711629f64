"""The data stage: sources in, a clean and split set of JSON Lines out, every row accounted for.

Written under `out`: `train.jsonl` and `held_out.jsonl` (`Conversation` or `PreferencePair`),
`prompts.jsonl` (`VerifiablePrompt`, where a source has them), `quarantine.jsonl` (`Quarantined`)
and `prompt_keys.json` (`PromptKeys`, for the sets that come later). The same config, sources and
seed give the same bytes. For each source: rows read = kept + held out + dropped.
Not here: the store, and what the rows are used for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from alignment.data import clean, encode
from alignment.data.clean import Cleaned, Placed, R, Rejected
from alignment.data.practice import PracticeSource
from alignment.data.reading import read_conversations, read_pairs
from alignment.data.sieve import Prepared, Sieve
from alignment.data.sources import Source
from alignment.data.split import Part, PromptKeys, held_out
from alignment.data.verifiers import VerifiablePrompt
from alignment.records import Conversation, Frozen, PreferencePair, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SPANS_CHECKED = 256
"""Conversations whose targets are checked against the chat template: it is per template and
tokenizer that they are right or wrong, and each check takes milliseconds."""


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
        """What a cache key must know of the sources' content."""
        return digest_of([source.digest() for source in self.sources])


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


def prepare_conversations(
    config: ConversationSetConfig,
    *,
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys] = MappingProxyType({}),
    seed: int,
    out: Path,
) -> Prepared:
    """Write a set of conversations of at most `max_length` tokens under `out`.

    The other arguments are those of `prepare_pairs`.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few are left.
    """
    salt = str(seed)
    sieve = Sieve(
        [read_conversations(source) for source in config.sources],
        max_malformed_share=config.max_malformed_share,
    )
    _keep_usable_text(sieve, config, tokenizer, salt)
    sieve.apply(_apart_from_own_evaluation, clean.duplicate)
    _split(sieve, config, earlier, salt)
    sieve.apply(partial(_fit_conversations, max_length, tokenizer))
    sieve.apply(partial(clean.over_limit, limit=config.limit, salt=salt))
    encode.check_spans(tokenizer, (row.record for row in sieve.rows[:SPANS_CHECKED]))
    return sieve.write(
        out, kind="conversations", prompts=_prompts(config), min_rows=config.min_rows
    )


def prepare_pairs(
    config: PairSetConfig,
    *,
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys],
    seed: int,
    out: Path,
) -> Prepared:
    """Write a set of preference pairs under `out`.

    Args:
        config: sources and limits.
        lengths: what the round's training leaves of a pair.
        tokenizer: of the model that will be trained; lengths are in its tokens.
        earlier: the prompts of the sets before, by a name for people ("sft", "round 1"). None
            that is held out there is trained on here, and none that an earlier round trained on
            is used again.
        seed: of the run; decides the split.
        out: an existing folder.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few are left.
    """
    salt = str(seed)
    sieve = Sieve(
        [read_pairs(source) for source in config.sources],
        max_malformed_share=config.max_malformed_share,
    )
    _keep_usable_text(sieve, config, tokenizer, salt)
    sieve.apply(clean.identical_pair, clean.tie)
    sieve.apply(_apart_from_own_evaluation, clean.duplicate, clean.conflicting_label)
    _split(sieve, config, earlier, salt)
    fitted, notes = _fit_pairs(lengths, tokenizer, sieve.rows)
    sieve.notes += notes
    sieve.apply(lambda _: fitted, partial(clean.over_limit, limit=config.limit, salt=salt))
    return sieve.write(out, kind="pairs", prompts=_prompts(config), min_rows=config.min_rows)


def _keep_usable_text(
    sieve: Sieve[R], config: SetConfig, tokenizer: "PreTrainedTokenizerBase", salt: str
) -> None:
    """Apply the filters that look at one row at a time, the cheap ones first."""
    if config.part is not None:
        sieve.apply(partial(clean.other_part, part=config.part, salt=salt))
    sieve.apply(clean.broken_text, clean.empty, clean.role_order)
    marker = str(tokenizer.decode(encode.response_template_ids(tokenizer))).strip()
    sieve.apply(partial(clean.special_token, tokenizer=tokenizer, turn_marker=marker))


def _apart_from_own_evaluation(rows: list[Placed[R]]) -> Cleaned[R]:
    """Without training rows whose prompt is in one of the set's own files for evaluation."""
    own = frozenset(row.prompt_key for row in rows if row.held_out)
    return clean.in_evaluation_set(rows, held_out={"a source of this set": own})


def _split(
    sieve: Sieve[R], config: SetConfig, earlier: Mapping[str, PromptKeys], salt: str
) -> None:
    """Decide who is held out, and keep off the prompts of earlier sets."""
    share = config.held_out_share
    sieve.rows = [
        replace(row, held_out=row.held_out or held_out(row.prompt_key, share, salt=salt))
        for row in sieve.rows
    ]
    reserved = {name: frozenset(keys.held_out) for name, keys in earlier.items()}
    sieve.apply(
        partial(clean.in_evaluation_set, held_out=reserved),
        partial(clean.used_by_earlier_round, earlier=earlier),
    )


def _fit_conversations(
    max_length: int, tokenizer: "PreTrainedTokenizerBase", rows: list[Placed[Conversation]]
) -> Cleaned[Conversation]:
    """Rows of at most `max_length` tokens."""
    cleaned: Cleaned[Conversation] = Cleaned([], [])
    for row in rows:
        try:
            encode.fit_conversation(tokenizer, row.record, max_length=max_length)
        except Rejected as rejected:
            cleaned.dropped.append(row.dropped(rejected.reason, rejected.detail))
        else:
            cleaned.kept.append(row)
    return cleaned


def _fit_pairs(
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Placed[PreferencePair]],
) -> tuple[Cleaned[PreferencePair], list[str]]:
    """Rows with prompts that fit, and how many had to give something for it."""
    cleaned: Cleaned[PreferencePair] = Cleaned([], [])
    shortened = cut = 0
    for row in rows:
        try:
            trimmed = encode.trim_prompt(
                tokenizer,
                row.record,
                max_prompt_length=lengths.prompt,
                max_length=lengths.whole,
                min_completion=lengths.reply,
            )
        except Rejected as rejected:
            cleaned.dropped.append(row.dropped(rejected.reason, rejected.detail))
            continue
        shortened += trimmed.pair.id != row.record.id
        cut += trimmed.replies_cut
        cleaned.kept.append(replace(row, record=trimmed.pair))
    notes = []
    if shortened:
        notes.append(
            f"{shortened} prompts lost their oldest turns (max_prompt_length {lengths.prompt})"
        )
    if cut:
        notes.append(f"{cut} replies go beyond max_length {lengths.whole} and will be cut")
    return cleaned, notes


def _prompts(config: SetConfig) -> Iterable[VerifiablePrompt]:
    """The prompts that a program can judge, of the sources that have such."""
    for source in config.sources:
        if isinstance(source, PracticeSource):
            yield from source.prompts()
