"""The most GPU memory that this process has held in tensors, however often a part was measured.

CUDA's allocator knows the most since it was last told to count anew; what came before is kept here.
"""

from functools import cache

import torch


class Peak:
    """A peak over the whole life of a process.

    Attributes:
        earlier: bytes, the most before the allocator began to count anew.
    """

    def __init__(self) -> None:
        self.earlier = 0

    def count_anew(self) -> None:
        """From here on the allocator's own peak is that of what follows."""
        self.earlier = self.most()
        torch.cuda.reset_peak_memory_stats()

    def most(self) -> int:
        """Bytes at the peak of all of it."""
        return max(self.earlier, torch.cuda.max_memory_allocated())


@cache
def own_peak() -> Peak:
    """That of this process."""
    return Peak()
