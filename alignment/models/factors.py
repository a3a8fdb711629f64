"""The low-rank factors of LoRA adapters: reading, checking against a model, concatenating.

Not here: validating adapters (`adapters.py`), adding them to a model (`stack.py`, `merge.py`).
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from alignment.errors import ModelError
from alignment.models.adapters import ADAPTER_WEIGHTS, PlainBase, check_adapter, name_base

PREFIX = "base_model.model."


class Factors(NamedTuple):
    """One delta as two fp32 factors: a [r, in], b [out, r] with the scale included; delta = b a."""

    a: Tensor
    b: Tensor


class FactorFile(Mapping[str, Factors]):
    """The factors of an adapter folder by module name in the base model, read on access.

    Raises:
        ModelError: the adapter is damaged, incomplete or not plain LoRA.
    """

    def __init__(self, folder: Path) -> None:
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

    def delta(self, module: str) -> Tensor:
        """(alpha / r) * (B A) in fp32. Scaled last, as PEFT merges, to get the same bits."""
        a, b = self._sides(module)
        return (b @ a).mul_(self._scale)

    def _sides(self, module: str) -> list[Tensor]:
        if module not in self:
            raise KeyError(module)
        return [self._tensors.get_tensor(_key(module, side)).float() for side in "AB"]


def read_factors(folder: Path) -> dict[str, Factors]:
    """All factors of an adapter by module name in the base model, fp32 on the CPU.

    Raises:
        ModelError: the adapter is damaged, incomplete or not plain LoRA.
    """
    return dict(FactorFile(folder))


def check_fit(model: PreTrainedModel, folder: Path, factors: Mapping[str, Factors]) -> None:
    """Check that exactly the layers targeted by the adapter's config have factors, and shapes fit.

    Raises:
        ModelError: the adapter belongs to another model, or is incomplete.
    """
    config = LoraConfig.from_pretrained(str(folder))
    targeted = {n: m for n, m in model.named_modules() if check_target_module_exists(config, n)}
    mismatched = sorted(targeted.keys() ^ factors.keys())
    mismatched += [
        name
        for name, layer in targeted.items()
        if name in factors and not _fits(layer, factors[name])
    ]
    if mismatched:
        raise ModelError(
            f"{folder} does not fit the model at {mismatched[0]} ({len(mismatched)} such layers): "
            "the adapter belongs to another model or is incomplete. Use an adapter of this model."
        )


def concatenate(adapters: Sequence[Mapping[str, Factors]]) -> dict[str, Factors]:
    """Several adapters as one: a = [a1; a2; ...], b = [b1, b2, ...], so b a = sum of all b_i a_i.

    A module's rank is the sum over the adapters that change it.
    """
    modules = sorted({module for adapter in adapters for module in adapter})
    parts = {module: [one[module] for one in adapters if module in one] for module in modules}
    return {
        module: Factors(torch.cat([f.a for f in found]), torch.cat([f.b for f in found], dim=1))
        for module, found in parts.items()
    }


def write_concatenated(folders: Sequence[Path], to: Path, *, base: PlainBase) -> int:
    """Write several adapters as one fp32 adapter that plain PEFT loads; return its rank.

    Rank = alpha, so that PEFT's scale is 1. Layers changed by fewer adapters are padded with
    zeros, because PEFT expects one rank everywhere.

    Args:
        folders: the adapters, oldest first.
        to: an existing folder.
        base: the model that they are added to.
    """
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
        exclude_modules=LoraConfig.from_pretrained(str(folders[0])).exclude_modules,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(to))
    name_base(to, base)
    return rank


def _modules(folder: Path, keys: Set[str]) -> list[str]:
    """The modules that an adapter's tensors belong to; each must have both factors."""
    modules = sorted({key.rpartition(".lora_")[0].removeprefix(PREFIX) for key in keys})
    expected = {_key(module, side) for module in modules for side in "AB"}
    if expected != keys:
        odd = sorted(expected ^ keys)[0]
        verb = "lacks" if odd in expected else "contains"
        raise ModelError(
            f"{folder} {verb} {odd}: not a complete plain LoRA adapter. Fetch or train it again."
        )
    return modules


def _key(module: str, side: str) -> str:
    return f"{PREFIX}{module}.lora_{side}.weight"


def _fits(layer: Any, factors: Factors) -> bool:
    shape = (layer.out_features, layer.in_features)
    return shape == (factors.b.shape[0], factors.a.shape[1])
