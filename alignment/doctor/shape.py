"""A model's shape and parameter counts from its config.json, without loading weights.

For decoders like Llama and Qwen2: grouped-query attention and a gated MLP (q, k, v, o, gate, up,
down). Not here: the cost of training it (`forecast/memory.py`, `forecast/timing.py`).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import PositiveInt, ValidationError

from alignment.records import Frozen


class Shape(Frozen):
    """Sizes, named as in config.json."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The shape of the model in a folder; None if its config.json does not describe one."""
        try:
            raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return cls.model_validate(_named(raw))
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
        return self.num_hidden_layers * sum(a * b for a, b in self.linears().values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the LM head unless the two are tied."""
        matrices = 1 if self.tie_word_embeddings else 2
        return matrices * self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights except biases and norms, which are less than a thousandth."""
        return self.block_parameters + self.embedding_parameters

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied by: the blocks and the LM head."""
        return self.block_parameters + self.vocab_size * self.hidden_size

    def lora_parameters(self, r: int, target_modules: Iterable[str]) -> int:
        """Weights of a LoRA adapter: r * (inputs + outputs) for each target layer."""
        linears = self.linears()
        sizes = (sum(linears[name]) for name in target_modules if name in linears)
        return self.num_hidden_layers * r * sum(sizes)


def _named(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Shape` from a config.json, with the defaults of transformers."""
    heads = raw.get("num_attention_heads", 0)
    return {
        "hidden_size": raw.get("hidden_size"),
        "intermediate_size": raw.get("intermediate_size"),
        "num_hidden_layers": raw.get("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or raw.get("hidden_size", 0) // heads,
        "vocab_size": raw.get("vocab_size"),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
    }
