"""Twenty kills; `make faults` runs two hundred."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_twenty_kills_lose_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--kills", "20", "--per-run", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tried 20, lost 0" in done.stdout.splitlines()[-1]
