"""A round on own answers at the smallest size: its settings, and a reward model."""

import json
import shutil

import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from tests import tiny

LETTERS = {"name": "verifier", "check": {"name": "pattern", "pattern": "[a-f]"}}
"""About half of what the tiny model says has one of these letters."""
DRAWING = {"samples": 6, "temperature": 1.5, "max_new_tokens": 6}


def own_settings(model, folder):
    """The settings of one round on own answers, straight on the base model; one training step."""
    shutil.copytree(model, folder / "model")
    stops = {"eos_token_id": list(range(2, 600, 4))}  # so that a random model ends its turns
    (folder / "model" / "generation_config.json").write_text(json.dumps(stops))
    found = tiny.settings(folder / "model", folder / "store")
    prompts = [{"name": "practice", "part": "round-1", "rows": 12}]
    own = {"name": "own_answers", "prompts": prompts, "label": LETTERS, **DRAWING}
    found.update(sft={"name": "none"}, rounds=[{"data": own}], control=None, gate=None)
    found["dpo"].update(max_steps=1, samples=0)
    return found


def write_reward_model(folder, tokenizer, *, labels=1):
    """Write a small sequence classifier with so many labels, and return it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    config.num_labels = labels
    model = Qwen2ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()
