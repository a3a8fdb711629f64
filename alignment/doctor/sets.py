"""A prepared set as the checks see it, and which of its dropped rows are shown.

Not here: how a set is prepared (`inputs.py`, and `rows.py` without a tokenizer).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignment.data.build.report import REPORT, PreparationReport
from alignment.data.build.settings import SetConfig
from alignment.data.formats.rows import RawRow
from alignment.data.practice.source import PracticeSource
from alignment.doctor.tokens import EncodedPair
from alignment.models.encoding import Encoded
from alignment.pipeline.steps import PrepareConversations, PreparePairs
from alignment.records.base import Json
from alignment.records.refs import DataRef
from alignment.records.text import Conversation, PreferencePair, Quarantined
from alignment.store.jsonl import read_rows

OnStep = Callable[[str], None]
SAMPLE = 2_000
"""Rows per set that are tokenized. Rows are in hash order, so the first ones are a random sample; a
share measured on them is within .022 of the whole set's in 95 of 100 cases."""
SHOWN = 3
"""Examples shown per reason and set."""


@dataclass(frozen=True)
class PreparedSet:
    """One prepared set.

    Attributes:
        name: name of its step: "conversations", "pairs-1", "pairs-evaluation".
        whole, prompt: length limits of its training, in tokens; conversations have no prompt limit.
        chats, pairs: the first `SAMPLE` training rows as tokens.
        originals: raw fields of the dropped rows that are shown, by file and row number.
    """

    name: str
    key: str
    whole: int
    prompt: int | None
    train: Sequence[Conversation | PreferencePair] = ()
    held_out: Sequence[Conversation | PreferencePair] = ()
    dropped: Sequence[Quarantined] = ()
    report: PreparationReport = field(default_factory=lambda: PreparationReport(sources=()))
    chats: Sequence[Encoded] = ()
    pairs: Sequence[EncodedPair] = ()
    originals: dict[tuple[str, int], Json] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """Rows read from the sources."""
        return sum(source.read for source in self.report.sources)

    def count(self, *reasons: str) -> int:
        """Rows dropped for one of these reasons."""
        return sum(row.reason in reasons for row in self.dropped)


def read_set(
    step: PreparePairs | PrepareConversations,
    ref: DataRef,
    place: Callable[[str], Path],
    folder: Path,
) -> PreparedSet:
    """A prepared set without its tokens.

    Args:
        step: how it was prepared.
        ref: its files.
        place: where a file of `ref` is.
        folder: where its report is.
    """
    conversations = isinstance(step, PrepareConversations)
    record: type[Conversation | PreferencePair] = Conversation if conversations else PreferencePair
    dropped = tuple(read_rows(place(ref.quarantine), Quarantined))
    return PreparedSet(
        name=step.name,
        key=step.key,
        whole=step.max_length if isinstance(step, PrepareConversations) else step.lengths.whole,
        prompt=None if isinstance(step, PrepareConversations) else step.lengths.prompt,
        train=tuple(read_rows(place(ref.train), record)),
        held_out=tuple(read_rows(place(ref.held_out), record)),
        dropped=dropped,
        report=PreparationReport.model_validate_json((folder / REPORT).read_bytes()),
        originals=_originals(step.config, shown(dropped)),
    )


def shown(dropped: Iterable[Quarantined]) -> list[Quarantined]:
    """The rows to show: the first few dropped for each reason."""
    by_reason: defaultdict[str, list[Quarantined]] = defaultdict(list)
    for row in dropped:
        if len(by_reason[row.reason]) < SHOWN:
            by_reason[row.reason].append(row)
    return [row for rows in by_reason.values() for row in rows]


def _originals(config: SetConfig, wanted: Iterable[Quarantined]) -> dict[tuple[str, int], Json]:
    """The raw fields of these rows, if their source can be read again."""
    missing = {(row.file, row.row) for row in wanted}
    found: dict[tuple[str, int], Json] = {}
    for source in config.sources:
        rows = () if isinstance(source, PracticeSource) or not missing else source.read()
        for row in rows:
            place = (row.file, row.row)
            if place in missing and isinstance(row, RawRow):
                found[place] = row.fields
                missing.discard(place)
            if not missing:
                break
    return found
