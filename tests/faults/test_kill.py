"""Some kills; `make faults` runs more."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def killed(module, kills):
    done = subprocess.run(
        [sys.executable, "-m", module, "--kills", kills, "--per-run", kills],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"tried {kills}, lost 0" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("kills", ["8", pytest.param("20", marks=pytest.mark.slow)])
def test_kills_lose_nothing(kills):
    killed("tests.faults.kill", kills)


@pytest.mark.slow
def test_kills_of_a_chain_in_a_bucket_lose_nothing():
    killed("tests.faults.kill_bucket", "10")


@pytest.mark.slow
def test_twenty_kills_while_answering_and_labelling_repeat_nothing():
    killed("tests.faults.kill_own", "20")
