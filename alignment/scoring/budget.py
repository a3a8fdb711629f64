"""How many tokens go through a model at once: the token limit of a micro-batch.

A CUDA out-of-memory error halves it for the rest of the run; the rows of an optimiser step stay the
same. Not here: what a training can afford (`train/memory_plan.py`).
"""

import logging
from collections.abc import Sequence
from typing import Literal

from alignment.errors import TrainingError
from alignment.scoring.batches import level, split

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""Fits a step of sixteen short rows into one or two passes; bounds the memory of longer rows."""

CUDA_TOKENS = 16384
"""The largest size tried with a 7B model on one H100, where matmuls are already large enough."""

Setting = Literal["auto"] | int


class Budget:
    """Token limit of one micro-batch; shrinks when memory runs out.

    Attributes:
        tokens: maximum number of tokens.
        leveled: whether groups get similar numbers of tokens, which keeps a GPU busy.
    """

    def __init__(self, tokens: int, *, leveled: bool = False) -> None:
        self.tokens = tokens
        self.leveled = leveled

    def groups(self, sizes: Sequence[int]) -> list[list[int]]:
        """Row indices, in as few groups as fit; a row above the limit is a group of its own."""
        return (level if self.leveled else split)(sizes, self.tokens)

    def halve(self, sizes: Sequence[int]) -> None:
        """Halve the limit after running out of memory with rows of these sizes, in tokens.

        Raises:
            TrainingError: every row already was a group of its own.
        """
        if len(self.groups(sizes)) == len(sizes):
            raise TrainingError(
                f"out of memory with a single row of up to {max(sizes)} tokens. Lower max_length, "
                "set gradient_checkpointing=true, or use a device with more memory."
            )
        self.tokens //= 2
        logger.warning(
            "out of memory with %d tokens per micro-batch; retrying the same rows with %d",
            2 * self.tokens,
            self.tokens,
        )


def scoring_budget(setting: Setting, *, cuda: bool) -> Budget:
    """The budget for passes without gradients, whose memory hardly grows with the tokens."""
    if setting == "auto":
        return Budget(CUDA_TOKENS if cuda else CPU_TOKENS)
    return Budget(setting)
