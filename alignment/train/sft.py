"""Supervised fine-tuning of a LoRA adapter with TRL's SFTTrainer, stock or with packed steps.

The loss is the mean negative log-likelihood of the assistant's tokens, including the closing
end-of-turn token, found by position (`models/encoding.py`). TRL gets token ids and labels, and
encodes nothing itself. Not here: loading the model, merging.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trl.trainer.sft_config import SFTConfig

from alignment.models.adapters import base_below
from alignment.models.load import LoadedModel
from alignment.models.targets import adapter_config, coverage
from alignment.records.text import Conversation
from alignment.records.training import TRAINED
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.callbacks import (
    ProgressCallback,
    SampleGenerationCallback,
    UndisturbedTraining,
)
from alignment.train.loop import TrainingSummary, fit
from alignment.train.rows import conversation_rows
from alignment.train.settings import SftConfig
from alignment.train.trained_rows import TrainedRows
from alignment.train.trainers import on_this_machine, trainers_of


def train_sft(
    config: SftConfig,
    *,
    policy: LoadedModel,
    conversations: Sequence[Conversation],
    held_out: Sequence[Conversation],
    seed: int,
    workspace: Workspace,
    progress: Progress,
) -> TrainingSummary:
    """Train a fresh adapter on `policy` and write it to `workspace.out`/adapter.

    Also writes history.jsonl (the trainer's log, one line per step), samples.jsonl and
    trained.jsonl (each step's rows).
    Continues from the newest intact checkpoint in `workspace.checkpoints`.

    Raises:
        DataError: the replies of a conversation cannot be located under the chat template.
        Interrupted: a stop was requested; a checkpoint was written.
        ModelError: the engine does not support this kind of model.
        TrainingError: the loss is not finite.
    """
    tokenizer = policy.tokenizer
    rows = partial(conversation_rows, tokenizer, max_length=config.max_length)
    evaluation = list(held_out)[: config.evaluation_rows]
    samples = SampleGenerationCallback(
        tokenizer,
        [_up_to_last_user_turn(row) for row in evaluation[: config.samples]],
        workspace.out / "samples.jsonl",
        max_new_tokens=config.sample_tokens,
    )
    trained = TrainedRows(workspace.out / TRAINED, "loss")
    arguments = on_this_machine(
        config.trl_arguments(seed=seed), workspace.folder / "trl", evaluates=bool(evaluation)
    )
    adapter = adapter_config(config.lora.peft_arguments(), policy.model)
    left_out = coverage(adapter, policy.model).note
    trainer = trainers_of(config.engine).sft(
        trained=trained,
        model=policy.model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows(conversations),
        eval_dataset=rows(evaluation) if evaluation else None,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[
            trained,
            ProgressCallback(workspace, progress, phase="training"),
            samples,
            UndisturbedTraining(),
        ],
    )
    base = base_below(policy.ref, Path(str(policy.model.name_or_path)))
    done = fit(trainer, base=base, workspace=workspace, progress=progress)
    return done.model_copy(update={"left_out": left_out})


def _up_to_last_user_turn(row: Conversation) -> tuple[Any, ...]:
    last = max(i for i, message in enumerate(row.messages) if message.role == "user")
    return row.messages[: last + 1]
