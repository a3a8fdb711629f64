"""Runs a benchmark in the environment that the process of a pipeline's step has.

malloc, OpenMP and torch read theirs once, when they are loaded, so a running process starts again.
"""

import os
import sys

from alignment.execution.forkserver import with_defaults
from alignment.execution.run_step import DEFAULTS, KEEP_FREED_MEMORY


def restart_like_a_step(module: str) -> None:
    """Restart `python -m module` with the same arguments, unless it has a step's environment."""
    environment = {**KEEP_FREED_MEMORY, **with_defaults(DEFAULTS, os.environ)}
    if environment.keys() != os.environ.keys():
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, environment)
