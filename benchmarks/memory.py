"""Memory of this process: on the GPU and in RAM."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignment.scoring.gpu_memory import process_peak

PAUSE = 0.002
"""Seconds between two samples."""


def free_memory() -> None:
    """Free unused memory, and reset the GPU's peak."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        process_peak.cache_clear()


class AnonymousMemory:
    """Anonymous memory: not backed by a file, so the kernel cannot reclaim it.

    Attributes:
        initial: bytes before the measurement.
        peak: most bytes seen since.
    """

    def __init__(self) -> None:
        self.initial = self.peak = _anonymous_bytes()

    @property
    def growth(self) -> int:
        """Bytes by which the peak exceeds the initial value."""
        return self.peak - self.initial

    def sample(self) -> None:
        """Update the peak."""
        self.peak = max(self.peak, _anonymous_bytes())


@contextmanager
def watch_memory() -> Iterator[AnonymousMemory]:
    """Sample this process's memory for as long as the context is open."""
    memory, over = AnonymousMemory(), threading.Event()

    def watch() -> None:
        while not over.wait(PAUSE):
            memory.sample()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def _anonymous_bytes() -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(rows["RssAnon"].split()[0])
