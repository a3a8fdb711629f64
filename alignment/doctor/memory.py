"""What a training will hold in memory at its peak, term by term. Nothing is allocated.

As this pipeline calls TRL's trainers: adapter weights in fp32, the head in pieces (full logits
never exist). Evaluation and sampling during training are below the peak and left out.
"""

from typing import NamedTuple

from alignment.doctor.devices import GIB, Device
from alignment.doctor.shape import Shape
from alignment.doctor.trainings import Training
from alignment.records import Quantisation

NF4_BITS, NF4_BITS_SINGLE = 4 + 8 / 64 + 32 / (64 * 256), 4 + 32 / 64
"""Bits of a weight with double and with single quantisation (Dettmers et al. 2023, section 3)."""
OPTIMISER_BYTES = {"adamw_torch_fused": 8, "adamw_torch": 8, "paged_adamw_8bit": 2}
"""Two moments per trained weight: in fp32, or in 8 bits."""
SAVED = {
    # (bf16, dropout): bytes per token of hidden width, bytes per token of MLP width
    (True, True): (49, 12),
    (True, False): (25, 8),
    (False, True): (66, 20),
    (False, False): (26, 16),
}
"""What a block with LoRA on its seven layers keeps per token for its backward pass. Counted, not
guessed: the storages that autograd's saved-tensor hooks saw for transformers' Qwen2 under PEFT, at
two widths each. The test beside this file counts again."""


class Memory(NamedTuple):
    """Bytes at the peak, by what holds them."""

    weights: float
    adapter: float
    activations: float
    resident: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def forecast_memory(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> Memory:
    """The peak of one training on one device, bytes."""
    config = training.config
    trained = shape.lora_parameters(config.lora.r, config.lora.target_modules)
    frozen = shape.lora_parameters(training.frozen, config.lora.target_modules)
    carried = frozen * (2 if config.bf16 else 4)
    return Memory(
        weights=weight_bytes(shape, quantisation, bf16=config.bf16) + carried,
        adapter=trained * (4 + 4 + OPTIMISER_BYTES[config.optimiser]),  # weight, gradient, moments
        activations=device.kept
        * activation_bytes(
            shape,
            training.largest,
            bf16=config.bf16,
            dropout=config.lora.dropout > 0,
            checkpointing=config.gradient_checkpointing,
        ),
        resident=device.resident,
    )


def weight_bytes(shape: Shape, quantisation: Quantisation | None, *, bf16: bool) -> float:
    """Bytes of the base model; embedding and head are never quantised."""
    plain = 2 if bf16 else 4
    if quantisation is None:
        return shape.parameters * plain
    bits = NF4_BITS if quantisation.double else NF4_BITS_SINGLE
    return shape.block_parameters * bits / 8 + shape.embedding_parameters * plain


def activation_bytes(
    shape: Shape, tokens: int, *, bf16: bool, dropout: bool, checkpointing: bool
) -> float:
    """Bytes kept for the backward pass of `tokens` tokens.

    With checkpointing a hidden state per block, and one block in full while it is recomputed.
    """
    hidden, mlp = SAVED[bf16, dropout]
    block = tokens * (hidden * shape.hidden_size + mlp * shape.intermediate_size)
    if not checkpointing:
        return shape.num_hidden_layers * block
    size = 2 if bf16 else 4
    return shape.num_hidden_layers * tokens * size * shape.hidden_size + block


def in_gib(amount: float) -> str:
    """Bytes for people."""
    return f"{amount / GIB:.1f}"
