"""Runs a configured trainer to its end, for SFT and DPO alike."""

import json
import math
from pathlib import Path
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict
from transformers import Trainer, TrainerState

from alignment.errors import Interrupted
from alignment.models.adapters import PlainBase, name_base
from alignment.records.base import Frozen
from alignment.store.durable import staged, write
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.checkpoints import newest

CHOSEN = ("tokens_per_micro_batch", "recompute")
"""The packed engine's own choices, as it logs them."""

MEASURED = ("loss", "accuracies", "margins", "chosen", "rejected")
"""Suffixes of the evaluation metrics kept in the record; the others are timings and counts."""


class TrainingSummary(Frozen):
    """Result of one training run.

    Attributes:
        steps: optimiser steps.
        loss: mean training loss over the last tenth of the steps.
        evaluation: metrics of the last evaluation under the trainer's names.
        trainable, parameters: number of weights in the adapter, and in model and adapter together.
        chosen: the packed engine's final tokens_per_micro_batch and recompute.
        resumed_at: steps that earlier processes had done; None: there was none.
        left_out: what of the model's blocks has no adapter, in words; None: nothing.
    """

    steps: int
    loss: float
    evaluation: dict[str, float]
    trainable: int
    parameters: int
    chosen: dict[str, float]
    resumed_at: int | None = None
    left_out: str | None = None


def fit(
    trainer: Trainer, *, base: PlainBase, workspace: Workspace, progress: Progress
) -> TrainingSummary:
    """Run a configured trainer to its end, resuming from the newest intact checkpoint.

    `base` is named in the adapter's config.

    Adapter weights are first cast to fp32: TRL leaves those of a quantised model in bfloat16,
    where the updates of small learning rates vanish.

    Raises:
        Interrupted: a stop was requested; a checkpoint was written.
    """
    model: Any = trainer.model
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    resumed_at = _train(trainer, newest(workspace.checkpoints))
    if progress.asked_to_stop and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same command continues from there"
        )
    evaluation = _last_evaluation(trainer)
    write_adapter(model, workspace.out / "adapter", base)
    history: list[dict[str, Any]] = trainer.state.log_history
    lines = "".join(json.dumps(row) + "\n" for row in history)
    write("history.write", workspace.out / "history.jsonl", lines)
    steps = [row for row in history if "loss" in row]
    losses = [row["loss"] for row in steps]
    tail = losses[-max(1, math.ceil(len(losses) / 10)) :]
    return TrainingSummary(
        steps=trainer.state.global_step,
        loss=sum(tail) / len(tail),
        evaluation={k: v for k, v in evaluation.items() if k.endswith(MEASURED)},
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=model.num_parameters(),
        chosen={name: steps[-1][name] for name in CHOSEN if name in steps[-1]},
        resumed_at=resumed_at,
    )


def _train(trainer: Trainer, checkpoint: Path | None) -> int | None:
    """Train the steps that remain after a checkpoint; returns the number of its steps."""
    if checkpoint is None:
        trainer.train()
        return None
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    counted = [row["num_tokens"] for row in state.log_history if "num_tokens" in row]
    trainer._total_train_tokens = counted[-1] if counted else 0  # type: ignore[attr-defined]  # TRL's
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:  # the library checks whether it is done after a step, and would train one more
        set_peft_model_state_dict(trainer.model, load_peft_weights(str(checkpoint)))
        trainer.state = state
        trainer.callback_handler.on_train_begin(trainer.args, state, trainer.control)
    return int(state.global_step)


def _last_evaluation(trainer: Trainer) -> dict[str, Any]:
    """Metrics after the last step, reused if the trainer has just evaluated."""
    if trainer.eval_dataset is None:
        return {}
    for row in reversed(trainer.state.log_history):
        if row["step"] == trainer.state.global_step and "eval_loss" in row:
            return dict(row)
    return dict(trainer.evaluate())


def write_adapter(model: Any, folder: Path, base: PlainBase) -> None:
    """Save only the adapter, in fp32, with the base that plain PEFT loads below it."""
    with staged("adapter.save", folder) as place:
        model.save_pretrained(place)
        (place / "README.md").unlink(missing_ok=True)
        name_base(place, base)
