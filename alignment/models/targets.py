"""The linear layers of a model that an adapter is trained on, by the names of the model's family.

Families name and fuse their layers differently: Phi-3 has one `qkv_proj`, Falcon `query_key_value`,
and in most models with experts each weight of all experts of a layer is one tensor and no linear
layer. PEFT skips names that match nothing and turns some names into tensors of experts. Both are
refused here, with the family's own names.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, Final

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from alignment.errors import ModelError

ALL_LINEAR: Final = "all-linear"
EXPERTS = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names that PEFT turns into tensors of experts in models that have such tensors."""


ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Names of layers that choose experts, or of the modules around them."""


def adapter_config(arguments: Mapping[str, Any], model: Any) -> LoraConfig:
    """PEFT's configuration of an adapter for a model, from the arguments of `LoraConfig`.

    Raises:
        ModelError: target modules match no linear layer, or are tensors of experts.
    """
    targets = _targets(arguments["target_modules"], model)
    config = LoraConfig(**{**arguments, "target_modules": targets})
    config.exclude_modules = _outside(config, model)
    found = deepcopy(config)
    try:
        convert_peft_config_for_transformers(found, model, conversions=None)
    except ValueError:  # it cannot turn some of them into tensors without the others
        found.target_parameters = sorted(EXPERTS & set(targets))
    if found.target_parameters:
        raise ModelError(
            f"lora.target_modules {_listed(EXPERTS & set(targets))}: in {_family(model)} these are "
            "tensors of experts, on which adapters cannot be merged or stacked; "
            f"{_offer(model)}"
        )
    return config


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The linear layers of the decoder's blocks by full name, without routers."""
    inside = set(model.get_decoder().modules())
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module in inside
        and module is not head
        and not ROUTERS.intersection(name.split(".")[-2:])
    }


def expert_weights(model: Any) -> int:
    """Number of weights in tensors that hold all experts of a layer."""
    return sum(
        parameter.numel()
        for module in model.get_decoder().modules()
        if not isinstance(module, nn.Conv1d)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() == 3
    )


def covered_share(config: LoraConfig, model: Any) -> float:
    """Share of the weights in linear layers and experts that are in layers with an adapter."""
    layers = linear_layers(model)
    total = sum(layer.weight.numel() for layer in layers.values()) + expert_weights(model)
    covered = sum(
        layer.weight.numel()
        for name, layer in layers.items()
        if check_target_module_exists(config, name)
    )
    return covered / total


def _targets(asked: str | Iterable[str], model: Any) -> list[str]:
    layers = linear_layers(model)
    if asked == ALL_LINEAR:
        return _usable(model)
    targets = [str(target) for target in asked]
    missing = [
        name for name in targets if not any(f".{full}".endswith(f".{name}") for full in layers)
    ]
    if missing:
        raise ModelError(
            f"lora.target_modules {_listed(missing)} match no linear layer of {_family(model)}; "
            f"{_offer(model)}"
        )
    return targets


def _usable(model: Any) -> list[str]:
    names = {full.rpartition(".")[2] for full in linear_layers(model)}
    if expert_weights(model):
        names -= EXPERTS
    if any(hasattr(m, "D") and hasattr(m, "out_proj") for m in model.get_decoder().modules()):
        names -= {"out_proj"}  # Mamba's kernels read this weight past its adapter
    return sorted(names)


def _offer(model: Any) -> str:
    if not linear_layers(model):
        return "it has none, so adapters cannot be trained here"
    experts = " (its experts are fused tensors and get none)" if expert_weights(model) else ""
    return f"set it to all-linear, or name some of {_listed(_usable(model))}{experts}"


def _outside(config: LoraConfig, model: Any) -> str | None:
    """A pattern of what the targets match outside the decoder; None if they match nothing there.

    Picture encoders have a `q_proj` too, and no gradient would ever reach its adapter.
    """
    inside = set(linear_layers(model))
    others = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name not in inside
        and check_target_module_exists(config, name)
    ]
    if not others:
        return None
    decoder = next(name for name, part in model.named_modules() if part is model.get_decoder())
    return rf"(?!{re.escape(decoder)}\.).*"


def _family(model: Any) -> str:
    return str(model.config.get_text_config().model_type)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
