"""Builds TRL's trainers for each engine, without starting them.

Not here: an engine's settings (`scoring/engine.py`), running a trainer (`loop.py`).
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from alignment.models.encoding import IGNORED
from alignment.scoring.engine import Engine, Packed
from alignment.scoring.pairs import PairLogProbs
from alignment.train import packed
from alignment.train.losses import PreferenceLoss
from alignment.train.measure import measuring
from alignment.train.objectives import ConversationObjective, PairObjective
from alignment.train.rows import REFERENCE
from alignment.train.trained_rows import (
    NAMES,
    TrainedRows,
    loss_per_token,
    margins,
    recording,
)


class EncodedDPOTrainer(DPOTrainer):
    """TRL's `DPOTrainer` for rows that are token ids already, which TRL would encode again."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class Trainers(Protocol):
    """Builds the trainers of one engine."""

    def sft(self, *, trained: TrainedRows, **arguments: Any) -> SFTTrainer:
        """The trainer for supervised fine-tuning, from TRL's own arguments."""

    def dpo(
        self, *, loss: PreferenceLoss, sft_weight: float, trained: TrainedRows, **arguments: Any
    ) -> DPOTrainer:
        """The trainer for a DPO round, from TRL's own arguments."""

    def first_logprobs(self, trainer: DPOTrainer) -> tuple[PairLogProbs, PairLogProbs]:
        """Log-probs of the first pairs under policy and reference, before any step."""


def trainers_of(engine: Engine) -> Trainers:
    """The trainers of an engine."""
    return PackedTrainers(engine) if isinstance(engine, Packed) else StockTrainers()


class StockTrainers:
    """TRL's trainers; loss and weight are among their own arguments."""

    def sft(self, *, trained: TrainedRows, **arguments: Any) -> SFTTrainer:
        """TRL's `SFTTrainer`."""
        kind = recording(measuring(SFTTrainer), trained, loss_per_token)
        trainer: SFTTrainer = kind(**arguments)
        return trainer

    def dpo(
        self, *, loss: PreferenceLoss, sft_weight: float, trained: TrainedRows, **arguments: Any
    ) -> DPOTrainer:
        """TRL's `DPOTrainer`."""
        # `arguments` contains loss and weight under TRL's names
        kind = recording(
            measuring(EncodedDPOTrainer, sft_weight=sft_weight), trained, margins(loss)
        )
        trainer: DPOTrainer = kind(**arguments)
        # as an argument of DPOConfig it would make TRL compute them
        trainer.precompute_ref_logps = REFERENCE[0] in arguments["train_dataset"].column_names
        return trainer

    def first_logprobs(self, trainer: DPOTrainer) -> tuple[PairLogProbs, PairLogProbs]:
        """Computed by TRL's own code on its first batch."""
        return trl_logprobs(trainer)


class PackedTrainers:
    """TRL's trainers with packed steps."""

    def __init__(self, engine: Packed) -> None:
        self._engine = engine

    def sft(self, *, trained: TrainedRows, **arguments: Any) -> SFTTrainer:
        """TRL's `SFTTrainer` with packed steps."""
        trainer: SFTTrainer = packed.packed_trainer(
            SFTTrainer, ConversationObjective(), self._engine, trained, **arguments
        )
        return trainer

    def dpo(
        self, *, loss: PreferenceLoss, sft_weight: float, trained: TrainedRows, **arguments: Any
    ) -> DPOTrainer:
        """TRL's `DPOTrainer` with packed steps and our own loss."""
        trainer: DPOTrainer = packed.packed_trainer(
            EncodedDPOTrainer, PairObjective(loss, sft_weight), self._engine, trained, **arguments
        )
        return trainer

    def first_logprobs(self, trainer: DPOTrainer) -> tuple[PairLogProbs, PairLogProbs]:
        """Computed on the packed rows of the first optimiser step."""
        return packed.first_logprobs(trainer)


def trl_logprobs(trainer: DPOTrainer) -> tuple[PairLogProbs, PairLogProbs]:
    """Log-probs of policy and reference on TRL's first batch, computed by TRL's own code."""
    model: Any = trainer.model
    rows: Any = trainer.train_dataset
    first = range(min(trainer.args.train_batch_size, len(rows)))
    batch = trainer.data_collator([rows[row] for row in first])
    del batch[NAMES]
    batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    was_training = model.training
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        output = model(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
    policy = output.log_probs.sum(dim=1).float().chunk(2)
    reference = trainer.compute_ref_log_probs(model, batch)
    model.train(was_training)
    tokens = batch["completion_mask"].sum(dim=1).chunk(2)
    return PairLogProbs(*policy, *tokens), PairLogProbs(*reference, *tokens)


def on_this_machine(arguments: dict[str, Any], folder: Path, *, evaluates: bool) -> dict[str, Any]:
    """Trainer arguments, completed with those that depend on the machine and the data."""
    return {
        **arguments,
        "eval_strategy": arguments["eval_strategy"] if evaluates else "no",
        "output_dir": str(folder),
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
