"""Less element-wise work around the matmuls of a LoRA training step; the results are the same.

Each is an option of the packed engine, off until it was measured. All act on a model as the
trainer library has built it, and leave weights, their fp32 masters and checkpoints alone.
Not here: Liger's kernels. They need a GPU to be proven right, and did not go with `compile`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fuse_adapters(model: Any) -> None:
    """Add every LoRA layer's low-rank product to the base layer's output in one matmul.

    PEFT copies that output, scales the product and adds it: three passes over [tokens, out] that
    `addmm` does without, the scale being folded into the small B.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        if not layer.lora_variant:
            layer.forward = partial(_fused_forward, layer, layer.forward)


SAVED = 0.5
"""Of what a compiled layer would keep for its backward pass; the rest is computed again from it.

Half is reached without a matmul of the base: what dropout left of the inputs of seven adapters,
their masks, and the product of the MLP's two halves are element-wise.
"""

VARIANTS = 32
"""Times a layer may be compiled anew: with and without gradients, adapter, dropout, recomputing."""


def can_compile() -> bool:
    """Whether there is a C compiler, which torch.compile needs at run time."""
    return any(map(shutil.which, ("cc", "gcc", "clang")))


def compile_layers(model: Any) -> Callable[[], None]:
    """Compile each decoder layer for packed rows of any number of tokens.

    Calls without `segments` (generation, padded batches) find the layer as it was: each of their
    shapes would be compiled anew. Kernels round where the layer's own operations do: otherwise
    the policy, whose layers also keep activations, and its reference would round in different
    places, and a fresh adapter's margins would not be zero.

    Returns:
        A function that takes it back.
    """
    import torch
    import torch._functorch.config
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    torch._functorch.config.activation_memory_budget = SAVED
    torch._inductor.config.emulate_precision_casts = True
    layers = list(model.get_base_model().get_decoder().layers)
    before = [layer.forward for layer in layers]
    for layer, plain in zip(layers, before, strict=True):
        layer.forward = partial(_when_packed, torch.compile(plain, dynamic=True), plain)

    def undo() -> None:
        for layer, plain in zip(layers, before, strict=True):
            layer.forward = plain

    return undo


@contextmanager
def fresh(model: Any) -> Iterator[None]:
    """The model as if its adapter had not learnt anything: B is zero meanwhile."""
    import torch

    learnt = [weight for name, weight in model.named_parameters() if ".lora_B." in name]
    kept = [weight.detach().clone() for weight in learnt]
    with torch.no_grad():
        for weight in learnt:
            weight.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(learnt, kept, strict=True):
                weight.copy_(value)


def recomputes(model: Any) -> bool:
    """Whether gradient checkpointing is on."""
    return any(
        layer.gradient_checkpointing for layer in model.get_base_model().get_decoder().layers
    )


def recompute(model: Any, share: float) -> None:
    """With checkpointing on, recompute the activations of this share of the layers, the last ones.

    The others keep theirs: more memory, less work.
    """
    layers = model.get_base_model().get_decoder().layers
    keep = round((1 - share) * len(layers))
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number >= keep


def _when_packed(compiled: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    return (plain if kwargs.get("segments") is None else compiled)(*args, **kwargs)


def _fused_forward(layer: Any, plain: Any, x: "Tensor", *args: Any, **kwargs: Any) -> "Tensor":
    import torch

    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    cast = torch.is_autocast_enabled(x.device.type)
    same = all(layer.lora_A[name].weight.dtype == x.dtype for name in adapters)
    if layer.disable_adapters or layer.merged or args or kwargs or not (cast or same):
        as_it_comes: Tensor = plain(x, *args, **kwargs)
        return as_it_comes
    result: Tensor = layer.base_layer(x)
    rows = result.flatten(0, -2)
    for name in adapters:
        low = layer.lora_A[name](layer.lora_dropout[name](x)).flatten(0, -2)
        rows = torch.addmm(rows, low, (layer.scaling[name] * layer.lora_B[name].weight).T)
    return rows.view_as(result)
