"""Both engines take the same steps on models of every kind of attention."""

import json
from dataclasses import replace

import pytest

from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft
from benchmarks.tiny_models import tiny_model
from tests.golden.test_trajectories import CONVERSATIONS, PAIRS

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
KINDS = {
    "mistral-window": QKVO,
    "gemma2": QKVO,  # soft-capped scores and logits
    "gpt-oss": QKVO,  # sinks, experts
    "olmo2": QKVO,  # normalised queries and keys
    "phi4-mini": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),  # partly rotated
    "granite": QKVO,  # scaled logits
    "qwen3-moe": QKVO,
    "deepseek-v3": ("q_b_proj", "kv_b_proj", "o_proj"),  # values narrower than keys
}
"""Target modules by family, one family of each kind of attention."""


@pytest.fixture
def losses(open_tiny, tmp_path):
    """A function that trains a tiny model of a family: the losses of its steps."""

    def train(family, kind, engine, *, steps):
        tiny = open_tiny()
        workspace = Workspace(folder=tmp_path / engine.name, log=tmp_path / "log")
        workspace.out.mkdir(parents=True)
        settings = {
            "lora": Lora(r=4, alpha=8, dropout=0.0, target_modules=KINDS[family]),
            "learning_rate": 1e-3,
            "batch": StepRows(per_device=4, accumulation=2),
            "max_length": 256,
            "bf16": False,
            "gradient_checkpointing": engine.name == "packed",
            "max_steps": steps,
            "engine": engine,
        }
        shared = {
            "policy": replace(tiny, model=tiny_model(family, vocab_size=len(tiny.tokenizer))),
            "held_out": [],
            "seed": 0,
            "workspace": workspace,
            "progress": Progress(),
        }
        if kind == "sft":
            train_sft(SftConfig(**settings), conversations=CONVERSATIONS, **shared)
        else:
            train_dpo(DpoConfig(**settings, max_prompt_length=200), pairs=PAIRS, **shared)
        history = (workspace.out / "history.jsonl").read_text().splitlines()
        return [row["loss"] for row in map(json.loads, history) if "loss" in row]

    return train


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("family", KINDS)
def test_three_steps_have_the_same_losses(family, kind, losses):
    stock = losses(family, kind, Stock(), steps=3)
    packed = losses(family, kind, Packed(tokens_per_micro_batch=150), steps=3)
    assert packed == pytest.approx(stock, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("family", KINDS)
def test_twenty_steps_have_the_same_losses(family, kind, losses):
    stock = losses(family, kind, Stock(), steps=20)
    packed = losses(family, kind, Packed(tokens_per_micro_batch=150), steps=20)
    assert packed == pytest.approx(stock, rel=1e-4)
    assert packed[-1] < packed[0], "of a model that learns"
