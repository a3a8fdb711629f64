"""How many of the known faults of real data sets `sft-dpo data` finds, and what it drops beside.

    python benchmarks/data_faults.py FOLDER

FOLDER holds data files and `dirty-index.jsonl`, one known fault a line: file, 0-based row, defect.
Each file is read by its path alone, once as it is by default and once with one row a prompt.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from alignment.data.intake import KEPT, QUARANTINE, Wanted, take_in

FLAGS = {"control_char"}
"""Only unusual, so not to be dropped; `over_*_tokens` neither."""
SAME = {
    "duplicate_prompt": {"duplicate", "near_duplicate", "repeated_prompt", "conflicting_label"},
    "empty_chosen": {"empty"},
    "empty_rejected": {"empty"},
    "empty_response1": {"empty"},
    "empty_response2": {"empty"},
    "empty_earlier_turn": {"empty"},
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
"""What the faults are called in the list, and by what reasons they are known here."""
Place = tuple[str, int]


def main(folder: Path) -> None:
    """Read every listed file twice and print two tables."""
    known: dict[Place, set[str]] = defaultdict(set)
    for line in (folder / "dirty-index.jsonl").read_text(encoding="utf-8").splitlines():
        fault = json.loads(line)
        if fault["defect"] not in FLAGS and not fault["defect"].startswith("over_"):
            known[fault["file"], fault["row"] + 1].add(fault["defect"])
    files = sorted({file for file, _ in known})
    for at_most in (None, 1):
        found = {}
        for file in files:
            found.update(quarantined(folder, file, Wanted(max_per_prompt=at_most)))
        print(f"\nmax_per_prompt: {at_most or 'all'}\n")
        show(known, found)


def quarantined(folder: Path, file: str, wanted: Wanted) -> dict[Place, str]:
    """Reason by place of the rows of one file that are not kept."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        take_in([str(folder / file)], wanted, out=out, tell=lambda *_: None)
        assert (out / KEPT).exists()
        with (out / QUARANTINE).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    return {(file, row["row"]): row["reason"] for row in rows}


def show(known: dict[Place, set[str]], found: dict[Place, str]) -> None:
    """Print recall by fault, then precision by reason."""
    counts: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for place, faults in known.items():
        for fault in faults:
            counts[fault] += 1
            hits[fault] += place in found
            named[fault] += found.get(place) in SAME[fault]
    print("| Fault | Rows | Dropped | By its own reason | Recall |\n|---|---|---|---|---|")
    for fault, count in sorted(counts.items()):
        print(f"| {fault} | {count} | {hits[fault]} | {named[fault]} | {hits[fault] / count:.3f} |")
    total = counts.total()
    print(f"| in all | {total} | {hits.total()} | {named.total()} | {hits.total() / total:.3f} |")
    print("\n| Reason | Dropped | Listed | Precision |\n|---|---|---|---|")
    for reason, dropped in sorted(Counter(found.values()).items()):
        listed = sum(known.get(place) is not None for place, why in found.items() if why == reason)
        print(f"| {reason} | {dropped} | {listed} | {listed / dropped:.2f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
