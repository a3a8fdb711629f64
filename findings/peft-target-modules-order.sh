#!/usr/bin/env bash
# PEFT 0.21.2 writes `target_modules` to adapter_config.json in an order that changes from process to process.
#
# Guess from memory: a list comes back in the order in which it was given.
# Seen: `LoraConfig.__post_init__` turns a list into a set, and `save_pretrained` writes the set as it iterates. The
# order of strings in a set depends on the hash seed, which Python draws anew for each process. So one training that is
# run twice, with the same seed and bit-identical weights, leaves two different adapter_config.json files, and a digest
# of the adapter folder is not reproducible.
# Source: peft/tuners/lora/config.py (`__post_init__`) and peft/config.py (`save_pretrained`) of the release.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" peft==0.21.2 transformers==5.23.0

for seed in 1 2 3 4; do
    PYTHONHASHSEED=$seed "$folder/venv/bin/python" -W ignore - "$folder/$seed" <<'PY'
import json
import sys

from peft import LoraConfig

given = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LoraConfig(r=4, target_modules=given, task_type="CAUSAL_LM").save_pretrained(sys.argv[1])
with open(f"{sys.argv[1]}/adapter_config.json") as file:
    print(*json.load(file)["target_modules"])
PY
done | tee "$folder/orders"

different=$(sort -u "$folder/orders" | wc -l)
echo "$different different orders in 4 processes"
[ "$different" -gt 1 ] || { echo "changed: the order is now the same in every process" >&2; exit 1; }
