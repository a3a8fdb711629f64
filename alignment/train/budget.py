"""How many tokens may go through a model at once, and what happens when they turn out too many.

On a CPU the automatic budget is a constant, so that the same configuration gives the same weights.
On CUDA it is measured: memory grows linearly with the tokens, so two small passes tell. Either
way a CUDA out-of-memory halves the budget; the rows of a step stay the rows of a step.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from alignment.errors import TrainingError
from alignment.train.batches import split

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""A step of sixteen short rows in one or two passes; bounds the memory of longer ones."""

CUDA_TOKENS = 16384
"""The most that was tried with a 7B model on one H100; from there on matmuls are large enough."""

PROBES = (2048, 4096)
"""Tokens of the two passes that measure memory."""

SHARE = 0.9
"""Of the free memory that is planned for; the allocator's fragments take the rest."""

Setting = Literal["auto"] | int


class Budget:
    """Tokens of one micro-batch; shrinks when memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def groups(self, sizes: Sequence[int]) -> list[list[int]]:
        """Numbers of rows, in as few groups as fit; a larger row is a group of its own."""
        return split(sizes, self.tokens)

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


def training_budget(
    setting: Setting, *, cuda: bool, longest: int, attempt: Callable[[int], None], later: int
) -> Budget:
    """The budget of forward and backward passes, said in the log.

    Args:
        setting: the configured one.
        cuda: whether the model is on a GPU.
        longest: tokens of the longest row; a configured budget below it is warned about.
        attempt: passes so many tokens through the model, forward and backward.
        later: bytes that will be taken once training is under way (the optimiser's).
    """
    if setting != "auto":
        if setting < longest:
            logger.warning(
                "tokens_per_micro_batch is %d, but the longest row has %d tokens: it goes alone, "
                "and decides how much memory is needed",
                setting,
                longest,
            )
        return Budget(setting)
    budget = Budget(_measured(attempt, later=later) if cuda else CPU_TOKENS)
    logger.info("tokens_per_micro_batch: auto is %d here", budget.tokens)
    return budget


def fitting(peaks: Sequence[int], free: int) -> int:
    """Tokens that fit into `free` bytes, by a line through the peaks of the two `PROBES`.

    At least a quarter of the smaller probe, at most `CUDA_TOKENS`.
    """
    per_token = max(1.0, (peaks[1] - peaks[0]) / (PROBES[1] - PROBES[0]))
    tokens = PROBES[0] + (free - peaks[0]) / per_token
    return int(max(PROBES[0] // 4, min(CUDA_TOKENS, tokens)))


def _measured(attempt: Callable[[int], None], *, later: int) -> int:
    import torch

    peaks = []
    for tokens in PROBES:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        try:
            attempt(tokens)
        except torch.OutOfMemoryError:
            return tokens // 4
        peaks.append(torch.cuda.max_memory_allocated() - before)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return fitting(peaks, int(SHARE * (free - later)))
