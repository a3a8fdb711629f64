#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.23.0: the usual seven names of linear layers train the experts of one MoE family, and
# leave out those of another without a word.
#
# Guess from memory: transformers 5 holds all experts of a layer in two tensors, so `gate_proj`, `up_proj` and
# `down_proj` match no linear layer of an expert, in any family; adapters then lie on attention alone.
# Seen: on Qwen3-MoE PEFT rewrites the three names to `target_parameters` (`gate_up_proj`, `down_proj`), so every expert
# gets an adapter, and a dropout above 0 ends in "lora.ParamWrapper does not work with lora_dropout != 0". On Qwen2-MoE
# the same list stays as it is, matches the shared expert only, and no routed expert is trained. No warning in either.
#     Qwen2-MoE  experts adapted: no    with dropout .05: experts adapted: no
#     Qwen3-MoE  experts adapted: yes   with dropout .05: ValueError
# Source: the conversion of target modules per model type in peft/utils/transformers_weight_conversion.py, and
# peft/tuners/lora/layer.py (`ParamWrapper`), of the release.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" peft==0.21.2 transformers==5.23.0

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
shape = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def outcome(config, kind, dropout):
    wanted = LoraConfig(r=2, lora_dropout=dropout, target_modules=list(names), task_type="CAUSAL_LM")
    try:
        model = get_peft_model(kind(config(**shape)), wanted)
    except ValueError as error:
        return f"ValueError: {error}"
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    return "experts adapted" if any(".mlp.experts" in name for name in adapted) else "no routed expert adapted"


found = [
    outcome(config, kind, dropout)
    for config, kind in ((Qwen2MoeConfig, Qwen2MoeForCausalLM), (Qwen3MoeConfig, Qwen3MoeForCausalLM))
    for dropout in (0.0, 0.05)
]
print(*found, sep="\n")
expected = ["no routed expert adapted", "no routed expert adapted", "experts adapted", "ValueError"]
assert [text.split(":")[0] for text in found] == expected, "changed"
PY
