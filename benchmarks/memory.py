"""What this process holds on the GPU."""

import gc

from alignment.peak import own_peak


def forget() -> None:
    """Give back what is not used any more, and count the peak from here."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        own_peak.cache_clear()
