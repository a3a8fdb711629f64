"""What this process holds: on the GPU, and of the machine's memory."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignment.scoring.gpu_memory import own_peak

PAUSE = 0.002
"""Seconds between two looks."""


def forget() -> None:
    """Give back what is not used any more, and count the GPU's peak from here."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        own_peak.cache_clear()


class Taken:
    """Memory that no file stands behind, the part that the kernel cannot take back.

    Attributes:
        at_first: bytes, before what is watched.
        most: bytes, the most seen since.
    """

    def __init__(self) -> None:
        self.at_first = self.most = _anonymous()

    @property
    def beyond(self) -> int:
        """Bytes at the peak, over what there was at first."""
        return self.most - self.at_first

    def look(self) -> None:
        """Take in what there is now."""
        self.most = max(self.most, _anonymous())


@contextmanager
def watched() -> Iterator[Taken]:
    """Look at this process's memory all the while."""
    taken, over = Taken(), threading.Event()

    def watch() -> None:
        while not over.wait(PAUSE):
            taken.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def _anonymous() -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(rows["RssAnon"].split()[0])
