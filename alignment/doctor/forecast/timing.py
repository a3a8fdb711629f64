"""How long a training will take: arithmetic against the device's speed, or the host's launches."""

import statistics

from alignment.doctor.forecast.devices import Device
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape

COMPILED = 1.1
"""Times as fast as not compiled, arithmetic alone; such layers launch too little to wait for. At 7B
on an H200 SFT is then 2 % short, DPO 3 % long and rows of 4,096 8 % short."""


def forecast_seconds(training: Training, shape: Shape, device: Device) -> float:
    """Wall time of one training's steps, seconds; loading, evaluation and sampling not counted.

    A micro-batch takes as long as the slower of two that overlap: the device's arithmetic and the
    host that launches it. Where rows are padded, attention runs under a dense mask, which the fast
    kernels do not take, over the padding and what comes after each token as well.
    """
    tokens = training.tokens()
    if not tokens:
        return 0.0
    flops = statistics.fmean(tokens) * flops_per_token(training, shape)
    gain = device.bf16_gain if training.config.bf16 else 1.0
    reached = device.reached * (COMPILED if training.compiled else 1.0)
    arithmetic = flops / (device.flops * gain * reached)
    if device.masked:
        masked = attention_flops(training, shape, training.masked())
        arithmetic += masked / (device.flops * device.masked)
    layers = shape.num_hidden_layers * len(training.config.lora.target_modules)
    launches = 0.0 if training.compiled else passes(training) * layers * device.launch
    return training.micro_batches * max(arithmetic, launches)


def passes(training: Training) -> float:
    """Times that a micro-batch goes through the model.

    Forward and backward, a second forward of the layers that recompute their activations, and in
    DPO one more for the reference.
    """
    return 2 + training.mean_recomputed + training.is_dpo


def attention_flops(training: Training, shape: Shape, pairs: float) -> float:
    """Floating-point operations of attention over so many pairs of tokens.

    Two products of 2 a head width and forward pass; backward has five of these products and not
    two (Dao et al. 2022, algorithm 4).
    """
    width = shape.num_attention_heads * shape.head_dim
    return 4 * pairs * width * shape.num_hidden_layers * (passes(training) - 1 + 2.5)


def flops_per_token(training: Training, shape: Shape) -> float:
    """Floating-point operations of one token: 2 a weight and pass (Kaplan et al. 2020, table 1).

    The base is frozen, as are adapters carried along, so its backward pass has one product and not
    two; the adapter's has two.
    """
    config = training.config
    lora = shape.lora_parameters(config.lora.r, config.lora.target_modules)
    carried = shape.lora_parameters(training.frozen, config.lora.target_modules)
    frozen = shape.matmul_parameters + carried
    return 2 * passes(training) * frozen + 2 * (passes(training) + 1) * lora
