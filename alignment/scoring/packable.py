"""Whether the packed engine can run a model: it is tried, without weights, on a few tokens.

A model can be packed if every layer mixes tokens only by attention, and hands that attention the
`segments` that keep rows apart. So a blank copy on torch's meta device runs once and notes what
reaches its attention. Nothing is computed, and no list of families can go out of date.
"""

from copy import deepcopy
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from alignment.models.rope import rope_limit

NAME = "noted"
COMPUTED = {"scaling", "sliding_window", "softcap", "s_aux"}
"""Options of a layer's attention that packed attention computes."""
HARMLESS = {
    "dropout",
    "is_causal",
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
}
"""Options that are checked here, or that no attention function uses."""
TOKENS = 6


class Call(NamedTuple):
    """One call of a model's attention: the module that called, its options and its mask."""

    module: Any
    options: dict[str, Any]
    mask: Any


def packing_obstacle(config: Any) -> str | None:
    """Why the packed engine cannot run a model with this config; None if it can."""
    dropout = getattr(config.get_text_config(), "attention_dropout", 0.0)
    if dropout:
        return f"it uses attention dropout ({dropout:.0%})"
    model, calls = _blank(config), list[Call]()
    try:
        _run(model, calls, torch.ones(1, 1, 1, 1, dtype=torch.long, device="meta"))
    except Exception as error:  # any family may fail in its own way, and none may stop the doctor
        if not calls:
            return f"the attention of {config.model_type} is its own, not one that can be replaced"
        return f"{config.model_type} fails on packed rows ({type(error).__name__}: {error})"
    decoder = model.get_decoder()
    if not hasattr(decoder, "layers"):
        return f"{type(decoder).__name__} has no list of layers"
    if "position_ids" not in signature(decoder.forward).parameters:
        return f"{type(decoder).__name__} counts positions itself, across rows"
    return _unpacked_layer(model, calls) or _unknown_option(calls) or _masked_otherwise(model)


def _blank(config: Any) -> Any:
    """The model without weights, with an attention that only notes how it is called."""
    AttentionInterface.register(NAME, _note)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config = deepcopy(config)
    if rope_limit(config) is not None:  # its frequencies would be computed from positions
        config.get_text_config().rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.set_attn_implementation(NAME)
    for module in model.modules():
        if module is not model and any(p.dim() == 3 for p in module.parameters(recurse=False)):
            # fused experts choose tokens by value, and there are no values
            module.forward = _same_shape
    return model.eval()


def _run(model: Any, calls: list[Call], mask: Tensor) -> None:
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with torch.no_grad():
        model.get_decoder()(
            input_ids=tokens,
            position_ids=tokens,
            attention_mask=mask,
            use_cache=False,
            segments=calls,
        )


def _note(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    del key
    options.pop("segments").append(Call(module, options, mask))
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _same_shape(states: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(states)


def _unpacked_layer(model: Any, calls: list[Call]) -> str | None:
    """The first layer that mixes tokens otherwise than by the attention it was given."""
    for number, layer in enumerate(model.get_decoder().layers):
        modules = set(layer.modules())
        others = [type(m).__name__ for m in modules if any(map(_is_convolution, m.children()))]
        if sum(call.module in modules for call in calls) != 1 or others:
            return (
                f"{min(others, default=type(layer).__name__)} (layer {number}) mixes tokens by "
                "more than attention, which would carry one row into the next"
            )
    return None


def _is_convolution(module: Any) -> bool:
    return isinstance(module, nn.Conv1d)


def _unknown_option(calls: list[Call]) -> str | None:
    for module, options, _ in calls:
        if not (options.get("is_causal", True) and getattr(module, "is_causal", True)):
            return "its attention is not causal"
        given = {name for name, value in options.items() if value is not None}
        unknown = sorted(given - COMPUTED - HARMLESS)
        if unknown:
            return f"its attention needs {', '.join(unknown)}"
    return None


def _masked_otherwise(model: Any) -> str | None:
    """A mask that leaves out more than the layer tells its attention; packed rows have no mask."""
    calls, masks = list[Call](), list[tuple[Tensor, int | None]]()
    AttentionMaskInterface.register(NAME, partial(_note_mask, masks))
    try:
        # on the CPU, as Granite 4 looks at its values
        _run(model, calls, torch.ones(1, TOKENS, dtype=torch.long))
    except Exception as error:  # as in `packing_obstacle`
        kind = model.config.model_type
        return f"the masks of {kind} cannot be told ({type(error).__name__}: {error})"
    for module, options, mask in calls:
        windows = [window for made, window in masks if made is mask]
        if not windows:
            return f"{type(module).__name__} makes a mask of its own"
        if windows[0] != options.get("sliding_window"):
            return (
                f"the mask of {type(module).__name__} is limited to {windows[0]} tokens, and its "
                f"attention to {options.get('sliding_window')}"
            )
    return None


def _note_mask(
    masks: list[tuple[Tensor, int | None]], *_: Any, local_size: int | None = None, **__: Any
) -> Tensor:
    mask = torch.empty(1, 1, TOKENS, TOKENS, dtype=torch.bool, device="meta")
    masks.append((mask, local_size))
    return mask
