"""What a training will hold in memory at its peak, term by term. Nothing is allocated.

As this pipeline calls TRL's trainers: adapter weights in fp32, the head in pieces (full logits
never exist). Evaluation and sampling during training are below the peak and left out.
"""

from typing import NamedTuple

from alignment.doctor.forecast.devices import GIB, Device
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.records import Quantisation

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
SAVED_COMPILED = 0.275
"""Share of it that a compiled layer keeps. Fitted to one peak at 7B on an H200, bf16 and dropout,
two rows of 4,096 tokens at once: 31.3 GiB. DPO there, 29.9 GiB, comes out 2 % below."""


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
        activations=device.kept * _largest(training, shape),
        resident=device.resident,
    )


def weight_bytes(shape: Shape, quantisation: Quantisation | None, *, bf16: bool) -> float:
    """Bytes of the base model; embedding and head are never quantised."""
    plain = 2 if bf16 else 4
    if quantisation is None:
        return shape.parameters * plain
    quantised = shape.block_parameters * quantisation.bits_per_weight / 8
    return quantised + shape.embedding_parameters * plain


def _largest(training: Training, shape: Shape) -> float:
    """Bytes of the micro-batch that keeps most: a full one, or the row that is longer than one."""
    longest = training.largest
    return max(
        activation_bytes(training, shape, tokens)
        for tokens in (longest, min(longest, training.plan.tokens))
    )


def activation_bytes(training: Training, shape: Shape, tokens: int) -> float:
    """Bytes kept for the backward pass of `tokens` tokens.

    Where layers recompute, a hidden state of each and one in full while it does; of the others all
    that they keep. A share in between is taken as the engine's plan takes it, by proportion.
    """
    config, share = training.config, training.recomputed(tokens)
    hidden, mlp = SAVED[config.bf16, config.lora.dropout > 0]
    block = tokens * (hidden * shape.hidden_size + mlp * shape.intermediate_size)
    state = tokens * (2 if config.bf16 else 4) * shape.hidden_size
    kept = block * (SAVED_COMPILED if training.compiled else 1.0)
    layers = shape.num_hidden_layers
    return share * (layers * state + block) + (1 - share) * layers * kept


def in_gib(amount: float) -> str:
    """Bytes for people."""
    return f"{amount / GIB:.1f}"
