"""How much of an optimiser step a training runs at once, and how many layers recompute.

On a CPU both are constants, so that the same configuration gives the same weights. On CUDA they
are measured: memory grows linearly with the tokens, so three small passes suffice.
Not here: the limit itself, and what happens when memory runs out (`scoring/budget.py`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from alignment.scoring.budget import CPU_TOKENS, CUDA_TOKENS, Setting
from alignment.scoring.gpu_memory import process_peak

logger = logging.getLogger(__name__)

TRAINING_TOKENS = 4096, 8192
"""Soft and hard token limit of a micro-batch in training, if layers may keep their activations. Up
to the soft limit no layer recomputes. On one H100 at 7B, 4,096 tokens without recomputation were
8 % faster than 8,192 with half of it."""

PROBES = (2048, 4096)
"""Tokens in the passes that measure memory."""

USABLE_SHARE = 0.9
"""Share of the free memory that plans may use; the rest is left for allocator fragmentation."""

Share = Literal["auto"] | float
"""Share of the layers that recompute their activations in the backward pass."""

Attempt = Callable[[int, float], None]
"""(tokens, recompute share): runs one trial forward and backward pass."""


@dataclass(frozen=True)
class PassMemory:
    """Bytes of a forward and backward pass beyond the weights: fixed + per token x tokens.

    Attributes:
        fixed: bytes independent of the number of tokens.
        recomputed, kept: bytes per token if every layer, or no layer, recomputes its activations.
    """

    fixed: float
    recomputed: float
    kept: float

    @classmethod
    def from_peaks(cls, small: int, large: int, kept: int) -> "PassMemory":
        """From the peaks of three passes: both `PROBES` recomputing, then the smaller keeping."""
        recomputed = max(1.0, (large - small) / (PROBES[1] - PROBES[0]))
        extra = max(0.0, (kept - small) / PROBES[0])
        return cls(small - recomputed * PROBES[0], recomputed, recomputed + extra)

    def tokens(self, free: float, share: float) -> int:
        """Tokens that fit into `free` bytes; at least a quarter of the smaller probe."""
        per_token = share * self.recomputed + (1 - share) * self.kept
        return max(PROBES[0] // 4, int((free - self.fixed) / per_token))

    def share(self, free: float, tokens: int) -> float:
        """The smallest share of recomputing layers with which the tokens fit; at most 1."""
        if self.kept == self.recomputed:
            return 1.0
        excess = self.fixed + tokens * self.kept - free
        return min(1.0, max(0.0, excess / (tokens * (self.kept - self.recomputed))))


Measure = Callable[[], tuple[PassMemory, float]]
"""Returns the memory of a pass, and the bytes that a plan may use."""


@dataclass(frozen=True)
class Plan:
    """The micro-batch size and recompute share that a training starts with.

    Attributes:
        tokens: maximum tokens of a micro-batch.
        recompute: share of the layers that recompute their activations.
        measured: memory of a pass and bytes available for it, if the share was derived from them.
    """

    tokens: int
    recompute: float
    measured: tuple[PassMemory, float] | None = None

    def share(self, tokens: int) -> float:
        """Share of the layers that recompute in a pass of this many tokens.

        A row longer than a micro-batch gets the share it needs; all layers if nothing was measured.
        """
        if tokens <= self.tokens:
            return self.recompute
        if self.measured is None:
            return 1.0
        memory, free = self.measured
        return max(self.recompute, memory.share(free, tokens))


def training_plan(
    tokens: Setting, recompute: Share, *, longest: int, measure: Measure | None
) -> Plan:
    """Choose micro-batch size and recompute share of a training, and log the choice.

    Args:
        tokens: the configured tokens per micro-batch.
        recompute: the configured share.
        longest: tokens of the longest row; a configured limit below it causes a warning.
        measure: as in `fit_plan`.
    """
    if tokens != "auto" and tokens < longest:
        logger.warning(
            "tokens_per_micro_batch is %d, but the longest row has %d tokens: it forms a "
            "micro-batch of its own and determines how much memory is needed",
            tokens,
            longest,
        )
    plan = fit_plan(tokens, recompute, measure)
    if "auto" in (tokens, recompute):
        logger.info(
            "tokens_per_micro_batch: %s resolved to %d, recompute: %s resolved to %.2f",
            tokens,
            plan.tokens,
            recompute,
            plan.recompute,
        )
    return plan


def fit_plan(tokens: Setting, recompute: Share, measure: Measure | None) -> Plan:
    """The configured plan; what is `auto` follows from memory, or on a CPU from constants.

    Args:
        tokens: the configured tokens per micro-batch.
        recompute: the configured share.
        measure: called if something is `auto`; None on a CPU.
    """
    if tokens != "auto" and recompute != "auto":
        return Plan(tokens, recompute)
    if measure is None:
        return Plan(
            CPU_TOKENS if tokens == "auto" else tokens, 1.0 if recompute == "auto" else recompute
        )
    memory, free = measure()
    if recompute != "auto":
        return Plan(min(CUDA_TOKENS, memory.tokens(free, recompute)), recompute)
    soft, hard = TRAINING_TOKENS
    kept = max(soft, memory.tokens(free, 0.0))
    found = min(hard, memory.tokens(free, 1.0), kept) if tokens == "auto" else tokens
    return Plan(found, memory.share(free, found), (memory, free))


def measure_passes(attempt: Attempt, *, reserved: int) -> tuple[PassMemory, float]:
    """The memory of a pass on this GPU, and the bytes that a plan may use.

    Args:
        attempt: runs one trial pass.
        reserved: bytes that training will allocate later (gradients and optimiser state).
    """
    small, large = PROBES
    peaks = []
    attempt(small, 1.0)  # warm-up: compiles, and makes one-time allocations
    for tokens, share in ((small, 1.0), (large, 1.0), (small, 0.0)):
        before = torch.cuda.memory_allocated()
        process_peak().reset()
        try:
            attempt(tokens, share)
        except torch.OutOfMemoryError:
            return PassMemory(0.0, 4.0, 4.0), 0.0  # leads to the smallest plan
        peaks.append(torch.cuda.max_memory_allocated() - before)
    torch.cuda.empty_cache()
    return PassMemory.from_peaks(*peaks), USABLE_SHARE * (_free_bytes() - reserved)


def _free_bytes() -> float:
    """Bytes that this process can still allocate, given the device and the process's limit."""
    free, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.get_per_process_memory_fraction() * total
    return float(min(free, allowed - torch.cuda.memory_reserved()))
