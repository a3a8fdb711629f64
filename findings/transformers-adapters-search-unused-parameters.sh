#!/usr/bin/env bash
# transformers 5.23.0 with PEFT 0.21.2: in DDP, a model with adapters is searched for unused parameters in every backward
# pass, also with gradient checkpointing.
#
# Guess from memory: with gradient checkpointing, `Trainer` tells DDP not to search (its comment: "find_unused_parameters
# breaks checkpointing"), so a LoRA training gets `find_unused_parameters=False` as full fine-tuning does.
# Seen: `Trainer` asks the model for its checkpointing only if it is a `PreTrainedModel`. PEFT's `PeftModel` wraps one
# and is none, so the search stays on. On four GPUs DDP then warned in every process that it had found no unused
# parameters and that the extra traversal of the graph can cost speed. Only `ddp_find_unused_parameters=False` in the
# arguments turns it off. Printed:
#     full model                                         True
#     full model, gradient checkpointing                 False
#     with LoRA                                          True
#     with LoRA, gradient checkpointing                  True
#     with LoRA, gradient checkpointing, set to False    False
# Source: transformers/trainer.py (`_build_accelerator_args`, lines 749 to 758) and peft/peft_model.py (`class PeftModel`)
# of the releases; torch/csrc/distributed/c10d/reducer.cpp has the warning.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" transformers==5.23.0 accelerate==1.15.0 peft==0.21.2

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - "$folder/out" <<'PY'
import sys

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


def searches(name, lora, **settings):
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(shape)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    args = TrainingArguments(sys.argv[1], use_cpu=True, report_to=[], **settings)
    found = Trainer(model=model, args=args).accelerator.ddp_handler.find_unused_parameters
    print(f"{name:<50}", found)
    return found


checkpointing = {"gradient_checkpointing": True}
seen = [
    searches("full model", lora=False),
    searches("full model, gradient checkpointing", lora=False, **checkpointing),
    searches("with LoRA", lora=True),
    searches("with LoRA, gradient checkpointing", lora=True, **checkpointing),
    searches(
        "with LoRA, gradient checkpointing, set to False",
        lora=True,
        ddp_find_unused_parameters=False,
        **checkpointing,
    ),
]
if seen != [True, False, True, True, False]:
    sys.exit("changed: Trainer decides otherwise whether DDP searches for unused parameters")
PY
