"""Supervised fine-tuning of a LoRA adapter with TRL's SFTTrainer, stock or with packed steps.

The loss is the mean negative log-likelihood of the assistant's tokens, including the closing
end-of-turn token. These tokens are found by position (`models/chat_template.py`) and checked
against the chat template before the first step. Not here: loading the model, merging.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_config import SFTConfig

from alignment.models.adapters import base_below
from alignment.models.chat_template import CompletionOnlyCollator, as_template, check_spans
from alignment.models.load import LoadedModel
from alignment.records import Conversation
from alignment.store.progress import Progress
from alignment.store.store import Workspace
from alignment.train.callbacks import (
    ProgressCallback,
    SampleGenerationCallback,
    UndisturbedTraining,
)
from alignment.train.loop import TrainingSummary, fit
from alignment.train.settings import SftConfig
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

    Also writes history.jsonl (the trainer's log, one line per step) and samples.jsonl.
    Continues from the newest intact checkpoint in `workspace.checkpoints`.

    Raises:
        DataError: the chat template and the loss mask disagree on a conversation.
        Interrupted: a stop was requested; a checkpoint was written.
        ModelError: the engine does not support this kind of model.
        TrainingError: the loss is not finite.
    """
    tokenizer = policy.tokenizer
    check_spans(tokenizer, conversations)
    evaluation = list(held_out)[: config.evaluation_rows]
    samples = SampleGenerationCallback(
        tokenizer,
        [_up_to_last_user_turn(row) for row in evaluation[: config.samples]],
        workspace.out / "samples.jsonl",
        max_new_tokens=config.sample_tokens,
    )
    arguments = on_this_machine(
        config.trl_arguments(seed=seed), workspace.folder / "trl", evaluates=bool(evaluation)
    )
    trainer = trainers_of(config.engine).sft(
        model=policy.model,
        args=SFTConfig(**arguments),
        train_dataset=_rows(conversations, tokenizer),
        eval_dataset=_rows(evaluation, tokenizer) if evaluation else None,
        processing_class=tokenizer,
        peft_config=LoraConfig(**config.lora.peft_arguments()),
        data_collator=CompletionOnlyCollator.of(tokenizer),
        callbacks=[
            ProgressCallback(workspace, progress, phase="training"),
            samples,
            UndisturbedTraining(),
        ],
    )
    base = base_below(policy.ref, Path(str(policy.model.name_or_path)))
    return fit(trainer, base=base, workspace=workspace, progress=progress)


def _rows(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    # Rendered here, not by TRL: in a Dataset column of chats, each tool call would get the
    # arguments of all calls.
    return Dataset.from_list(
        [
            {
                "text": _rendered(tokenizer, row),
                "id": row.id,
                "task_type": row.task_type,
                "source": row.source,
            }
            for row in conversations
        ]
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, row: Conversation) -> str:
    text = tokenizer.apply_chat_template(**as_template(row.messages), tokenize=False)
    # TRL appends the end-of-turn token to text that does not end with it; with the template's last
    # newline there would be two.
    return str(text).rstrip("\n")


def _up_to_last_user_turn(row: Conversation) -> tuple[Any, ...]:
    last = max(i for i, message in enumerate(row.messages) if message.role == "user")
    return row.messages[: last + 1]
