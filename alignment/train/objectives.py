"""The packed engine's training objectives: conversations (SFT) and pairs (DPO).

An objective turns a stock batch into packed rows, gives every row its share of the step's loss, and
reports metrics under TRL's names. Not here: splitting a step into micro-batches (`packed.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from alignment.models.encoding import IGNORED
from alignment.scoring.batches import MicroBatch, PackedRow
from alignment.scoring.pairs import PairLogProbs
from alignment.train.losses import PreferenceLoss
from alignment.train.rows import REFERENCE

CollatedBatch = Mapping[str, Any]
"""A batch made by a stock collator: right-padded tensors."""

RowLoss = Callable[[Any, MicroBatch], Tensor]
"""(model, micro-batch) to [rows, columns]: each row's share of the loss, then its metrics."""


class Objective(Protocol):
    """One kind of training, such as SFT or DPO."""

    @property
    def sft_weight(self) -> float:
        """Weight of the chosen replies' likelihood, beside a loss that is a mean over pairs."""

    @property
    def passes(self) -> int:
        """Passes through the model: forward and backward, and the reference's if it has one."""

    def sizes(self, trainer: Any) -> list[int]:
        """Tokens of each row of the training set."""

    def probe(self, tokens: int) -> PackedRow:
        """A row with this many tokens, for measuring memory."""

    def packed_rows(self, batch: CollatedBatch) -> list[PackedRow]:
        """The batch's rows without padding."""

    def totals(self, packed_rows: Sequence[PackedRow]) -> list[int]:
        """The denominators of the losses in a step with these rows."""

    def row_loss(self, totals: Sequence[float]) -> RowLoss:
        """The row loss of a step with these totals."""

    def gap(self, model: Any, micro: MicroBatch) -> float:
        """Largest difference of policy and reference, nats per reply; 0 for a fresh adapter."""

    def measures(
        self, found: Tensor, packed_rows: Sequence[PackedRow], totals: Sequence[float]
    ) -> Tensor:
        """What is kept of each row of a step, [rows], from what `row_loss` found of them."""

    def report(self, trainer: Any, mode: str, columns: Tensor) -> None:
        """Add a step's metrics, [rows, columns] without the loss, to the trainer's log."""


@dataclass(frozen=True)
class ConversationObjective:
    """Mean negative log-likelihood of the step's targets."""

    sft_weight: float = 0.0
    passes: int = 2

    def sizes(self, trainer: Any) -> list[int]:
        """Tokens of each conversation."""
        return [len(ids) for ids in trainer.train_dataset["input_ids"]]

    def probe(self, tokens: int) -> PackedRow:
        """A conversation with this many tokens, all of them targets."""
        return PackedRow((), ([0] * tokens,))

    def packed_rows(self, batch: CollatedBatch) -> list[PackedRow]:
        """One completion per row, without a prefix."""
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True)
        return [PackedRow((), (ids[:n],), (labels[:n],)) for ids, labels, n in rows]

    def totals(self, packed_rows: Sequence[PackedRow]) -> list[int]:
        """Number of targets; the first token of a row is none, as no token precedes it."""
        labels = (
            (packed_row.labels or packed_row.completions)[0][1:] for packed_row in packed_rows
        )
        return [max(1, sum(label != IGNORED for row in labels for label in row))]

    def row_loss(self, totals: Sequence[float]) -> RowLoss:
        """A row's summed negative log-likelihood, divided by the step's targets: [rows, 1]."""
        (targets,) = totals

        def row_loss(model: Any, micro: MicroBatch) -> Tensor:
            return -micro.per_completion(model(packed=micro))[:, None] / targets

        return row_loss

    def gap(self, model: Any, micro: MicroBatch) -> float:
        """0: there is no reference."""
        del model, micro
        return 0.0

    def measures(
        self, found: Tensor, packed_rows: Sequence[PackedRow], totals: Sequence[float]
    ) -> Tensor:
        """The loss of each row: the mean of its own targets, not of the step's."""
        own = [self.totals([packed_row])[0] for packed_row in packed_rows]
        return found[:, 0] * totals[0] / torch.tensor(own, device=found.device)

    def report(self, trainer: Any, mode: str, columns: Tensor) -> None:
        """Reports nothing beyond the loss."""


@dataclass(frozen=True)
class PairObjective:
    """A preference loss, and a weight for the chosen reply's likelihood."""

    loss: PreferenceLoss
    sft_weight: float

    @property
    def passes(self) -> int:
        """Forward and backward, and the reference's unless the loss has none."""
        return 3 if self.loss.uses_reference else 2

    def sizes(self, trainer: Any) -> list[int]:
        """Tokens of each pair: its prompt once, plus both replies, cut to max_length."""
        rows, limit = trainer.train_dataset, int(trainer.args.max_length)
        prompts, chosen, rejected = (
            map(len, rows[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        return [
            p + min(c, limit - p) + min(r, limit - p)
            for p, c, r in zip(prompts, chosen, rejected, strict=True)
        ]

    def probe(self, tokens: int) -> PackedRow:
        """A pair whose prompt and two replies have a third of the tokens each."""
        third = [0] * (tokens // 3)
        return PackedRow(third, (third, third))

    def packed_rows(self, batch: CollatedBatch) -> list[PackedRow]:
        """The prompt as prefix, the chosen and the rejected reply as completions."""
        ids = batch["input_ids"].tolist()
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        replies = batch["completion_mask"].sum(dim=1).tolist()
        whole = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        starts = [length - reply for length, reply in zip(lengths, replies, strict=True)]
        half = len(ids) // 2
        return [
            PackedRow(
                whole[i][: starts[i]],
                (whole[i][starts[i] :], whole[half + i][starts[half + i] :]),
                reference=reference,
            )
            for i, reference in enumerate(_given(batch) or [None] * half)
        ]

    def logprobs(self, model: Any, micro: MicroBatch) -> tuple[PairLogProbs, PairLogProbs]:
        """Log-probs of policy and reference: given ones, or the model without its adapter."""
        reference = None
        if micro.reference is not None:
            reference = _paired(micro, micro.reference)
        elif self.loss.uses_reference:
            reference = _without_adapter(model, micro)
        policy = _pairs(micro, model(packed=micro))
        return policy, policy if reference is None else reference

    def totals(self, packed_rows: Sequence[PackedRow]) -> list[int]:
        """Number of pairs, and number of tokens in their chosen replies."""
        return [
            len(packed_rows),
            max(1, sum(len(packed_row.completions[0]) for packed_row in packed_rows)),
        ]

    def row_loss(self, totals: Sequence[float]) -> RowLoss:
        """[pairs, 5]: a pair's loss over the step's pairs, then two rewards and two log-probs."""
        pairs, chosen_tokens = totals

        def row_loss(model: Any, micro: MicroBatch) -> Tensor:
            policy, reference = self.logprobs(model, micro)
            share = self.loss(policy, reference) / pairs
            if self.sft_weight:
                share = share - self.sft_weight * policy.chosen / chosen_tokens
            rewards = self.loss.rewards(policy, reference)
            columns = (share, rewards.chosen, rewards.rejected, policy.chosen, policy.rejected)
            return torch.stack(columns, dim=1)

        return row_loss

    def gap(self, model: Any, micro: MicroBatch) -> float:
        """The largest difference that the adapter makes in a reply's log-prob."""
        if not self.loss.uses_reference:
            return 0.0
        change = _pairs(micro, model(packed=micro)) - _without_adapter(model, micro)
        return float(torch.cat([change.chosen, change.rejected]).detach().abs().max())

    def measures(
        self, found: Tensor, packed_rows: Sequence[PackedRow], totals: Sequence[float]
    ) -> Tensor:
        """The reward margin of each pair."""
        del packed_rows, totals
        return found[:, 1] - found[:, 2]

    def report(self, trainer: Any, mode: str, columns: Tensor) -> None:
        """Means over the pairs, under the names that TRL's trainer uses."""
        chosen, rejected = columns[:, 0], columns[:, 1]
        metrics = torch.column_stack((columns, chosen - rejected, (chosen > rejected).float()))
        means = metrics.mean(dim=0)
        names = (
            "rewards/chosen",
            "rewards/rejected",
            "logps/chosen",
            "logps/rejected",
            "rewards/margins",
            "rewards/accuracies",
        )
        for name, value in zip(names, means.tolist(), strict=True):
            trainer._metrics[mode][name].append(value)


def _without_adapter(model: Any, micro: MicroBatch) -> PairLogProbs:
    plain = model.module if hasattr(model, "module") else model
    with torch.no_grad(), plain.disable_adapter():
        return _pairs(micro, plain(packed=micro))


def _given(batch: CollatedBatch) -> list[list[float]] | None:
    """The reference's log-probs of each pair, if the rows bring them."""
    if REFERENCE[0] not in batch:
        return None
    found: list[list[float]] = torch.stack([batch[name] for name in REFERENCE], dim=1).tolist()
    return found


def _pairs(micro: MicroBatch, logprobs: Tensor) -> PairLogProbs:
    """Log-probs of the predictions, [predictions], to sums and token counts of the pairs."""
    return _paired(micro, micro.per_completion(logprobs))


def _paired(micro: MicroBatch, completions: Tensor) -> PairLogProbs:
    """Values of the completions, chosen and rejected in turn, with their token counts."""
    sums, tokens = completions.view(-1, 2), micro.target_counts.view(-1, 2)
    return PairLogProbs(sums[:, 0], sums[:, 1], tokens[:, 0], tokens[:, 1])
