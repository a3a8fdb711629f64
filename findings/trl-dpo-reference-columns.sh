#!/usr/bin/env bash
# TRL 1.16.0: `DPOTrainer` ignores log-probs of the reference that come with the rows.
#
# Guess from memory: rows with `ref_chosen_logps` and `ref_rejected_logps` are trained against these numbers. Earlier versions did
# ("if ref_chosen_logps and ref_rejected_logps in batch use them, otherwise use the reference model"), and the docstring of
# `DataCollatorForPreference` still says "Optionally, the examples can contain" them. So a reference that is not at hand any more,
# or does not fit beside the policy, can be scored beforehand.
# Seen: they reach the batch and nothing reads them. The reference is the model without its adapter, and no message says so. With
# `precompute_ref_log_probs=True`, under which the loss reads these columns, the trainer first computes its own and then fails,
# as both have one name. The first loss of four equal rows, given a reference that prefers the rejected reply by 99 nats (with
# it, the loss would be near 0):
#     rows alone                              0.6931
#     rows with the reference's log-probs     0.6931
#     the same, precompute_ref_log_probs      ValueError: The table can't have duplicated columns ...
# What works: set `trainer.precompute_ref_logps = True` after the trainer is made (last line: 0.0000).
# Source: trl/trainer/dpo_trainer.py of the release, `_compute_loss` (line 1318), `_precompute_ref_logps` (line 1168) and the
# docstring of `DataCollatorForPreference` (line 98).
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 peft==0.21.2

export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
cat >"$folder/show.py" <<'PY'
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

words = "<pad> <eos> <unk> what is two and four five good bad".split()
core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
rows = {"prompt": ["what is two and two"] * 4, "chosen": [" four good"] * 4, "rejected": [" five bad"] * 4}
given = {"ref_chosen_logps": [-100.0] * 4, "ref_rejected_logps": [-1.0] * 4}


def show(name, columns, *, after=False, **settings):
    """The loss of the first step, at which the adapter still adds nothing."""
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    try:
        trainer = DPOTrainer(
            Qwen2ForCausalLM(shape),
            args=DPOConfig(
                sys.argv[1], max_steps=1, per_device_train_batch_size=4, logging_steps=1, report_to=[], use_cpu=True,
                bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, **settings,
            ),
            train_dataset=Dataset.from_dict(rows | columns),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )
    except ValueError as error:
        print(f"{name}: ValueError, {'duplicated columns' in str(error)}", flush=True)
        return
    if after:
        trainer.precompute_ref_logps = True
    trainer.train()
    print(f"{name}: {trainer.state.log_history[0]['loss']:.4f}", flush=True)


show("rows alone", {})
show("with the reference", given)
show("precomputed", given, precompute_ref_log_probs=True)
show("set afterwards", given, after=True)
PY
"$folder/venv/bin/python" -W ignore "$folder/show.py" "$folder/out" >"$folder/said" 2>"$folder/messages" ||
    { cat "$folder/messages" >&2; exit 1; }
grep -E '^(rows alone|with the reference|precomputed|set afterwards):' "$folder/said" >"$folder/seen"

cat >"$folder/expected" <<'TEXT'
rows alone: 0.6931
with the reference: 0.6931
precomputed: ValueError, True
set afterwards: 0.0000
TEXT
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "changed: the reference is treated in another way" >&2; exit 1; }
if grep -E 'ref_chosen_logps|ref_rejected_logps' "$folder/messages" | grep -v Error; then
    echo "changed: there is now a message about it" >&2
    exit 1
fi
