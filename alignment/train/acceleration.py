"""Reduces element-wise work around the matmuls of a LoRA training step; results are unchanged.

All functions act on a model as the trainer library has built it. They do not change the trainable
weights, their fp32 masters or checkpoints. Not here: Liger's kernels, which can only be verified
on a GPU and did not work together with `compile`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch._functorch.config
from bitsandbytes.functional import dequantize_blockwise
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor


def fuse_adapters(model: Any) -> Callable[[], None]:
    """Add every LoRA layer's low-rank product to the base layer's output in one matmul.

    PEFT copies that output, scales the product and adds it: three passes over [tokens, out].
    `addmm` avoids them, with the scale folded into the small B.

    Returns:
        A function that reverts it.
    """
    layers = _lora_layers(model)
    before: list[type] = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = _fused(layer.__class__)

    def undo() -> None:
        for layer, kind in zip(layers, before, strict=True):
            layer.__class__ = kind

    return undo


def unpack_scales(model: Any) -> None:
    """Undo the double quantisation of 4-bit weights: keep their scales in fp32, same values.

    This costs 0.06 bytes per weight (0.3 GiB at 7B) and saves two kernels in each dequantisation;
    a layer's forward and backward pass has fourteen.
    """
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None or not state.nested:
            continue
        with torch.no_grad():
            state.absmax = dequantize_blockwise(state.absmax, state.state2).float() + state.offset
        state.nested, state.state2, state.offset = False, None, None


SAVED_SHARE = 0.5
"""Share of a compiled layer's activations that is kept for its backward pass; the rest is
recomputed from it.

One half needs no matmul of the base to be recomputed: the inputs of seven adapters after dropout,
their masks, and the product of the MLP's two halves are all element-wise.
"""

MAX_RECOMPILATIONS = 32
"""Recompilations allowed per layer: with and without gradients, adapter, dropout, recomputing."""


def compile_obstacle(model: Any) -> str | None:
    """Why a model's layers cannot be compiled here; None if they can.

    torch.compile needs a C compiler at run time, and only fused adapters can be switched off.
    """
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "no C compiler (gcc or clang) was found"
    layers = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    others = len(layers) - len(_lora_layers(model))
    return f"{others} of its adapters are not plain LoRA of linear layers" if others else None


def compile_layers(model: Any) -> Callable[[], None]:
    """Compile each decoder layer for packed rows of any number of tokens.

    Calls without `segments` (generation, padded batches) use the uncompiled layer, because each of
    their shapes would cause a recompilation. Adapters are fused, and disabled by multiplying with
    zero instead of by running other code: a layer compiled without its adapter would round
    differently, and an untrained adapter's margins would not be zero.

    Returns:
        A function that reverts it, except for torch's compiler settings and the unpacked scales.
    """
    limit = max(torch._dynamo.config.recompile_limit, MAX_RECOMPILATIONS)
    torch._dynamo.config.recompile_limit = limit
    torch._functorch.config.activation_memory_budget = SAVED_SHARE
    torch._dynamo.config.optimize_ddp = False  # a layer is small; splitting it would round anew
    unpack_scales(model)
    unfuse, switch = fuse_adapters(model), Switch(next(model.parameters()).device)
    layers = list(model.get_base_model().get_decoder().layers)
    before = [layer.forward for layer in layers]
    for layer, plain in zip(layers, before, strict=True):
        compiled = torch.compile(plain, dynamic=True)
        layer.forward = partial(_when_packed, layer, compiled, plain, switch)
    for adapted in _lora_layers(model):
        adapted.switch = switch.value
    model.disable_adapter = switch.off

    def undo() -> None:
        for layer, plain in zip(layers, before, strict=True):
            layer.forward = plain
        for adapted in _lora_layers(model):
            del adapted.switch
        del model.disable_adapter
        unfuse()

    return undo


class Switch:
    """Switches all adapters of a compiled model off and on.

    Attributes:
        value: factor of the adapters' products, an fp32 scalar tensor, 0 or 1.
        is_off: whether the factor is 0.
    """

    def __init__(self, device: Any) -> None:
        self.value = torch.ones((), device=device)
        self.is_off = False

    @contextmanager
    def off(self) -> Iterator[None]:
        """Disable the adapters meanwhile, like `PeftModel.disable_adapter()`."""
        self.value.fill_(0.0)
        self.is_off = True
        try:
            yield
        finally:
            self.value.fill_(1.0)
            self.is_off = False


@contextmanager
def untrained_adapter(model: Any) -> Iterator[None]:
    """Make the adapter behave as before training: its B is zero meanwhile."""
    weights = [weight for name, weight in model.named_parameters() if ".lora_B." in name]
    saved = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, saved, strict=True):
                weight.copy_(value)


def uses_checkpointing(model: Any) -> bool:
    """Whether gradient checkpointing is on for any layer."""
    return any(
        layer.gradient_checkpointing for layer in model.get_base_model().get_decoder().layers
    )


def set_recompute_share(model: Any, share: float) -> None:
    """With checkpointing on, let the last `share` of the layers recompute their activations.

    The other layers keep theirs, which needs more memory and less work.
    """
    layers = model.get_base_model().get_decoder().layers
    keep = round((1 - share) * len(layers))
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number >= keep


def _when_packed(
    layer: Any, compiled: Any, plain: Any, switch: Switch, *args: Any, **kwargs: Any
) -> Any:
    if kwargs.get("segments") is None:
        return plain(*args, **kwargs)
    if switch.is_off and layer.training:
        return _with_training_kernels(compiled, *args, **kwargs)
    return compiled(*args, **kwargs)


def _with_training_kernels(compiled: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
    """Run the kernels that the layer trains with, and discard what they save for a backward pass.

    The kernels compiled for inference round differently, so policy and reference would differ.
    """
    with torch.enable_grad():
        found: Tensor = compiled(hidden.detach().requires_grad_(), **kwargs)
    return found.detach()


def _add_product(rows: Tensor, low: Tensor, b: Tensor) -> Tensor:
    """The sum of `rows` and `low` @ `b`, in one matmul if autocast or their dtypes allow it."""
    if torch.is_autocast_enabled(rows.device.type) or rows.dtype == low.dtype:
        return torch.addmm(rows, low, b)
    return (rows + low @ b).to(rows.dtype)


def _lora_layers(model: Any) -> list[Any]:
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    plain = [layer for layer in layers if not isinstance(layer, ParamWrapper)]
    return [layer for layer in plain if layer.lora_A and not layer.lora_variant]


@cache
def _fused(kind: Any) -> type:
    """A subclass of a LoRA layer class with a fused forward.

    It is a class, not a patched method, so that the compiler finds the same code in all layers.
    """

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            unfused: Tensor = kind.forward(self, x, *args, **kwargs)
            return unfused
        result: Tensor = self.base_layer(x)
        rows = result.flatten(0, -2)
        for name in (name for name in self.active_adapters if name in self.lora_A):
            a = self.lora_A[name]
            typed = x if torch.is_autocast_enabled(x.device.type) else x.to(a.weight.dtype)
            low = a(self.lora_dropout[name](typed)).flatten(0, -2)
            scale = self.scaling[name]
            if self.switch is not None:
                scale = scale * self.switch
            rows = _add_product(rows, low, (scale * self.lora_B[name].weight).T)
        return rows.view_as(result)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward, "switch": None})
