#!/usr/bin/env bash
# transformers 5.17.0 runs Gemma-2 with SDPA unless told otherwise, and SDPA leaves out the cap on attention scores.
#
# Guess from memory: a family whose attention SDPA cannot express falls back to eager, or loading it raises.
# Seen: `Gemma2PreTrainedModel._supports_sdpa` is True, SDPA is the default, and `sdpa_attention_forward` ignores the
# `softcap` that the layers pass to it. There is no error and no warning. On a small random model with a cap of 2, the
# logits of the default and of `attn_implementation="eager"` differ by .136 of the largest logit.
# Mended in 5.23.0: `_supports_sdpa` is False there, and `sdpa_attention_forward` raises on a softcap.
# Source: transformers/models/gemma2/modeling_gemma2.py, transformers/integrations/sdpa_attention.py of both releases.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for version in 5.17.0 5.23.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 "transformers==$version"
    "$folder/$version/bin/python" -W ignore - <<'PY' | tee "$folder/$version.txt"
import torch
import transformers
from transformers import AutoModelForCausalLM, Gemma2Config

torch.manual_seed(0)
settings = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, initializer_range=1.0, attn_logit_softcapping=2.0,
)
ids = torch.arange(16)[None]
logits, used = {}, {}
for name in (None, "eager"):
    torch.manual_seed(0)
    extra = {"attn_implementation": name} if name else {}
    model = AutoModelForCausalLM.from_config(Gemma2Config(**settings), **extra).eval()
    used[name] = model.config._attn_implementation
    with torch.no_grad():
        logits[name] = model(ids).logits
largest = logits["eager"].abs().max()
difference = (logits[None] - logits["eager"]).abs().max() / largest
print(f"transformers {transformers.__version__}: default is {used[None]}, largest difference to eager {difference:.3f} of the largest logit")
PY
done
grep -q "default is sdpa" "$folder/5.17.0.txt" && grep -q "default is eager.* 0.000 " "$folder/5.23.0.txt" ||
    { echo "changed: another default, or the same logits" >&2; exit 1; }
