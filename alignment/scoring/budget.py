"""How many tokens may go through a model at once, and how much of it is computed twice.

On a CPU both are constants, so that the same configuration gives the same weights. On CUDA they
are measured: memory grows linearly with the tokens, so three small passes tell. Either way a CUDA
out-of-memory makes the rest of the run smaller; the rows of a step stay the rows of a step.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from alignment.errors import TrainingError
from alignment.scoring.batches import level, split
from alignment.scoring.gpu_memory import own_peak

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""A step of sixteen short rows in one or two passes; bounds the memory of longer ones."""

CUDA_TOKENS = 16384
"""The most that was tried with a 7B model on one H100; from there on matmuls are large enough."""

TRAINING_TOKENS = 4096, 8192
"""In training where layers may keep their activations: so many before any of them recomputes, and
the most. On one H100 at 7B, 4,096 kept were 8 % faster than 8,192 half of which were recomputed."""

PROBES = (2048, 4096)
"""Tokens of the passes that measure memory."""

SHARE = 0.9
"""Of the free memory that is planned for; the allocator's fragments take the rest."""

Setting = Literal["auto"] | int

Share = Literal["auto"] | float
"""Of the layers that recompute their activations in the backward pass."""

Attempt = Callable[[int, float], None]
"""Passes so many tokens through the model, forward and backward, at a share of recomputation."""


class Budget:
    """Tokens of one micro-batch; shrinks when memory runs out.

    Attributes:
        tokens: at most so many.
        leveled: whether groups get about the same number of tokens, which keeps a GPU busy.
    """

    def __init__(self, tokens: int, *, leveled: bool = False) -> None:
        self.tokens = tokens
        self.leveled = leveled

    def groups(self, sizes: Sequence[int]) -> list[list[int]]:
        """Numbers of rows, in as few groups as fit; a larger row is a group of its own."""
        return (level if self.leveled else split)(sizes, self.tokens)

    def halve(self, sizes: Sequence[int]) -> None:
        """After an out-of-memory with rows of these sizes (tokens).

        Raises:
            TrainingError: every row went alone already.
        """
        if len(self.groups(sizes)) == len(sizes):
            raise TrainingError(
                f"out of memory with a single row of up to {max(sizes)} tokens. Lower max_length, "
                "turn gradient_checkpointing on, or take a device with more memory."
            )
        self.tokens //= 2
        logger.warning(
            "out of memory with %d tokens in a micro-batch: the same rows again with %d",
            2 * self.tokens,
            self.tokens,
        )


def scoring_budget(setting: Setting, *, cuda: bool) -> Budget:
    """The budget of passes without gradients, whose memory hardly grows with the tokens."""
    if setting == "auto":
        return Budget(CUDA_TOKENS if cuda else CPU_TOKENS)
    return Budget(setting)


@dataclass(frozen=True)
class PassMemory:
    """Bytes that a forward and backward pass takes beside the weights: fixed + a token's x tokens.

    Attributes:
        fixed: whatever the tokens.
        recomputed, kept: of one token, where every layer recomputes its activations, and none.
    """

    fixed: float
    recomputed: float
    kept: float

    @classmethod
    def by(cls, small: int, large: int, kept: int) -> "PassMemory":
        """From the peaks of three passes: both `PROBES` recomputing, the smaller keeping all."""
        recomputed = max(1.0, (large - small) / (PROBES[1] - PROBES[0]))
        more = max(0.0, (kept - small) / PROBES[0])
        return cls(small - recomputed * PROBES[0], recomputed, recomputed + more)

    def tokens(self, free: float, share: float) -> int:
        """That fit into `free` bytes; at least a quarter of the smaller probe."""
        each = share * self.recomputed + (1 - share) * self.kept
        return max(PROBES[0] // 4, int((free - self.fixed) / each))

    def share(self, free: float, tokens: int) -> float:
        """The smallest share of recomputing layers with which so many tokens fit; at most 1."""
        if self.kept == self.recomputed:
            return 1.0
        over = self.fixed + tokens * self.kept - free
        return min(1.0, max(0.0, over / (tokens * (self.kept - self.recomputed))))


@dataclass(frozen=True)
class Plan:
    """What a training begins with.

    Attributes:
        tokens: of a micro-batch.
        recompute: share of the layers that recompute.
        measured: what a pass takes and the bytes there are for it, if the share goes by that.
    """

    tokens: int
    recompute: float
    measured: tuple[PassMemory, float] | None = None

    def share(self, tokens: int) -> float:
        """Of the layers that recompute in a pass of so many tokens.

        A row longer than a micro-batch has what it asks for: all where nothing was measured.
        """
        if tokens <= self.tokens:
            return self.recompute
        if self.measured is None:
            return 1.0
        memory, free = self.measured
        return max(self.recompute, memory.share(free, tokens))


def training_plan(
    tokens: Setting,
    recompute: Share,
    *,
    cuda: bool,
    longest: int,
    attempt: Attempt,
    later: int,
) -> Plan:
    """How to take the forward and backward passes of a training, said in the log.

    Args:
        tokens: the configured ones.
        recompute: the configured share.
        cuda: whether the model is on a GPU.
        longest: tokens of the longest row; a configured budget below it is warned about.
        attempt: takes one pass, to be measured.
        later: bytes that will be taken once training is under way (the optimiser's).
    """
    if tokens != "auto" and tokens < longest:
        logger.warning(
            "tokens_per_micro_batch is %d, but the longest row has %d tokens: it goes alone, "
            "and decides how much memory is needed",
            tokens,
            longest,
        )
    if tokens != "auto" and recompute != "auto":
        return Plan(tokens, recompute)
    if cuda:
        plan = fitting(*_measured(attempt, later=later), tokens, recompute)
    else:
        plan = Plan(
            CPU_TOKENS if tokens == "auto" else tokens, 1.0 if recompute == "auto" else recompute
        )
    logger.info(
        "tokens_per_micro_batch: %s is %d here, recompute: %s is %.2f",
        tokens,
        plan.tokens,
        recompute,
        plan.recompute,
    )
    return plan


def fitting(memory: PassMemory, free: float, tokens: Setting, recompute: Share) -> Plan:
    """The plan that fits into `free` bytes."""
    if recompute != "auto":
        found = memory.tokens(free, recompute) if tokens == "auto" else tokens
        return Plan(min(CUDA_TOKENS, found) if tokens == "auto" else found, recompute)
    fewest, most = TRAINING_TOKENS
    kept = max(fewest, memory.tokens(free, 0.0))
    found = min(most, memory.tokens(free, 1.0), kept) if tokens == "auto" else tokens
    return Plan(found, memory.share(free, found), (memory, free))


def _measured(attempt: Attempt, *, later: int) -> tuple[PassMemory, float]:
    """What a pass takes, and the bytes that may be planned for."""
    small, large = PROBES
    peaks = []
    attempt(small, 1.0)  # compiles, and takes what is taken once
    for tokens, share in ((small, 1.0), (large, 1.0), (small, 0.0)):
        before = torch.cuda.memory_allocated()
        own_peak().count_anew()
        try:
            attempt(tokens, share)
        except torch.OutOfMemoryError:
            return PassMemory(0.0, 4.0, 4.0), 0.0  # the least there is
        peaks.append(torch.cuda.max_memory_allocated() - before)
    torch.cuda.empty_cache()
    return PassMemory.by(*peaks), SHARE * (_free() - later)


def _free() -> float:
    """Bytes this process can still take: of the device, and of what it is allowed of it."""
    free, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.get_per_process_memory_fraction() * total
    return float(min(free, allowed - torch.cuda.memory_reserved()))
