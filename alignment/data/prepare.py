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
from typing import TYPE_CHECKING, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

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
    max_length: PositiveInt = Field(
        default=4096, description="tokens of a whole chat under the chat template"
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

    def digest(self) -> str:
        """What a cache key must know of the sources' content."""
        return digest_of([source.digest() for source in self.sources])


class Lengths(Frozen):
    """Limits in tokens under the chat template, as the training that follows will apply them."""

    max_length: PositiveInt
    max_prompt_length: PositiveInt
    min_completion_tokens: PositiveInt


class ConversationSetConfig(SetConfig):
    """Chats to imitate."""


class PairSetConfig(SetConfig):
    """Preference pairs of one round."""

    max_prompt_length: PositiveInt = Field(
        default=2048,
        description="tokens of the prompt; a longer one loses its oldest turns, never its system "
        "turn or its last user turn",
    )
    min_completion_tokens: PositiveInt = Field(
        default=16, description="tokens that max_length must leave of a reply that it cuts"
    )

    @model_validator(mode="after")
    def _room_for_a_reply(self) -> Self:
        if self.max_prompt_length + self.min_completion_tokens > self.max_length:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} + min_completion_tokens "
                f"{self.min_completion_tokens} exceed max_length {self.max_length}; lower one"
            )
        return self


def prepare_conversations(
    config: ConversationSetConfig,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    seed: int,
    out: Path,
) -> Prepared:
    """Write a set of conversations under `out`.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few are left.
    """
    salt = str(seed)
    sieve = Sieve(
        [read_conversations(source) for source in config.sources],
        max_malformed_share=config.max_malformed_share,
    )
    _keep_usable_text(sieve, config, tokenizer, salt)
    sieve.apply(_apart_from_own_evaluation, clean.duplicate, partial(_assign, config, salt))
    sieve.apply(partial(_fit_conversations, config, tokenizer))
    sieve.apply(partial(clean.over_limit, limit=config.limit, salt=salt))
    encode.check_spans(tokenizer, (row.record for row in sieve.rows[:SPANS_CHECKED]))
    return sieve.write(
        out, kind="conversations", prompts=_prompts(config), min_rows=config.min_rows
    )


def prepare_pairs(
    config: PairSetConfig,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys],
    seed: int,
    out: Path,
) -> Prepared:
    """Write a set of preference pairs under `out`.

    Args:
        config: sources and limits.
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
    reserved = {name: frozenset(keys.held_out) for name, keys in earlier.items()}
    sieve = Sieve(
        [read_pairs(source) for source in config.sources],
        max_malformed_share=config.max_malformed_share,
    )
    _keep_usable_text(sieve, config, tokenizer, salt)
    sieve.apply(clean.identical_pair, clean.tie)
    sieve.apply(_apart_from_own_evaluation, clean.duplicate, clean.conflicting_label)
    sieve.apply(
        partial(_assign, config, salt),
        partial(clean.in_evaluation_set, held_out=reserved),
        partial(clean.used_by_earlier_round, earlier=earlier),
    )
    fitted, notes = _fit_pairs(config, tokenizer, sieve.rows)
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


def _assign(config: SetConfig, salt: str, rows: list[Placed[R]]) -> Cleaned[R]:
    """All rows, each now knowing whether it is held out."""
    share = config.held_out_share
    return Cleaned(
        [
            replace(row, held_out=row.held_out or held_out(row.prompt_key, share, salt=salt))
            for row in rows
        ],
        [],
    )


def _fit_conversations(
    config: SetConfig, tokenizer: "PreTrainedTokenizerBase", rows: list[Placed[Conversation]]
) -> Cleaned[Conversation]:
    """Rows of at most `max_length` tokens."""
    cleaned: Cleaned[Conversation] = Cleaned([], [])
    for row in rows:
        try:
            encode.fit_conversation(tokenizer, row.record, max_length=config.max_length)
        except Rejected as rejected:
            cleaned.dropped.append(row.dropped(rejected.reason, rejected.detail))
        else:
            cleaned.kept.append(row)
    return cleaned


def _fit_pairs(
    config: PairSetConfig,
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
                max_prompt_length=config.max_prompt_length,
                max_length=config.max_length,
                min_completion=config.min_completion_tokens,
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
            f"{shortened} prompts lost their oldest turns (max_prompt_length "
            f"{config.max_prompt_length})"
        )
    if cut:
        notes.append(f"{cut} replies go beyond max_length {config.max_length} and will be cut")
    return cleaned, notes


def _prompts(config: SetConfig) -> Iterable[VerifiablePrompt]:
    """The prompts that a program can judge, of the sources that have such."""
    for source in config.sources:
        if isinstance(source, PracticeSource):
            yield from source.prompts()
