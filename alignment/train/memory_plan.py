"""How much of an optimiser step a training runs at once, and how many layers recompute.

On a CPU both are constants, so that the same configuration gives the same weights. On CUDA they are
what makes a step fastest within the memory that was measured (`pass_memory.py`).
Not here: how rows are grouped within the limit (`scoring/budget.py`).
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from alignment.scoring.batches import split
from alignment.scoring.budget import CPU_TOKENS, CUDA_TOKENS, Setting
from alignment.train.pass_memory import FEWEST, PassMemory, PassPeak

logger = logging.getLogger(__name__)

OVERHEAD_TOKENS = {"compiled": 1200, "uncompiled": 2400}
"""What a micro-batch costs beyond its tokens, in tokens: launching kernels, unpacking weights.
Fitted on one H100 at 7B: docs/performance.md."""

GRANULE = 256
"""Micro-batch sizes that a plan considers are multiples of this many tokens."""

SAMPLED_STEPS = 32
"""Optimiser steps on whose rows a plan is judged."""

Share = Literal["auto"] | float
"""Share of the layers that recompute their activations in the backward pass."""


@dataclass(frozen=True)
class Work:
    """What one optimiser step of a training asks of this device.

    Attributes:
        steps: the rows' sizes in tokens, for a sample of steps.
        passes: passes through the model without recomputation: forward and backward, in DPO also
            the reference's.
        compiled: whether the layers are compiled.
    """

    steps: Sequence[Sequence[int]]
    passes: int = 2
    compiled: bool = True

    @classmethod
    def of(cls, sizes: Sequence[int], rows: int, *, passes: int, compiled: bool) -> "Work":
        """A sample of steps of so many rows, from the sizes of a training's rows."""
        shuffled = random.Random(0).sample(sizes, min(len(sizes), rows * SAMPLED_STEPS))
        starts = range(0, len(shuffled), rows)
        return cls([shuffled[start : start + rows] for start in starts], passes, compiled)

    def cost(self, tokens: int, recompute: Callable[[int], float]) -> float:
        """Relative time of these steps with micro-batches of at most so many tokens.

        `recompute`: the share of layers that recompute in a micro-batch of a size.
        """
        overhead = OVERHEAD_TOKENS["compiled" if self.compiled else "uncompiled"]
        micro_batches = (
            sum(step[row] for row in group) for step in self.steps for group in split(step, tokens)
        )
        return sum(
            (1 + recompute(size) / self.passes) * (size + overhead) for size in micro_batches
        )


class Trials(Protocol):
    """What tells the memory of passes: trial passes on a GPU, or a forecast."""

    def measure(self) -> tuple[PassMemory, float]:
        """The memory of a pass, and the bytes that a plan may use."""

    def peak(self, tokens: int, share: float) -> PassPeak:
        """What a pass allocates in which this share of the layers recomputes."""


TRIED = 4
"""How many plans are tried at most before the first step."""

CLOSE = 0.05
"""Difference of recompute shares that is not worth another trial."""

LESS = 0.85
"""Share of the memory that a plan keeps after memory ran out."""


@dataclass(frozen=True)
class Room:
    """What a plan follows from.

    Attributes:
        memory: the memory of a pass.
        free: bytes that a pass may take.
        work: the rows of a step.
        tokens: the configured tokens of a micro-batch.
    """

    memory: PassMemory
    free: float
    work: Work
    tokens: Setting

    def plan(self) -> "Plan":
        """The fastest plan that fits; of equal ones the one with the largest micro-batches.

        Few large micro-batches cost less overhead, but make more layers recompute.
        """
        if self.tokens != "auto":
            return self._with(self.tokens)
        most = min(CUDA_TOKENS, self.memory.tokens(self.free, 1.0))
        plans = map(self._with, range(FEWEST, most + 1, GRANULE))
        return min(plans, key=lambda plan: (self.work.cost(plan.tokens, plan.share), -plan.tokens))

    def _with(self, tokens: int) -> "Plan":
        return Plan(tokens, self.memory.share(self.free, tokens), self)


@dataclass(frozen=True)
class Plan:
    """The micro-batch size and recompute share that a training starts with.

    Attributes:
        tokens: maximum tokens of a micro-batch.
        recompute: share of the layers that recompute their activations.
        room: what the plan follows from, if something was measured.
    """

    tokens: int
    recompute: float
    room: Room | None = None

    def share(self, tokens: int) -> float:
        """Share of the layers that recompute in a pass of this many tokens.

        A row longer than a micro-batch gets the share it needs; all layers if nothing was measured.
        """
        if tokens <= self.tokens:
            return self.recompute
        if self.room is None:
            return 1.0
        return max(self.recompute, self.room.memory.share(self.room.free, tokens))

    def corrected(self, found: PassPeak) -> "Plan":
        """The plan that follows once a pass of its size has been tried."""
        if self.room is None:
            return self
        if not found.fits():
            return self.smaller() or self
        memory = self.room.memory.through(found, self.recompute)
        return replace(self.room, memory=memory).plan()

    def holds(self, found: PassPeak) -> bool:
        """Whether a tried pass took no more than plans may use."""
        return self.room is not None and found.bytes <= self.room.free

    def smaller(self) -> "Plan | None":
        """The plan for less memory, after it ran out; None if there is none."""
        if self.room is None:
            return None
        taken = self.room.memory.bytes(self.tokens, self.recompute)
        found = replace(self.room, free=LESS * min(taken, self.room.free)).plan()
        return None if found.same(self) else found

    def same(self, other: "Plan", *, tolerance: float = 0.0) -> bool:
        """Whether micro-batches have the same size and about as many layers recompute."""
        return self.tokens == other.tokens and abs(self.recompute - other.recompute) <= tolerance


def training_plan(
    tokens: Setting, recompute: Share, *, longest: int, work: Work, trials: Trials | None
) -> Plan:
    """Choose micro-batch size and recompute share of a training, and log the choice.

    Args:
        tokens: the configured tokens per micro-batch.
        recompute: the configured share.
        longest: tokens of the longest row; a configured limit below it causes a warning.
        work: as in `fit_plan`.
        trials: as in `fit_plan`.
    """
    if tokens != "auto" and tokens < longest:
        logger.warning(
            "tokens_per_micro_batch is %d, but the longest row has %d tokens: it forms a "
            "micro-batch of its own and determines how much memory is needed",
            tokens,
            longest,
        )
    plan = fit_plan(tokens, recompute, work, trials)
    if "auto" in (tokens, recompute):
        logger.info(
            "tokens_per_micro_batch: %s resolved to %d, recompute: %s resolved to %.2f",
            tokens,
            plan.tokens,
            recompute,
            plan.recompute,
        )
    return plan


def fit_plan(tokens: Setting, recompute: Share, work: Work, trials: Trials | None) -> Plan:
    """The configured plan; what is `auto` follows from memory, or on a CPU from constants.

    Args:
        tokens: the configured tokens per micro-batch.
        recompute: the configured share.
        work: a step's rows, which decide what is fastest.
        trials: called if something is `auto`; None on a CPU.
    """
    if tokens != "auto" and recompute != "auto":
        return Plan(tokens, recompute)
    if trials is None:
        return Plan(
            CPU_TOKENS if tokens == "auto" else tokens, 1.0 if recompute == "auto" else recompute
        )
    memory, free = trials.measure()
    if recompute != "auto":
        return Plan(min(CUDA_TOKENS, memory.tokens(free, recompute)), recompute)
    return _tried(Room(memory, free, work, tokens).plan(), trials)


def _tried(plan: Plan, trials: Trials) -> Plan:
    """The plan, corrected until a pass of its size takes what was foretold.

    A pass that runs out of memory here costs a second; in a training it costs a step.
    """
    for _ in range(TRIED):
        found = trials.peak(plan.tokens, plan.recompute)
        logger.info(
            "a pass of %d tokens, %.0f%% of the layers recomputing, takes %.2f GiB",
            plan.tokens,
            100 * plan.recompute,
            found.bytes / 2**30,
        )
        better = plan.corrected(found)
        if better.same(plan) or (plan.holds(found) and better.same(plan, tolerance=CLOSE)):
            break
        plan = better
    return plan
