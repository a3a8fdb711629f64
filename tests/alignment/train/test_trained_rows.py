"""Every step's rows are kept by id, with the loss or margin that the step itself computed."""

import json
from collections import Counter
from typing import Any

import pytest
import torch

from alignment.models.encoding import IGNORED
from alignment.records.training import TrainedStep
from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.rows import conversation_rows
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft
from tests.golden.test_trajectories import CONVERSATIONS, PAIRS

ENGINES = {"stock": Stock(), "packed": Packed(tokens_per_micro_batch=150)}
SETTINGS = {
    "lora": Lora(r=4, alpha=8, dropout=0.0),
    "learning_rate": 1e-2,
    "batch": StepRows(per_device=3, accumulation=2),
    "epochs": 2,
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": True,
    "evaluate_every": 3,
    "samples": 0,
}
ROWS = 20
"""Steps of 6, 6, 6 and 2 rows."""
ENCODED = ("input_ids", "labels")


@pytest.fixture
def trained(open_tiny, tmp_path):
    """A function that trains on a few rows: the kept steps, and the trainer's log by step."""

    def run(kind, engine):
        workspace = Workspace(folder=tmp_path / f"{kind}-{engine}", log=tmp_path / "log")
        workspace.out.mkdir(parents=True)
        shared: Any = {
            "policy": open_tiny(),
            "seed": 0,
            "workspace": workspace,
            "progress": Progress(),
        }
        settings: Any = {**SETTINGS, "engine": ENGINES[engine]}
        if kind == "sft":
            shared.update(conversations=CONVERSATIONS[:ROWS], held_out=CONVERSATIONS[ROWS:])
            train_sft(SftConfig(**settings), **shared)
        else:
            shared.update(pairs=PAIRS[:ROWS], held_out=PAIRS[ROWS:])
            train_dpo(DpoConfig(**settings, max_prompt_length=200), **shared)
        lines = (workspace.out / "history.jsonl").read_text().splitlines()
        log = {row["step"]: row for row in map(json.loads, lines) if "loss" in row}
        return list(read_rows(workspace.out / "trained.jsonl", TrainedStep)), log

    return run


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_epoch_names_every_row_once_and_the_values_make_up_the_log(
    kind, engine, trained, chatml_tokenizer
):
    steps, log = trained(kind, engine)
    targets = {
        name: sum(label != IGNORED for label in row["labels"])
        for name, row in encoded(chatml_tokenizer).items()
    }
    assert [step.step for step in steps] == list(range(1, 9)) == list(log)
    assert [len(step.ids) for step in steps] == [6, 6, 6, 2] * 2
    rows = CONVERSATIONS if kind == "sft" else PAIRS
    for epoch in (steps[:4], steps[4:]):
        named = Counter(name for step in epoch for name in step.ids)
        assert named == Counter(row.id for row in rows[:ROWS])
    for step in steps:
        of_log = "loss" if kind == "sft" else "rewards/margins"
        weights = [targets[name] if kind == "sft" else 1 for name in step.ids]
        mean = sum(w * v for w, v in zip(weights, step.values, strict=True)) / sum(weights)
        assert mean == pytest.approx(log[step.step][of_log], rel=2e-3, abs=2e-5)
    assert {step.measure for step in steps} == {"loss" if kind == "sft" else "margin"}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_both_engines_keep_the_same_values(kind, trained):
    stock, packed = (trained(kind, engine)[0] for engine in ENGINES)
    for one, other in zip(stock, packed, strict=True):
        assert dict(zip(one.ids, one.values, strict=True)) == pytest.approx(
            dict(zip(other.ids, other.values, strict=True)), rel=1e-3, abs=1e-4
        )


def test_a_loss_is_that_of_the_row_it_stands_beside(trained, open_tiny):
    """At the first step, as the plain model gives it: the adapter adds nothing yet."""
    steps, _ = trained("sft", "stock")
    loaded = open_tiny()
    for name, value in zip(steps[0].ids, steps[0].values, strict=True):
        ids, labels = (torch.tensor([encoded(loaded.tokenizer)[name][k]]) for k in ENCODED)
        with torch.no_grad():
            expected = loaded.model(input_ids=ids, labels=labels).loss
        assert value == pytest.approx(float(expected), rel=1e-4)


def encoded(tokenizer):
    rows = conversation_rows(tokenizer, CONVERSATIONS, max_length=256)
    return {row["id"]: row for row in rows}
