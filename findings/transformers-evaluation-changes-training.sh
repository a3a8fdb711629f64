#!/usr/bin/env bash
# transformers 5.23.0: evaluating during a training changes the losses that follow, if the model has dropout.
#
# Guess from memory: evaluation only looks. With the same seed, a run with `eval_strategy="steps"` has the same training
# losses as one without, because evaluation runs without dropout and in order.
# Seen: with dropout, on a CPU, the losses agree up to the first evaluation and differ after it. Each pass over a
# PyTorch `DataLoader` draws one number from the global generator, also with `shuffle=False` and no workers, and
# `Trainer` gives its evaluation loader no generator of its own. The next dropout masks are therefore others. The order
# of the training rows stays (accelerate seeds it for each epoch), so without dropout nothing changes. With the state of
# the generator put back after each evaluation the losses are again those of the run without it. Six training losses
# (numbers may differ on other machines):
#     dropout, no evaluation               4.1743 4.1821 4.1535 4.1835 4.1180 4.0681
#     dropout, no evaluation, again        4.1743 4.1821 4.1535 4.1835 4.1180 4.0681
#     dropout, evaluated every 2 steps     4.1743 4.1821 4.1504 4.1827 4.1181 4.0730
#     dropout, evaluated, state put back   4.1743 4.1821 4.1535 4.1835 4.1180 4.0681
#     no dropout, no evaluation            4.1705 4.1790 4.1538 4.1830 4.1162 4.0665
#     no dropout, evaluated every 2 steps  4.1705 4.1790 4.1538 4.1830 4.1162 4.0665
# Source: torch/utils/data/dataloader.py (`_BaseDataLoaderIter.__init__`, `_base_seed`, line 690) and
# transformers/trainer.py (`_get_dataloader`) of the releases; https://github.com/pytorch/pytorch/pull/12935 ("one
# shouldn't rely on assumption that RNG state shouldn't change") and https://github.com/pytorch/pytorch/issues/11062.
# Exits 1 if that changes. Installs about 1 GB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" transformers==5.23.0 accelerate==1.15.0

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - "$folder/out" <<'PY'
import sys

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

generator = torch.Generator().manual_seed(1)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(64, (16, 12), generator=generator)]


class Isolated(Trainer):
    """Puts the state of the global generator back after an evaluation."""

    def evaluate(self, *args, **kwargs):
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)


def losses(name, dropout, trainer=Trainer, **settings):
    set_seed(0)
    shape = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        attention_dropout=dropout,
    )
    args = TrainingArguments(
        sys.argv[1],
        seed=0,
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    run = trainer(model=Qwen2ForCausalLM(shape), args=args, train_dataset=rows, eval_dataset=rows[:4])
    run.remove_callback(PrinterCallback)
    run.train()
    seen = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    print(f"{name:<36}", *(f"{loss:.4f}" for loss in seen))
    return seen


every_two = {"eval_strategy": "steps", "eval_steps": 2}
alone = losses("dropout, no evaluation", 0.1)
again = losses("dropout, no evaluation, again", 0.1)
evaluated = losses("dropout, evaluated every 2 steps", 0.1, **every_two)
isolated = losses("dropout, evaluated, state put back", 0.1, Isolated, **every_two)
plain = losses("no dropout, no evaluation", 0.0)
plain_evaluated = losses("no dropout, evaluated every 2 steps", 0.0, **every_two)

if not (alone == again == isolated and plain == plain_evaluated):
    sys.exit("changed: the runs differ by more than the draws of the evaluation")
if not (alone[:2] == evaluated[:2] and alone[2:] != evaluated[2:]):
    sys.exit("changed: evaluation no longer changes the training losses that follow")
PY
