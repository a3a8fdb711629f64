"""TRL's trainers with packed steps: all rows of an optimiser step arrive together, then are split.

A step's rows arrive in a batch made by the stock collators. They are stripped of padding, laid end
to end in as few micro-batches as the token budget allows, and run forward and backward one
micro-batch after another. Every row's loss is divided by the totals of the step, so the split does
not change the gradients. Optimiser, schedule, checkpoints and logs are the library's.
Not here: the loss of a row (`objectives.py`), log-probs (`scoring/logprobs.py`), how much goes
through the model at once (`autotune.py`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from alignment.errors import TrainingError
from alignment.scoring.attention import use_packed_attention
from alignment.scoring.batches import MicroBatch, PackedRow, lay_out
from alignment.scoring.budget import scoring_budget
from alignment.scoring.engine import Packed
from alignment.scoring.logprobs import predicted_logprobs
from alignment.scoring.pairs import PairLogProbs
from alignment.scoring.ranks import Ranks
from alignment.train.autotune import Capacity, autotune, on_cuda, random_state, set_random_state
from alignment.train.loaders import whole_batches
from alignment.train.measure import measuring
from alignment.train.memory_plan import Plan
from alignment.train.objectives import CollatedBatch, Objective, RowLoss
from alignment.train.trained_rows import NAMES, TrainedRows, with_names


def packed_trainer(
    trainer_class: Any,
    objective: Objective,
    engine: Packed,
    trained: TrainedRows,
    **arguments: Any,
) -> Any:
    """One of TRL's trainers with packed steps, not yet started.

    Raises:
        ModelError: the packed engine does not support the model's attention.
    """

    class PackedTrainer(trainer_class):  # type: ignore[misc]  # the base is only known at run time
        steps: Steps

        def get_train_dataloader(self) -> Any:
            with whole_batches(self.accelerator):
                return super().get_train_dataloader()

        def get_eval_dataloader(self, *arguments: Any, **options: Any) -> Any:
            with whole_batches(self.accelerator):
                return super().get_eval_dataloader(*arguments, **options)

        def training_step(self, model: Any, inputs: CollatedBatch, *_: Any, **__: Any) -> Tensor:
            return self.steps.train(model, inputs)

        def floating_point_ops(self, inputs: CollatedBatch) -> int:
            return 6 * int(inputs["input_ids"].numel()) * self.steps.weights

        def prediction_step(
            self, model: Any, inputs: CollatedBatch, *_: Any, **__: Any
        ) -> tuple[Tensor, None, None]:
            return self.steps.evaluate(model, inputs), None, None

    use_packed_attention(arguments["model"])
    trainer = measuring(PackedTrainer, sft_weight=objective.sft_weight)(**arguments)
    _accept_micro_batches(trainer.model.get_base_model())
    trainer.data_collator = with_names(trainer.data_collator)
    trainer.steps = Steps(trainer, objective, engine, trained)
    return trainer


def first_logprobs(trainer: Any) -> tuple[PairLogProbs, PairLogProbs]:
    """Log-probs of policy and reference for the first step's pairs, before any step."""
    rows, objective = trainer.train_dataset, trainer.steps.objective
    first = range(min(trainer.args.train_batch_size, len(rows)))
    batch = trainer.data_collator([rows[row] for row in first])

    def columns(model: Any, micro: Any) -> Tensor:
        policy, reference = objective.logprobs(model, micro)
        lengths = (policy.chosen_tokens, policy.rejected_tokens)
        values = (policy.chosen, policy.rejected, reference.chosen, reference.rejected, *lengths)
        return torch.stack(values, dim=1)

    was_training = trainer.model.training
    trainer.model.eval()
    found = trainer.steps.run(
        trainer.model, objective.packed_rows(batch), columns, backward=False
    ).unbind(dim=1)
    trainer.model.train(was_training)
    return PairLogProbs(*found[:2], *found[4:]), PairLogProbs(*found[2:])


class Steps:
    """Runs rows through a trainer's model: training steps and evaluation batches."""

    def __init__(
        self, trainer: Any, objective: Objective, engine: Packed, trained: TrainedRows
    ) -> None:
        self.objective = objective
        self._trained = trained
        self._trainer = trainer
        self._engine = engine
        self._capacity: Capacity | None = None
        self.weights: int = trainer.model.num_parameters(exclude_embeddings=True)

    def train(self, model: Any, inputs: CollatedBatch) -> Tensor:
        """Accumulate the gradients of one optimiser step over all its rows; return its loss.

        Args:
            model: the model as wrapped by the library.
            inputs: the collated rows of this process.

        Raises:
            TrainingError: a row's loss is not finite (the message names its id), or a single row
                does not fit into memory.
        """
        packed_rows = self.objective.packed_rows(inputs)
        ranks, totals = Ranks.current(), self.objective.totals(packed_rows)
        # the library averages gradients over the processes, which share out the rows
        row_loss = self.objective.row_loss([total / ranks.count for total in totals])
        if self._capacity is None or not self._trainer.model.training:
            model.train()  # not in every step: visiting thousands of modules takes time
        self._capacity = self._capacity or self._autotune(packed_rows, row_loss)
        found = self._shared(model, packed_rows, row_loss, backward=True)
        found[:, 0] /= ranks.count
        self._refuse_non_finite(found[:, 0], inputs[NAMES])
        self._trained.add(inputs[NAMES], self.objective.measures(found, packed_rows, totals))
        self.objective.report(self._trainer, "train", found[:, 1:])
        self._count(inputs["attention_mask"])
        budget, logged = self._capacity.budget, self._trainer._metrics["train"]
        logged["tokens_per_micro_batch"] = [budget.tokens]
        logged["recompute"] = [self._capacity.share]
        sizes = [packed_row.tokens for packed_row in packed_rows]
        own = [sizes[row] for row in ranks.share(sizes)]
        logged["micro_batches"].append(len(budget.groups(own)))
        return found[:, 0].sum().float()

    def evaluate(self, model: Any, inputs: CollatedBatch) -> Tensor:
        """The loss of a batch, without gradients."""
        packed_rows = self.objective.packed_rows(inputs)
        model.eval()
        row_loss = self.objective.row_loss(self.objective.totals(packed_rows))
        found = self._shared(model, packed_rows, row_loss, backward=False)
        self.objective.report(self._trainer, "eval", found[:, 1:])
        return found[:, 0].sum().float()

    def _shared(
        self, model: Any, packed_rows: Sequence[PackedRow], row_loss: RowLoss, *, backward: bool
    ) -> Tensor:
        """Like `run`, with the rows shared out to all processes of the training."""
        ranks = Ranks.current()
        share = ranks.share([packed_row.tokens for packed_row in packed_rows])

        def nothing(model: Any, micro: MicroBatch) -> Tensor:
            return 0 * row_loss(model, micro)

        # A process without a row takes part in the exchange of gradients with one that counts 0.
        own = [packed_rows[row] for row in share or [0]]
        found = self.run(model, own, row_loss if share else nothing, backward=backward)
        return ranks.complete(found, share, len(packed_rows))

    def run(
        self, model: Any, packed_rows: Sequence[PackedRow], row_loss: RowLoss, *, backward: bool
    ) -> Tensor:
        """The loss and metrics of every row, [rows, columns]; retried after running out of memory.

        A try that runs out of memory leaves nothing behind: its gradients are dropped. The next
        try starts from the same random state, first with every layer recomputing, then with half
        the budget.

        Raises:
            TrainingError: a single row does not fit into memory, or one of several processes ran
                out of it.
        """
        capacity, sizes = (
            self._capacity or self._scoring_capacity(model),
            [packed_row.tokens for packed_row in packed_rows],
        )
        while True:
            state, groups = random_state(model), capacity.budget.groups(sizes)
            try:
                return self._attempt(
                    model, packed_rows, row_loss, groups, capacity, backward=backward
                )
            except torch.OutOfMemoryError as error:
                if self._trainer.accelerator.num_processes > 1:
                    raise TrainingError(
                        f"one of {self._trainer.accelerator.num_processes} processes ran out of "
                        f"memory with {capacity.budget.tokens} tokens per micro-batch; set "
                        f"engine.tokens_per_micro_batch to {capacity.budget.tokens // 2}"
                    ) from error
            # Outside `except`, where the traceback would keep the failed try's tensors alive.
            capacity.shrink(sizes)
            model.zero_grad(set_to_none=True)
            set_random_state(model, state)

    def _attempt(
        self,
        model: Any,
        packed_rows: Sequence[PackedRow],
        row_loss: RowLoss,
        groups: Sequence[Sequence[int]],
        capacity: Capacity | None = None,
        *,
        backward: bool,
    ) -> Tensor:
        accelerator, parts = self._trainer.accelerator, []
        device = next(model.parameters()).device
        # Copy all first: a later copy to the device would wait for the work queued before it.
        micros = [lay_out([packed_rows[row] for row in group]).to(device) for group in groups]
        for number, micro in enumerate(micros, start=1):
            last = number == len(micros)
            if backward and capacity is not None:
                capacity.make_room(len(micro.ids))
            with nullcontext() if last or not backward else accelerator.no_sync(model):
                with torch.set_grad_enabled(backward), self._trainer.compute_loss_context_manager():
                    rows = row_loss(model, micro)
                if backward:
                    accelerator.backward(rows[:, 0].sum())
            parts.append(rows.detach())
        order = torch.tensor([row for group in groups for row in group], device=device)
        return torch.cat(parts)[order.argsort()]

    def _count(self, mask: Tensor) -> None:
        """Count tokens as the library does, with a pair's prompt counted twice."""
        trainer = self._trainer
        trainer._total_train_tokens += int(mask.sum())
        trainer._metrics["train"]["num_tokens"] = [trainer._total_train_tokens]

    def _autotune(self, packed_rows: Sequence[PackedRow], row_loss: RowLoss) -> Capacity:
        plain = self._trainer.accelerator.unwrap_model(self._trainer.model)

        def forward_backward(packed_row: PackedRow) -> None:
            self._attempt(plain, [packed_row], row_loss, [[0]], backward=True)

        return autotune(
            self._trainer,
            self.objective,
            self._engine,
            packed_rows=packed_rows,
            forward_backward=forward_backward,
        )

    def _scoring_capacity(self, model: Any) -> Capacity:
        """The capacity for an evaluation before any training step."""
        budget = scoring_budget(self._engine.tokens_per_micro_batch, cuda=on_cuda(model))
        return Capacity(model, Plan(budget.tokens, 0.0), selective=False)

    def _refuse_non_finite(self, shares: Tensor, names: Sequence[str]) -> None:
        finite = shares.isfinite().tolist()
        broken = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
        if broken:
            raise TrainingError(
                f"the loss is {float(shares.sum())} at step {self._trainer.state.global_step + 1}, "
                f"because of {len(broken)} of its {len(names)} rows: {', '.join(broken)}. Check "
                "these rows, or lower learning_rate; the last checkpoint is kept."
            )


def _accept_micro_batches(model: Any) -> None:
    """Make `model(packed=micro_batch)` return the log-probs of the predictions, [predictions].

    The call goes through `forward`, so that every wrapper (adapters, DDP, autocast) takes part.
    """
    original = model.forward

    @wraps(type(model).forward)
    def forward(self: Any, *args: Any, packed: Any = None, **kwargs: Any) -> Any:
        if packed is None:
            return original(*args, **kwargs)
        return predicted_logprobs(self, packed)

    model.forward = MethodType(forward, model)
