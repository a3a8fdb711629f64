"""The data stage: reads sources and writes a clean, split set that accounts for every row.

Writes under `out`: `train.jsonl` and `held_out.jsonl` (`Conversation` or `PreferencePair`),
`prompts.jsonl` (`VerifiablePrompt`, if a source has any), `quarantine.jsonl` (`Quarantined`),
`prompt_keys.json` (`PromptKeys`, for later sets), `report.json` (`PreparationReport`) and, if near
duplicates are dropped, `likeness.npy` (signatures, for later sets). The same config, sources and
seed give the same bytes. For each source: rows read = kept + held out + dropped.
Not here: the store, and what the rows are used for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic

from alignment.data.build.batches import FilterPass, RowFilter
from alignment.data.build.dataset import DatasetBuilder, OnProgress
from alignment.data.build.report import Prepared, listed_unread
from alignment.data.build.settings import (
    ConversationSetConfig,
    Lengths,
    PairSetConfig,
    SetConfig,
)
from alignment.data.dedup import compare, contamination
from alignment.data.filters import content, reasoning, special_tokens
from alignment.data.filters.lengths import fit_conversation, trim_prompt
from alignment.data.formats import Kind
from alignment.data.practice.source import PracticeSource
from alignment.data.read.files import Meter
from alignment.data.read.reading import Reading, read_conversations, read_pairs
from alignment.data.read.sources import FileSource, Source, bytes_of, may_be_large
from alignment.data.row import Filtered, R, Reason, Rejected, Row
from alignment.data.split import PromptKeys, is_held_out
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.models import chat_template
from alignment.records.base import digest_of
from alignment.records.text import Conversation, PreferencePair, Quarantined

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_conversations(
    config: ConversationSetConfig,
    *,
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase | None",
    earlier: Mapping[str, PromptKeys] = MappingProxyType({}),
    earlier_signatures: Mapping[str, Path] = MappingProxyType({}),
    seed: int,
    out: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Prepared:
    """Write a set of conversations of at most `max_length` tokens under `out`.

    The other arguments are those of `prepare_pairs`.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few remain.
    """
    run: _Preparation[Conversation]
    run = _Preparation(config, tokenizer, earlier, earlier_signatures, seed, out, on_progress)
    drop_oldest = config.too_long == "truncate_oldest_turns"
    fit = (
        [partial(_fit_conversations, max_length, tokenizer, drop_oldest=drop_oldest)]
        if tokenizer
        else []
    )
    dataset = run.dataset(read_conversations, [], fit, max_length)
    run.compare(dataset)
    return run.write(dataset, "conversations", _shortened_note(dataset.changes, max_length))


def prepare_pairs(
    config: PairSetConfig,
    *,
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase | None",
    earlier: Mapping[str, PromptKeys],
    earlier_signatures: Mapping[str, Path] = MappingProxyType({}),
    trained: Mapping[str, Sequence[PreferencePair]] = MappingProxyType({}),
    seed: int,
    out: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Prepared:
    """Write a set of preference pairs under `out`.

    Intermediate rows are in `<out>.shards`, from which the same call resumes if it was interrupted.

    Args:
        config: sources and limits.
        lengths: length limits of the round's training.
        tokenizer: tokenizer of the model to train; lengths are in its tokens. None: rows that only
            a tokenizer or its chat template can refuse are kept.
        earlier: prompts of earlier sets, by display name ("sft", "round 1"). Prompts that they
            hold out are not trained on, and prompts that an earlier round trained on are not used.
        earlier_signatures: `likeness.npy` of the earlier sets that have one, by the same names.
        trained: pairs that earlier sets were trained on, by name; pairs that contradict one are
            dropped.
        seed: the run's seed; determines the split.
        out: an existing folder.
        on_progress: for a progress bar.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few remain.
    """
    run: _Preparation[PreferencePair]
    run = _Preparation(config, tokenizer, earlier, earlier_signatures, seed, out, on_progress)
    fit = [partial(_fit_pairs, lengths, tokenizer)] if tokenizer else []
    contradicts = partial(content.contradicts_earlier, preferred=content.preferred(trained))
    label_filters: list[RowFilter[PreferencePair]] = [
        content.identical_pair,
        content.tie,
        contradicts,
    ]
    key_parts = [lengths.model_dump(), {name: [p.id for p in ps] for name, ps in trained.items()}]
    dataset = run.dataset(read_pairs, label_filters, fit, key_parts)
    run.compare(dataset)
    return run.write(dataset, "pairs", _length_notes(dataset.changes, lengths))


class _Preparation(Generic[R]):
    """The steps common to preparing conversations and pairs."""

    def __init__(
        self,
        config: SetConfig,
        tokenizer: "PreTrainedTokenizerBase | None",
        earlier: Mapping[str, PromptKeys],
        earlier_signatures: Mapping[str, Path],
        seed: int,
        out: Path,
        on_progress: OnProgress,
    ) -> None:
        _check_files(config.sources)
        self.config, self.tokenizer, self.earlier = config, tokenizer, earlier
        self.earlier_signatures, self.salt, self.out, self.on_progress = (
            earlier_signatures,
            str(seed),
            out,
            on_progress,
        )

    def dataset(
        self,
        read: Callable[[Source, Meter], Reading[R]],
        label_filters: Sequence[RowFilter[R]],
        fit: Sequence[RowFilter[R]],
        key_parts: object,
    ) -> DatasetBuilder[R]:
        """Read all rows and apply the filters that look at one row, cheap ones first.

        `key_parts` holds what `label_filters` and `fit` depend on besides the config, so that
        shards made with other values are not reused.
        """
        filters: list[RowFilter[R]] = [
            *self._usability_filters(),
            *label_filters,
            *self._separation_filters(),
            *fit,
        ]
        key = [
            self.config.model_dump(mode="json"),
            self.config.digest(),
            {name: keys.model_dump() for name, keys in self.earlier.items()},
            [self.salt, self.tokenizer and self.tokenizer.name_or_path, key_parts],
        ]
        meter = Meter(bytes_of(self.config.sources))
        dataset = DatasetBuilder(
            (read(source, meter) for source in self.config.sources),
            FilterPass(filters, self.salt, signatures=self.config.near_duplicates is not None),
            work=self.out.with_name(f"{self.out.name}.shards"),
            key=digest_of(key)[:16],
            on_progress=self.on_progress,
            expected=meter.expected,
            large=may_be_large(self.config.sources),
        )
        dataset.check_malformed(self.config.max_malformed_share)
        return dataset

    def _usability_filters(self) -> Iterator[RowFilter[R]]:
        if self.config.part is not None:
            yield partial(content.other_part, part=self.config.part, salt=self.salt)
        tokenizer = self.tokenizer
        if tokenizer is not None:
            if not reasoning.renders_reasoning(tokenizer):
                yield reasoning.as_text
            yield partial(reasoning.count_left_out, tokenizer=tokenizer)
        yield from (content.broken_text, content.empty, content.role_order, content.untrained)
        if tokenizer is not None:
            yield from self._control_filters(tokenizer)
        if self.config.markers == "quarantine":
            yield special_tokens.turn_marker
        yield special_tokens.placeholder
        if tokenizer is not None and not chat_template.offers_tools(tokenizer):
            yield content.uses_tools

    def _control_filters(self, tokenizer: "PreTrainedTokenizerBase") -> Iterator[RowFilter[R]]:
        if self.config.markers == "as_text":
            yield partial(special_tokens.spelled_out, tokenizer=tokenizer)
        opening = chat_template.format_of(tokenizer).opening.strip()
        yield partial(special_tokens.special_token, tokenizer=tokenizer, turn_marker=opening)

    def _separation_filters(self) -> Iterator[RowFilter[R]]:
        """Choose the held-out rows, and exclude the prompts of earlier sets and evaluations."""
        share, salt = self.config.held_out_share, self.salt
        yield lambda rows: Filtered(
            [
                replace(row, held_out=row.held_out or is_held_out(row.prompt_key, share, salt=salt))
                for row in rows
            ],
            [],
        )
        reserved = {name: frozenset(keys.held_out) for name, keys in self.earlier.items()}
        yield partial(content.in_evaluation_set, held_out=reserved)
        yield partial(content.used_by_earlier_round, earlier=self.earlier)
        if self.config.evaluation_prompts:
            evaluation = contamination.EvaluationPrompts.of(self.config.evaluation_prompts)
            yield partial(contamination.leaked, evaluation=evaluation)

    def compare(self, dataset: DatasetBuilder[R]) -> None:
        """Compare the remaining rows with each other, and apply the limits."""
        dataset.sample(self.salt)
        dataset.apply(
            Reason.in_evaluation_set,
            compare.in_own_evaluation,
            "its prompt is held out by a source of this set, {}".format,
        )
        dataset.apply(Reason.duplicate, compare.duplicate, "same as {}".format)
        dataset.apply(
            Reason.conflicting_label, compare.conflicting_label, "{} prefers the other reply".format
        )
        if self.config.max_per_prompt is not None:
            dataset.limit_prompts(self.config.max_per_prompt)
        if self.config.near_duplicates is not None:
            dataset.drop_near_duplicates(self.config.near_duplicates, self.earlier_signatures)
        dataset.limit(self.config.limit, self.config.task_limits)

    def write(self, dataset: DatasetBuilder[R], kind: Kind, notes: Sequence[str]) -> Prepared:
        """Write the set, with notes for the user."""
        all_notes = [
            f"{reading.source}: {reading.note}" for reading in dataset.readings if reading.note
        ]
        all_notes += [
            f"{reading.source}: not read: {listed_unread(reading.unread)}"
            for reading in dataset.readings
            if reading.unread
        ]
        if thought := dataset.changes[reasoning.CHANGED]:
            all_notes.append(
                f"{thought} rows have reasoning in a field that the chat template does not render; "
                "it is text between <think> and </think> now"
            )
        if left_out := dataset.changes[reasoning.LEFT_OUT]:
            all_notes.append(
                f"{left_out} rows have reasoning in turns before the last question, where the chat "
                "template leaves it out, as it does when the model is asked"
            )
        if lost := dataset.changes[reasoning.LOST]:
            all_notes.append(
                f"{lost} rows have reasoning in the last reply that the chat template leaves out: "
                "it is not trained; set template: {name: trl}, or a file that renders it"
            )
        if spelled := dataset.changes["spelled_out"]:
            all_notes.append(f"{spelled} rows had control tokens in their text, now spelled out")
        return dataset.write(
            self.out,
            kind=kind,
            prompts=_verifiable_prompts(self.config),
            min_rows=self.config.min_rows,
            notes=[*all_notes, *notes],
        )


def _check_files(sources: Sequence[Source]) -> None:
    readers: dict[str, str] = {}
    for source in sources:
        if not isinstance(source, FileSource):
            continue
        for file in source.files():
            if file in readers:
                raise DataError(
                    f"{file} is read by two sources, {readers[file]} and {source.label}; "
                    "remove it from one"
                )
            readers[file] = source.label


def _fit_conversations(
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row[Conversation]],
    *,
    drop_oldest: bool,
) -> Filtered[Conversation]:
    """Drop rows that the template refuses or that are too long, or first their oldest turns.

    Rows that lost turns are counted.
    """
    changes: Counter[str] = Counter()
    filtered: Filtered[Conversation] = Filtered([], [], changes)
    for row in rows:
        try:
            record = fit_conversation(
                tokenizer, row.record, max_length=max_length, drop_oldest=drop_oldest
            )
        except (Rejected, DataError) as error:
            filtered.dropped.append(_unfit(row, error))
            continue
        changes["shortened"] += record is not row.record
        filtered.kept.append(replace(row, record=record))
    return filtered


def _shortened_note(changes: Mapping[str, int], max_length: int) -> list[str]:
    shortened = changes.get("shortened")
    return (
        [f"{shortened} conversations lost their oldest turns (max_length {max_length})"]
        if shortened
        else []
    )


def _fit_pairs(
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row[PreferencePair]],
) -> Filtered[PreferencePair]:
    """Trim prompts to fit and drop rows that cannot; count the prompts and replies shortened."""
    changes: Counter[str] = Counter()
    filtered: Filtered[PreferencePair] = Filtered([], [], changes)
    for row in rows:
        try:
            trimmed = trim_prompt(
                tokenizer,
                row.record,
                max_prompt_length=lengths.prompt,
                max_length=lengths.whole,
                min_completion=lengths.reply,
            )
        except (Rejected, DataError) as error:
            filtered.dropped.append(_unfit(row, error))
            continue
        changes["shortened"] += trimmed.pair.id != row.record.id
        changes["cut"] += trimmed.replies_cut
        filtered.kept.append(replace(row, record=trimmed.pair))
    return filtered


def _unfit(row: Row[R], error: Rejected | DataError) -> Quarantined:
    if isinstance(error, Rejected):
        return row.as_quarantined(error.reason, error.detail)
    return row.as_quarantined(Reason.template, str(error))


def _length_notes(changes: Mapping[str, int], lengths: Lengths) -> list[str]:
    notes = []
    if shortened := changes.get("shortened"):
        notes.append(
            f"{shortened} prompts lost their oldest turns (max_prompt_length {lengths.prompt})"
        )
    if cut := changes.get("cut"):
        notes.append(f"{cut} replies exceed max_length {lengths.whole} and will be truncated")
    return notes


def _verifiable_prompts(config: SetConfig) -> Iterable[VerifiablePrompt]:
    """The prompts of practice sources, whose replies a program can judge."""
    for source in config.sources:
        if isinstance(source, PracticeSource):
            yield from source.prompts()
