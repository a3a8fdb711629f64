"""How rows reach the model: in TRL's padded batches, or packed within a token budget.

Both engines use the same rows per step in the same order and produce the same gradients; they
differ in speed and memory. Not here: how rows are packed (`batches.py`, `train/packed.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from alignment.records.base import Frozen

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from alignment.records.text import PreferencePair
    from alignment.scoring.logprobs import Completion
    from alignment.scoring.pairs import PairLogProbs

STEPS_WORTH_COMPILING = 200
"""Number of steps from which on the minute spent compiling pays off."""


class StepRows(Frozen):
    """How the rows of one optimiser step reach the device."""

    per_device: PositiveInt = Field(
        default=2, description="Rows (pairs in DPO) per forward pass of the stock engine."
    )
    accumulation: PositiveInt = Field(
        default=8,
        description="Forward passes per optimiser step of the stock engine. per_device x "
        "accumulation is the number of rows per optimiser step with either engine.",
    )

    @property
    def effective(self) -> int:
        """Rows per optimiser step on one device."""
        return self.per_device * self.accumulation


class Scoring(Frozen, ABC):
    """Base of the engines: what they score."""

    def reply_logprobs(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> "list[Tensor]":
        """Log p of every reply token of every row, [reply tokens] each, fp32 on the CPU.

        On several devices, each scores its share of the rows.
        """
        score = partial(self._score, model, batch=batch)
        found: list[Tensor] = _logprobs().shared_logprobs(score, rows, on_progress=on_progress)
        return found

    @abstractmethod
    def _score(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None],
    ) -> "list[Tensor]":
        """Score rows in this process."""

    def pair_logprobs(
        self,
        model: Any,
        tokenizer: "PreTrainedTokenizerBase",
        pairs: "Sequence[PreferencePair]",
        *,
        batch: int,
        max_length: int,
    ) -> "PairLogProbs":
        """Summed log-probs of both replies of each pair, [pairs] each, in nats, on the CPU."""
        found: PairLogProbs = _logprobs().pair_logprobs(
            model, tokenizer, pairs, batch=batch, max_length=max_length, score=self.reply_logprobs
        )
        return found


class Stock(Scoring):
    """TRL's trainers unchanged: `per_device` rows per forward pass, padded to the longest.

    `any_loss`: whether the engine can train with losses that TRL lacks.
    """

    any_loss: ClassVar[bool] = False
    name: Literal["stock"] = "stock"

    @property
    def recomputing(self) -> str:
        """Which layers recompute with gradient_checkpointing, in words."""
        return "every layer recomputes"

    def batch_arguments(self, batch: StepRows) -> dict[str, Any]:
        """The batch size under the argument names of transformers."""
        return {
            "per_device_train_batch_size": batch.per_device,
            "per_device_eval_batch_size": batch.per_device,
            "gradient_accumulation_steps": batch.accumulation,
        }

    def _score(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None],
    ) -> "list[Tensor]":
        found: list[Tensor] = _logprobs().reply_logprobs(
            model, rows, batch=batch, on_progress=on_progress
        )
        return found


class Packed(Scoring):
    """Rows laid end to end, without padding, in as few micro-batches as a token budget allows.

    The two replies of a pair share their prompt. `batch` keeps its meaning for the optimiser:
    per_device x accumulation rows per step. Evaluations during training use batches of that size.
    """

    any_loss: ClassVar[bool] = True
    name: Literal["packed"] = "packed"
    tokens_per_micro_batch: Literal["auto"] | PositiveInt = Field(
        default="auto",
        description="Maximum tokens per micro-batch. A longer row is a micro-batch of its own, "
        "with more layers recomputing. auto: as many as fit into GPU memory, by measurement; a "
        "fixed number on a CPU.",
    )
    fuse_adapters: bool = Field(
        default=False,
        description="Add LoRA's product to the layer's output within its matmul instead of in "
        "separate passes. Compiled layers always do.",
    )
    compile: Literal["auto"] | bool = Field(
        default="auto",
        description="Compile each decoder layer with torch.compile, which takes a minute or more "
        "at the start. auto: on a GPU, for trainings of 200 or more steps.",
    )
    recompute: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto",
        description="With gradient_checkpointing, share of the layers that recompute their "
        "activations. A lower share is faster and needs more memory. auto: the lowest share that "
        "fits into GPU memory, by measurement; 1 on a CPU.",
    )

    @property
    def recomputing(self) -> str:
        """Which layers recompute with gradient_checkpointing, in words."""
        if self.recompute == "auto":
            return "as memory asks: on a GPU the fewest layers that fit, on a CPU every layer"
        return f"{self.recompute:.0%} of the layers recompute"

    def wants_compiling(self, steps: int, *, cuda: bool) -> bool:
        """Whether the layers of a training of so many steps should be compiled."""
        if self.compile == "auto":
            return cuda and steps >= STEPS_WORTH_COMPILING
        return self.compile

    def batch_arguments(self, batch: StepRows) -> dict[str, Any]:
        """The batch size under the argument names of transformers: all rows of a step at once."""
        return {
            "per_device_train_batch_size": batch.effective,
            "per_device_eval_batch_size": batch.effective,
            "gradient_accumulation_steps": 1,
        }

    def _score(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None],
    ) -> "list[Tensor]":
        del batch  # adjacent rows with one prompt share it
        found: list[Tensor] = _logprobs().packed_reply_logprobs(
            model, rows, tokens=self.tokens_per_micro_batch, on_progress=on_progress
        )
        return found


def _logprobs() -> "ModuleType":
    from alignment.scoring import logprobs

    return logprobs


Engine = Annotated[Stock | Packed, Field(discriminator="name")]
