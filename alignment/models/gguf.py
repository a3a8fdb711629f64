"""Converts a folder of weights to one GGUF file for llama.cpp, in fp32, without rounding.

Supported are Llama and Qwen2 models with byte-level BPE tokenizers. Their tensors only need other
names and, in Llama, another order of the rows that rotary embeddings act on. Everything else is
refused with a reason: a file that loads but computes something else would be worse than none.
llama.cpp's own converter is used where there is one (`llama_cpp.py`).
Not here: quantised GGUF files; `llama-quantize` makes them from this file.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.errors import ModelError, one_line
from alignment.models.chat_template import end_of_turn_id
from alignment.models.folder import weight_files
from alignment.models.tokenizer import load_tokenizer
from alignment.store.durable import failpoint_span

FILE = "model.gguf"
"""Name of the file in an exported folder."""
FAMILIES = ("llama", "qwen2")
OTHERWISE = (
    "llama.cpp's convert_hf_to_gguf.py supports more models: name it with --converter, or export "
    "with --form merged."
)
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {QWEN2_WORDS: "qwen2", QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}
"""Regular expressions that split text into words, with llama.cpp's names for them."""


def check_gguf(folder: Path) -> None:
    """Refuse an unsupported model before any time is spent on merging it.

    Raises:
        ModelError: the model's family or form of attention is not supported.
    """
    _check(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def load_gguf(folder: Path) -> PreTrainedModel:
    """Load a folder's GGUF file with transformers, in float32, on the CPU.

    Raises:
        ModelError: transformers cannot read it, or reads other shapes than the file holds.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=FILE, dtype=torch.float32, trust_remote_code=False
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            "cannot write this model as GGUF: transformers cannot read the file back, so nobody "
            f"would know what it computes ({one_line(error)}) Export it with --form merged."
        ) from error
    model.eval()
    return model


def write_gguf(folder: Path, file: Path) -> None:
    """Write the model and tokenizer of a folder as one GGUF file in float32.

    Only one tensor at a time is in memory.

    Raises:
        ModelError: the family, form of attention or tokenizer is not supported.
    """
    check_gguf(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    writer = GGUFWriter(file, config.model_type)
    _add_shape(writer, config)
    _add_vocabulary(writer, load_tokenizer(folder), folder, size=config.vocab_size)
    tensors = dict(_tensors(folder, config))
    for name, (shape, _) in tensors.items():
        writer.add_tensor_info(name, shape, *_float32(shape))
    with failpoint_span("gguf.write"):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, read in tensors.values():
            writer.write_tensor_data(read().contiguous().float().numpy())
        writer.close()


# --- the network ---------------------------------------------------------------------------------


def _check(config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"cannot write this model as GGUF: {config.model_type} models are not supported. "
            f"{OTHERWISE}"
        )
    rope = config.rope_parameters
    biases = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    refused = {
        "biases are not supported": biases,
        f"rope type {rope.get('rope_type')!r} is not supported": rope.get("rope_type", "default")
        != "default",
        "a sliding window is not supported": getattr(config, "use_sliding_window", False),
        f"activation {config.hidden_act!r} is not supported": config.hidden_act != "silu",
        "head size times heads differs from the hidden size": _head_size(config)
        * config.num_attention_heads
        != config.hidden_size,
    }
    reasons = [reason for reason, applies in refused.items() if applies]
    if reasons:
        raise ModelError(f"cannot write this model as GGUF: {reasons[0]}. {OTHERWISE}")


def _head_size(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_vocab_size(config.vocab_size)


def _tensors(
    folder: Path, config: Any
) -> Iterator[tuple[str, tuple[Sequence[int], Callable[[], Tensor]]]]:
    """Every tensor's name in GGUF, with its shape and a function that reads it."""
    (family,) = (key for key, name in MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = get_tensor_name_map(family, config.num_hidden_layers)
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 (not a dict)
        for name, shape in shapes.items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if renamed is None:
                raise ModelError(
                    f"cannot write this model as GGUF: there is no GGUF name for {name!r}. "
                    f"{OTHERWISE}"
                )
            yield renamed, (shape, partial(_read, file, name, _heads(name, config)))


def _heads(name: str, config: Any) -> int | None:
    """Number of heads whose rows GGUF stores in another order; None if it keeps the order."""
    if config.model_type != "llama":
        return None
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }
    return heads.get(name.split(".")[-2])


def _read(file: Path, name: str, heads: int | None) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    if heads is None:
        return tensor
    # Rotary embeddings: transformers rotates a head's first half against its second half,
    # llama.cpp rotates neighbouring rows.
    halves = tensor.view(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _float32(shape: Sequence[int]) -> tuple[Any, int]:
    return np.dtype(np.float32), 4 * math.prod(shape)


# --- the tokenizer -------------------------------------------------------------------------------


def _add_vocabulary(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, folder: Path, *, size: int
) -> None:
    file = folder / "tokenizer.json"
    described = (
        json.loads(file.read_text(encoding="utf-8"))
        if file.exists()
        else {"model": {}, "pre_tokenizer": None}
    )
    pre = pre_tokenizer(described)
    tokens, types = _tokens(tokenizer, described, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = described["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    _add_special(writer, tokenizer)
    writer.add_chat_template(tokenizer.get_chat_template())


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    """Special token ids, and whether a BOS token is added; never a leading space."""
    ids = (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (end_of_turn_id(tokenizer), writer.add_eos_token_id),  # llama.cpp stops at this one
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    )
    for found, add in ids:
        if found is not None:
            add(found)
    first = tokenizer("a")["input_ids"][0]
    writer.add_add_bos_token(first == tokenizer.bos_token_id)
    writer.add_add_space_prefix(value=False)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, described: dict[str, Any], size: int
) -> tuple[list[str], list[int]]:
    """Text and type of every embedding row; rows without a token are marked unused."""
    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    special = {token["id"]: token["special"] for token in described["added_tokens"]}
    types = {
        number: TokenType.CONTROL if is_special else TokenType.USER_DEFINED
        for number, is_special in special.items()
    }
    rows = range(size)
    return (
        [texts.get(row, f"[PAD{row}]") for row in rows],
        [
            int(types.get(row, TokenType.NORMAL if row in texts else TokenType.UNUSED))
            for row in rows
        ],
    )


def pre_tokenizer(described: dict[str, Any]) -> str:
    """llama.cpp's name for a tokenizer's pre-tokenizer, which splits text into words.

    Args:
        described: content of its tokenizer.json.

    Raises:
        ModelError: it is not byte-level BPE, or llama.cpp does not support its pre-tokenizer.
    """
    parts = described["pre_tokenizer"] or {"type": "nothing"}
    parts = parts.get("pretokenizers", [parts])
    kinds, last = tuple(part["type"] for part in parts), parts[-1]
    if described["model"].get("type") != "BPE" or last["type"] != "ByteLevel":
        raise ModelError(
            f"cannot write this model as GGUF: its tokenizer is not byte-level BPE. {OTHERWISE}"
        )
    found = None
    if not last["add_prefix_space"]:
        if kinds == ("ByteLevel",) and last["use_regex"]:
            found = "gpt-2"
        elif kinds == ("Digits", "ByteLevel") and parts[0]["individual_digits"]:
            found = "smollm"
        elif kinds == ("Split", "ByteLevel") and not last["use_regex"]:
            found = WORDS.get(parts[0]["pattern"].get("Regex"))
    if found is None:
        raise ModelError(
            "cannot write this model as GGUF: llama.cpp does not support its pre-tokenizer "
            f"({' and '.join(kinds)}). {OTHERWISE}"
        )
    return found
