"""Every fault that needs no server, and a table of what was tried: `make faults`.

Takes a quarter of an hour on two cores; `--quick` deals out a tenth of the kills and lives.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^(?P<fault>.+): tried (?P<tried>\d+), lost (?P<lost>\d+), (?P<seconds>\d+) s$")
PASSED = re.compile(r"(\d+) passed.* in ([\d.]+)s")

TESTS = {
    "a bit flipped in each file of each kind of artifact": "tests/alignment/test_damage.py",
    "a checkpoint cut, changed, incomplete or of two generations": (
        "tests/alignment/train/test_checkpoints.py"
    ),
    "a training killed, stopped, its checkpoint damaged": "tests/alignment/train/test_resume.py",
    "a network that fails every third call": "tests/faults/test_flaky_inbox.py",
    "random lives of the store against a dict": "tests/alignment/test_store_machine.py",
    "random lives of inbox, ledger and head against a dict": "tests/alignment/test_line.py",
}
"""What is counted by the tests that pass."""


def main() -> int:
    """Run everything; the table last. 1 where something was lost."""
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
        ["tests.faults.scenarios"],
        ["tests.faults.simulate", "--seeds", str(10_000 // part), "--minutes", "30"],
    ):
        said, code = run(*words)
        found = [match.groups() for line in said.splitlines() if (match := LINE.match(line))]
        rows += found or [(" ".join(words), "0", "failed", "0")]
        worst |= code
    for fault, tests in TESTS.items():
        began = time.monotonic()
        said, code = run("pytest", "-q", tests)
        passed = PASSED.search(said)
        count = passed[1] if passed and not code else "0"
        rows.append(
            (fault, count, "0" if not code else "failed", f"{time.monotonic() - began:.0f}")
        )
        worst |= code
    print("| Fault | Tried | Lost | Seconds |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return worst


def run(*words: str) -> tuple[str, int]:
    """What a module says, shown as it comes, and its exit code."""
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        print(line, end="", flush=True)
        said.append(line)
    return "".join(said), int(process.wait() != 0)


if __name__ == "__main__":
    sys.exit(main())
