"""Measures how many known faults of real data sets `sft-dpo data` finds, and what else it reports.

    python benchmarks/data_faults.py FOLDER

FOLDER holds data files and `dirty-index.jsonl`, one known fault per line: file, 0-based row,
defect. Each file is read from its path alone. A fault counts as found if its row is quarantined or
flagged.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from alignment.data.build.ingest import KEPT, QUARANTINE, IngestOptions, ingest
from alignment.data.filters.flags import Flag

COPIES = {"duplicate", "near_duplicate", "repeated_prompt", "conflicting_label"}
EQUIVALENTS = {
    "control_char": {"control_character"},
    "duplicate_prompt": COPIES,
    "empty_chosen": {"empty"},
    "empty_rejected": {"empty"},
    "empty_response1": {"empty"},
    "empty_response2": {"empty"},
    "empty_earlier_turn": {"empty"},
    "over_1024_tokens": {"long"},
    "prefix_mismatch": {"role_order"},
    "same_speaker_twice": {"role_order"},
    "role_tag_inside_reply": {"turn_marker"},
    "template_like_text": {"turn_marker"},
    "identical_pair": {"identical_pair"},
    "replacement_or_nul_char": {"bad_encoding"},
    "score_tie": {"tie"},
    "non_string": {"malformed"},
    "unfilled_placeholder": {"placeholder"},
}
"""Name of each fault in the list, and the reasons and flags that stand for it here."""
ONLY_FLAGS = {"control_char", "over_1024_tokens"}
"""Listed faults that make a row only long or unusual."""
FileRow = tuple[str, int]


def main(folder: Path) -> None:
    """Read every listed file; print two tables and the faults that were not found."""
    known: dict[FileRow, set[str]] = defaultdict(set)
    for line in (folder / "dirty-index.jsonl").read_text(encoding="utf-8").splitlines():
        fault = json.loads(line)
        known[fault["file"], fault["row"] + 1].add(fault["defect"])
    reported: dict[FileRow, set[str]] = defaultdict(set)
    for file in sorted({file for file, _ in known}):
        for row, labels in reported_rows(folder / file):
            reported[file, row] |= labels
    show_recall(known, reported)
    show_precision(known, reported)
    for (file, row), faults in sorted(known.items()):
        for fault in sorted(faults):
            if (file, row) not in reported:
                print(f"not found: {file} row {row}: {fault}")


def reported_rows(file: Path) -> list[tuple[int, set[str]]]:
    """The rows of one file that are quarantined or flagged, with their reason or flags."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        ingest([str(file)], IngestOptions(), out=out, on_progress=lambda *_: None)
        with (out / QUARANTINE).open(encoding="utf-8") as lines:
            dropped = [(row["row"], {row["reason"]}) for row in map(json.loads, lines)]
        with (out / KEPT).open(encoding="utf-8") as lines:
            kept = [(row["row"], set(row.get("flags", ()))) for row in map(json.loads, lines)]
    return dropped + [(row, flags) for row, flags in kept if flags]


def show_recall(known: dict[FileRow, set[str]], reported: dict[FileRow, set[str]]) -> None:
    """Print how many rows with each fault are dropped, or kept with a flag."""
    listed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    for place, faults in known.items():
        labels = reported.get(place, set())
        for fault in faults:
            listed[fault] += 1
            dropped[fault] += bool(labels - set(Flag))
            flagged[fault] += bool(labels & set(Flag))
            by_name[fault] += bool(labels & EQUIVALENTS[fault])
    columns = ("Fault", "Rows", "Dropped", "Flagged", "Recall", "By its own name")
    print(f"| {' | '.join(columns)} |\n|---|---|---|---|---|---|")
    groups = {"faults": set(listed) - ONLY_FLAGS, "only flags": ONLY_FLAGS, "in all": set(listed)}
    rows = {fault: {fault} for fault in sorted(listed)} | groups
    for name, faults in rows.items():
        count, out, kept, same = (
            sum(counter[fault] for fault in faults)
            for counter in (listed, dropped, flagged, by_name)
        )
        print(f"| {name} | {count} | {out} | {kept} | {(out + kept) / count:.3f} | {same} |")


def show_precision(known: dict[FileRow, set[str]], reported: dict[FileRow, set[str]]) -> None:
    """Print how many rows with each reason or flag are listed, for that fault or for any."""
    print("\n| Reason or flag | Rows | Listed for it | Precision | Listed for any fault |")
    print("|---|---|---|---|---|")
    for label in sorted(set().union(*reported.values())):
        places = [place for place, labels in reported.items() if label in labels]
        meant = {fault for fault, names in EQUIVALENTS.items() if label in names}
        own = sum(bool(known.get(place, set()) & meant) for place in places)
        other = sum(place in known for place in places)
        kind = "flag" if label in set(Flag) else "reason"
        print(f"| {label} ({kind}) | {len(places)} | {own} | {own / len(places):.2f} | {other} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
