"""Loads a `ModelRef` into memory: its base, quantised if configured, and its frozen adapters.

Not here: creating adapters for training (TRL does, from a `peft_config`), merging (`merge.py`),
how a layer applies frozen adapters (`stack.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.models.folder import check_weights
from alignment.models.hub import base_folder
from alignment.models.room import check_room, loaded_bytes
from alignment.models.stack import attach
from alignment.models.tokenizer import open_tokenizer
from alignment.records.refs import ModelRef, Quantisation
from alignment.store.store import Store


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, its tokenizer, and the reference they were loaded from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: ModelRef


def open_model(ref: ModelRef, store: Store, *, dtype: str, quantised: bool = True) -> LoadedModel:
    """Load a reference: its base, quantised as recorded, with its adapters frozen in the layers.

    Args:
        ref: the model to load.
        store: resolves `store:` uris.
        dtype: dtype of the unquantised weights in memory: float32, bfloat16 or float16.
        quantised: False loads full weights even if the reference is quantised.

    Raises:
        ModelError: weights or an adapter cannot be opened.
    """
    if quantised and ref.quantised is not None:
        model = load_base(base_folder(ref.quantised, store), dtype=dtype)
    else:
        quantisation = ref.quantisation if quantised else None
        model = load_base(base_folder(ref.base, store), dtype=dtype, quantisation=quantisation)
    attach(model, [store.path(adapter.uri) for adapter in ref.adapters])
    return LoadedModel(model=model.eval(), tokenizer=open_tokenizer(ref, store), ref=ref)


def load_base(
    folder: Path, *, dtype: str, quantisation: Quantisation | None = None
) -> PreTrainedModel:
    """Load the full or quantised weights of a folder, on the GPU if there is one."""
    check_weights(folder)
    extra: dict[str, Any] = {}
    if _caps_scores(folder):
        extra["attn_implementation"] = "eager"
    if quantisation is not None:
        extra["quantization_config"] = BitsAndBytesConfig(**quantisation.bitsandbytes_arguments())
    if torch.cuda.is_available():
        needed = loaded_bytes(folder, dtype=dtype, quantisation=quantisation)
        _, total = torch.cuda.mem_get_info()
        check_room(needed, total, dtype=dtype, quantised=quantisation is not None)
        extra["device_map"] = {"": torch.cuda.current_device()}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
        **extra,
    )
    _keep_trainable_on_cpu(model)
    return model


def _caps_scores(folder: Path) -> bool:
    """Whether the model caps its attention scores (Gemma-2).

    transformers 5.17 gives such a model SDPA, which leaves the cap out without a word; 5.23 does
    not.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    return getattr(config, "attn_logit_softcapping", None) is not None


def _keep_trainable_on_cpu(model: PreTrainedModel) -> None:
    # On a CPU with AVX512-BF16, bitsandbytes reorders the codes of a Linear4bit at its first
    # no-grad forward. Later gradients are silently None, and whoever reads the weights (a merge, a
    # dequantisation) gets them scrambled. Switching the reordering off keeps them as they are.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (typed as a tensor)
