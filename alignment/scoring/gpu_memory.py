"""GPU memory of this process: its peak in tensors over the whole life, and what is free.

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


def free_bytes() -> float:
    """Bytes that this process can still allocate, given the device and the process's limit."""
    free, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.get_per_process_memory_fraction() * total
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return float(min(free + unused, allowed - torch.cuda.memory_allocated()))
