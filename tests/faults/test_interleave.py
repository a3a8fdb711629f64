"""A round of runs that yield to each other at every file operation; five hundred as `slow`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def interleaved(*arguments, timeout):
    command = [sys.executable, "-m", "tests.faults.interleave", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_runs_at_once_end_alike():
    assert "1 rounds, 0 errors" in interleaved("--rounds", "1", "--runs", "2", timeout=1200)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 4])
def test_runs_at_once_on_two_loaded_cores_end_alike_for_250_rounds(runs):
    arguments = ("--rounds", "250", "--runs", str(runs), "--busy", "2", "--seed", "1")
    assert "250 rounds, 0 errors" in interleaved(*arguments, timeout=7200)
