"""Refuses to load weights that a GPU cannot hold, before any is read.

Not here: what a training needs besides its weights (`train/memory_plan.py`).
"""

from pathlib import Path

import torch

from alignment.errors import DeviceError
from alignment.models.weight_files import Weights
from alignment.records.refs import Quantisation

NEVER_QUANTISED = ("embed", "lm_head")
"""Words in the names of matrices that bitsandbytes leaves as they are."""


def loaded_bytes(folder: Path, *, dtype: str, quantisation: Quantisation | None = None) -> float:
    """What the weights of a folder take in memory."""
    weights, plain = Weights(folder), int(getattr(torch, dtype).itemsize)

    def size(name: str) -> float:
        tensor = weights.read(name)
        if not tensor.is_floating_point():  # quantised already
            return tensor.numel() * tensor.element_size()
        spared = tensor.dim() != 2 or any(word in name for word in NEVER_QUANTISED)
        if quantisation is None or spared:
            return tensor.numel() * plain
        return tensor.numel() * quantisation.bits_per_weight / 8

    return sum(map(size, weights.names))


def check_room(needed: float, there: float, *, dtype: str, quantised: bool) -> None:
    """Refuse weights of so many bytes where there are fewer on the GPU.

    Raises:
        DeviceError: with how much is missing, and what to do.
    """
    if needed <= there:
        return
    how = "in 4 bits" if quantised else f"in {dtype}"
    raise DeviceError(
        f"the weights {how} need {needed / 2**30:.1f} GiB, and the GPU has {there / 2**30:.1f}. "
        "Take a GPU with more memory, or a smaller model: several GPUs do not share weights"
        + ("" if quantised else ", and only trainings quantise them")
    )
