"""Less element-wise work around the matmuls of a LoRA training step; the results are the same.

All act on a model as the trainer library has built it, and leave weights, their fp32 masters and
checkpoints alone. Not here: Liger's kernels. They need a GPU to be proven right, and did not go
with `compile`.
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
from torch import Tensor


def fuse_adapters(model: Any) -> Callable[[], None]:
    """Add every LoRA layer's low-rank product to the base layer's output in one matmul.

    PEFT copies that output, scales the product and adds it: three passes over [tokens, out] that
    `addmm` does without, the scale being folded into the small B.

    Returns:
        A function that takes it back.
    """
    layers = _adapted(model)
    before: list[type] = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = _fused(layer.__class__)

    def undo() -> None:
        for layer, kind in zip(layers, before, strict=True):
            layer.__class__ = kind

    return undo


def unpack_scales(model: Any) -> None:
    """Keep the scales of 4-bit weights in fp32, not quantised once more: the same values.

    0.06 bytes a weight (0.3 GiB at 7B) buy two kernels less in each dequantisation, of which a
    layer's forward and backward pass has fourteen.
    """
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None or not state.nested:
            continue
        with torch.no_grad():
            state.absmax = dequantize_blockwise(state.absmax, state.state2).float() + state.offset
        state.nested, state.state2, state.offset = False, None, None


SAVED = 0.5
"""Of what a compiled layer would keep for its backward pass; the rest is computed again from it.

Half is reached without a matmul of the base: what dropout left of the inputs of seven adapters,
their masks, and the product of the MLP's two halves are element-wise.
"""

VARIANTS = 32
"""Times a layer may be compiled anew: with and without gradients, adapter, dropout, recomputing."""


def against_compiling(model: Any) -> str | None:
    """Why a model's layers cannot be compiled here, in words; None where they can.

    torch.compile needs a C compiler at run time, and what is switched off must be fused.
    """
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler (gcc or clang)"
    layers = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    others = len(layers) - len(_adapted(model))
    return f"{others} of its adapters are not plain LoRA of linear layers" if others else None


def compile_layers(model: Any) -> Callable[[], None]:
    """Compile each decoder layer for packed rows of any number of tokens.

    Calls without `segments` (generation, padded batches) find the layer as it was: each of their
    shapes would be compiled anew. Adapters are fused, and switched off by a zero in place of other
    code: compiled without its adapter a layer would round elsewhere than with it, and the margins
    of an adapter that has learnt nothing would not be zero.

    Returns:
        A function that takes it back, all but settings of torch's compiler and unpacked scales.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    torch._functorch.config.activation_memory_budget = SAVED
    unpack_scales(model)
    unfuse, switch = fuse_adapters(model), Switch(next(model.parameters()).device)
    layers = list(model.get_base_model().get_decoder().layers)
    before = [layer.forward for layer in layers]
    for layer, plain in zip(layers, before, strict=True):
        compiled = torch.compile(plain, dynamic=True)
        layer.forward = partial(_when_packed, layer, compiled, plain, switch)
    for adapted in _adapted(model):
        adapted.switch = switch.value
    model.disable_adapter = switch.off

    def undo() -> None:
        for layer, plain in zip(layers, before, strict=True):
            layer.forward = plain
        for adapted in _adapted(model):
            del adapted.switch
        del model.disable_adapter
        unfuse()

    return undo


class Switch:
    """Turns all adapters of a compiled model off and on.

    Attributes:
        value: what their products are multiplied with, fp32 without axes, 0 or 1.
        is_off: whether it is 0.
    """

    def __init__(self, device: Any) -> None:
        self.value = torch.ones((), device=device)
        self.is_off = False

    @contextmanager
    def off(self) -> Iterator[None]:
        """Without the adapters, as `PeftModel.disable_adapter()`."""
        self.value.fill_(0.0)
        self.is_off = True
        try:
            yield
        finally:
            self.value.fill_(1.0)
            self.is_off = False


@contextmanager
def fresh(model: Any) -> Iterator[None]:
    """The model as if its adapter had not learnt anything: B is zero meanwhile."""
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


def _when_packed(
    layer: Any, compiled: Any, plain: Any, switch: Switch, *args: Any, **kwargs: Any
) -> Any:
    if kwargs.get("segments") is None:
        return plain(*args, **kwargs)
    if switch.is_off and layer.training:
        return _as_in_training(compiled, *args, **kwargs)
    return compiled(*args, **kwargs)


def _as_in_training(compiled: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
    """The very kernels that a layer trains with; what they keep for a backward pass is dropped."""
    with torch.enable_grad():
        found: Tensor = compiled(hidden.detach().requires_grad_(), **kwargs)
    return found.detach()


def _added(rows: Tensor, low: Tensor, b: Tensor) -> Tensor:
    """The sum of rows and low b, in one matmul where autocast or their type allows that."""
    if torch.is_autocast_enabled(rows.device.type) or rows.dtype == low.dtype:
        return torch.addmm(rows, low, b)
    return (rows + low @ b).to(rows.dtype)


def _adapted(model: Any) -> list[Any]:
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [layer for layer in layers if layer.lora_A and not layer.lora_variant]


@cache
def _fused(kind: Any) -> type:
    """A class of LoRA layers with another forward: a compiler then finds one code in all layers."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            as_it_comes: Tensor = kind.forward(self, x, *args, **kwargs)
            return as_it_comes
        result: Tensor = self.base_layer(x)
        rows = result.flatten(0, -2)
        for name in (name for name in self.active_adapters if name in self.lora_A):
            a = self.lora_A[name]
            own = x if torch.is_autocast_enabled(x.device.type) else x.to(a.weight.dtype)
            low = a(self.lora_dropout[name](own)).flatten(0, -2)
            scale = self.scaling[name]
            if self.switch is not None:
                scale = scale * self.switch
            rows = _added(rows, low, (scale * self.lora_B[name].weight).T)
        return rows.view_as(result)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward, "switch": None})
