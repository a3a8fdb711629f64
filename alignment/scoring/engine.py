"""How rows reach the model: in TRL's padded batches, or end to end within a budget of tokens.

Both take the same rows of a step in the same order and end with the same gradients; they differ
in speed and memory. Not here: how rows are packed (`batches.py`, `packed.py`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from alignment.records import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from alignment.scoring.logprobs import Completion

STEPS_WORTH_COMPILING = 200
"""Steps of a training from which on a minute of compiling is won back."""


class StepRows(Frozen):
    """How the rows of one optimiser step reach the device."""

    per_device: PositiveInt = Field(
        default=2, description="Rows (pairs in DPO) per forward pass of engine stock."
    )
    accumulation: PositiveInt = Field(
        default=8,
        description="Forward passes per optimiser step of engine stock. The product is the rows of "
        "a step, whatever the engine.",
    )

    @property
    def effective(self) -> int:
        """Rows per optimiser step on one device."""
        return self.per_device * self.accumulation


class Stock(Frozen):
    """TRL's trainers as they come: `per_device` rows a forward pass, padded to the longest.

    `any_loss`: whether losses that TRL lacks can be trained on.
    """

    any_loss: ClassVar[bool] = False
    name: Literal["stock"] = "stock"

    def batch_arguments(self, batch: StepRows) -> dict[str, Any]:
        """A step's rows under the argument names of transformers."""
        return {
            "per_device_train_batch_size": batch.per_device,
            "per_device_eval_batch_size": batch.per_device,
            "gradient_accumulation_steps": batch.accumulation,
        }

    def reply_logprobs(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> "list[Tensor]":
        """Log p of every reply token of every row, [reply tokens] each, fp32 on the CPU."""
        from alignment.scoring.logprobs import reply_logprobs

        return reply_logprobs(model, rows, batch=batch, on_progress=on_progress)


class Packed(Frozen):
    """Rows end to end, without padding, in as few micro-batches as a token budget allows.

    The two replies of a pair share their prompt. `batch` keeps its meaning for the optimiser:
    per_device x accumulation rows a step; evaluations in training take as many at a time.
    """

    any_loss: ClassVar[bool] = True
    name: Literal["packed"] = "packed"
    tokens_per_micro_batch: Literal["auto"] | PositiveInt = Field(
        default="auto",
        description="Tokens that go through the model at once; a longer row goes alone, with more "
        "layers recomputing. auto: what fits into the GPU's memory by measurement, a fixed number "
        "on a CPU.",
    )
    fuse_adapters: bool = Field(
        default=False,
        description="Add LoRA's product within its matmul, not in passes of its own; compiled "
        "layers do so in any case.",
    )
    compile: Literal["auto"] | bool = Field(
        default="auto",
        description="Compile each decoder layer (torch.compile): a minute or more at the start. "
        "auto: on a GPU, in a training of 200 steps or more.",
    )
    recompute: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto",
        description="With gradient_checkpointing, share of the layers that recompute their "
        "activations. Less is faster and takes more memory. auto: as little as fits into the "
        "GPU's memory by measurement, all on a CPU.",
    )

    def batch_arguments(self, batch: StepRows) -> dict[str, Any]:
        """A step's rows under the argument names of transformers: all at once."""
        return {
            "per_device_train_batch_size": batch.effective,
            "per_device_eval_batch_size": batch.effective,
            "gradient_accumulation_steps": 1,
        }

    def reply_logprobs(
        self,
        model: Any,
        rows: "Sequence[Completion]",
        *,
        batch: int,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> "list[Tensor]":
        """Log p of every reply token of every row; neighbours with one prompt share it."""
        from alignment.scoring.logprobs import packed_reply_logprobs

        del batch
        return packed_reply_logprobs(
            model, rows, tokens=self.tokens_per_micro_batch, on_progress=on_progress
        )


Engine = Annotated[Stock | Packed, Field(discriminator="name")]
