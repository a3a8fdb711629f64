"""What random lives share: how long they are, and where.

Short, or 2,000 of 200 steps with `--hypothesis-profile=deep`. In memory where there is a place for
it: what a power cut leaves has a test of its own, and flushing to a disk takes nine tenths of a
life.
"""

import tempfile
from pathlib import Path

from hypothesis import settings

MEMORY = Path("/dev/shm")


def lives(*, examples: int, steps: int) -> settings:
    """So many lives of so many steps; 2,000 of 200 where the profile `deep` was asked for."""
    if settings.get_current_profile_name() == "deep":
        return settings.get_profile("deep")
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None)


def place_of_a_life() -> tempfile.TemporaryDirectory[str]:
    """An empty folder for one life."""
    memory = MEMORY if MEMORY.is_dir() else None
    return tempfile.TemporaryDirectory(prefix="life-", dir=memory)
