"""Supervised fine-tuning of one LoRA adapter on assistant tokens, by TRL's SFTTrainer or on it.

The loss is the mean negative log-likelihood of the assistant's tokens, the closing end-of-turn
token among them; which tokens those are is decided by position (`data.encode`) and checked
against the chat template before the first step. Not here: loading the model, merging.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat

from alignment.errors import Interrupted
from alignment.models.chat_template import CompletionOnlyCollator, as_template, check_spans
from alignment.models.load import LoadedModel
from alignment.records import Conversation, Frozen
from alignment.store.durable import staged, write
from alignment.store.progress import Progress
from alignment.store.store import Workspace
from alignment.train.callbacks import sample_generations, watch
from alignment.train.checkpoints import newest
from alignment.train.settings import Lora, TrainingSettings, on_this_machine

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer

CHOSEN = ("tokens_per_micro_batch", "recompute")
"""What the packed engine logs of its own choices."""
MEASURED = ("loss", "accuracies", "margins", "chosen", "rejected")
"""Ends of the evaluation metrics worth a place in the record; the rest are timings and counts."""


class SftConfig(TrainingSettings):
    """One pass of supervised fine-tuning. Defaults are the seed's."""

    lora: Lora = Field(default=Lora(r=64, alpha=128), description="The adapter that is trained.")
    learning_rate: PositiveFloat = Field(default=2e-5, description="Peak learning rate.")
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, description="Share of warm-up steps.")
    epochs: PositiveFloat = Field(default=3, description="Passes over the conversations.")

    def trl_arguments(self, *, seed: int) -> dict[str, Any]:
        """These settings under the argument names of `trl.SFTConfig`.

        `packing` is off: no token may attend across two conversations.
        """
        return {**self.trainer_arguments(seed=seed), "packing": False}


class TrainingSummary(Frozen):
    """What one training run did.

    Attributes:
        steps: optimiser steps.
        loss: mean training loss over the last tenth of the steps.
        evaluation: the last evaluation's metrics under the trainer's names.
        trainable, parameters: numbers in the adapter, and in model and adapter together.
        chosen: what the packed engine went by at the end: tokens_per_micro_batch, recompute.
    """

    steps: int
    loss: float
    evaluation: dict[str, float]
    trainable: int
    parameters: int
    chosen: dict[str, float]


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

    Beside it: history.jsonl (what the trainer logged, a line a step) and samples.jsonl.
    Continues from the newest sound checkpoint in `workspace.checkpoints`.

    Raises:
        DataError: the chat template and the loss mask disagree on a conversation.
        Interrupted: asked to stop; a checkpoint was written.
        ModelError: the engine does not know this kind of model.
        TrainingError: the loss is not finite.
    """
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig

    tokenizer = policy.tokenizer
    check_spans(tokenizer, conversations)
    seen = list(held_out)[: config.evaluation_rows]
    samples = sample_generations(
        tokenizer,
        [_up_to_last_user_turn(row) for row in seen[: config.samples]],
        workspace.out / "samples.jsonl",
        max_new_tokens=config.sample_tokens,
    )
    arguments = on_this_machine(
        config.trl_arguments(seed=seed), workspace.folder / "trl", evaluates=bool(seen)
    )
    trainer = config.engine.sft_trainer(
        model=policy.model,
        args=SFTConfig(**arguments),
        train_dataset=_rows(conversations, tokenizer),
        eval_dataset=_rows(seen, tokenizer) if seen else None,
        processing_class=tokenizer,
        peft_config=LoraConfig(**config.lora.peft_arguments()),
        data_collator=CompletionOnlyCollator.of(tokenizer),
        callbacks=[watch(workspace, progress, phase="training"), samples],
    )
    return fit(trainer, workspace=workspace, progress=progress)


def fit(trainer: "Trainer", *, workspace: Workspace, progress: Progress) -> TrainingSummary:
    """Run a built trainer to its end: what SFT and DPO do alike.

    Adapter weights are put into fp32 first: TRL leaves those of a quantised model in bfloat16,
    where the updates of small learning rates vanish.

    Raises:
        Interrupted: asked to stop; a checkpoint was written.
    """
    model: Any = trainer.model
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    checkpoint = newest(workspace.checkpoints)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if progress.asked_to_stop and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same command continues from there"
        )
    evaluation = _last_evaluation(trainer)
    write_adapter(model, workspace.out / "adapter")
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
    )


def _last_evaluation(trainer: "Trainer") -> dict[str, Any]:
    """Metrics after the last step; a trainer that evaluates on its way has them already."""
    if trainer.eval_dataset is None:
        return {}
    for row in reversed(trainer.state.log_history):
        if row["step"] == trainer.state.global_step and "eval_loss" in row:
            return dict(row)
    return dict(trainer.evaluate())


def write_adapter(model: Any, folder: Path) -> None:
    """Save the adapter alone, in fp32, without the place of its base on this machine.

    The trainer library records a local path as the base model; whoever loads the adapter by it
    later gets the wrong model or none. Which model it belongs to stands in `AdapterRef`.
    """
    with staged("adapter.save", folder) as place:
        model.save_pretrained(place)
        (place / "README.md").unlink(missing_ok=True)
        path = place / "adapter_config.json"
        settings = json.loads(path.read_text())
        if Path(settings["base_model_name_or_path"] or "").is_absolute():
            settings["base_model_name_or_path"] = None
        path.write_text(json.dumps(settings, indent=2, sort_keys=True))


def _rows(conversations: Sequence[Conversation], tokenizer: "PreTrainedTokenizerBase") -> "Dataset":
    from datasets import Dataset

    # Rendered here, not by TRL: in a table each tool call would get the arguments of all.
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


def _rendered(tokenizer: "PreTrainedTokenizerBase", row: Conversation) -> str:
    text = tokenizer.apply_chat_template(**as_template(row.messages), tokenize=False)
    # TRL appends the end-of-turn token to text that does not end with it; the template's last
    # newline would make it stand twice.
    return str(text).rstrip("\n")


def _up_to_last_user_turn(row: Conversation) -> tuple[Any, ...]:
    last = max(i for i, message in enumerate(row.messages) if message.role == "user")
    return row.messages[: last + 1]
