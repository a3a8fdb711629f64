"""LoRA adapters on disk: validation and description.

Only plain LoRA is read: y += (alpha / r) * B A x on linear layers (Hu et al. 2021, eq. 3), and the
same for each expert in a tensor of experts. Summing
or concatenating any other kind would be silently wrong, so other kinds are refused here.
Not here: creating adapters (TRL does), their low-rank factors (`factors.py`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ModelError
from alignment.models.header import read_header
from alignment.records.refs import AdapterRef, BaseRef, ModelRef
from alignment.store.checksum import file_sha256

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REMEDY = "The run does not fall back to the base model: fetch or train the adapter again."
TENSORS = ("experts.gate_up_proj", "experts.down_proj")
"""Ends of the names of the tensors that hold a layer's experts (`experts.py`)."""

REFUSED = {
    "use_rslora": "its scale is alpha / sqrt(r), not alpha / r",
    "use_dora": "its delta depends on the weight it is added to",
    "use_qalora": "it pools its inputs",
    "rank_pattern": "layers differ in rank",
    "alpha_pattern": "layers differ in scale",
    "modules_to_save": "it contains whole layers that would replace those of the base",
    "trainable_token_indices": "it contains rows of the embedding",
    "lora_bias": "its B has a bias, which a product of two factors cannot express",
    "fan_in_fan_out": "its weights are stored transposed",
    "layer_replication": "it adds layers to the base",
    "alora_invocation_tokens": "its delta depends on the tokens before it",
    "kasa_config": "its delta has a third factor",
}
"""Options of `peft.LoraConfig` that a sum of (alpha / r) B A cannot express, and why."""
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that also change the base weights, without which the adapter is useless."""


def check_adapter(folder: Path) -> dict[str, Any]:
    """Check that an adapter folder is complete and plain LoRA; return its configuration.

    Raises:
        ModelError: names the missing or damaged file, or the option that is not plain LoRA.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"the adapter folder {folder} has no {name}. Point to a folder written by "
                "save_pretrained, with safetensors weights."
            )
    read_header(folder / ADAPTER_WEIGHTS, remedy=REMEDY)
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
    for option, why in _not_plain(config):
        raise ModelError(
            f"{folder} uses {option}: {why}, so it cannot be merged or stacked exactly. "
            "Use a plain LoRA adapter."
        )
    return config


def describe_adapter(folder: Path, *, uri: str, stage: str, trained_on: str) -> AdapterRef:
    """The reference to an adapter folder.

    Raises:
        ModelError: the adapter is damaged or not plain LoRA.
    """
    config = check_adapter(folder)
    return AdapterRef(
        uri=uri,
        sha256=file_sha256(folder / ADAPTER_WEIGHTS),
        stage=stage,
        r=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(
            sorted([*config["target_modules"], *(config.get("target_parameters") or ())])
        ),
        trained_on=trained_on,
    )


class PlainBase(NamedTuple):
    """The model that plain PEFT must load below an adapter: a hub id or a folder; None: none."""

    name: str | None
    revision: str | None = None


def base_below(policy: ModelRef, folder: Path) -> PlainBase:
    """The base to name in an adapter trained on `policy`, whose base is in `folder`.

    None above stacked adapters: base and newest adapter alone would be another model.
    """
    return PlainBase(None) if policy.adapters else plain_base(policy.base, folder)


def plain_base(base: BaseRef, folder: Path) -> PlainBase:
    """A base as plain PEFT finds it: the hub's id and commit, or its folder on this machine."""
    scheme, _, name = base.uri.partition(":")
    return PlainBase(name, base.revision) if scheme == "hub" else PlainBase(str(folder.absolute()))


def name_base(folder: Path, base: PlainBase) -> None:
    """Write the base into an adapter's config, which gets the same bytes in every process.

    PEFT writes the folder that it loaded, such as a hub's cache, and its sets of names in an
    order that differs from process to process.
    """
    path = folder / ADAPTER_CONFIG
    settings = json.loads(path.read_text())
    settings |= {"base_model_name_or_path": base.name, "revision": base.revision}
    settings["target_modules"] = sorted(settings["target_modules"])
    if settings.get("target_parameters"):
        settings["target_parameters"] = sorted(settings["target_parameters"])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))


def _not_plain(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of a configuration that are not plain LoRA, each with the reason."""
    yield from ((option, why) for option, why in REFUSED.items() if config.get(option))
    parameters = set(config.get("target_parameters") or ())
    odd = {name for name in parameters - {*TENSORS} if not name.endswith(".weight")}
    if odd or 0 < len(parameters & {*TENSORS}) < len(TENSORS):
        yield "target_parameters", "its delta applies to other parameters than layers and experts"
    if config.get("bias", "none") != "none":
        yield "bias", "biases of the base were trained as well"
    if str(config.get("init_lora_weights", "")).startswith(REBASED):
        yield "init_lora_weights", "it changed the weights of the base"
