"""Runs a benchmark in the environment that the process of a pipeline's step has.

Both malloc and torch read theirs once, as they are loaded, so a running process has to start again.
"""

import os
import sys

from alignment.execution.run_step import GROWING_SEGMENTS, KEEP_FREED_MEMORY


def restart_like_a_step(module: str) -> None:
    """Restart `python -m module` with the same arguments, unless it has a step's environment."""
    expected = KEEP_FREED_MEMORY | GROWING_SEGMENTS
    if not expected.keys() <= os.environ.keys():
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, expected | os.environ)
