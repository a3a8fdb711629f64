#!/usr/bin/env bash
# transformers 5.23.0: Phi-MoE's sliding window is in its mask, and not among what its attention function is told.
#
# Guess from memory: a model whose config has `sliding_window` passes it to the attention function, as Mistral does, so
# a function registered with `AttentionInterface` that reads the argument (and needs no dense mask, like the
# flash-attention ones) computes the same.
# Seen: `PhimoeModel` makes a sliding-window mask from the config, but `PhimoeAttention.forward` calls the attention
# function without `sliding_window`. A function that goes by its arguments therefore attends to everything before a
# token, and its last hidden state is another one; with Mistral it is the same as that of SDPA. Output
# (the differences may differ on other machines):
#     mistral: told sliding_window=4, the mask lets 4 of 12 keys through, by arguments and by mask differ by 0.0e+00
#     phimoe: told sliding_window=None, the mask lets 4 of 12 keys through, by arguments and by mask differ by 4.8e-01
# Source: models/phimoe/modeling_phimoe.py (`PhimoeAttention.forward`, `PhimoeModel.forward`) beside
# models/mistral/modeling_mistral.py of the release; docs: attention_interface.md ("sliding_window" among the arguments).
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
    AttentionInterface,
    MistralConfig,
    MistralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

TOKENS, WINDOW = 12, 4
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": WINDOW,
}
told = {}


def by_arguments(module, query, key, value, mask, **options):
    """Attention that goes by its arguments and ignores the mask."""
    told["window"] = options.get("sliding_window")
    told["keys"] = int(mask[0, 0, -1].sum())
    visible = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    if told["window"] is not None:
        visible = visible.triu(1 - told["window"])
    return sdpa_attention_forward(module, query, key, value, visible, **options)


AttentionInterface.register("by_arguments", by_arguments)
AttentionMaskInterface.register("by_arguments", sdpa_mask)
seen = {}
for name, kind, config in (
    ("mistral", MistralForCausalLM, MistralConfig(**SHAPE)),
    ("phimoe", PhimoeForCausalLM, PhimoeConfig(**SHAPE, num_local_experts=2)),
):
    torch.manual_seed(0)
    model = kind(config).eval()
    ids = torch.randint(64, (1, TOKENS))
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        expected = model.model(ids).last_hidden_state[:, -1]
        model.set_attn_implementation("by_arguments")
        found = model.model(ids).last_hidden_state[:, -1]
    gap = float((found - expected).abs().max())
    seen[name] = (told["window"], told["keys"], gap)
    print(
        f"{name}: told sliding_window={told['window']}, the mask lets {told['keys']} of {TOKENS} keys through, "
        f"by arguments and by mask differ by {gap:.1e}"
    )
if seen["mistral"][:2] != (WINDOW, WINDOW) or seen["mistral"][2] > 1e-5:
    sys.exit("changed: Mistral does not pass its window")
if seen["phimoe"][:2] != (None, WINDOW) or seen["phimoe"][2] < 1e-3:
    sys.exit("changed: Phi-MoE passes its window, or has none in its mask")
PY
