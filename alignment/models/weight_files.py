"""The weights of a model folder, one tensor at a time: read where they lie, written in shards.

A folder larger than the memory can so be read, changed and written. Tensors read are views of
their file: nothing is copied, and their pages are the kernel's to take back.
Not here: what becomes of a tensor (`merge.py`), the model that they make (`load.py`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from alignment.models.folder import weight_files

SHARD_SIZE = "4GB"
"""Of a file of weights, at most; a tensor that is larger has a file of its own."""
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Weights:
    """The tensors of a model folder by name, in the order of its files.

    Args:
        folder: in the format of `save_pretrained`.
    """

    def __init__(self, folder: Path) -> None:
        opened: list[Any] = [safe_open(file, framework="pt") for file in _loaded_files(folder)]
        self._home = {name: tensors for tensors in opened for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        self.names = tuple(self._home)

    def __contains__(self, name: str) -> bool:
        return name in self._home

    def read(self, name: str) -> Tensor:
        """A tensor as stored; to be left as it is."""
        tensor: Tensor = self._home[name].get_tensor(name)
        return tensor


def write_shards(
    blank: PreTrainedModel,
    weights: Weights,
    make: Callable[[str], Tensor],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write a model as its `save_pretrained` would, with one shard at a time in memory.

    Args:
        blank: the model without its weights: gives config and generation config.
        weights: whose names and shapes the tensors written have.
        make: gives the tensor of a name, of `dtype` where the stored one is of floats.
        folder: to write to; made where it is missing.
        dtype: of the tensors, and told by the config.
    """
    _write_settings(blank, folder, dtype)
    outlines = {name: _outline(weights.read(name), dtype) for name in weights.names}
    shards = split_torch_state_dict_into_shards(
        outlines, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    for file, names in shards.filename_to_tensors.items():
        # room for the whole shard first: made between what stays, what is dropped leaves holes
        shard = {name: torch.empty_like(outlines[name], device="cpu") for name in names}
        for name, tensor in shard.items():
            tensor.copy_(make(name))
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard, tensor
    if shards.is_sharded:
        about = {"total_parameters": blank.num_parameters(), **shards.metadata}
        index = {"metadata": about, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def blank_model(folder: Path) -> PreTrainedModel:
    """The model of a folder without its weights: layers, config and generation config."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _loaded_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads: some folders have a second copy in another form."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return weight_files(folder)
    index = json.loads((folder / INDEX).read_text())
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _outline(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What a tensor will be in a file, without its data."""
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device="meta")


def _write_settings(blank: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    blank.config.dtype = str(dtype).removeprefix("torch.")
    blank.config.architectures = [type(blank).__name__]
    blank.config.save_pretrained(folder)
    if blank.can_generate() and blank.generation_config is not None:
        blank.generation_config.save_pretrained(folder)
