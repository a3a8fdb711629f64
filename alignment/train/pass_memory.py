"""How much GPU memory a pass through a model takes, measured with trial passes.

Memory grows linearly with the tokens, so a few small passes suffice. Not here: what follows from it
(`memory_plan.py`).
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from alignment.scoring.gpu_memory import free_bytes, process_peak

logger = logging.getLogger(__name__)

PROBES = (2048, 4096)
"""Tokens in the passes that measure memory; halved until all of them fit."""

FEWEST = 512
"""Tokens of the smallest micro-batch that a plan chooses."""

USABLE_SHARE = 0.93
"""Share of the free memory that plans may use; the rest is for rows unlike those of the trials."""

Attempt = Callable[[int, float], None]
"""(tokens, recompute share): runs one trial forward and backward pass."""


@dataclass(frozen=True)
class PassMemory:
    """Bytes of a forward and backward pass beyond the weights: fixed + per token x tokens.

    Attributes:
        fixed: bytes independent of the number of tokens.
        recomputed, kept: bytes per token if every layer, or no layer, recomputes its activations.
            `kept` is infinite if not even a small pass fits without recomputing.
    """

    fixed: float
    recomputed: float
    kept: float

    @classmethod
    def of(cls, small: "PassPeak", large: "PassPeak", kept: "PassPeak") -> "PassMemory":
        """From the peaks of two passes that recompute, and of one that keeps its activations."""
        recomputed = max(1.0, (large.bytes - small.bytes) / (large.tokens - small.tokens))
        fixed = small.bytes - recomputed * small.tokens
        return cls(fixed, recomputed, max(recomputed, (kept.bytes - fixed) / kept.tokens))

    def __str__(self) -> str:
        return (
            f"{self.fixed / 2**30:.2f} GiB, and per token {self.recomputed / 2**20:.2f} MiB if all "
            f"layers recompute, {self.kept / 2**20:.2f} MiB if none does"
        )

    def bytes(self, tokens: int, share: float) -> float:
        """Bytes of a pass in which this share of the layers recomputes."""
        return self.fixed + tokens * self._per_token(share)

    def tokens(self, free: float, share: float) -> int:
        """Tokens that fit into `free` bytes; at least `FEWEST`."""
        return max(FEWEST, int((free - self.fixed) / self._per_token(share)))

    def share(self, free: float, tokens: int) -> float:
        """The smallest share of recomputing layers with which the tokens fit; at most 1."""
        if self.kept in (self.recomputed, math.inf):
            return 1.0
        excess = self.fixed + tokens * self.kept - free
        return min(1.0, max(0.0, excess / (tokens * (self.kept - self.recomputed))))

    def through(self, found: "PassPeak", share: float) -> "PassMemory":
        """The same line made steeper or flatter, so that it goes through a measured pass.

        Small passes foretell large ones some per cent too low or too high.
        """
        foretold = found.tokens * self._per_token(share)
        factor = max(found.bytes - self.fixed, 1.0) / foretold
        return replace(self, recomputed=factor * self.recomputed, kept=factor * self.kept)

    def _per_token(self, share: float) -> float:
        # Not a weighted sum alone: an infinity times zero is no number.
        kept = (1 - share) * self.kept if share < 1 else 0.0
        return share * self.recomputed + kept


class PassPeak(NamedTuple):
    """The most bytes that a pass of so many tokens allocates; infinite if they do not fit."""

    tokens: int
    bytes: float

    def fits(self) -> bool:
        """Whether the pass fitted."""
        return math.isfinite(self.bytes)


@dataclass(frozen=True)
class TrialPasses:
    """Trial passes on this GPU.

    Attributes:
        attempt: runs one trial pass.
        reserved: bytes that training will allocate later and keep: the optimiser's state.
    """

    attempt: Attempt
    reserved: int

    def measure(self) -> tuple[PassMemory, float]:
        """The memory of a pass, and the bytes that a plan may use."""
        small, large = PROBES
        self.peak(FEWEST, 1.0)  # compiles, and allocates what stays
        while small > FEWEST:
            recomputed = [self.peak(tokens, 1.0) for tokens in (small, large)]
            if all(map(PassPeak.fits, recomputed)):
                kept = self.peak(small, 0.0)
                kept = kept if kept.fits() else self.peak(FEWEST, 0.0)
                memory = PassMemory.of(recomputed[0], recomputed[1], kept)
                free = USABLE_SHARE * (free_bytes() - self.reserved)
                logger.info("memory of a pass: %s; %.2f GiB may be used", memory, free / 2**30)
                return memory, free
            small, large = small // 2, large // 2
        return PassMemory(0.0, 1.0, 1.0), 0.0  # leads to the smallest plan

    def peak(self, tokens: int, share: float) -> PassPeak:
        """What a pass allocates in which this share of the layers recomputes."""
        before = torch.cuda.memory_allocated()
        process_peak().reset()
        try:
            self.attempt(tokens, share)
            found = float(torch.cuda.max_memory_allocated() - before)
        except torch.OutOfMemoryError:
            found = math.inf
        torch.cuda.empty_cache()  # after `except`, whose traceback keeps the pass's tensors alive
        return PassPeak(tokens, found)
