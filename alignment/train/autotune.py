"""Tunes a training before its first step: compilation, micro-batch size, share of recomputation.

Compiling and fusing come first because they change the memory of a pass, which is measured next.
After an out-of-memory error the plan shrinks. Not here: the arithmetic of budgets
(`memory_plan.py`), what makes layers faster (`acceleration.py`), the steps (`packed.py`).
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.errors import TrainingError
from alignment.scoring.batches import PackedRow, lay_out
from alignment.scoring.budget import Budget
from alignment.scoring.engine import Packed
from alignment.scoring.ranks import Ranks
from alignment.train.acceleration import (
    compile_layers,
    compile_obstacle,
    fuse_adapters,
    set_recompute_share,
    untrained_adapter,
    uses_checkpointing,
)
from alignment.train.memory_plan import Plan, Work, training_plan
from alignment.train.objectives import Objective
from alignment.train.pass_memory import TrialPasses

logger = logging.getLogger(__name__)

ROWS_COMPARED, LARGEST_GAP = 2, 0.01
"""Rows of the first step on which policy and reference are compared before any training, and the
largest accepted difference in nats per reply. Identical kernels give 0; different kernels gave 0.75
on replies of 5,000 nats."""

ForwardBackward = Callable[[PackedRow], None]
"""Runs the forward and backward pass of one row."""


class Capacity:
    """Tokens per micro-batch, and how many layers recompute their activations.

    Attributes:
        budget: the token limit.
        share: share of the layers that recompute.
    """

    def __init__(self, model: Any, plan: Plan, *, selective: bool) -> None:
        self._model = model
        self._plan = plan
        self._selective = selective  # whether layers that recompute could keep their activations
        self.budget = Budget(plan.tokens, leveled=on_cuda(model))
        self.share = plan.recompute if selective else 0.0

    def make_room(self, tokens: int) -> None:
        """Before a pass: more layers recompute for a longer row, all once memory has run out."""
        if self._selective:
            set_recompute_share(self._model, max(self.share, self._plan.share(tokens)))

    def shrink(self, sizes: Sequence[int]) -> None:
        """After running out of memory with rows of these sizes: plan with less memory.

        Without a measurement, all layers recompute, then the tokens are halved.

        Raises:
            TrainingError: every row already was a micro-batch of its own.
        """
        smaller = self._plan.smaller() if self._selective else None
        if smaller is not None:
            self._follow(smaller)
            return
        if not self._selective or self.share == 1.0:
            self.budget.halve(sizes)
            return
        logger.warning(
            "out of memory with %.0f%% of the layers recomputing; retrying the same rows with all",
            100 * self.share,
        )
        self.share = 1.0

    def _follow(self, plan: Plan) -> None:
        logger.warning(
            "out of memory with %d tokens per micro-batch and %.0f%% of the layers recomputing; "
            "retrying the same rows with %d and %.0f%%",
            self.budget.tokens,
            100 * self.share,
            plan.tokens,
            100 * plan.recompute,
        )
        self._plan, self.budget.tokens, self.share = plan, plan.tokens, plan.recompute


def autotune(
    trainer: Any,
    objective: Objective,
    engine: Packed,
    *,
    packed_rows: Sequence[PackedRow],
    forward_backward: ForwardBackward,
) -> Capacity:
    """Compile the layers if configured, then measure what fits into memory.

    Args:
        trainer: the trainer, whose model the library has set up.
        objective: the training objective.
        engine: the configured engine.
        packed_rows: rows of the first step.
        forward_backward: runs one row, to measure its memory.

    Raises:
        TrainingError: compilation was configured but is not possible.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    compiled = _compiles(trainer, engine, model) and _compile(
        trainer, objective, model, packed_rows
    )
    if engine.fuse_adapters and not compiled:
        fuse_adapters(model)
    selective = uses_checkpointing(model)
    sizes = objective.sizes(trainer)
    rows = math.ceil(trainer.args.train_batch_size / Ranks.current().count)
    work = Work.of(sizes, rows, passes=objective.passes, compiled=compiled)
    plan = training_plan(
        engine.tokens_per_micro_batch,
        engine.recompute,
        longest=max(sizes),
        work=work,
        trials=_trial_passes(objective, model, forward_backward, selective=selective)
        if on_cuda(model)
        else None,
    )
    return Capacity(model, plan, selective=selective)


def _compiles(trainer: Any, engine: Packed, model: Any) -> bool:
    wanted = engine.wants_compiling(trainer.state.max_steps, cuda=on_cuda(model))
    reason = compile_obstacle(model) if wanted else None
    if reason and engine.compile == "auto":
        logger.info("layers are not compiled: %s", reason)
    elif reason:
        raise TrainingError(f"cannot compile: {reason}; fix that or set engine.compile=auto")
    return wanted and reason is None


def _compile(
    trainer: Any, objective: Objective, model: Any, packed_rows: Sequence[PackedRow]
) -> bool:
    """Compile the layers; undo it if policy and reference then round differently."""
    undo = compile_layers(model)
    micro = lay_out(packed_rows[:ROWS_COMPARED]).to(next(model.parameters()).device)
    state = random_state(model)
    with untrained_adapter(model), trainer.compute_loss_context_manager():
        gap = objective.gap(model, micro)
    set_random_state(model, state)
    if gap > LARGEST_GAP:
        logger.warning(
            "with compiled layers, policy and reference differ by %.3f nats before any training; "
            "training continues without compilation: just as exact, but slower",
            gap,
        )
        undo()
    return gap <= LARGEST_GAP


def _trial_passes(
    objective: Objective, model: Any, forward_backward: ForwardBackward, *, selective: bool
) -> TrialPasses:
    trained = [p for p in model.parameters() if p.requires_grad]

    def attempt(tokens: int, share: float) -> None:
        state = random_state(model)
        if selective:
            set_recompute_share(model, share)
        try:
            for parameter in trained:  # as in every micro-batch of a step but the first
                parameter.grad = torch.zeros_like(parameter)
            forward_backward(objective.probe(tokens))
        finally:
            model.zero_grad(set_to_none=True)
            set_random_state(model, state)

    moments = 8 * sum(parameter.numel() for parameter in trained)  # two in fp32
    return TrialPasses(attempt, reserved=moments)


def on_cuda(model: Any) -> bool:
    """Whether a model is on a GPU."""
    return bool(next(model.parameters()).is_cuda)


def random_state(model: Any) -> list[Tensor]:
    """State of the CPU's random generator, and of the GPU's if the model is on one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_cuda(model) else [])]


def set_random_state(model: Any, state: list[Tensor]) -> None:
    """Restore a state returned by `random_state`."""
    torch.set_rng_state(state[0])
    if on_cuda(model):
        torch.cuda.set_rng_state(state[1])
