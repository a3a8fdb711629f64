"""One DPO round: trains a fresh LoRA adapter.

The reference is the model with it disabled, or another one whose log-probs of the pairs are given.
Uses TRL's DPOTrainer, stock or with packed steps (Rafailov et al. 2023). Prompts arrive trimmed
(`trim_prompt` in `data/filters/lengths.py`): TRL has no prompt limit and would cut replies instead.
Not here: choosing pairs, merging.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from alignment.models.adapters import base_below
from alignment.models.load import LoadedModel
from alignment.models.targets import adapter_config, coverage
from alignment.records.text import PreferencePair
from alignment.records.training import TRAINED, PairReference
from alignment.scoring.engine import Engine
from alignment.scoring.pairs import PairLogProbs
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.callbacks import (
    ProgressCallback,
    RewardsByTaskCallback,
    SampleGenerationCallback,
    UndisturbedTraining,
    check_start,
)
from alignment.train.checkpoints import newest
from alignment.train.loop import TrainingSummary, fit
from alignment.train.losses import Loss
from alignment.train.rows import pair_rows
from alignment.train.settings import DpoConfig
from alignment.train.trained_rows import TrainedRows
from alignment.train.trainers import on_this_machine, trainers_of


def train_dpo(
    config: DpoConfig,
    *,
    policy: LoadedModel,
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    seed: int,
    workspace: Workspace,
    progress: Progress,
    reference: Mapping[str, PairReference] | None = None,
) -> TrainingSummary:
    """Train a fresh adapter on `policy` and write it to `workspace.out`/adapter.

    Also writes history.jsonl (including rewards per task), samples.jsonl and trained.jsonl (each
    step's rows). Continues from the newest intact checkpoint in `workspace.checkpoints`.

    With `reference`, the log-probs of every pair by id, that is the reference instead of `policy`.

    Raises:
        DataError: the replies of a pair cannot be located under the chat template.
        Interrupted: a stop was requested; a checkpoint was written.
        ModelError: the engine does not support this kind of model.
        TrainingError: policy and reference differ before the first step, or the loss is not
            finite.
    """
    evaluation = list(held_out)[: config.evaluation_rows]
    samples = SampleGenerationCallback(
        policy.tokenizer,
        [pair.prompt for pair in evaluation[: config.samples]],
        workspace.out / "samples.jsonl",
        max_new_tokens=config.sample_tokens,
    )
    rewards = RewardsByTaskCallback(
        policy.tokenizer,
        evaluation,
        config.loss,
        batch=2 * config.batch.per_device,
        max_length=config.max_length,
        engine=config.engine,
        reference=_reference(reference, evaluation),
    )
    trained = TrainedRows(workspace.out / TRAINED, "margin")
    arguments = on_this_machine(
        config.trl_arguments(seed=seed), workspace.folder / "trl", evaluates=bool(evaluation)
    )
    adapter = adapter_config(config.lora.peft_arguments(), policy.model)
    left_out = coverage(adapter, policy.model).note
    trainer = trainers_of(config.engine).dpo(
        loss=config.loss,
        sft_weight=config.sft_weight,
        trained=trained,
        model=policy.model,
        args=DPOConfig(**arguments),
        train_dataset=pair_rows(policy.tokenizer, pairs, _reference(reference, pairs)),
        eval_dataset=pair_rows(policy.tokenizer, evaluation, _reference(reference, evaluation))
        if evaluation
        else None,
        processing_class=policy.tokenizer,
        peft_config=adapter,
        callbacks=[
            trained,
            ProgressCallback(workspace, progress, phase="training"),
            samples,
            rewards,
            UndisturbedTraining(),
        ],
    )
    starts_at_zero = config.loss.uses_reference and reference is None
    if starts_at_zero and newest(workspace.checkpoints) is None:
        measured = loss_before_training(trainer, config.loss, config.engine)
        check_start(config.loss, measured, tolerance=1e-2 if config.bf16 else 1e-4)
    base = base_below(policy.ref, Path(str(policy.model.name_or_path)))
    done = fit(trainer, base=base, workspace=workspace, progress=progress)
    return done.model_copy(update={"left_out": left_out})


def _reference(
    reference: Mapping[str, PairReference] | None, pairs: Sequence[PreferencePair]
) -> PairLogProbs | None:
    """The reference's log-probs of these pairs."""
    if reference is None:
        return None
    found = [reference[pair.id] for pair in pairs]
    return PairLogProbs(
        chosen=torch.tensor([one.chosen for one in found]),
        rejected=torch.tensor([one.rejected for one in found]),
        chosen_tokens=torch.tensor([one.chosen_tokens for one in found]),
        rejected_tokens=torch.tensor([one.rejected_tokens for one in found]),
    )


def loss_before_training(trainer: DPOTrainer, loss: Loss, engine: Engine) -> float:
    """The preference loss of the first batch, with the trainer's own policy and reference."""
    policy, reference = trainers_of(engine).first_logprobs(trainer)
    return float(loss(policy, reference).mean())
