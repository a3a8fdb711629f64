"""Settings shared by the tests with random histories: how many, how long, and where.

Short by default; 2,000 histories of 200 steps with `--hypothesis-profile=deep`. They run in memory
if possible: power cuts have their own test, and flushing to disk takes nine tenths of the time.
"""

import tempfile
from pathlib import Path

from hypothesis import settings

MEMORY = Path("/dev/shm")


def histories(*, examples: int, steps: int) -> settings:
    """This many histories of this many steps, unless the profile `deep` is active."""
    if settings.get_current_profile_name() == "deep":
        return settings.get_profile("deep")
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None)


def history_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty folder for one history."""
    memory = MEMORY if MEMORY.is_dir() else None
    return tempfile.TemporaryDirectory(prefix="history-", dir=memory)
