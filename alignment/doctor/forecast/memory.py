"""Forecast of a training's peak memory, term by term. Nothing is allocated.

It follows how this pipeline trains: adapter weights are in fp32, and the LM head runs in chunks, so
full logits never exist. Evaluation and sampling during training stay below the peak and are not
counted.
"""

from typing import NamedTuple

from alignment.doctor.forecast.devices import GIB, Device
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.records.refs import Quantisation

OPTIMISER_BYTES = {"adamw_torch_fused": 8, "adamw_torch": 8, "paged_adamw_8bit": 2}
"""Bytes per trained weight for two moments: in fp32, or in 8 bits."""
SAVED = {
    # (bf16, dropout): bytes per token of hidden width, bytes per token of MLP width
    (True, True): (49, 12),
    (True, False): (25, 8),
    (False, True): (66, 20),
    (False, False): (26, 16),
}
"""What a block with LoRA on its seven linear layers keeps per token for the backward pass. Counted
with autograd's saved-tensor hooks on transformers' Qwen2 under PEFT, at two widths each.
tests/alignment/doctor/forecast/test_checks.py counts again."""
SAVED_COMPILED = 0.275
"""Share of `SAVED` that a compiled layer keeps. Fitted to one peak at 7B on an H200 with bf16 and
dropout, two rows of 4,096 tokens per micro-batch: 31.3 GiB. The forecast of DPO there (29.9 GiB)
is 2 % low."""

EXPERT_COPIES = 2.0, 1.25
"""Copies of a layer's experts with the adapter's product added: while a layer recomputes, and kept
by every layer that does not. On an H200, layers with 8 experts of 1024 x 3072 in bf16 took 1.1 to
1.7 and 1.2."""


class Memory(NamedTuple):
    """Bytes at the peak, by component."""

    weights: float
    adapter: float
    activations: float
    resident: float

    @property
    def total(self) -> float:
        """The peak itself."""
        return sum(self)


def forecast_memory(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> Memory:
    """The peak of one training on one device, in bytes."""
    config = training.config
    trained = shape.lora_parameters(config.lora.r, config.lora.target_modules)
    frozen = shape.lora_parameters(training.frozen, config.lora.target_modules)
    carried = frozen * (2 if config.bf16 else 4)
    return Memory(
        weights=weight_bytes(shape, quantisation, bf16=config.bf16) + carried,
        adapter=trained * (4 + 4 + OPTIMISER_BYTES[config.optimiser]),  # weight, gradient, moments
        activations=device.kept * _largest_activation_bytes(training, shape),
        resident=device.resident,
    )


def weight_bytes(shape: Shape, quantisation: Quantisation | None, *, bf16: bool) -> float:
    """Bytes of the base model; embedding, LM head and fused experts are never quantised."""
    plain = 2 if bf16 else 4
    if quantisation is None:
        return shape.parameters * plain
    quantised = shape.block_parameters * quantisation.bits_per_weight / 8
    return quantised + (shape.embedding_parameters + shape.others) * plain


def _largest_activation_bytes(training: Training, shape: Shape) -> float:
    """Bytes of the micro-batch that keeps most: a full one, or one row longer than the budget."""
    longest = training.largest
    return max(
        activation_bytes(training, shape, tokens)
        for tokens in (longest, min(longest, training.plan.tokens))
    )


def activation_bytes(training: Training, shape: Shape, tokens: int) -> float:
    """Bytes kept for the backward pass of `tokens` tokens.

    Layers that recompute keep one hidden state each, plus one full layer while it recomputes; the
    others keep everything. A share in between is interpolated, as in the engine's own plan.
    """
    config, share = training.config, training.recomputed(tokens)
    hidden, mlp = SAVED[config.bf16, config.lora.dropout > 0]
    block = tokens * (hidden * shape.hidden_size + mlp * shape.intermediate_size)
    state = tokens * (2 if config.bf16 else 4) * shape.hidden_size
    kept = block * (SAVED_COMPILED if training.compiled else 1.0)
    layers = shape.num_hidden_layers
    recomputing, keeping = EXPERT_COPIES
    copy = _expert_bytes(training, shape) / layers
    recomputed = layers * state + block + recomputing * copy
    return share * recomputed + (1 - share) * layers * (kept + keeping * copy)


def _expert_bytes(training: Training, shape: Shape) -> float:
    """Bytes of all experts, if the training adapts them."""
    adapted = training.config.lora.target_modules == "all-linear"
    return adapted * shape.expert_weights * (2 if training.config.bf16 else 4)


def in_gib(amount: float) -> str:
    """Bytes as readable text, in GiB."""
    return f"{amount / GIB:.1f}"
