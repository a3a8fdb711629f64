"""Stacks adapters instead of merging them: a frozen branch inside the linear layers of a base.

    y = W x + b (a x),    a = [a1; a2; ...],    b = [(alpha1 / r1) B1, (alpha2 / r2) B2, ...]

All earlier adapters together cost one low-rank product. W is never changed, so nothing is rounded
and a quantised W stays quantised. The branch belongs to the layer itself, so whatever the trainer
library wraps around the layer (a fresh adapter, checkpointing, disabling that adapter) includes
it. The reference of a DPO round is therefore the model with its newest adapter disabled, exactly
as without a stack. The factors are non-persistent buffers: no `state_dict` contains them, and
checkpoints contain only the newest adapter.

Experts have no such layer: their deltas are added to their tensors, one adapter after another in
the model's dtype. That is what PEFT computed while each was trained, so nothing is rounded that was
not rounded then; and no quantisation touches these tensors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from alignment.models.experts import in_experts, is_transposed
from alignment.models.factors import Factors, check_fit, concatenate, per_expert, read_factors

FROZEN_A, FROZEN_B = "frozen_a", "frozen_b"
"""Buffers of a layer with a frozen branch: [rank, in] and [out, rank], scales included."""


def attach(model: PreTrainedModel, folders: Sequence[Path]) -> None:
    """Add adapters, oldest first, to the layers of a model as frozen branches in its dtype.

    Raises:
        ModelError: an adapter is damaged, not plain LoRA, or belongs to another model.
    """
    adapters = [read_factors(folder) for folder in folders]
    for folder, factors in zip(folders, adapters, strict=True):
        check_fit(model, folder, factors)
    layers, tensors = dict(model.named_modules()), dict(model.named_parameters())
    for factors in adapters:
        for name in filter(in_experts, factors):
            _add(tensors[name], factors[name], transposed=is_transposed(model, name))
    for name, joined in concatenate(adapters).items():
        if not in_experts(name):
            _freeze(layers[name], joined, model.dtype)


def freeze_trained(model: PreTrainedModel) -> None:
    """Move the trained adapter of a model into its frozen branch, in memory.

    The layers then compute exactly what they will after `attach` loads the adapter from disk: the
    same factors in the same product, hence the same bits.
    """
    trained: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in trained:
        (name,) = layer.active_adapters
        a, b = (side[name].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
        b = layer.scaling[name] * b
        if isinstance(layer, ParamWrapper) and layer.parameter_name != "weight":
            own = Factors(*per_expert(a, b, layer.r[name]))
            turned = getattr(layer.get_base_layer(), "is_transposed", False)
            _add(layer.get_param(), own, transposed=turned)
        else:
            _freeze(layer.get_base_layer(), Factors(a, b), model.dtype)
        layer.enable_adapters(enabled=False)


def _add(tensor: Tensor, factors: Factors, *, transposed: bool) -> None:
    """Add b a to every expert of a tensor, as PEFT does while it trains."""
    a, b = (factor.to(tensor.device, tensor.dtype) for factor in factors)
    left, right = (a.mT, b.mT) if transposed else (b, a)
    tensor.data = torch.baddbmm(tensor.data, left, right)


def _freeze(layer: Any, factors: Factors, dtype: Any) -> None:
    """Add factors to a layer's frozen branch; the first ones create the branch."""
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
