"""Injects every fault that needs no server, and prints a table of the results: `make faults`.

Takes a quarter of an hour on two cores, and at most `LIMIT` seconds for each part; `--quick` tries
a tenth of the kills and histories.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^(?P<fault>.+): tried (?P<tried>\d+), lost (?P<lost>\d+), (?P<seconds>\d+) s$")
LIMIT = 900.0
"""In seconds. A part that takes longer is killed and counts as failed."""

TESTS = {
    "one flipped bit in each file of each kind of artifact": "tests/alignment/store/test_damage.py",
    "a checkpoint truncated, changed, incomplete or of two generations": (
        "tests/alignment/train/test_checkpoints.py"
    ),
    "a training killed, stopped, its checkpoint damaged": "tests/alignment/train/test_resume.py",
    "a network that fails every third call": "tests/faults/test_flaky_inbox.py",
    "a training killed by the kernel for its memory": (
        "tests/alignment/train/test_out_of_memory.py"
    ),
    "30 random histories of the store against a dict": (
        "tests/alignment/store/test_store_machine.py"
    ),
    "40 random histories of inbox, ledger and champion against a dict": (
        "tests/alignment/rounds/test_line_machine.py"
    ),
}
"""Faults that are counted by tests: by their property `tried`, otherwise as one each."""


def main() -> int:
    """Run everything and print the table; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    part, seed = (10 if given.quick else 1), str(given.seed)
    rows: list[tuple[str, ...]] = []
    worst = 0
    for words in (
        ["pytest", "-q", "-s", "tests/faults/test_crash_states.py"],
        ["tests.faults.kill", "--kills", str(200 // part), "--seed", seed],
        ["tests.faults.kill_own", "--kills", str(50 // part), "--seed", seed],
        ["tests.faults.scenarios"],
        ["tests.faults.fuzz_inbox", "--files", str(20_000 // part), "--seed", seed],
        ["tests.faults.simulate", "--seeds", str(10_000 // part), "--minutes", "10"],
    ):
        output, code = run(*words)
        found = [match.groups() for line in output.splitlines() if (match := LINE.match(line))]
        rows += found or [(" ".join(words), "0", "failed", "0")]
        worst |= code
    for fault, tests in TESTS.items():
        began = time.monotonic()
        tried, code = counted(tests)
        seconds = f"{time.monotonic() - began:.0f}"
        rows.append((fault, f"{tried}", "failed" if code else "0", seconds))
        worst |= code
    print("| Fault | Tried | Lost | Seconds |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return worst


def counted(tests: str) -> tuple[int, int]:
    """How many faults the passed tests of a file tried, and the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "results.xml"
        _, code = run("pytest", "-q", tests, "-o", "junit_family=xunit1", f"--junitxml={page}")
        cases = ElementTree.parse(page).iter("testcase") if page.exists() else ()
        return sum(_tried(case) for case in cases), code


def _tried(case: ElementTree.Element) -> int:
    if any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped")):
        return 0
    given = case.find("properties/property[@name='tried']")
    return 1 if given is None else int(given.attrib["value"])


def run(*words: str) -> tuple[str, int]:
    """Run a module and echo its output; returns the output and the exit code."""
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    limit = threading.Timer(LIMIT, process.kill)
    limit.start()
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    limit.cancel()
    return "".join(lines), int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
