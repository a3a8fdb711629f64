"""The linear layers of a model that an adapter is trained on, by the names of the model's family.

Families name and fuse their layers differently: Phi-3 has one `qkv_proj`, Falcon `query_key_value`,
and in most models with experts each weight of all experts of a layer is one tensor and no linear
layer (`experts.py`). PEFT skips names that match nothing and turns some names into tensors of
experts. Both are refused here, with the family's own names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from alignment.errors import ModelError
from alignment.models.adapters import TENSORS
from alignment.models.experts import expert_tensors, targets_of, weights_in

ALL_LINEAR: Final = "all-linear"
EXPERTS = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names that PEFT turns into tensors of experts in models that have such tensors."""


WHOLE = 0.995
"""From this share on, what no adapter covers is not worth a word."""
ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Names of layers that choose experts, or of the modules around them."""


class Coverage(NamedTuple):
    """How much of the decoder's blocks an adapter changes.

    Attributes:
        share: share of the weights in linear layers and experts that are in what it changes.
        left: last names of the layers and tensors that it leaves as they are.
    """

    share: float
    left: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """The gap in words; None if it is not worth a word."""
        if self.share >= WHOLE:
            return None
        return (
            f"adapters on {self.share:.1%} of the weights in the model's blocks, "
            f"none on {_listed(self.left)}"
        )


def adapter_config(arguments: Mapping[str, Any], model: Any) -> LoraConfig:
    """PEFT's configuration of an adapter for a model, from the arguments of `LoraConfig`.

    Raises:
        ModelError: target modules match no linear layer, or are tensors of experts; or the experts
            would get an adapter that PEFT cannot make.
    """
    asked = arguments["target_modules"]
    own = _all_of(model, arguments) if asked == ALL_LINEAR else _named(model, arguments)
    config = LoraConfig(**{**arguments, **own})
    config.exclude_modules = _outside(config, model)
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


def coverage(config: LoraConfig, model: Any) -> Coverage:
    """How much of a model's blocks an adapter of this configuration changes."""
    layers = {
        name: (layer.out_features, layer.in_features)
        for name, layer in linear_layers(model).items()
    }
    whole = {**layers, **{name: tuple(t.shape) for name, t in expert_tensors(model).items()}}
    changed = targets_of(config, model)
    total = weights_in(layers) + expert_weights(model)
    left = {_short(name) for name in whole.keys() - changed.keys()}
    covered = weights_in({name: changed[name] for name in whole.keys() & changed.keys()})
    return Coverage(covered / total, tuple(sorted(left)))


def default_gap(covered: Coverage, model: Any) -> str:
    """Why the default names are refused on a model where they leave a gap that nobody chose."""
    return (
        f"the default lora.target_modules leave part of {_family(model)} as it is "
        f"({covered.note}); {_offer(model)}"
    )


def _short(name: str) -> str:
    """The last name of a linear layer, and the last two of a tensor of experts."""
    *_, before, last = name.split(".")
    return f"{before}.{last}" if f"{before}.{last}" in TENSORS else last


def _named(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The layers that the user named."""
    layers = linear_layers(model)
    targets = [str(target) for target in arguments["target_modules"]]
    missing = [
        name for name in targets if not any(f".{full}".endswith(f".{name}") for full in layers)
    ]
    if missing:
        raise ModelError(
            f"lora.target_modules {_listed(missing)} match no linear layer of {_family(model)}; "
            f"{_offer(model)}"
        )
    if past := _read_past(model) & {
        full for full in layers for name in targets if f".{full}".endswith(f".{name}")
    }:
        raise ModelError(
            f"lora.target_modules {_listed({name.rpartition('.')[2] for name in past})}: Mamba "
            f"layers of {_family(model)} read these weights past their adapters; {_offer(model)}"
        )
    if _turned(targets, arguments, model):
        raise ModelError(
            f"lora.target_modules {_listed(EXPERTS & set(targets))}: in {_family(model)} these are "
            f"tensors of experts too; {_offer(model)}"
        )
    return {"target_modules": targets}


def _all_of(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every linear layer, and the experts.

    Layers with names that PEFT would turn into experts are named by their weight.
    """
    names = _usable(model)
    if not expert_weights(model):
        return {"target_modules": names}
    tensors = expert_tensors(model)
    if expert_weights(model) > sum(tensor.numel() for tensor in tensors.values()):
        raise ModelError(
            f"the experts of {_family(model)} are tensors of a form that cannot be adapted here; "
            f"name some of {_listed(_offered(model))} in lora.target_modules to leave them out"
        )
    if arguments["lora_dropout"]:
        raise ModelError(
            f"adapters on the experts of {_family(model)} cannot have dropout: set lora.dropout "
            f"to 0, or name some of {_listed(_offered(model))} in lora.target_modules, which "
            "leaves the experts out"
        )
    turned = EXPERTS & set(names) if _turned(names, arguments, model) else set()
    by_weight = {
        f"{'.'.join(name.split('.')[-2:])}.weight"
        for name in linear_layers(model)
        if name.rpartition(".")[2] in turned
    }
    return {
        "target_modules": sorted(set(names) - turned),
        "target_parameters": sorted({*TENSORS, *by_weight}),
    }


def _turned(names: Iterable[str], arguments: Mapping[str, Any], model: Any) -> bool:
    """Whether PEFT turns some of these names into tensors of experts."""
    found = LoraConfig(**{**arguments, "target_modules": list(names)})
    try:
        convert_peft_config_for_transformers(found, model, conversions=None)
    except ValueError:  # it cannot turn some of them into tensors without the others
        return True
    return bool(found.target_parameters)


def _usable(model: Any) -> list[str]:
    names = {full.rpartition(".")[2] for full in linear_layers(model)}
    return sorted(names - {full.rpartition(".")[2] for full in _read_past(model)})


def _read_past(model: Any) -> set[str]:
    """The layers of Mamba whose weights are read past their adapters, by full name."""
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if hasattr(module, "D") and hasattr(module, "out_proj")
        for part in ("out_proj", "dt_proj")
    }


def _offered(model: Any) -> list[str]:
    """Names that can be given as `target_modules`."""
    names = _usable(model)
    arguments = {"lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
    turned = bool(expert_weights(model)) and _turned(names, arguments, model)
    return sorted(set(names) - EXPERTS) if turned else names


def _offer(model: Any) -> str:
    if not linear_layers(model):
        return "it has none, so adapters cannot be trained here"
    experts = (
        " (all-linear trains its experts too, and needs lora.dropout=0)"
        if expert_weights(model)
        else ""
    )
    return f"set it to all-linear, or name some of {_listed(_offered(model))}{experts}"


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
