#!/usr/bin/env bash
# TRL 1.16.0: with a tokenised dataset `SFTTrainer` ignores `completion_mask` by default, `assistant_masks` never.
#
# Guess from memory: a tokenised dataset (`input_ids`) that comes with a mask is trained on what the mask shows, and the
# settings `completion_only_loss` and `assistant_only_loss` treat the two masks alike.
# Seen: they do not.
# - `completion_mask` counts only with `completion_only_loss=True`. The default (None) looks for the text columns
#   `prompt` and `completion`, which a tokenised dataset has no more, so the tokens of the prompt are trained on too.
# - `assistant_masks` counts always, also with `assistant_only_loss=False`, of which the documentation of `SFTConfig`
#   says "If `False`, loss is computed on the entire sequence".
# No message tells of either. The labels that the trainer gives to the ids [3, 4, 5, 6, 7, 1] with the mask
# [0, 0, 0, 0, 1, 1] are below, at `expected`.
# Source: trl/trainer/sft_trainer.py of the release, `__init__` (lines 961 to 964) and `_prepare_dataset` (lines 1412 to
# 1417), with the docstring of `train_dataset` (lines 564 to 569), which hints at both; trl/trainer/sft_config.py,
# docstring of `assistant_only_loss` (lines 103 to 106).
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0

export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1
cat >"$folder/show.py" <<'PY'
import sys

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

words = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
    pad_token="<pad>",
    eos_token="<eos>",
    unk_token="<unk>",
)
shape = Qwen2Config(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
)


def show(mask, **settings):
    """The labels of the batch that the trainer would train on."""
    trainer = SFTTrainer(
        model=Qwen2ForCausalLM(shape),
        args=SFTConfig(sys.argv[1], report_to=[], use_cpu=True, bf16=False, **settings),
        train_dataset=Dataset.from_dict({"input_ids": [[3, 4, 5, 6, 7, 1]], mask: [[0, 0, 0, 0, 1, 1]]}),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    print(mask, settings, batch["labels"].tolist())


show("completion_mask")
show("completion_mask", completion_only_loss=True)
show("assistant_masks")
show("assistant_masks", assistant_only_loss=False)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder/out" >"$folder/seen" 2>"$folder/messages" ||
    { cat "$folder/messages" >&2; exit 1; }

cat >"$folder/expected" <<'TEXT'
completion_mask {} [[3, 4, 5, 6, 7, 1]]
completion_mask {'completion_only_loss': True} [[-100, -100, -100, -100, 7, 1]]
assistant_masks {} [[-100, -100, -100, -100, 7, 1]]
assistant_masks {'assistant_only_loss': False} [[-100, -100, -100, -100, 7, 1]]
TEXT
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "changed: the masks are treated in another way" >&2; exit 1; }
if grep -E 'completion_mask|assistant_masks|completion_only_loss|assistant_only_loss' "$folder/messages"; then
    echo "changed: there is now a message about it" >&2
    exit 1
fi
