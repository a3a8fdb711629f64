"""Builds the set of pairs of a round on own answers from answers and labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.candidates.pairing import CHOSEN, REJECTED, PairedAnswers
from alignment.candidates.records import Fate
from alignment.data.build.prepare import prepare_pairs
from alignment.data.build.report import QUARANTINE, REPORT, Prepared, SourceReport, by_reason
from alignment.data.build.settings import Lengths, PairSetConfig
from alignment.data.formats import Preference
from alignment.data.read.sources import FileSource
from alignment.data.split import PromptKeys
from alignment.errors import DataError
from alignment.records.text import PreferencePair, Quarantined
from alignment.store.durable import failpoint_span, write
from alignment.store.jsonl import as_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIRED, FATES = "paired.jsonl", "candidates.jsonl"
"""The pairs before the filters, and what became of each answer (`Fate`)."""


def build_pairs(
    paired: PairedAnswers,
    *,
    name: str,
    min_pairs: int,
    lengths: Lengths,
    tokenizer: "PreTrainedTokenizerBase",
    earlier: Mapping[str, PromptKeys],
    seed: int,
    out: Path,
) -> Prepared:
    """Write the set under `out`; every answer outside of it is in its quarantine with a reason.

    The other arguments are those of `prepare_pairs`.

    Raises:
        DataError: fewer than `min_pairs` pairs remain.
    """
    if not paired.pairs:
        counts = Counter(fate.fate for fate in paired.fates).most_common()
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts)
        raise DataError(
            f"no pair came out of {len(paired.fates)} answers: {reasons}. Draw more samples, raise "
            "temperature (or max_new_tokens where answers are unfinished), or use prompts that the "
            "model answers neither always well nor never."
        )
    write("own.fates", out / FATES, b"".join(map(as_line, paired.fates)))
    write("own.pairs", out / PAIRED, b"".join(map(_as_row, paired.pairs)))
    prepared = prepare_pairs(
        PairSetConfig(
            sources=(FileSource(path=str(out / PAIRED), format=Preference()),),
            held_out_share=0.0,
            max_malformed_share=1.0,  # a model may write anything
            min_rows=min_pairs,
        ),
        lengths=lengths,
        tokenizer=tokenizer,
        earlier=earlier,
        seed=seed,
        out=out,
    )
    return _with_unpaired(prepared, paired.fates, name, out)


def _as_row(pair: PreferencePair) -> bytes:
    """A pair in format `preference`."""
    columns = {*Preference.columns, "task_type", "source"}
    return pair.model_dump_json(include=columns).encode() + b"\n"


def _with_unpaired(prepared: Prepared, fates: Sequence[Fate], name: str, out: Path) -> Prepared:
    """Account for the answers that are in no pair: in the quarantine, the report and the counts."""
    dropped = [
        Quarantined(file=name, row=row, reason=fate.fate, detail=fate.detail, id=_id(fate))
        for row, fate in enumerate(fates, start=1)
        if fate.fate not in (CHOSEN, REJECTED)
    ]
    counts = Counter(one.reason for one in dropped)
    source = SourceReport(
        source=name,
        format="own_answers",
        reason="written by the model",
        read=len(fates),
        kept=len(fates) - len(dropped),
        held_out=0,
        dropped=by_reason([counts]),
    )
    report = prepared.report.model_copy(update={"sources": (source, *prepared.report.sources)})
    with failpoint_span("own.quarantine"), (out / QUARANTINE).open("ab") as lines:
        lines.writelines(map(as_line, dropped))
    write("own.report", out / REPORT, report.model_dump_json())
    quarantined = by_reason([Counter(prepared.ref.quarantined), counts])
    return Prepared(prepared.ref.model_copy(update={"quarantined": quarantined}), report)


def _id(fate: Fate) -> str:
    return f"{fate.prompt_id}/{fate.sample}"
