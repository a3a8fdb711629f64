#!/usr/bin/env bash
# transformers 5.23.0: `get_decoder()` of a causal LM is not always its stack of layers.
#
# Guess from memory: for a decoder-only `...ForCausalLM`, `get_decoder()` returns the model below the head, whose output
# is hidden states. Code that applies the head itself (in chunks, fused with the loss) starts from it.
# Seen: for Llama and Qwen3 it does. `Llama4ForCausalLM.get_decoder()` returns the causal LM itself, and
# `ModernBertDecoderForCausalLM.get_decoder()` returns the output matrix, an `nn.Linear` that is called `decoder`.
# `OPTForCausalLM.get_decoder()` returns the decoder within `model`. Output:
#     LlamaForCausalLM: LlamaModel
#     Qwen3ForCausalLM: Qwen3Model
#     OPTForCausalLM: OPTDecoder
#     Llama4ForCausalLM: Llama4ForCausalLM (itself)
#     ModernBertDecoderForCausalLM: Linear (the output embeddings)
# Source: modeling_utils.py (`get_decoder`: attributes `decoder`, `language_model`, then the base model, in this order)
# and models/llama4/modeling_llama4.py (`base_model_prefix = "language_model"`) of the release.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" transformers==5.23.0

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

KINDS = (
    (LlamaForCausalLM, LlamaConfig),
    (Qwen3ForCausalLM, Qwen3Config),
    (OPTForCausalLM, OPTConfig),
    (Llama4ForCausalLM, Llama4TextConfig),
    (ModernBertDecoderForCausalLM, ModernBertDecoderConfig),
)
seen = {}
for kind, config in KINDS:
    with torch.device("meta"):
        model = kind(config(num_hidden_layers=1))
    found = model.get_decoder()
    what = " (itself)" if found is model else ""
    if found is model.get_output_embeddings():
        what = " (the output embeddings)"
    seen[kind.__name__] = f"{type(found).__name__}{what}"
    print(f"{kind.__name__}: {seen[kind.__name__]}")
expected = {
    "LlamaForCausalLM": "LlamaModel",
    "Qwen3ForCausalLM": "Qwen3Model",
    "OPTForCausalLM": "OPTDecoder",
    "Llama4ForCausalLM": "Llama4ForCausalLM (itself)",
    "ModernBertDecoderForCausalLM": "Linear (the output embeddings)",
}
if seen != expected:
    sys.exit(f"changed: {seen}")
PY
