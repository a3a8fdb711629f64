"""The rows of a set on their way through the filters, and the account of every one of them.

Two passes: each row against the rules, in shards on disk (`shards.py`); then all that are left
against each other, by their columns (`index.py`). Memory holds 80 bytes a row and one batch.
For each source, and so in all: rows read = kept + held out + dropped. Not here: which filters.
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

from alignment.data.build.report import (
    HELD_OUT,
    LIKENESS,
    PROMPT_KEYS,
    PROMPTS,
    QUARANTINE,
    REPORT,
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
    BATCH,
    DROPPED,
    INDEX,
    ROWS,
    SIGNATURES,
    Pass,
    account_of,
    fill_shards,
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
from alignment.data.practice.verifiers import VerifiablePrompt
from alignment.data.read.reading import Reading
from alignment.data.row import R, Reason
from alignment.data.split import PromptKeys, prompt_key, unit_hash
from alignment.errors import DataError
from alignment.records import DataRef, Quarantined
from alignment.store.durable import failpoint_span, remove, write
from alignment.store.jsonl import as_line, read_rows

Comparison = Callable[[Index, KeptMask], Matches]
OnProgress = Callable[[str, int, int], None]
"""Is told a phase, how many rows of it are done, and of how many; 0 where nobody knows."""


@dataclass(frozen=True)
class OnDisk:
    """Arrays of which one at a time is in memory, read anew whenever they are gone through."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[NDArray[np.uint16]]:
        return map(np.load, self.paths)


class DatasetBuilder(Generic[R]):
    """The rows still in, and all that fell out so far.

    Args:
        readings: the sources, each gone through once.
        made_with: filters of the first pass.
        work: a folder for the shards. Those of an earlier attempt under the same `key` are used.
        on_progress: for a progress bar.
        expected: how many rows there will be, given how many were read; 0 where nobody knows.

    Raises:
        DataError: a source cannot be read.
    """

    def __init__(
        self,
        readings: Iterable[Reading[R]],
        made_with: Pass[R],
        *,
        work: Path,
        key: str,
        on_progress: OnProgress,
        expected: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._on_progress = on_progress
        self._work = _workplace(work, key)
        self.readings: list[Reading[R]] = []
        self._shards: list[Path] = []
        self.read: Counter[int] = Counter()
        self.noted: Counter[str] = Counter()
        self.dropped: dict[int, Counter[str]] = {}
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            on_progress("reading", done, expected(done))

        for number, reading in enumerate(readings):
            self.readings.append(reading)
            self.dropped[number] = Counter()
            for folder in fill_shards(reading, number, made_with, self._work, count):
                account = account_of(folder)
                self._shards.append(folder)
                self.read[number] += account.read
                self.noted.update(account.noted)
                self.dropped[number].update(account.dropped)
        self._collect(likeness=made_with.likeness)

    def _collect(self, *, likeness: bool) -> None:
        self.files: list[str] = []
        self.tasks: list[str] = []
        parts = []
        for number, folder in enumerate(self._shards):
            account, part = account_of(folder), np.load(folder / INDEX)
            part["file"] = _merged(self.files, account.files)[part["file"]]
            part["task"] = _merged(self.tasks, account.tasks)[part["task"]]
            part["shard"] = number
            parts.append(part)
        self.index: Index = np.concatenate(parts)
        self.index["exam"] = np.array([reading.held_out for reading in self.readings])[
            self.index["source"]
        ]
        self.alive: KeptMask = np.ones(len(self.index), dtype=bool)
        self._late: dict[int, tuple[Reason, str]] = {}
        shards = self._shards if likeness else []
        self.signatures = OnDisk(tuple(folder / SIGNATURES for folder in shards))

    def apply(self, reason: Reason, comparison: Comparison, words: Callable[[str], str]) -> None:
        """Drop the rows that a comparison finds; `words` says it, given the other row's place."""
        at, of = comparison(self.index, self.alive)
        self.drop(at, reason, [words(self.place(int(other))) for other in of])

    def drop(self, rows: NDArray[np.int64], reason: Reason, details: Sequence[str]) -> None:
        """Put rows into quarantine, each with its words."""
        self.alive[rows] = False
        for row, detail in zip(rows.tolist(), details, strict=True):
            self._late[row] = (reason, detail)
            self.dropped[int(self.index["source"][row])][reason] += 1

    def sample(self, salt: str) -> None:
        """Take of each source the share of its prompts that its weight asks for."""
        for number, weight in enumerate(reading.weight for reading in self.readings):
            if weight < 1:
                mine = np.flatnonzero(self.alive & (self.index["source"] == number))
                keys = (f"{key:016x}" for key in self.index["prompt"][mine].tolist())
                drawn = np.array([unit_hash(key, salt=f"weight:{salt}") for key in keys])
                left = mine[drawn >= weight] if len(mine) else mine
                self.drop(left, Reason.not_sampled, [f"weight is {weight:g}"] * len(left))

    def limit(self, limit: int | None, tasks: Mapping[str, int]) -> None:
        """Keep the first rows in hash order: so many of a task type, then so many in all."""
        for task, count in tasks.items():
            number = self.tasks.index(task) if task in self.tasks else len(self.tasks)
            mine = self.alive & (self.index["task"] == number)
            left = in_order(self.index, mine)[count:]
            self.drop(left, Reason.over_limit, [f"limit of {task} is {count}"] * len(left))
        if limit is not None:
            left = in_order(self.index, self.alive)[limit:]
            self.drop(left, Reason.over_limit, [f"limit is {limit}"] * len(left))

    def limit_prompts(self, at_most: int) -> None:
        """Keep the first so many rows of one whole prompt."""
        repeated = partial(repeated_prompt, at_most=at_most)
        self.apply(Reason.repeated_prompt, repeated, "its prompt stands at {}".format)

    def drop_near_duplicates(self, threshold: float, earlier: Mapping[str, Path]) -> None:
        """Drop rows that are nearly one further up, or a row of an earlier set by its name."""
        before = OnDisk(tuple(earlier.values()))
        parts = OnDisk(self.signatures.paths + before.paths)
        told = partial(self._on_progress, "comparing")
        at, of = near_duplicate(parts, self.alive, threshold=threshold, on_progress=told)
        names = [name for name, rows in zip(earlier, before, strict=True) for _ in range(len(rows))]
        places = (
            self.place(other) if other < len(self.alive) else names[other - len(self.alive)]
            for other in of.tolist()
        )
        self.drop(at, Reason.near_duplicate, [f"nearly the same as {place}" for place in places])

    def place(self, row: int) -> str:
        """Where a row stood, for people."""
        return f"{self.files[self.index['file'][row]]} row {self.index['row'][row]}"

    def check_malformed(self, tolerated: float) -> None:
        """Accept a share of unreadable rows.

        Raises:
            DataError: there are more.
        """
        bad = sum(counts[reason] for counts in self.dropped.values() for reason in UNREADABLE)
        read = self.read.total()
        if bad > tolerated * read:
            first = next(row for row in self.quarantine() if row.reason in UNREADABLE)
            raise DataError(too_many_unreadable(first, bad, read, tolerated=tolerated))

    def quarantine(self) -> Iterator[Quarantined]:
        """Every row that fell out: by the rules in the order of reading, then by comparison."""
        for folder in self._shards:
            yield from read_rows(folder / DROPPED, Quarantined)
        for row, (reason, detail) in sorted(self._late.items()):
            yield Quarantined(
                file=self.files[self.index["file"][row]],
                row=int(self.index["row"][row]),
                reason=reason,
                detail=detail,
                id=f"{self.index['id'][row]:016x}",
            )

    def lines(self, rows: Sequence[int]) -> Iterator[bytes]:
        """The JSON lines of these rows."""
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
        """Write the set under `out` in hash order, say what became of every row, and clean up.

        Of `prompts` those are written that are held out.

        Raises:
            DataError: fewer than `min_rows` rows are left to train on.
        """
        order = in_order(self.index, self.alive)
        held = self.index["held"][order]
        report = PreparationReport(sources=tuple(self.accounts()), notes=tuple(notes))
        if (~held).sum() < min_rows:
            raise DataError(too_few(kind, int((~held).sum()), report, min_rows=min_rows))
        keys = PromptKeys(
            kind=kind,
            trained=_keys(self.index["prompt"][order[~held]]),
            held_out=_keys(self.index["prompt"][order[held]]),
        )
        asked = _held_out_prompts(prompts, keys)
        _write(out / TRAIN, self.lines(order[~held].tolist()))
        _write(out / HELD_OUT, self.lines(order[held].tolist()))
        _write(out / QUARANTINE, (as_line(row) for row in self.quarantine()))
        if asked:
            _write(out / PROMPTS, map(as_line, asked))
        if self.signatures.paths:
            self._write_likeness(out / LIKENESS)
        write("set.prompt_keys", out / PROMPT_KEYS, keys.model_dump_json())
        write("set.report", out / REPORT, report.model_dump_json())
        self.close()
        ref = DataRef(
            kind="pairs" if kind == "pairs" else "conversations",
            train=TRAIN,
            held_out=HELD_OUT,
            prompts=PROMPTS if asked else None,
            quarantine=QUARANTINE,
            kept=int((~held).sum()),
            held=int(held.sum()),
            prompt_count=len(asked),
            quarantined=by_reason(self.dropped.values()),
        )
        return Prepared(ref, report)

    def _write_likeness(self, path: Path) -> None:
        """The signatures of the rows that are in, in the order of reading, part by part."""
        shape = (int(self.alive.sum()), HASHES)
        header = {"descr": "<u2", "fortran_order": False, "shape": shape}
        start = 0
        with failpoint_span("set.likeness"), path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in self.signatures:
                file.write(part[self.alive[start : start + len(part)]].astype("<u2").tobytes())
                start += len(part)

    def close(self) -> None:
        """Remove the shards; what is wanted of them has been written."""
        remove("shards.remove", self._work.parent)

    def accounts(self) -> Iterator[SourceReport]:
        """What became of each source's rows."""
        for number, reading in enumerate(self.readings):
            mine = self.alive & (self.index["source"] == number)
            held = int((mine & self.index["held"]).sum())
            yield SourceReport(
                source=reading.source,
                format=reading.format,
                reason=reading.reason,
                read=self.read[number],
                kept=int(mine.sum()) - held,
                held_out=held,
                dropped=by_reason([self.dropped[number]]),
            )


def _workplace(work: Path, key: str) -> Path:
    """The folder of this key's shards; what was begun under another key is removed."""
    if work.is_dir() and not (work / key).is_dir():
        remove("shards.outdated", work)
    (work / key).mkdir(parents=True, exist_ok=True)
    return work / key


def _merged(names: list[str], more: Sequence[str]) -> NDArray[np.uint32]:
    """Where each of `more` stands in `names`, to which new ones are added."""
    places = {name: at for at, name in enumerate(names)}
    for name in more:
        if name not in places:
            places[name] = len(names)
            names.append(name)
    return np.array([places[name] for name in more], dtype=np.uint32)


def _write(path: Path, lines: Iterable[bytes]) -> None:
    with failpoint_span("set.rows"), path.open("wb") as file:
        file.writelines(lines)


def _keys(prompts: NDArray[np.uint64]) -> tuple[str, ...]:
    return tuple(f"{key:016x}" for key in np.unique(prompts).tolist())


def _held_out_prompts(
    prompts: Iterable[VerifiablePrompt], keys: PromptKeys
) -> list[VerifiablePrompt]:
    """Each held-out prompt once."""
    held = frozenset(keys.held_out)
    asked = {prompt.id: prompt for prompt in prompts if prompt_key(prompt.prompt) in held}
    return list(asked.values())
