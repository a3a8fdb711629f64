#!/usr/bin/env bash
# transformers 5.23.0 fills what an explicit `GenerationConfig` leaves open from the model's generation_config.json.
#
# Guess from memory: `generate(generation_config=X)` uses X alone, and what X leaves out has the defaults of the class:
# no repetition penalty, no sampling. The docstring of `generate` says so too: "unspecified parameters will inherit
# [`~generation.GenerationConfig`]'s default values".
# Seen: each field that is None in X, also one that was set to None on purpose, is taken from `model.generation_config`
# first. A repetition penalty in the model's folder therefore stays in force in greedy decoding, and a config that does
# not mention `do_sample` samples. Only a neutral value that is written out (`repetition_penalty=1.0`) switches it off.
# No message tells of it. With one random model (numbers may differ on other machines):
#     folder without settings      [7, 7, 7, 7, 7, 7, 7, 7]
#     folder with penalty 1.3      [7, 17, 17, 17, 17, 17, 17, 17]
#       repetition_penalty=None    [7, 17, 17, 17, 17, 17, 17, 17]
#       repetition_penalty=1.0     [7, 7, 7, 7, 7, 7, 7, 7]
#       no do_sample, seed 0       [47, 10, 40, 59, 1, 56, 18, 35]
#       no do_sample, seed 1       [59, 16, 41, 36, 15, 62, 60, 62]
#       no do_sample, seed 2       [41, 43, 34, 22, 10, 26, 23, 41]
# Source: transformers/generation/utils.py of the release, `_prepare_generation_config` (lines 2101 to 2109) against the
# docstring of `generate` (lines 2618 to 2624).
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" transformers==5.23.0

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder/model" <<'PY'
import sys

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, set_seed

set_seed(0)
shape = Qwen2Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
model = Qwen2ForCausalLM(shape).eval()
prompt = torch.tensor([[5, 6, 7]])


def continuation(name, **settings):
    config = GenerationConfig(max_new_tokens=8, eos_token_id=63, pad_token_id=0, **settings)
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)[0, 3:].tolist()
    print(f"{name:<28} {tokens}")
    return tokens


plain = continuation("folder without settings", do_sample=False)

model.generation_config = GenerationConfig(do_sample=True, repetition_penalty=1.3)
model.save_pretrained(sys.argv[1])
model = Qwen2ForCausalLM.from_pretrained(sys.argv[1]).eval()
filled = continuation("folder with penalty 1.3", do_sample=False)
none = continuation("  repetition_penalty=None", do_sample=False, repetition_penalty=None)
neutral = continuation("  repetition_penalty=1.0", do_sample=False, repetition_penalty=1.0)

draws = []
for seed in range(3):
    set_seed(seed)
    draws.append(continuation(f"  no do_sample, seed {seed}"))

penalised = filled == none != plain == neutral
sampled = len({tuple(draw) for draw in draws}) > 1
if not (penalised and sampled):
    sys.exit("changed: an explicit GenerationConfig no longer takes open fields from the model's folder")
PY
