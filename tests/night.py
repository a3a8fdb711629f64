"""A night of rounds on the tests' tiny model, printed as it happens.

    python -m tests.night

Three batches arrive in an inbox at odd times: a good one, one with swapped labels, and one that
arrives twice, under two names, while another upload is still running. After each, `sft-dpo round`
is run as a schedule would. At the end the ledger and the champion are read back and checked.
Everything is real except for the model, which has 38,000 parameters, and the clock: batches are
made old enough to count as complete.
"""

import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from tests import tiny
from tests.inbox import drop, line_settings, rows

NIGHT: tuple[tuple[str, str, list[dict[str, Any]], str], ...] = (
    ("22:17", "monday.jsonl", rows(0, 32), "32 pairs"),
    ("23:41", "", [], "nothing"),
    (
        "01:03",
        "tuesday.jsonl",
        rows(100, 32, chosen="no", rejected="yes"),
        "32 pairs, labels swapped",
    ),
    ("02:00", "", [], "nothing"),
    ("04:38", "wednesday.jsonl", rows(200, 32), "32 pairs"),
    ("05:55", "", [], "nothing"),
)
"""Time of day, file name, its pairs, and a description."""
DUPLICATE = ("04:38", "wednesday-again.jsonl", rows(200, 32), "the same bytes under another name")
RUNNING = ("04:38", "thursday.jsonl", rows(300, 40), "an upload still in progress")


def say(line: str = "") -> None:
    """Print one line of the record immediately."""
    print(line, flush=True)  # noqa: T201 - the record is what this program makes


def round_(config: Path) -> None:
    """Run `sft-dpo round`; print the table rows of rounds and the closing lines of its output."""
    code = "from flows.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "round", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        if line.startswith(("round ", "no new data", "champion: ")):
            say(f"       {line}")


def play(folder: Path) -> RoundLine:
    """Play the night in a folder; returns the line of rounds."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tiny.write_model(folder / "model", tiny.tokenizer())
    settings = line_settings(tiny.settings(folder / "model", folder / "store"), folder)
    config, inbox = folder / "night.yaml", folder / "inbox"
    YAML().dump(settings, config)
    for time, name, pairs, what in NIGHT:
        if name:
            say(f"{time}  {name} arrives: {what}")
            drop(inbox / name, pairs)
        if time == DUPLICATE[0]:
            say(f"{time}  {DUPLICATE[1]} arrives: {DUPLICATE[3]}")
            drop(inbox / DUPLICATE[1], DUPLICATE[2])
            say(f"{time}  {RUNNING[1]} arrives: {RUNNING[3]}")
            drop(inbox / RUNNING[1], RUNNING[2], age=0)
        say(f"{time}  $ sft-dpo round night.yaml")
        round_(config)
        if name == "wednesday.jsonl":  # removed again, like a writer that starts over
            (inbox / RUNNING[1]).unlink()
    return RoundLine(store=Store(root=folder / "store"))


def check(line: RoundLine) -> None:
    """Print the ledger, and check that champion, ledger and store agree."""
    state = line.state()
    say("\nledger")
    for number, entry in enumerate(line.ledger.read(), start=1):
        event = entry.event.model_dump(mode="json", exclude_none=True)
        detail = event.get("fate") or ", ".join(b["file"] for b in event.get("batches", ()))
        say(f"  {number}  {event['name']:<8} {detail}")
    outcomes = [closed.fate for _, closed in state.history]
    assert outcomes == ["kept", "rejected", "kept"], outcomes
    used = [batch.digest for opened, _ in state.history for batch in opened.batches]
    assert len(used) == len(set(used)) == len(state.spent) == 3
    assert [opened.number for opened, _ in state.lineage] == [1, 3]
    assert state.open is None
    assert state.champion is not None
    parents = [opened.parent.model for opened, _ in state.history]
    assert parents[1] == parents[2] != state.champion.model
    line.store.open(state.champion.model)
    say(f"\nchampion {state.champion.label}, {state.champion.model}: opened, all digests match")
    say(
        f"rounds   {len(outcomes)}: {', '.join(outcomes)}; rounds 2 and 3 both started from round 1"
    )
    say(f"batches  {len(used)} used, each once")


def main() -> None:
    """Play the night in a temporary folder and check the result."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        check(play(Path(folder)))


if __name__ == "__main__":
    main()
