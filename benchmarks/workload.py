"""Workloads: models of known shapes with random weights, and rows of known lengths.

Text consists of one-token words, so that a row has exactly the length drawn for it. Random weights
cost the same as trained ones; their output is noise. Not here: measuring time (`phases.py`).
"""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.records.refs import BaseRef, ModelRef, TokenizerRef
from alignment.records.text import Message, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignment.models.load import LoadedModel
    from alignment.records.refs import Quantisation

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
        "tie_word_embeddings": True,
    },
}
"""Shapes by name: Qwen2.5's, from their configurations, and one for a laptop."""

WORDS = [f"w{number}" for number in range(1000)]
TURN_TOKENS, OPENING_TOKENS, CLOSING_TOKENS = 3, 2, 1
"""Tokens of a user turn beyond its words, of a reply's opening, of a reply beyond its words."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)


class Lengths(NamedTuple):
    """Tokens of a pair's prompt (including the opening of the reply) and of its two replies."""

    prompt: int
    chosen: int
    rejected: int


def _real(draw: random.Random) -> Lengths:
    """Lognormal: prompts with median 150 (sigma 1), replies 300 and 270 (sigma 0.7), 16..2000."""

    def clipped(median: float, sigma: float) -> int:
        return int(min(2000, max(16, math.exp(draw.gauss(math.log(median), sigma)))))

    return Lengths(clipped(150, 1.0), clipped(300, 0.7), clipped(270, 0.7))


def _fixed(draw: random.Random) -> Lengths:
    """Rows of 4096 tokens, an eighth of which are the prompt."""
    del draw
    return Lengths(512, 3584, 3584)


def _short(draw: random.Random) -> Lengths:
    """A sixteenth of the real lengths, for a CPU."""
    return Lengths(*(max(8, length // 16) for length in _real(draw)))


DISTRIBUTIONS: dict[str, Callable[[random.Random], Lengths]] = {
    "real": _real,
    "fixed": _fixed,
    "short": _short,
}


def pairs_of(distribution: str, count: int, *, seed: int) -> Iterator[PreferencePair]:
    """Random pairs whose lengths follow a distribution; deterministic for a seed."""
    draw = random.Random(seed)
    for lengths in [DISTRIBUTIONS[distribution](draw) for _ in range(count)]:
        yield PreferencePair.of(
            (_turn(draw, "user", lengths.prompt - TURN_TOKENS - OPENING_TOKENS),),
            chosen=(_turn(draw, "assistant", lengths.chosen - CLOSING_TOKENS),),
            rejected=(_turn(draw, "assistant", lengths.rejected - CLOSING_TOKENS),),
            task_type="benchmark",
            source=distribution,
        )


def write_model(shape: str, folder: Path) -> Path:
    """Write a model of a named shape with random bfloat16 weights, unless it exists."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    if folder.exists():
        return folder
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=32768)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    partial = folder.with_name(f"{folder.name}.partial")
    tokenizer().save_pretrained(partial)
    model.save_pretrained(partial, max_shard_size="4GB")
    return partial.rename(folder)


def load(folder: Path, *, dtype: str, quantisation: "Quantisation | None") -> "LoadedModel":
    """The model as the pipeline loads it; without digests, as nothing is stored."""
    from transformers import PreTrainedTokenizerFast

    from alignment.models.load import LoadedModel, load_base

    uri = f"folder:{folder}"
    return LoadedModel(
        model=load_base(folder, dtype=dtype, quantisation=quantisation),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
        ref=ModelRef(
            base=BaseRef(uri=uri, sha256="", dtype=dtype),
            tokenizer=TokenizerRef(uri=uri, sha256="", chat_template_sha256=""),
            quantisation=quantisation,
        ),
    )


def tokenizer() -> "PreTrainedTokenizerBase":
    """One token per word, ChatML without newlines."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*special, "unknown", "system", "user", "assistant", *WORDS]
    core = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="unknown")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )


def _turn(draw: random.Random, role: Any, words: int) -> Message:
    return Message(role=role, content=" ".join(draw.choices(WORDS, k=max(1, words))))
