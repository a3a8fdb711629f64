"""Adapters carried along instead of merged: a frozen branch inside the linear layers of a base.

    y = W x + b (a x),    a = [a1; a2; ...],    b = [(alpha1 / r1) B1, (alpha2 / r2) B2, ...]

One product for all earlier adapters, however many. W is never written, so nothing is rounded and
a quantised W stays as it is. The branch belongs to the layer itself: whatever the trainer library
puts around the layer (a fresh adapter, checkpointing, disabling that adapter) finds it there, so
the reference of a DPO round is this model with the newest adapter off, as it is without a stack.
The factors are buffers that no `state_dict` holds: checkpoints have the newest adapter alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from alignment.models.factors import Factors, check_fit, concatenate, read_factors

FROZEN_A, FROZEN_B = "frozen_a", "frozen_b"
"""Buffers of a layer with a frozen branch: [rank, in] and [out, rank], scales included."""


def attach(model: PreTrainedModel, folders: Sequence[Path]) -> None:
    """Give the layers of a model the frozen sum of some adapters, oldest first, in its dtype.

    Raises:
        ModelError: an adapter is damaged, not plain LoRA, or belongs to another model.
    """
    adapters = [read_factors(folder) for folder in folders]
    for folder, factors in zip(folders, adapters, strict=True):
        check_fit(model, folder, factors)
    layers = dict(model.named_modules())
    for name, joined in concatenate(adapters).items():
        _freeze(layers[name], joined, model.dtype)


def freeze_trained(model: PreTrainedModel) -> None:
    """Move the trained adapter of a model into its frozen branch, in memory.

    The layers then compute what they will when the adapter is read from disk by `attach`: the
    same factors in the same product, so the same bits.
    """
    trained: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in trained:
        (name,) = layer.active_adapters
        a, b = (side[name].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
        _freeze(layer.get_base_layer(), Factors(a, layer.scaling[name] * b), model.dtype)
        layer.enable_adapters(enabled=False)


def _freeze(layer: Any, factors: Factors, dtype: Any) -> None:
    """Add factors to a layer's frozen branch; the first ones bring the branch with them."""
    a, b = (factor.to(layer.weight.device, dtype) for factor in factors)
    if hasattr(layer, FROZEN_A):
        a = torch.cat([layer.frozen_a, a])
        b = torch.cat([layer.frozen_b, b], dim=1)
    else:
        layer.register_forward_hook(_add_branch)
    layer.register_buffer(FROZEN_A, a, persistent=False)
    layer.register_buffer(FROZEN_B, b.contiguous(), persistent=False)


def _add_branch(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = inputs[0].to(layer.frozen_a.dtype)
    return output + linear(linear(x, layer.frozen_a), layer.frozen_b).to(output.dtype)
