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
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from alignment.models.adapters import Factors, check_fit, concatenate, read_factors
from alignment.records import Frozen

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FROZEN_A, FROZEN_B = "frozen_a", "frozen_b"
"""Buffers of a layer with a frozen branch: [rank, in] and [out, rank], scales included."""


class Stack(Frozen):
    """Hand a stage's result over as its adapter, on top of those before it."""

    name: Literal["stack"] = "stack"
    max_rank: PositiveInt = Field(
        default=256,
        description="Frozen ranks together beyond which the stack is summed in fp32 into a new "
        "base: memory and time of a step grow with them.",
    )
    max_gap: NonNegativeFloat | None = Field(
        default=None,
        description="Largest mean |difference| of a probe's log-probs at a hand-over, nats. By "
        "default 0 in fp32 and 0.05 in bfloat16; raise it where two stages run on different "
        "hardware, whose kernels round differently.",
    )


def attach(model: "PreTrainedModel", folders: Sequence[Path]) -> None:
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


def freeze_trained(model: "PreTrainedModel") -> None:
    """Move the trained adapter of a model into its frozen branch, in memory.

    The layers then compute what they will when the adapter is read from disk by `attach`: the
    same factors in the same product, so the same bits.
    """
    from peft.tuners.lora import LoraLayer

    trained: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in trained:
        (name,) = layer.active_adapters
        a, b = (side[name].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
        _freeze(layer.get_base_layer(), Factors(a, layer.scaling[name] * b), model.dtype)
        layer.enable_adapters(enabled=False)


def _freeze(layer: Any, factors: Factors, dtype: Any) -> None:
    """Add factors to a layer's frozen branch; the first ones bring the branch with them."""
    import torch

    a, b = (factor.to(layer.weight.device, dtype) for factor in factors)
    if hasattr(layer, FROZEN_A):
        a = torch.cat([layer.frozen_a, a])
        b = torch.cat([layer.frozen_b, b], dim=1)
    else:
        layer.register_forward_hook(_add_branch)
    layer.register_buffer(FROZEN_A, a, persistent=False)
    layer.register_buffer(FROZEN_B, b.contiguous(), persistent=False)


def _add_branch(layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor":
    from torch.nn.functional import linear

    x = inputs[0].to(layer.frozen_a.dtype)
    return output + linear(linear(x, layer.frozen_a), layer.frozen_b).to(output.dtype)
