"""LoRA adapters on disk: what makes one sound, and the factors it holds.

Only plain LoRA is read: y += (alpha / r) * B A x on linear layers (Hu et al. 2021, eq. 3). Sums
and concatenations of anything else would be wrong without a word, so it is refused here.
Not here: creating adapters (TRL does), adding them to a model (`stack.py`, `merge.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import ModelError
from alignment.records import AdapterRef
from alignment.store.store import file_sha256

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

REFUSED = {
    "use_rslora": "its scale is alpha / sqrt(r), not alpha / r",
    "use_dora": "its delta depends on the weight it is added to",
    "use_qalora": "it pools its inputs",
    "rank_pattern": "layers differ in rank",
    "alpha_pattern": "layers differ in scale",
    "modules_to_save": "whole layers come with it and would replace those of the base",
    "trainable_token_indices": "rows of the embedding come with it",
    "target_parameters": "its delta belongs to parameters outside linear layers",
    "lora_bias": "its B has a bias, which no product of factors holds",
    "fan_in_fan_out": "its weights are stored transposed",
    "layer_replication": "it adds layers to the base",
    "alora_invocation_tokens": "its delta depends on the tokens before it",
    "kasa_config": "its delta has a third factor",
}
"""Options of `peft.LoraConfig` that no sum of (alpha / r) B A can carry, and why."""
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base weights: without those the adapter means nothing."""


class Factors(NamedTuple):
    """One delta as two fp32 factors: a [r, in], b [out, r] with the scale in it; delta = b a."""

    a: "Tensor"
    b: "Tensor"


def check_adapter(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter folder that is whole and plain LoRA.

    Raises:
        ModelError: saying which file is missing or damaged, or which option is no plain LoRA.
    """
    from safetensors import SafetensorError, safe_open

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"the adapter folder {folder} has no {name}. Point to a folder written by "
                "save_pretrained, with safetensors weights."
            )
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ModelError(
            f"{folder / ADAPTER_WEIGHTS} is damaged ({' '.join(str(error).split())[:120]}). "
            "A damaged adapter is never replaced by the base model: fetch or train it again."
        ) from error
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
    for option, why in _not_plain(config):
        raise ModelError(
            f"{folder} uses {option}: {why}, so it can be neither merged nor stacked exactly. "
            "Use a plain LoRA adapter."
        )
    return config


def describe_adapter(folder: Path, *, uri: str, stage: str, trained_on: str) -> AdapterRef:
    """The reference to an adapter folder.

    Raises:
        ModelError: the adapter is damaged, or of a kind whose delta is not (alpha / r) * B A.
    """
    config = check_adapter(folder)
    return AdapterRef(
        uri=uri,
        sha256=file_sha256(folder / ADAPTER_WEIGHTS),
        stage=stage,
        r=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(sorted(config["target_modules"])),
        trained_on=trained_on,
    )


class FactorFile(Mapping[str, Factors]):
    """The factors of an adapter folder by module name in the base model, read when asked for.

    Raises:
        ModelError: the adapter is damaged, incomplete or not plain LoRA.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        config = check_adapter(folder)
        self.folder = folder
        self._scale = config["lora_alpha"] / config["r"]
        tensors: Any = safe_open(folder / ADAPTER_WEIGHTS, framework="pt")
        self._tensors = tensors
        self._modules = _modules(folder, set(tensors.keys()))

    def __getitem__(self, module: str) -> Factors:
        a, b = self._sides(module)
        return Factors(a=a, b=self._scale * b)

    def __contains__(self, module: object) -> bool:
        return module in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def delta(self, module: str) -> "Tensor":
        """(alpha / r) * (B A) in fp32, scaled last as PEFT does when it merges: the same bits."""
        a, b = self._sides(module)
        return (b @ a).mul_(self._scale)

    def _sides(self, module: str) -> "list[Tensor]":
        if module not in self:
            raise KeyError(module)
        return [self._tensors.get_tensor(_key(module, side)).float() for side in "AB"]


def read_factors(folder: Path) -> dict[str, Factors]:
    """Module name in the base model to its factors, fp32 on the CPU.

    Raises:
        ModelError: the adapter is damaged, incomplete or not plain LoRA.
    """
    return dict(FactorFile(folder))


def check_fit(model: "PreTrainedModel", folder: Path, factors: Mapping[str, Factors]) -> None:
    """Each layer that the adapter's config means has factors of its shape, and no other has.

    Raises:
        ModelError: the adapter belongs to another model, or is incomplete.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig.from_pretrained(str(folder))
    meant = {n: m for n, m in model.named_modules() if check_target_module_exists(config, n)}
    odd = sorted(meant.keys() ^ factors.keys())
    odd += [
        name for name, layer in meant.items() if name in factors and not _fits(layer, factors[name])
    ]
    if odd:
        raise ModelError(
            f"{folder} does not fit the model at {odd[0]} ({len(odd)} such layers): the adapter "
            "belongs to another model or is incomplete."
        )


def concatenate(adapters: Sequence[Mapping[str, Factors]]) -> dict[str, Factors]:
    """Several adapters as one: a = [a1; a2; ...], b = [b1, b2, ...], so b a = sum of all b_i a_i.

    A module that only some of the adapters touch has their ranks only.
    """
    import torch

    modules = sorted({module for adapter in adapters for module in adapter})
    parts = {module: [one[module] for one in adapters if module in one] for module in modules}
    return {
        module: Factors(torch.cat([f.a for f in found]), torch.cat([f.b for f in found], dim=1))
        for module, found in parts.items()
    }


def write_concatenated(folders: Sequence[Path], to: Path, *, base: str | None) -> int:
    """Write several adapters as one that plain PEFT loads, in fp32; return its rank.

    Rank = alpha, so that PEFT's scale is 1. Layers that fewer adapters touch are filled up with
    zeros: PEFT wants one rank everywhere.

    Args:
        folders: the adapters, oldest first.
        to: an existing folder.
        base: hub id of the base model, or None where it has none.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file
    from torch.nn.functional import pad

    joined = concatenate([read_factors(folder) for folder in folders])
    rank = max(factors.a.shape[0] for factors in joined.values())
    tensors = {}
    for module, (a, b) in joined.items():
        missing = rank - a.shape[0]
        tensors[_key(module, "A")] = pad(a, (0, 0, 0, missing))
        tensors[_key(module, "B")] = pad(b, (0, missing)).contiguous()
    save_file(tensors, to / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({module.rpartition(".")[2] for module in joined}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(to))
    return rank


def _modules(folder: Path, keys: Set[str]) -> list[str]:
    """The modules that the tensors of an adapter belong to, each of which has its two factors."""
    modules = sorted({key.rpartition(".lora_")[0].removeprefix(PREFIX) for key in keys})
    wanted = {_key(module, side) for module in modules for side in "AB"}
    if wanted != keys:
        odd = sorted(wanted ^ keys)[0]
        word = "lacks" if odd in wanted else "holds"
        raise ModelError(
            f"{folder} {word} {odd}: not a whole plain LoRA adapter. Fetch or train it again."
        )
    return modules


def _key(module: str, side: str) -> str:
    return f"{PREFIX}{module}.lora_{side}.weight"


def _fits(layer: Any, factors: Factors) -> bool:
    shape = (layer.out_features, layer.in_features)
    return shape == (factors.b.shape[0], factors.a.shape[1])


def _not_plain(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options of a configuration whose delta is not (alpha / r) B A, each with the reason."""
    yield from ((option, why) for option, why in REFUSED.items() if config.get(option))
    if config.get("bias", "none") != "none":
        yield "bias", "biases of the base were trained as well"
    if str(config.get("init_lora_weights", "")).startswith(REBASED):
        yield "init_lora_weights", "it changed the weights of the base"
