"""Chooses the prompts of a round on own answers, and accounts for every row that is not used.

A prompt that an evaluation holds out, or that an earlier round trained on, is not answered: its
pairs would be dropped after all the work.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignment.candidates.records import CandidatePrompt
from alignment.data.practice.source import PracticeSource
from alignment.data.read.reading import read_any
from alignment.data.read.sources import Source
from alignment.data.row import Reason, Record
from alignment.data.split import PromptKeys, prompt_key, unit_hash
from alignment.errors import DataError
from alignment.models.chat_template import render
from alignment.records.text import Conversation, Message, PreferencePair, Prompt, Quarantined


class Located(NamedTuple):
    """A prompt and where it was read; `weight` is the share of its source's prompts to use."""

    prompt: CandidatePrompt
    file: str
    row: int
    weight: float = 1.0


class ChosenPrompts(NamedTuple):
    """The prompts to answer, and the rows that are not used."""

    kept: list[CandidatePrompt]
    dropped: list[Quarantined]

    def why_none(self) -> str:
        """Why there is no prompt to answer, and what to do."""
        first = ""
        if self.dropped:
            row = self.dropped[0]
            first = f"; the first, {row.file} row {row.row}: {row.reason} ({row.detail})"
        return (
            f"no prompts are left of {len(self.dropped)} rows{first}. Add prompts that no earlier "
            "round and no evaluation uses."
        )


def choose_prompts(
    sources: Sequence[Source],
    *,
    tokenizer: Any,
    earlier: Mapping[str, PromptKeys],
    max_tokens: int,
    limit: int | None,
    salt: str,
) -> ChosenPrompts:
    """Read prompts and keep those that a round may use, in hash order.

    Args:
        sources: where to read.
        tokenizer: the model's tokenizer.
        earlier: prompts of earlier sets, by name.
        max_tokens: most tokens of a rendered prompt.
        limit: most prompts to keep; None keeps all.
        salt: decides the order, and which prompts a source's weight keeps.

    Raises:
        DataError: a source cannot be read.
    """
    kept: dict[str, Located] = {}
    dropped: list[Quarantined] = []
    for found in _located(sources):
        if isinstance(found, Quarantined):
            dropped.append(found)
            continue
        reason = (
            (Reason.duplicate, "same prompt earlier in this round")
            if found.prompt.id in kept
            else _obstacle(found, tokenizer, earlier, max_tokens, salt)
        )
        if reason is None:
            kept[found.prompt.id] = found
        else:
            dropped.append(_dropped(found, *reason))
    order = sorted(kept.values(), key=lambda one: unit_hash(one.prompt.id, salt=f"prompts:{salt}"))
    dropped += [_dropped(one, Reason.over_limit, f"limit is {limit}") for one in order[limit:]] * (
        limit is not None
    )
    return ChosenPrompts([one.prompt for one in order[:limit]], dropped)


def _located(sources: Sequence[Source]) -> Iterator[Located | Quarantined]:
    for source in sources:
        if isinstance(source, PracticeSource):
            yield from _practice(source)
            continue
        _, reading = read_any(source)
        for item in reading.items:
            if isinstance(item, Quarantined):
                yield item
            elif item.held_out:
                yield item.as_quarantined(Reason.in_evaluation_set, "its source is held out")
            else:
                yield Located(_prompt(item.record), item.file, item.row, reading.weight)


def _practice(source: PracticeSource) -> Iterator[Located]:
    label = f"practice part {source.part}, seed {source.seed}"
    for number, row in enumerate(source.prompts(), start=1):
        prompt = CandidatePrompt(
            id=row.id,
            prompt=row.prompt,
            task_type=row.task_type,
            source=row.source,
            verifier=row.verifier,
        )
        yield Located(prompt, label, number)


def _prompt(record: Record) -> CandidatePrompt:
    turns, reply = _parts(record)
    named = Prompt.of(turns, task_type=record.task_type, source=record.source)
    return CandidatePrompt(
        id=named.id,
        prompt=turns,
        task_type=record.task_type,
        source=record.source,
        reference=reply[-1].content if reply else None,
    )


def _parts(record: Record) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The turns to answer, and the source's own reply, if it has one."""
    if isinstance(record, PreferencePair):
        return record.prompt, record.chosen
    if isinstance(record, Conversation) and record.messages[-1].role == "assistant":
        return record.messages[:-1], record.messages[-1:]
    return (record.messages if isinstance(record, Conversation) else record.prompt), ()


def _obstacle(
    found: Located,
    tokenizer: Any,
    earlier: Mapping[str, PromptKeys],
    max_tokens: int,
    salt: str,
) -> tuple[Reason, str] | None:
    """Why a prompt cannot be used, and in what respect; None if it can."""
    turns = found.prompt.prompt
    if not turns or turns[-1].role != "user":
        return Reason.role_order, "the last turn is not the user's"
    if not turns[-1].content.strip():
        return Reason.empty, "the last turn has no text"
    key = prompt_key(turns)
    for name, keys in earlier.items():
        if key in keys.held_out:
            return Reason.in_evaluation_set, f"held out by {name}"
        if keys.kind == "pairs" and key in keys.trained_on:
            return Reason.used_by_earlier_round, f"used by {name}"
    if unit_hash(key, salt=f"weight:{salt}") >= found.weight:
        return Reason.not_sampled, f"weight is {found.weight:g}"
    try:
        tokens = len(render(tokenizer, turns, add_generation_prompt=True))
    except DataError as error:
        return Reason.template, str(error)
    if tokens > max_tokens:
        return Reason.prompt_too_long, f"{tokens} tokens; max_prompt_length is {max_tokens}"
    return None


def _dropped(found: Located, reason: Reason, detail: str) -> Quarantined:
    return Quarantined(
        file=found.file, row=found.row, reason=reason, detail=detail, id=found.prompt.id
    )
