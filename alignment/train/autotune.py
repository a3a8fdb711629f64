"""What a trainer's model takes at once, and how: settled before the first step, less after an OOM.

Speed comes first (compiled layers, fused adapters), as it changes what a pass takes; then memory,
by measurement. Not here: the arithmetic of budgets (`budget.py`), what makes layers faster
(`acceleration.py`), the steps themselves (`packed.py`).
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.errors import TrainingError
from alignment.scoring.batches import PackedRow, lay_out
from alignment.scoring.budget import Budget, Plan, training_plan
from alignment.scoring.engine import STEPS_WORTH_COMPILING, Packed
from alignment.train.acceleration import (
    against_compiling,
    compile_layers,
    fresh,
    fuse_adapters,
    recompute,
    recomputes,
)
from alignment.train.objectives import Objective

logger = logging.getLogger(__name__)

ROWS_COMPARED, LARGEST_GAP = 2, 0.01
"""Of a training's first step, policy against reference before it has learnt anything, nats a reply.
The same kernels give 0; others gave 0.75 where replies had 5,000 nats."""

Pass = Callable[[PackedRow], None]
"""Takes one row forward and backward through the model."""


class Capacity:
    """Tokens of a micro-batch, and how many layers recompute their activations.

    Attributes:
        budget: the tokens.
        share: of the layers that recompute.
    """

    def __init__(self, model: Any, plan: Plan, *, selective: bool) -> None:
        self._model = model
        self._plan = plan
        self._selective = selective  # whether layers that recompute could keep their activations
        self.budget = Budget(plan.tokens, leveled=on_cuda(model))
        self.share = plan.recompute if selective else 0.0

    def make_room(self, tokens: int) -> None:
        """Before a pass: more layers recompute for a longer row, and all once memory ran out."""
        if self._selective:
            recompute(self._model, max(self.share, self._plan.share(tokens)))

    def shrink(self, sizes: Sequence[int]) -> None:
        """After an out-of-memory with rows of these sizes: recompute all, then halve the tokens.

        Raises:
            TrainingError: every row went alone already.
        """
        if not self._selective or self.share == 1.0:
            self.budget.halve(sizes)
            return
        logger.warning(
            "out of memory with %.0f%% of the layers recomputing: the same rows again with all",
            100 * self.share,
        )
        self.share = 1.0


def autotune(
    trainer: Any,
    objective: Objective,
    engine: Packed,
    *,
    packed_rows: Sequence[PackedRow],
    take: Pass,
) -> Capacity:
    """Compile what is to be compiled, then measure what fits.

    Args:
        trainer: whose model the library has set up.
        objective: what it is trained on.
        engine: what is asked for.
        packed_rows: rows of the first step.
        take: passes a row, to be measured.

    Raises:
        TrainingError: layers cannot be compiled, as asked for.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    compiled = _compiles(trainer, engine, model) and _compile(
        trainer, objective, model, packed_rows
    )
    if engine.fuse_adapters and not compiled:
        fuse_adapters(model)
    selective = recomputes(model)
    plan = _plan(trainer, objective, engine, model, take, selective=selective)
    return Capacity(model, plan, selective=selective)


def _compiles(trainer: Any, engine: Packed, model: Any) -> bool:
    wanted = engine.compile
    if wanted == "auto":
        wanted = on_cuda(model) and trainer.state.max_steps >= STEPS_WORTH_COMPILING
    reason = against_compiling(model) if wanted else None
    if reason and engine.compile == "auto":
        logger.info("not compiled: %s", reason)
    elif reason:
        raise TrainingError(f"cannot compile: {reason}; mend that or set engine.compile=auto")
    return wanted and reason is None


def _compile(
    trainer: Any, objective: Objective, model: Any, packed_rows: Sequence[PackedRow]
) -> bool:
    """Compile the layers, or not where policy and reference then round differently."""
    undo = compile_layers(model)
    micro = lay_out(packed_rows[:ROWS_COMPARED]).to(next(model.parameters()).device)
    state = random_state(model)
    with fresh(model), trainer.compute_loss_context_manager():
        gap = objective.gap(model, micro)
    set_random_state(model, state)
    if gap > LARGEST_GAP:
        logger.warning(
            "compiled layers take policy and reference %.3f nats apart before any training, "
            "so they are not used: the steps are as exact as they were, and slower",
            gap,
        )
        undo()
    return gap <= LARGEST_GAP


def _plan(
    trainer: Any, objective: Objective, engine: Packed, model: Any, take: Pass, *, selective: bool
) -> Plan:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def attempt(tokens: int, share: float) -> None:
        state = random_state(model)
        if selective:
            recompute(model, share)
        try:
            take(objective.probe(tokens))
        finally:
            model.zero_grad(set_to_none=True)
            set_random_state(model, state)

    return training_plan(
        engine.tokens_per_micro_batch,
        engine.recompute,
        cuda=on_cuda(model),
        longest=objective.longest(trainer),
        attempt=attempt,
        later=sum(12 * parameter.numel() for parameter in learnt),  # gradient, two moments
    )


def on_cuda(model: Any) -> bool:
    """Whether a model lies on a GPU."""
    return bool(next(model.parameters()).is_cuda)


def random_state(model: Any) -> list[Tensor]:
    """Of the CPU's generator, and of the GPU's where the model lies on one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_cuda(model) else [])]


def set_random_state(model: Any, state: list[Tensor]) -> None:
    """Go on from a state that `random_state` gave."""
    torch.set_rng_state(state[0])
    if on_cuda(model):
        torch.cuda.set_rng_state(state[1])
