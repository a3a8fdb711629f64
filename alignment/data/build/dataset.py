"""Builds a set from its sources in two passes, and accounts for every row.

The first pass applies the filters to each row, in shards on disk (`shards.py`). The second compares
the remaining rows with each other by their columns (`dedup/compare.py`). Memory holds 80 bytes per
row and one batch. For each source, and in total: rows read = kept + held out + dropped.
Not here: which filters are applied (`prepare.py`, `ingest.py`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Generic

import numpy as np
from numpy.typing import NDArray

from alignment.data.build.batches import BATCH, Batch, FilteredBatch, FilterPass
from alignment.data.build.forked_map import ForkedMap
from alignment.data.build.names import numbers_in
from alignment.data.build.report import (
    HELD_OUT,
    PROMPT_KEYS,
    PROMPTS,
    QUARANTINE,
    REPORT,
    SET_SIGNATURES,
    TRAIN,
    UNREADABLE,
    PreparationReport,
    Prepared,
    SourceReport,
    by_reason,
    too_few,
    too_many_unreadable,
)
from alignment.data.build.shards import (
    DROPPED,
    INDEX,
    ROWS,
    SHARD_LAYOUT,
    SIGNATURES,
    fill_shards,
    read_summary,
)
from alignment.data.dedup.compare import (
    Index,
    KeptMask,
    Matches,
    in_order,
    near_duplicate,
    repeated_prompt,
)
from alignment.data.dedup.ngrams import HASHES
from alignment.data.formats import Kind
from alignment.data.read.reading import Reading
from alignment.data.row import R, Reason
from alignment.data.split import PromptKeys, prompt_key, unit_hash
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.records.refs import DataRef
from alignment.records.text import Quarantined
from alignment.store.durable import failpoint_span, remove, write
from alignment.store.jsonl import as_line, read_rows

Comparison = Callable[[Index, KeptMask], Matches]
OnProgress = Callable[[str, int, int], None]
"""Called with the phase, the rows done so far, and their total; 0 if unknown."""


@dataclass(frozen=True)
class ArraysOnDisk:
    """Arrays in files, loaded one at a time on each iteration."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[NDArray[np.uint16]]:
        return map(np.load, self.paths)


class DatasetBuilder(Generic[R]):
    """Reads and filters rows, then drops more by comparison, and records why each was dropped.

    Attributes:
        index: columns of the rows that passed the filters of the first pass.
        kept: which of these have not been dropped since.

    Args:
        readings: the sources, each iterated over once.
        filters: the first pass.
        work: a folder for the shards. Shards of an earlier attempt with the same `key` are reused.
        key: digest of everything that determines the shards.
        on_progress: for a progress bar.
        expected: estimates the total of rows from the number read so far; 0 if unknown.
        large: whether there are enough rows to filter them in several processes.

    Raises:
        DataError: a source cannot be read.
    """

    def __init__(
        self,
        readings: Iterable[Reading[R]],
        filters: FilterPass[R],
        *,
        work: Path,
        key: str,
        on_progress: OnProgress,
        expected: Callable[[int], int] = lambda _: 0,
        large: bool = False,
    ) -> None:
        self._on_progress = on_progress
        self._work = _work_folder(work, key)
        self.readings: list[Reading[R]] = []
        self._shards: list[Path] = []
        self.read: Counter[int] = Counter()
        self.changes: Counter[str] = Counter()
        self.dropped: dict[int, Counter[str]] = {}
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            on_progress("reading", done, expected(done))

        filtered: ForkedMap[Batch, FilteredBatch] = ForkedMap(filters, worth_it=large)
        with filtered:
            for number, reading in enumerate(readings):
                self.readings.append(reading)
                self.dropped[number] = Counter()
                for folder in fill_shards(reading, number, filtered, self._work, count):
                    self._add(folder, number)
        self._collect(signatures=filters.signatures)

    def _add(self, folder: Path, number: int) -> None:
        summary = read_summary(folder)
        self._shards.append(folder)
        self.read[number] += summary.read
        self.changes.update(summary.changes)
        self.dropped[number].update(summary.dropped)

    def _collect(self, *, signatures: bool) -> None:
        """Join the shards' columns, with one numbering of files and task types."""
        self.files: list[str] = []
        self.tasks: list[str] = []
        parts = []
        for number, folder in enumerate(self._shards):
            summary, part = read_summary(folder), np.load(folder / INDEX)
            part["file"] = numbers_in(self.files, summary.files)[part["file"]]
            part["task"] = numbers_in(self.tasks, summary.tasks)[part["task"]]
            part["shard"] = number
            parts.append(part)
        self.index: Index = np.concatenate(parts)
        self.index["evaluation"] = np.array([reading.held_out for reading in self.readings])[
            self.index["source"]
        ]
        self.kept: KeptMask = np.ones(len(self.index), dtype=bool)
        self._dropped_later: dict[int, tuple[Reason, str]] = {}
        shards = self._shards if signatures else []
        self.signatures = ArraysOnDisk(tuple(folder / SIGNATURES for folder in shards))

    def apply(self, reason: Reason, comparison: Comparison, detail: Callable[[str], str]) -> None:
        """Drop the rows that a comparison finds; `detail` gets the location of the other row."""
        rows, others = comparison(self.index, self.kept)
        self.drop(rows, reason, [detail(self.location(int(other))) for other in others])

    def drop(self, rows: NDArray[np.int64], reason: Reason, details: Sequence[str]) -> None:
        """Quarantine rows, each with its detail."""
        self.kept[rows] = False
        for row, detail in zip(rows.tolist(), details, strict=True):
            self._dropped_later[row] = (reason, detail)
            self.dropped[int(self.index["source"][row])][reason] += 1

    def sample(self, salt: str) -> None:
        """Keep of each source the share of its prompts given by its weight."""
        for number, weight in enumerate(reading.weight for reading in self.readings):
            if weight < 1:
                mine = np.flatnonzero(self.kept & (self.index["source"] == number))
                keys = (f"{key:016x}" for key in self.index["prompt"][mine].tolist())
                hashes = np.array([unit_hash(key, salt=f"weight:{salt}") for key in keys])
                excess = mine[hashes >= weight] if len(mine) else mine
                self.drop(excess, Reason.not_sampled, [f"weight is {weight:g}"] * len(excess))

    def limit(self, limit: int | None, tasks: Mapping[str, int]) -> None:
        """Keep the first rows in hash order, up to the limit of each task type, then of the set."""
        for task, count in tasks.items():
            number = self.tasks.index(task) if task in self.tasks else len(self.tasks)
            mine = self.kept & (self.index["task"] == number)
            excess = in_order(self.index, mine)[count:]
            self.drop(excess, Reason.over_limit, [f"limit of {task} is {count}"] * len(excess))
        if limit is not None:
            excess = in_order(self.index, self.kept)[limit:]
            self.drop(excess, Reason.over_limit, [f"limit is {limit}"] * len(excess))

    def limit_prompts(self, at_most: int) -> None:
        """Keep at most the first `at_most` rows with the same whole prompt."""
        repeated = partial(repeated_prompt, at_most=at_most)
        self.apply(Reason.repeated_prompt, repeated, "same prompt as {}".format)

    def drop_near_duplicates(self, threshold: float, earlier: Mapping[str, Path]) -> None:
        """Drop rows that nearly equal an earlier row, or a row of an earlier set.

        `earlier` maps the names of earlier sets to their `SET_SIGNATURES` files.
        """
        before = ArraysOnDisk(tuple(earlier.values()))
        parts = ArraysOnDisk(self.signatures.paths + before.paths)
        on_progress = partial(self._on_progress, "comparing")
        rows, others = near_duplicate(
            parts, self.kept, threshold=threshold, on_progress=on_progress
        )
        names = [name for name, part in zip(earlier, before, strict=True) for _ in range(len(part))]
        locations = (
            self.location(other) if other < len(self.kept) else names[other - len(self.kept)]
            for other in others.tolist()
        )
        self.drop(rows, Reason.near_duplicate, [f"nearly the same as {at}" for at in locations])

    def location(self, row: int) -> str:
        """File and row number of a row, for people."""
        return f"{self.files[self.index['file'][row]]} row {self.index['row'][row]}"

    def check_malformed(self, tolerated: float) -> None:
        """Check that at most the share `tolerated` of rows is unreadable.

        Raises:
            DataError: more are.
        """
        bad = sum(counts[reason] for counts in self.dropped.values() for reason in UNREADABLE)
        read = self.read.total()
        if bad > tolerated * read:
            first = next(row for row in self.quarantine() if row.reason in UNREADABLE)
            raise DataError(too_many_unreadable(first, bad, read, tolerated=tolerated))

    def quarantine(self) -> Iterator[Quarantined]:
        """Every dropped row: first those dropped by filters, as read, then those by comparison."""
        for folder in self._shards:
            yield from read_rows(folder / DROPPED, Quarantined)
        for row, (reason, detail) in sorted(self._dropped_later.items()):
            yield Quarantined(
                file=self.files[self.index["file"][row]],
                row=int(self.index["row"][row]),
                reason=reason,
                detail=detail,
                id=f"{self.index['id'][row]:016x}",
            )

    def lines(self, rows: Sequence[int]) -> Iterator[bytes]:
        """The JSON lines of these rows, in the given order."""
        with ExitStack() as stack:
            opened: dict[int, IO[bytes]] = {}
            for at, row in enumerate(rows, start=1):
                if at % BATCH == 0:
                    self._on_progress("writing", at, len(rows))
                shard = int(self.index["shard"][row])
                if shard not in opened:
                    opened[shard] = stack.enter_context((self._shards[shard] / ROWS).open("rb"))
                opened[shard].seek(int(self.index["offset"][row]))
                yield opened[shard].read(int(self.index["size"][row]))

    def write(
        self,
        out: Path,
        *,
        kind: Kind,
        prompts: Iterable[VerifiablePrompt],
        min_rows: int,
        notes: Sequence[str],
    ) -> Prepared:
        """Write the set under `out` in hash order, report on every row, and remove the shards.

        Only held-out `prompts` are written.

        Raises:
            DataError: fewer than `min_rows` training rows remain.
        """
        order = in_order(self.index, self.kept)
        held = self.index["held_out"][order]
        report = PreparationReport(sources=tuple(self.source_reports()), notes=tuple(notes))
        if (~held).sum() < min_rows:
            raise DataError(too_few(kind, int((~held).sum()), report, min_rows=min_rows))
        keys = PromptKeys(
            kind=kind,
            trained=_keys(self.index["prompt"][order[~held]]),
            held_out=_keys(self.index["prompt"][order[held]]),
        )
        verifiable = _held_out_prompts(prompts, keys)
        _write(out / TRAIN, self.lines(order[~held].tolist()))
        _write(out / HELD_OUT, self.lines(order[held].tolist()))
        _write(out / QUARANTINE, (as_line(row) for row in self.quarantine()))
        if verifiable:
            _write(out / PROMPTS, map(as_line, verifiable))
        if self.signatures.paths:
            self._write_signatures(out / SET_SIGNATURES)
        write("set.prompt_keys", out / PROMPT_KEYS, keys.model_dump_json())
        write("set.report", out / REPORT, report.model_dump_json())
        self.close()
        ref = DataRef(
            kind="pairs" if kind == "pairs" else "conversations",
            train=TRAIN,
            held_out=HELD_OUT,
            prompts=PROMPTS if verifiable else None,
            quarantine=QUARANTINE,
            kept=int((~held).sum()),
            held=int(held.sum()),
            prompt_count=len(verifiable),
            quarantined=by_reason(self.dropped.values()),
        )
        return Prepared(ref, report)

    def _write_signatures(self, path: Path) -> None:
        """Write the kept rows' signatures in the order of reading, one part at a time."""
        shape = (int(self.kept.sum()), HASHES)
        header = {"descr": "<u2", "fortran_order": False, "shape": shape}
        start = 0
        with failpoint_span("set.likeness"), path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in self.signatures:
                file.write(part[self.kept[start : start + len(part)]].astype("<u2").tobytes())
                start += len(part)

    def close(self) -> None:
        """Remove the shards, once everything needed has been written."""
        remove("shards.remove", self._work.parent)

    def source_reports(self) -> Iterator[SourceReport]:
        """Counts of kept and dropped rows for each source."""
        for number, reading in enumerate(self.readings):
            mine = self.kept & (self.index["source"] == number)
            held = int((mine & self.index["held_out"]).sum())
            yield SourceReport(
                source=reading.source,
                format=reading.format,
                reason=reading.reason,
                read=self.read[number],
                kept=int(mine.sum()) - held,
                held_out=held,
                dropped=by_reason([self.dropped[number]]),
                unread=dict(sorted(reading.unread.items())),
            )


def _work_folder(work: Path, key: str) -> Path:
    """The folder of this key's shards; shards of another key or layout are removed."""
    folder = work / f"{SHARD_LAYOUT}-{key}"
    if work.is_dir() and not folder.is_dir():
        remove("shards.outdated", work)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(path: Path, lines: Iterable[bytes]) -> None:
    with failpoint_span("set.rows"), path.open("wb") as file:
        file.writelines(lines)


def _keys(prompts: NDArray[np.uint64]) -> tuple[str, ...]:
    return tuple(f"{key:016x}" for key in np.unique(prompts).tolist())


def _held_out_prompts(
    prompts: Iterable[VerifiablePrompt], keys: PromptKeys
) -> list[VerifiablePrompt]:
    """The held-out prompts, each once."""
    held = frozenset(keys.held_out)
    by_id = {prompt.id: prompt for prompt in prompts if prompt_key(prompt.prompt) in held}
    return list(by_id.values())
