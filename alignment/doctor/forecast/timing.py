"""How long a training will take: limited by the device's arithmetic or by the host's launches."""

import statistics

from alignment.doctor.forecast.devices import Device
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.train.memory_plan import OVERHEAD_TOKENS

COMPILED = 1.28
"""Speed-up of arithmetic in compiled layers, beside the engine's overhead per micro-batch. Fitted
to SFT, DPO and rows of 4,096 tokens at 7B on an H200 together."""


def forecast_seconds(training: Training, shape: Shape, device: Device) -> float:
    """Wall time of one training's steps, in seconds, without loading, evaluation and sampling.

    The device's arithmetic and the host's launches overlap, so a micro-batch takes as long as the
    slower of the two. Compiled layers have few launches; their overhead is counted in tokens. With
    padded rows, attention runs under a dense mask, which the fast kernels do not support, so it
    also covers the padding and later tokens.
    """
    tokens = training.tokens()
    if not tokens:
        return 0.0
    overhead = OVERHEAD_TOKENS["compiled"] if training.compiled else 0
    flops = (statistics.fmean(tokens) + overhead) * flops_per_token(training, shape)
    gain = device.bf16_gain if training.config.bf16 else 1.0
    reached = device.reached * (COMPILED if training.compiled else 1.0)
    arithmetic = flops / (device.flops * gain * reached)
    if device.masked:
        masked = attention_flops(training, shape, training.masked())
        arithmetic += masked / (device.flops * device.masked)
    targets = training.config.lora.target_modules
    names = shape.linears() if targets == "all-linear" else targets
    layers = shape.num_hidden_layers * len(names)
    launches = 0.0 if training.compiled else passes(training) * layers * device.launch
    return training.micro_batches * max(arithmetic, launches)


def passes(training: Training) -> float:
    """Number of passes of a micro-batch through the model.

    Forward and backward, another forward for the share of layers that recompute, and in DPO
    another one for the reference.
    """
    return 2 + training.mean_recomputed + training.is_dpo


def attention_flops(training: Training, shape: Shape, pairs: float) -> float:
    """Floating-point operations of attention over this many pairs of tokens.

    A forward pass has two products with 2 operations per unit of head width; the backward pass has
    five such products instead of two (Dao et al. 2022, algorithm 4).
    """
    width = shape.num_attention_heads * shape.head_dim
    return 4 * pairs * width * shape.num_hidden_layers * (passes(training) - 1 + 2.5)


def flops_per_token(training: Training, shape: Shape) -> float:
    """Floating-point operations per token: 2 per weight and pass (Kaplan et al. 2020, table 1).

    The base model and earlier adapters are frozen, so their backward pass has one product instead
    of two; that of the trained adapter has two.
    """
    config = training.config
    lora = shape.lora_parameters_met(config.lora.r, config.lora.target_modules)
    carried = shape.lora_parameters_met(training.frozen, config.lora.target_modules)
    frozen = shape.matmul_parameters + carried
    return 2 * passes(training) * frozen + 2 * (passes(training) + 1) * lora
