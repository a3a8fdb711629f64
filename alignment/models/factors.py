"""The low-rank factors of LoRA adapters: reading, checking against a model, concatenating.

Not here: validating adapters (`adapters.py`), adding them to a model (`stack.py`, `merge.py`).
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from alignment.errors import ModelError
from alignment.models.adapters import (
    ADAPTER_WEIGHTS,
    TENSORS,
    PlainBase,
    check_adapter,
    name_base,
)
from alignment.models.experts import ExpertSlice, in_experts, targets_of

PREFIX = "base_model.model."


class Factors(NamedTuple):
    """One delta as two fp32 factors: a [r, in], b [out, r] with the scale included; delta = b a.

    Those of experts have a dimension in front, [experts, r, in] and [experts, out, r].
    """

    a: Tensor
    b: Tensor


class FactorFile(Mapping[str, Factors]):
    """The factors of an adapter folder, read on access.

    They are by name in the base model: that of a linear layer, or of a tensor of experts.

    Raises:
        ModelError: the adapter is damaged, incomplete or not plain LoRA.
    """

    def __init__(self, folder: Path) -> None:
        config = check_adapter(folder)
        self.folder = folder
        self._rank = config["r"]
        self._scale = config["lora_alpha"] / self._rank
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

    def delta(self, module: str, part: ExpertSlice | None = None) -> Tensor:
        """(alpha / r) * (B A) in fp32. Scaled last, as PEFT merges, to get the same bits.

        Args:
            module: a linear layer or tensor of experts.
            part: compute only this part of the tensor.
        """
        a, b = self._sides(module)
        return (part.of_delta(a, b) if part else b @ a).mul_(self._scale)

    def _sides(self, module: str) -> tuple[Tensor, Tensor]:
        if module not in self:
            raise KeyError(module)
        a, b = (self._tensors.get_tensor(_key(module, side)).float() for side in "AB")
        return per_expert(a, b, self._rank) if in_experts(module) else (a, b)


def per_expert(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[experts, r, in] and [experts, out, r] of factors that PEFT lays side by side.

    It has [experts * r, in], one expert after another, and [out, r * experts], one rank after
    another.
    """
    return a.view(-1, rank, a.shape[1]), b.view(b.shape[0], rank, -1).permute(2, 0, 1)


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
    targeted = targets_of(LoraConfig.from_pretrained(str(folder)), model)
    mismatched = sorted(targeted.keys() ^ factors.keys())
    mismatched += [
        name
        for name, shape in targeted.items()
        if name in factors and shape != _shape(factors[name])
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
        module: Factors(
            torch.cat([f.a for f in found], dim=-2), torch.cat([f.b for f in found], dim=-1)
        )
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
    rank = max(factors.a.shape[-2] for factors in joined.values())
    tensors = {}
    for module, (a, b) in joined.items():
        missing = rank - a.shape[-2]
        sides = pad(a, (0, 0, 0, missing)), pad(b, (0, missing))
        for side, factor in zip("AB", _as_peft(module, *sides), strict=True):
            tensors[_key(module, side)] = factor.contiguous()
    save_file(tensors, to / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    configs = [LoraConfig.from_pretrained(str(folder)) for folder in folders]
    parameters = {name for config in configs for name in config.target_parameters or ()}
    by_weight = tuple(f".{name}" for name in parameters)
    layers = [name for name in joined if not f"{name}.weight".endswith(by_weight)]
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({n.rpartition(".")[2] for n in layers if not in_experts(n)}),
        target_parameters=sorted(parameters) or None,
        exclude_modules=configs[0].exclude_modules,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(to))
    name_base(to, base)
    return rank


def _as_peft(module: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors in the shapes of PEFT's files."""
    if not in_experts(module):
        return a, b
    return a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)


def _modules(folder: Path, keys: Set[str]) -> list[str]:
    """What an adapter's tensors belong to; each must have both factors."""
    modules = sorted({_module(key) for key in keys})
    expected = {_key(module, side) for module in modules for side in "AB"}
    if expected != keys:
        odd = sorted(expected ^ keys)[0]
        verb = "lacks" if odd in expected else "contains"
        raise ModelError(
            f"{folder} {verb} {odd}: not a complete plain LoRA adapter. Fetch or train it again."
        )
    return modules


_WRAPPED = {tensor: "experts" + ".base_layer" * n for n, tensor in enumerate(reversed(TENSORS))}
"""PEFT wraps a module once per tensor, and names what it wrapped first from the outside."""


def _module(key: str) -> str:
    """The linear layer or tensor of experts that a key of an adapter's file belongs to."""
    name = key.rpartition(".lora_")[0].removeprefix(PREFIX)
    for tensor, wrapped in _WRAPPED.items():
        if name.endswith(f".{wrapped}"):
            return name.removesuffix(wrapped) + tensor
    return name


def _key(module: str, side: str) -> str:
    for tensor, wrapped in _WRAPPED.items():
        if module.endswith(f".{tensor}"):
            module = module.removesuffix(tensor) + wrapped
    return f"{PREFIX}{module}.lora_{side}.weight"


def _shape(factors: Factors) -> tuple[int, ...]:
    return (*factors.b.shape[:-1], factors.a.shape[-1])
