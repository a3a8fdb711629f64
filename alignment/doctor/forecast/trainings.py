"""The trainings of a run as the trainers will see them: rows, steps, micro-batches."""

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from alignment.compose.settings import Merge, Stack
from alignment.doctor.sets import PreparedSet
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import TrainDpo, TrainSft
from alignment.scoring.budget import CUDA_TOKENS, Budget
from alignment.scoring.engine import Packed
from alignment.train.memory_plan import Plan, Work
from alignment.train.settings import DpoConfig, SftConfig

NOT_PLANNED = Plan(CUDA_TOKENS, recompute=1.0)
"""Of a training of which no device is known yet."""
STEPS = 1_000
"""Random steps of a packed run that are simulated to find its largest micro-batch, at most."""


@dataclass(frozen=True)
class Training:
    """One training of the chain.

    Attributes:
        rows: number of conversations or pairs to train on.
        sample: for some of these rows, the length in tokens of each sequence that the model sees
            for it, after truncation to `max_length`: one in SFT, two in DPO; in the packed engine
            one, with the prompt once and both replies.
        plan: what the packed engine starts with; layers only recompute if checkpointing is on.
        on_gpu: whether the packed engine makes its micro-batches about equal, as on a GPU.
        compiled: whether the layers are compiled.
        frozen: total rank of the earlier adapters that `compose: stack` carries along.
    """

    name: str
    config: SftConfig | DpoConfig
    rows: int
    sample: Sequence[tuple[int, ...]]
    plan: Plan = NOT_PLANNED
    on_gpu: bool = False
    compiled: bool = False
    frozen: int = 0

    @property
    def is_dpo(self) -> bool:
        """Whether rows are pairs, which need a pass for the reference as well."""
        return isinstance(self.config, DpoConfig)

    @property
    def is_stock(self) -> bool:
        """Whether the engine is the stock one (TRL's trainers)."""
        return not isinstance(self.config.engine, Packed)

    def recomputed(self, tokens: int) -> float:
        """Share of the layers that recompute in a pass of this many tokens."""
        return self.plan.share(tokens) if self.config.gradient_checkpointing else 0.0

    @cached_property
    def mean_recomputed(self) -> float:
        """That share, averaged over all tokens of the sample."""
        tokens = self.tokens()
        return sum(n * self.recomputed(n) for n in tokens) / sum(tokens) if tokens else 0.0

    @property
    def work(self) -> Work:
        """What a step asks of the device, as the packed engine plans it."""
        sizes = [sum(row) for row in self.sample]
        passes = 3 if self.is_dpo else 2
        rows = self.config.batch.effective
        return Work.of(sizes, rows, passes=passes, compiled=self.compiled)

    @property
    def steps(self) -> int:
        """Optimiser steps, counted as transformers' Trainer does."""
        if self.config.max_steps:
            return self.config.max_steps
        an_epoch = math.ceil(self.rows / self.config.batch.effective)
        return math.ceil(self.config.epochs * an_epoch)

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        return math.ceil(self.steps * self.config.warmup_ratio)

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of the whole training."""
        batch = self.config.batch
        if not self.is_stock:
            steps = math.ceil(len(self.sample) / batch.effective)
            return round(self.steps * len(self.tokens()) / steps) if steps else 0
        whole = math.ceil(self.config.epochs * math.ceil(self.rows / batch.per_device))
        return min(whole, self.steps * batch.accumulation) if self.config.max_steps else whole

    def tokens(self) -> list[int]:
        """Tokens that the model processes in each micro-batch of the sample.

        Stock: chats times the longest of them, because padding is computed too. Packed: the rows'
        own tokens, in as few micro-batches per step as the budget allows.
        """
        if not self.is_stock:
            return self._packed([sum(row) for row in self.sample])
        return [count * longest for count, longest in map(_shape, self._padded())]

    def masked(self) -> float:
        """Mean number of token pairs that attention compares under a mask, per micro-batch.

        0 if no row is padded: with rows of equal length, and in the packed engine.
        """
        if not (self.is_stock and self.sample):
            return 0.0
        return statistics.fmean(
            count * longest**2 if min(map(min, group)) < longest else 0
            for group in self._padded()
            for count, longest in [_shape(group)]
        )

    def _padded(self) -> list[Sequence[tuple[int, ...]]]:
        """The sample's rows, grouped into micro-batches of the stock engine."""
        size = self.config.batch.per_device
        return [self.sample[at : at + size] for at in range(0, len(self.sample), size)]

    def _packed(self, sizes: Sequence[int]) -> list[int]:
        """Tokens of each micro-batch of the packed engine, for rows in this order."""
        step, budget = self.config.batch.effective, Budget(self.plan.tokens, leveled=self.on_gpu)
        return [
            sum(sizes[at + row] for row in group)
            for at in range(0, len(sizes), step)
            for group in budget.groups(sizes[at : at + step])
        ]

    @property
    def largest(self) -> int:
        """Tokens of the largest micro-batch to expect.

        Stock: every row as long as the longest. Packed: the largest in `STEPS` random steps, or in
        as many as the run has.
        """
        if not self.sample:
            return 0
        if not self.is_stock:
            draw, sizes = random.Random(0), [sum(row) for row in self.sample]
            passes = math.ceil(min(self.steps, STEPS) * self.config.batch.effective / len(sizes))
            return max(
                tokens
                for _ in range(max(1, passes))
                for tokens in self._packed(draw.sample(sizes, len(sizes)))
            )
        rows = min(self.config.batch.per_device, self.rows)
        return rows * len(self.sample[0]) * max(map(max, self.sample))


def _shape(group: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Number of sequences in a padded micro-batch, and the padded length of each."""
    return sum(map(len, group)), max(map(max, group))


def list_trainings(
    chain: Chain, sets: Sequence[PreparedSet], *, compose: Merge | Stack
) -> tuple[Training, ...]:
    """Every training of a chain whose rows are known, in order; those on own answers are not yet.

    Not here: how a device runs them (`plans.py`).
    """
    by_key = {set_.key: set_ for set_ in sets}
    control = chain.control.train if chain.control else None
    steps = (chain.sft, *(round_.train for round_ in chain.rounds), control)
    trained = [step for step in steps if isinstance(step, TrainSft | TrainDpo)]
    return tuple(
        replace(_training(step, by_key), frozen=frozen)
        for step, frozen in zip(trained, carried_ranks(trained, compose), strict=True)
        if set(_sets(step)) <= set(by_key)
    )


def carried_ranks(steps: Sequence[TrainSft | TrainDpo], compose: Merge | Stack) -> Iterator[int]:
    """Total rank of the adapters below each training since they were last merged into the base.

    The control starts from the same model as the first round.
    """
    rank = 0
    for number, step in enumerate(steps):
        control = number and isinstance(step, TrainSft)
        yield steps[0].config.lora.r if control and isinstance(compose, Stack) else rank
        if isinstance(compose, Stack):
            rank += step.config.lora.r
            rank = rank if rank <= compose.max_rank else 0


def _training(step: TrainSft | TrainDpo, by_key: dict[str, PreparedSet]) -> Training:
    sets = [by_key[key] for key in _sets(step)]
    return Training(
        name=step.name,
        config=step.config,
        rows=sum(len(set_.train) for set_ in sets),
        sample=[
            row
            for set_ in sets
            for row in _lengths(set_, step.config, pairs=isinstance(step, TrainDpo))
        ],
    )


def _sets(step: TrainSft | TrainDpo) -> tuple[str, ...]:
    """Keys of the sets that a step trains on."""
    return step.data if isinstance(step, TrainSft) else (step.data,)


def _lengths(
    set_: PreparedSet, config: SftConfig | DpoConfig, *, pairs: bool
) -> Iterator[tuple[int, ...]]:
    """Tokens of each row's sequences; SFT on pairs (the control) uses the chosen chat."""
    limit = config.max_length
    yield from ((min(len(chat.ids), limit),) for chat in set_.chats)
    for pair in set_.pairs:
        chosen, rejected = (min(len(chat.ids), limit) for chat in (pair.chosen, pair.rejected))
        if not pairs:
            yield (chosen,)
        elif isinstance(config.engine, Packed):
            yield (chosen + rejected - pair.prompt,)
        else:
            yield chosen, rejected
