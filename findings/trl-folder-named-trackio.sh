#!/usr/bin/env bash
# TRL 1.16.0: a folder called `trackio` in the working folder ends every training at its first checkpoint.
#
# Guess from memory: with `report_to="none"`, and with Trackio not installed, nothing of Trackio takes part in a training.
# Seen: after writing a checkpoint, TRL writes a model card, and asks for the address of a Trackio Space first. Whether
# Trackio is there is `importlib.util.find_spec("trackio") is not None`, and any folder of that name beside the script (say,
# the one that TRACKIO_DIR names) is such a spec, a namespace package. The import that follows fails:
#     ImportError: cannot import name 'context_vars' from 'trackio' (unknown location)
# `python -P`, which leaves the script's folder out of the path, trains. A folder called `wandb`, which W&B makes there by
# default, does no harm: transformers also asks whether that module has its attributes.
# Source: transformers/integrations/integration_utils.py, `is_trackio_available`; trl/trainer/utils.py of the release,
# `get_trackio_space_url`; trl/trainer/base_trainer.py, `create_model_card`; trl/trainer/sft_trainer.py, `_save_checkpoint`.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0

export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1
mkdir "$folder/work"
cat >"$folder/work/show.py" <<'PY'
import warnings

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

warnings.simplefilter("ignore")
words = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
    pad_token="<pad>",
    eos_token="<eos>",
    unk_token="<unk>",
)
shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16}
trainer = SFTTrainer(
    model=Qwen2ForCausalLM(Qwen2Config(**shape, **heads)),
    args=SFTConfig(output_dir="out", report_to="none", use_cpu=True, bf16=False, max_steps=1, save_steps=1),
    train_dataset=Dataset.from_list([{"input_ids": [3, 4, 5, 6, 7, 1]}]),
    processing_class=tokenizer,
)
try:
    trainer.train()
    print("trained")
except ImportError as error:
    print(f"ImportError: {error}")
PY
cd "$folder/work"
found() { "$folder/venv/bin/python" "$@" show.py 2>/dev/null | grep -E '^(trained|ImportError)'; }
without=$(found)
mkdir wandb
beside_wandb=$(found)
mkdir trackio
beside_trackio=$(found)
safe=$(found -P)
printf 'no folder: %s\nwandb: %s\ntrackio: %s\ntrackio, python -P: %s\n' "$without" "$beside_wandb" "$beside_trackio" "$safe"
expected="ImportError: cannot import name 'context_vars' from 'trackio' (unknown location)"
[[ $without == trained && $beside_wandb == trained && $safe == trained && $beside_trackio == "$expected" ]] || {
  echo "this has changed"
  exit 1
}
