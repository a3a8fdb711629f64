"""A model's shape and parameter counts from its config.json, without loading weights.

Layers are counted on the model itself, built without weights. Activations are those of decoders
like Llama and Qwen2, with the width of the experts that a token meets.
Not here: the cost of training it (`forecast/memory.py`, `forecast/timing.py`).
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import PositiveInt, ValidationError

from alignment.errors import ModelError
from alignment.models.experts import expert_tensors
from alignment.models.targets import expert_weights, linear_layers
from alignment.models.weight_files import blank_model
from alignment.records.base import Frozen


class Linears(Frozen):
    """The linear layers of one name in all blocks.

    Attributes:
        width: sum of their inputs and outputs; an adapter of rank r has r weights for each.
        weights: number of their weights.
    """

    width: int
    weights: int


class Shape(Frozen):
    """Sizes, named as in config.json.

    Attributes:
        counted: linear layers by name, if the model could be built.
        others: weights in no linear layer of a block and no embedding: experts, pictures.
        met: how many of `others` a token is multiplied by.
        experts: sum of the inputs and outputs of all experts' tensors.
        experts_met: the same of the experts that one token meets.
        expert_weights: weights in the experts' tensors.
    """

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool
    counted: dict[str, Linears] | None = None
    others: int = 0
    met: int = 0
    experts: int = 0
    experts_met: int = 0
    expert_weights: int = 0

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The shape of the model in a folder; None if its config.json does not describe one."""
        try:
            raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return cls.model_validate(_named(raw) | _counted(folder))
        except (OSError, ValueError, ValidationError, TypeError, ZeroDivisionError):
            return None

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one block, by name."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        heads = self.num_attention_heads * self.head_dim
        groups = self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (hidden, heads),
            "k_proj": (hidden, groups),
            "v_proj": (hidden, groups),
            "o_proj": (heads, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }

    @property
    def block_parameters(self) -> int:
        """Weights in the linear layers of all blocks: those that 4-bit quantisation compresses."""
        if self.counted is not None:
            return sum(layers.weights for layers in self.counted.values())
        return self.num_hidden_layers * sum(a * b for a, b in self.linears().values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the LM head unless the two are tied."""
        matrices = 1 if self.tie_word_embeddings else 2
        return matrices * self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights except biases and norms, which are less than a thousandth."""
        return self.block_parameters + self.embedding_parameters + self.others

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied by: the blocks, its experts and the LM head."""
        return self.block_parameters + self.met + self.vocab_size * self.hidden_size

    def lora_parameters(self, r: int, target_modules: str | Iterable[str]) -> int:
        """Weights of a LoRA adapter: r * (inputs + outputs) for each target layer and expert."""
        if self.counted is not None:
            every = target_modules == "all-linear"
            names = self.counted if every else set(target_modules)
            widths = sum(layers.width for name, layers in self.counted.items() if name in names)
            return r * (widths + (self.experts if every else 0))
        linears = self.linears()
        target_modules = linears if target_modules == "all-linear" else target_modules
        sizes = (sum(linears[name]) for name in target_modules if name in linears)
        return self.num_hidden_layers * r * sum(sizes)

    def lora_parameters_met(self, r: int, target_modules: str | Iterable[str]) -> int:
        """Weights of a LoRA adapter that one token is multiplied by."""
        missed = self.experts - self.experts_met if target_modules == "all-linear" else 0
        return self.lora_parameters(r, target_modules) - r * missed


def _counted(folder: Path) -> dict[str, Any]:
    """The fields of `Shape` that are counted on the model; none if it cannot be built."""
    try:
        model = blank_model(folder)
    except ModelError:
        return {}
    found: defaultdict[str, Linears] = defaultdict(lambda: Linears(width=0, weights=0))
    for full, layer in linear_layers(model).items():
        name, before = full.rpartition(".")[2], found[full.rpartition(".")[2]]
        found[name] = Linears(
            width=before.width + layer.in_features + layer.out_features,
            weights=before.weights + layer.weight.numel(),
        )
    config = model.config.get_text_config()
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    heads = 1 if config.tie_word_embeddings else 2
    linear = sum(layers.weights for layers in found.values())
    others = matrices - linear - heads * config.vocab_size * config.hidden_size
    tensors = list(expert_tensors(model).values())
    experts = sum(len(tensor) * (tensor.shape[1] + tensor.shape[2]) for tensor in tensors)
    return {
        "counted": dict(found),
        "others": others,
        "met": round(expert_weights(model) * share_of_experts(config)),
        "experts": experts,
        "expert_weights": sum(tensor.numel() for tensor in tensors),
        "experts_met": round(experts * share_of_experts(config)),
    }


def share_of_experts(config: Any) -> float:
    """The share of a layer's experts that one token meets."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    total = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
    return float(getattr(config, "num_experts_per_tok", None) or 1) / float(total)


def _named(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Shape` from a config.json, with the defaults of transformers."""
    raw = raw.get("text_config", raw)
    width = raw.get("moe_intermediate_size") or raw.get("intermediate_size")
    experts = raw.get("num_experts_per_tok") or 1
    heads = raw.get("num_attention_heads", 0)
    return {
        "hidden_size": raw.get("hidden_size"),
        "intermediate_size": width and width * experts,
        "num_hidden_layers": raw.get("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or raw.get("hidden_size", 0) // heads,
        "vocab_size": raw.get("vocab_size"),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
    }
