"""The rows of a set on their way through the filters, and the account of every one of them.

For each source, and so in all: rows read = kept + held out + dropped. Not here: which filters.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from alignment.data.clean import Cleaned, Placed, R, Reason
from alignment.data.formats import Kind
from alignment.data.reading import Reading
from alignment.data.split import PromptKeys, prompt_key
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.records import DataRef, Frozen, Quarantined

TRAIN, HELD_OUT, PROMPTS = "train.jsonl", "held_out.jsonl", "prompts.jsonl"
QUARANTINE, PROMPT_KEYS = "quarantine.jsonl", "prompt_keys.json"

Step = Callable[[list[Placed[R]]], Cleaned[R]]
RowT = TypeVar("RowT", bound=BaseModel)


class SourceReport(Frozen):
    """What became of one source's rows: read = kept + held_out + sum of `dropped`.

    Attributes:
        format: in which its rows were read, and `reason`: why that one.
        kept: rows to train on.
        dropped: rows not used, by reason.
    """

    source: str
    format: str
    reason: str
    read: int
    kept: int
    held_out: int
    dropped: dict[str, int]


class PreparationReport(Frozen):
    """What became of every row, and in words what a person should know about it."""

    sources: tuple[SourceReport, ...]
    notes: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """A prepared set, its uris being names of files under `out`, and how it came to be."""

    ref: DataRef
    report: PreparationReport


class Sieve(Generic[R]):
    """The rows still in, and all that fell out so far.

    Raises:
        DataError: more rows are unreadable than tolerated, or two sources read one file.
    """

    def __init__(self, readings: Sequence[Reading[R]], *, max_malformed_share: float) -> None:
        self.readings = readings
        self.rows = [row for reading in readings for row in reading.rows]
        self.dropped = [row for reading in readings for row in reading.dropped]
        self.notes = [f"{reading.source}: {reading.note}" for reading in readings if reading.note]
        _check_files(readings)
        _check_malformed(
            self.dropped, read=len(self.rows) + len(self.dropped), tolerated=max_malformed_share
        )

    def apply(self, *steps: Step[R]) -> None:
        """Take the rows through these filters, in order."""
        for step in steps:
            self.rows, dropped = step(self.rows)
            self.dropped += dropped

    def write(
        self, out: Path, *, kind: Kind, prompts: Iterable[VerifiablePrompt], min_rows: int
    ) -> Prepared:
        """Write the set under `out` and say what became of every row.

        Of `prompts` those are written that are held out.

        Raises:
            DataError: fewer than `min_rows` rows are left to train on.
        """
        train = [row for row in self.rows if not row.held_out]
        held = [row for row in self.rows if row.held_out]
        report = self._report()
        if len(train) < min_rows:
            raise DataError(_too_few(kind, len(train), report, min_rows=min_rows))
        keys = PromptKeys(kind=kind, trained=_keys(train), held_out=_keys(held))
        asked = _held_out_prompts(prompts, keys)
        _write(out / TRAIN, (row.record for row in train))
        _write(out / HELD_OUT, (row.record for row in held))
        _write(out / QUARANTINE, self.dropped)
        if asked:
            _write(out / PROMPTS, asked)
        (out / PROMPT_KEYS).write_text(keys.model_dump_json())
        ref = DataRef(
            kind=kind,
            train=TRAIN,
            held_out=HELD_OUT,
            prompts=PROMPTS if asked else None,
            quarantine=QUARANTINE,
            kept=len(train),
            held=len(held),
            prompt_count=len(asked),
            quarantined=_by_reason(self.dropped),
        )
        return Prepared(ref, report)

    def _report(self) -> PreparationReport:
        return PreparationReport(
            sources=tuple(self._account(reading) for reading in self.readings),
            notes=tuple(self.notes),
        )

    def _account(self, reading: Reading[R]) -> SourceReport:
        files = _files(reading)
        mine = [row for row in self.rows if row.file in files]
        held = sum(row.held_out for row in mine)
        return SourceReport(
            source=reading.source,
            format=reading.format,
            reason=reading.reason,
            read=len(reading.rows) + len(reading.dropped),
            kept=len(mine) - held,
            held_out=held,
            dropped=_by_reason([row for row in self.dropped if row.file in files]),
        )


def read_rows(path: Path, model: type[RowT]) -> Iterator[RowT]:
    """The rows of a prepared JSON Lines file, validated."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield model.model_validate_json(line)


def _write(path: Path, rows: Iterable[BaseModel]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(row.model_dump_json() + "\n" for row in rows)


def _files(reading: Reading[R]) -> set[str]:
    return {row.file for row in reading.rows} | {row.file for row in reading.dropped}


def _check_files(readings: Sequence[Reading[R]]) -> None:
    readers: dict[str, str] = {}
    for reading in readings:
        for file in sorted(_files(reading)):
            if file in readers:
                raise DataError(
                    f"{file} is read by two sources, {readers[file]} and {reading.source}; "
                    "take it out of one"
                )
            readers[file] = reading.source


def _check_malformed(dropped: Sequence[Quarantined], *, read: int, tolerated: float) -> None:
    bad = [row for row in dropped if row.reason in (Reason.malformed, Reason.bad_encoding)]
    if len(bad) > tolerated * read:
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {read} rows ({len(bad) / read:.1%}) are unreadable, more than "
            f"max_malformed_share {tolerated:g} tolerates. The first: {first.file} line "
            f"{first.row}: {first.detail}. Mend the file, or raise max_malformed_share."
        )


def _too_few(kind: Kind, kept: int, report: PreparationReport, *, min_rows: int) -> str:
    read = sum(source.read for source in report.sources)
    held = sum(source.held_out for source in report.sources)
    reasons: Counter[str] = Counter()
    for source in report.sources:
        reasons.update(source.dropped)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    advice = [_ADVICE[reason] for reason, _ in reasons.most_common() if reason in _ADVICE]
    left = f"only {kept} usable {kind} are" if kept else f"no usable {kind} are"
    return (
        f"{left} left to train on, min_rows is {min_rows}: {read} rows read, {held} held out, "
        f"not used: {counts or 'none'}. {advice[0] if advice else 'Add rows or sources.'}"
    )


_ADVICE: Mapping[str, str] = {
    Reason.used_by_earlier_round: "Give each round its own rows: other sources, or part: "
    "{index: 1, of: 2} in one round and {index: 2, of: 2} in the next.",
    Reason.too_long: "Raise max_length, or take shorter rows.",
    Reason.prompt_too_long: "Raise max_prompt_length, or take shorter prompts.",
    Reason.in_evaluation_set: "Take other rows: these are held out for evaluation.",
}


def _by_reason(dropped: Iterable[Quarantined]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason for row in dropped).items()))


def _keys(rows: Iterable[Placed[R]]) -> tuple[str, ...]:
    return tuple(sorted({row.prompt_key for row in rows}))


def _held_out_prompts(
    prompts: Iterable[VerifiablePrompt], keys: PromptKeys
) -> list[VerifiablePrompt]:
    """Each held-out prompt once."""
    held = frozenset(keys.held_out)
    asked = {prompt.id: prompt for prompt in prompts if prompt_key(prompt.prompt) in held}
    return list(asked.values())
