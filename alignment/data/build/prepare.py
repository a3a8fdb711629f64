"""The data stage: sources in, a clean and split set of JSON Lines out, every row accounted for.

Written under `out`: `train.jsonl` and `held_out.jsonl` (`Conversation` or `PreferencePair`),
`prompts.jsonl` (`VerifiablePrompt`, where a source has them), `quarantine.jsonl` (`Quarantined`),
`prompt_keys.json` (`PromptKeys`, for the sets that come later) and `report.json`
(`PreparationReport`). The same config, sources and seed give the same bytes.
For each source: rows read = kept + held out + dropped.
Not here: the store, and what the rows are used for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic

from alignment.data.build.dataset import DatasetBuilder, OnProgress
from alignment.data.build.report import Prepared
from alignment.data.build.settings import (
    ConversationSetConfig,
    Lengths,
    PairSetConfig,
    SetConfig,
)
from alignment.data.build.shards import Pass, Step
from alignment.data.dedup import compare, contamination
from alignment.data.filters import content, special_tokens
from alignment.data.filters.lengths import fit_conversation, trim_prompt
from alignment.data.formats import Kind
from alignment.data.practice.source import PracticeSource
from alignment.data.practice.verifiers import VerifiablePrompt
from alignment.data.read.files import Meter
from alignment.data.read.reading import Reading, read_conversations, read_pairs
from alignment.data.read.sources import FileSource, Source, bytes_of
from alignment.data.row import Filtered, R, Reason, Rejected, Row
from alignment.data.split import PromptKeys, held_out
from alignment.errors import DataError
from alignment.models import chat_template
from alignment.records import Conversation, PreferencePair, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SPANS_CHECKED = 256
"""Conversations whose targets are checked against the chat template: it is per template and
tokenizer that they are right or wrong, and each check takes milliseconds."""


def prepare_conversations(
    config: ConversationSetConfig,
    *,
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys] = MappingProxyType({}),
    alike: Mapping[str, Path] = MappingProxyType({}),
    seed: int,
    out: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Prepared:
    """Write a set of conversations of at most `max_length` tokens under `out`.

    The other arguments are those of `prepare_pairs`.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few are left.
    """
    run: _Preparation[Conversation]
    run = _Preparation(config, tokenizer, earlier, alike, seed, out, on_progress)
    fit = partial(_fit_conversations, max_length, tokenizer)
    dataset = run.dataset(read_conversations, [], fit, max_length)
    run.compare(dataset)
    first = compare.in_order(dataset.index, dataset.alive)[:SPANS_CHECKED].tolist()
    chat_template.check_spans(
        tokenizer, map(Conversation.model_validate_json, dataset.lines(first))
    )
    return run.write(dataset, "conversations", [])


def prepare_pairs(
    config: PairSetConfig,
    *,
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys],
    alike: Mapping[str, Path] = MappingProxyType({}),
    trained: Mapping[str, Sequence[PreferencePair]] = MappingProxyType({}),
    seed: int,
    out: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Prepared:
    """Write a set of preference pairs under `out`.

    Rows wait in `<out>.shards` in between; a call that was killed is continued by the next.

    Args:
        config: sources and limits.
        lengths: what the round's training leaves of a pair.
        tokenizer: of the model that will be trained; lengths are in its tokens.
        earlier: the prompts of the sets before, by a name for people ("sft", "round 1"). None
            that is held out there is trained on here, and none that an earlier round trained on
            is used again.
        alike: `likeness.npy` of the sets before, by the same names, where they have one.
        trained: pairs that earlier sets were trained on, by name; what contradicts one is left
            out under that reason.
        seed: of the run; decides the split.
        out: an existing folder.
        on_progress: for a progress bar.

    Raises:
        DataError: a source cannot be read, too many rows are malformed, or too few are left.
    """
    run: _Preparation[PreferencePair]
    run = _Preparation(config, tokenizer, earlier, alike, seed, out, on_progress)
    fit = partial(_fit_pairs, lengths, tokenizer)
    opposed = partial(content.contradicts_earlier, preferred=content.preferred(trained))
    judged: list[Step[PreferencePair]] = [content.identical_pair, content.tie, opposed]
    decides = [lengths.model_dump(), {name: [p.id for p in ps] for name, ps in trained.items()}]
    dataset = run.dataset(read_pairs, judged, fit, decides)
    run.compare(dataset)
    return run.write(dataset, "pairs", _notes(dataset.noted, lengths))


class _Preparation(Generic[R]):
    """What the preparation of conversations and of pairs have in common."""

    def __init__(
        self,
        config: SetConfig,
        tokenizer: "PreTrainedTokenizerBase",
        earlier: Mapping[str, PromptKeys],
        alike: Mapping[str, Path],
        seed: int,
        out: Path,
        on_progress: OnProgress,
    ) -> None:
        _check_files(config.sources)
        self.config, self.tokenizer, self.earlier = config, tokenizer, earlier
        self.alike, self.salt, self.out, self.on_progress = alike, str(seed), out, on_progress

    def dataset(
        self,
        read: Callable[[Source, Meter], Reading[R]],
        judged: Sequence[Step[R]],
        fit: Step[R],
        lengths: object,
    ) -> DatasetBuilder[R]:
        """All rows through every filter that looks at one row, the cheap ones first."""
        steps: list[Step[R]] = [*self._usable(), *judged, *self._apart(), fit]
        key = [
            self.config.model_dump(mode="json"),
            self.config.digest(),
            {name: keys.model_dump() for name, keys in self.earlier.items()},
            [self.salt, self.tokenizer.name_or_path, lengths],
        ]
        meter = Meter(bytes_of(self.config.sources))
        dataset = DatasetBuilder(
            (read(source, meter) for source in self.config.sources),
            Pass(steps, self.salt, likeness=self.config.near_duplicates is not None),
            work=self.out.with_name(f"{self.out.name}.shards"),
            key=digest_of(key)[:16],
            on_progress=self.on_progress,
            expected=meter.expected,
        )
        dataset.check_malformed(self.config.max_malformed_share)
        return dataset

    def _usable(self) -> Iterator[Step[R]]:
        if self.config.part is not None:
            yield partial(content.other_part, part=self.config.part, salt=self.salt)
        yield from (content.broken_text, content.empty, content.role_order)
        if self.config.markers == "as_text":
            yield partial(special_tokens.spelled_out, tokenizer=self.tokenizer)
        opening = str(
            self.tokenizer.decode(chat_template.response_template_ids(self.tokenizer))
        ).strip()
        yield partial(special_tokens.special_token, tokenizer=self.tokenizer, turn_marker=opening)
        if self.config.markers == "quarantine":
            yield special_tokens.turn_marker
        yield special_tokens.placeholder
        if not chat_template.offers_tools(self.tokenizer):
            yield content.uses_tools

    def _apart(self) -> Iterator[Step[R]]:
        """Decide who is held out, and keep off the prompts of earlier sets and evaluations."""
        share, salt = self.config.held_out_share, self.salt
        yield lambda rows: Filtered(
            [
                replace(row, held_out=row.held_out or held_out(row.prompt_key, share, salt=salt))
                for row in rows
            ],
            [],
        )
        reserved = {name: frozenset(keys.held_out) for name, keys in self.earlier.items()}
        yield partial(content.in_evaluation_set, held_out=reserved)
        yield partial(content.used_by_earlier_round, earlier=self.earlier)
        if self.config.evaluation_prompts:
            exam = contamination.EvaluationPrompts.of(self.config.evaluation_prompts)
            yield partial(contamination.leaked, exam=exam)

    def compare(self, dataset: DatasetBuilder[R]) -> None:
        """All that are left against each other, and the limits."""
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
            dataset.drop_near_duplicates(self.config.near_duplicates, self.alike)
        dataset.limit(self.config.limit, self.config.task_limits)

    def write(self, dataset: DatasetBuilder[R], kind: Kind, notes: Sequence[str]) -> Prepared:
        """The set, and what a person should know about it."""
        told = [f"{reading.source}: {reading.note}" for reading in dataset.readings if reading.note]
        if spelled := dataset.noted["spelled_out"]:
            told.append(f"{spelled} rows had control tokens in their text, now spelled out")
        return dataset.write(
            self.out,
            kind=kind,
            prompts=_prompts(self.config),
            min_rows=self.config.min_rows,
            notes=[*told, *notes],
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
                    "take it out of one"
                )
            readers[file] = source.label


def _fit_conversations(
    max_length: int, tokenizer: "PreTrainedTokenizerBase", rows: list[Row[Conversation]]
) -> Filtered[Conversation]:
    """Rows of at most `max_length` tokens."""
    cleaned: Filtered[Conversation] = Filtered([], [])
    for row in rows:
        try:
            fit_conversation(tokenizer, row.record, max_length=max_length)
        except Rejected as rejected:
            cleaned.dropped.append(row.dropped(rejected.reason, rejected.detail))
        else:
            cleaned.kept.append(row)
    return cleaned


def _fit_pairs(
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row[PreferencePair]],
) -> Filtered[PreferencePair]:
    """Rows with prompts that fit, and how many had to give something for it."""
    noted: Counter[str] = Counter()
    cleaned: Filtered[PreferencePair] = Filtered([], [], noted)
    for row in rows:
        try:
            trimmed = trim_prompt(
                tokenizer,
                row.record,
                max_prompt_length=lengths.prompt,
                max_length=lengths.whole,
                min_completion=lengths.reply,
            )
        except Rejected as rejected:
            cleaned.dropped.append(row.dropped(rejected.reason, rejected.detail))
            continue
        noted["shortened"] += trimmed.pair.id != row.record.id
        noted["cut"] += trimmed.replies_cut
        cleaned.kept.append(replace(row, record=trimmed.pair))
    return cleaned


def _notes(noted: Mapping[str, int], lengths: Lengths) -> list[str]:
    notes = []
    if shortened := noted.get("shortened"):
        notes.append(
            f"{shortened} prompts lost their oldest turns (max_prompt_length {lengths.prompt})"
        )
    if cut := noted.get("cut"):
        notes.append(f"{cut} replies go beyond max_length {lengths.whole} and will be cut")
    return notes


def _prompts(config: SetConfig) -> Iterable[VerifiablePrompt]:
    """The prompts that a program can judge, of the sources that have such."""
    for source in config.sources:
        if isinstance(source, PracticeSource):
            yield from source.prompts()
