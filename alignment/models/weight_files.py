"""Reads the weights of a model folder one tensor at a time, and writes them in shards.

This way a folder larger than memory can be read, changed and written. The tensors read are
memory-mapped views of their file: nothing is copied, and the kernel can reclaim their pages.
Not here: changing a tensor (`merge.py`), loading a model (`load.py`).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from alignment.errors import ModelError, one_line
from alignment.models.folder import weight_files

SHARD_SIZE = "4GB"
"""Maximum size of a weight file; a larger tensor gets a file of its own."""
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Weights:
    """The tensors of a model folder by name, in the order of its files.

    Args:
        folder: a folder in the format of `save_pretrained`.
    """

    def __init__(self, folder: Path) -> None:
        opened: list[Any] = [safe_open(file, framework="pt") for file in _loaded_files(folder)]
        self.folder = folder
        self._files = {name: tensors for tensors in opened for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        self.names = tuple(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """A tensor as stored. It is a view of its file: do not modify it in place."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def write_shards(
    blank: PreTrainedModel,
    weights: Weights,
    compute: Callable[[str], Tensor],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write a model as `save_pretrained` would, with only one shard in memory at a time.

    Args:
        blank: the model without its weights, for its config and generation config.
        weights: the stored weights; the tensors written have their names and shapes.
        compute: returns the tensor to write under a name, in `dtype` if the stored one is float.
        folder: where to write; created if it does not exist.
        dtype: dtype of the float tensors, also written to the config.
    """
    _write_settings(blank, weights.folder, folder, dtype)
    outlines = {name: _outline(weights.read(name), dtype) for name in weights.names}
    shards = split_torch_state_dict_into_shards(
        outlines, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    for file, names in shards.filename_to_tensors.items():
        # Allocate the whole shard first: temporaries freed between kept tensors would leave holes.
        shard = {name: torch.empty_like(outlines[name], device="cpu") for name in names}
        for name, tensor in shard.items():
            tensor.copy_(compute(name))
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard, tensor
    if shards.is_sharded:
        metadata = {"total_parameters": blank.num_parameters(), **shards.metadata}
        index = {"metadata": metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def blank_model(folder: Path) -> PreTrainedModel:
    """The model of a folder without its weights: layers, config and generation config.

    Raises:
        ModelError: transformers has no causal language model for its config.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"transformers cannot open the model in {folder}: {one_line(error)} "
            "Code shipped with a model is never run: use a model that transformers supports."
        ) from error
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ModelError(
            f"the {config.model_type} model in {folder} is no causal language model of "
            "transformers: it cannot be trained here. Use a checkpoint of its text model."
        ) from error
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    made: PreTrainedModel = model
    return made


def names_in_model(blank: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """The name in the model of every stored tensor, by its stored name, as a load renames them.

    Checkpoints with a picture encoder, for instance, store their decoder under older names.
    """
    transforms = get_model_conversion_mapping(blank)
    renamings = [part for part in transforms if isinstance(part, WeightRenaming)]
    converters = [part for part in transforms if isinstance(part, WeightConverter)]
    own = blank.state_dict()

    def name_in_model(name: str) -> str:
        found, _ = rename_source_key(name, renamings, converters, blank.base_model_prefix, own)
        return name if found not in own and name in own else found

    return {name: name_in_model(name) for name in stored}


def _loaded_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads; a folder may hold a second copy of the weights."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return weight_files(folder)
    index = json.loads((folder / INDEX).read_text())
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _outline(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor with the shape and dtype that will be written."""
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device="meta")


def _write_settings(blank: PreTrainedModel, origin: Path, folder: Path, dtype: torch.dtype) -> None:
    # The folder's own config: that of a text model inside a larger one would not fit the weights.
    config = AutoConfig.from_pretrained(origin, trust_remote_code=False)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = config.architectures or [type(blank).__name__]
    config.save_pretrained(folder)
    if blank.can_generate() and blank.generation_config is not None:
        blank.generation_config.save_pretrained(folder)
