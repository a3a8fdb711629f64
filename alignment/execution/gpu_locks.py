"""Locks that allow one process per GPU, whoever's it is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from alignment.store.locks import OnWait, hold


@contextlib.contextmanager
def gpu_locks(count: int, *, purpose: str, on_wait: OnWait) -> Iterator[None]:
    """Hold the locks of the first so many GPUs, taken in order; none without a GPU."""
    with contextlib.ExitStack() as held:
        for number in range(torch.cuda.device_count())[:count]:
            path = gpu_lock_file(str(torch.cuda.get_device_properties(number).uuid))
            held.enter_context(hold(path, purpose=purpose, on_wait=on_wait, mode=0o666))
        yield


def gpu_lock_file(uuid: str) -> Path:
    """The file that every user of this machine locks before using a GPU.

    Not in the temporary folder of the user, which others may not share or enter.
    """
    return Path("/tmp") / f"sft-dpo-{uuid}.lock"
