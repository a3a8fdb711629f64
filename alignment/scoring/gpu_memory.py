"""Peak GPU memory in tensors over the whole life of this process, across resets of the counter.

CUDA's allocator only knows the peak since its counter was last reset; earlier peaks are kept here.
"""

from functools import cache

import torch


class Peak:
    """A peak over the whole life of a process.

    Attributes:
        earlier: the peak in bytes before the last reset.
    """

    def __init__(self) -> None:
        self.earlier = 0

    def reset(self) -> None:
        """Reset the allocator's own counter, so that it measures only what follows."""
        self.earlier = self.bytes()
        torch.cuda.reset_peak_memory_stats()

    def bytes(self) -> int:
        """The peak in bytes since the process started."""
        return max(self.earlier, torch.cuda.max_memory_allocated())


@cache
def process_peak() -> Peak:
    """The peak of this process."""
    return Peak()
