"""The first 20 steps of SFT and of DPO, compared with recorded losses.

If the pipeline computes the same, each loss agrees to 1e-3; a library update may change the last
digits. A larger difference means that training has changed, on purpose or by mistake. If on
purpose, run `make golden` and explain it in the commit.
"""

import json
from pathlib import Path

import pytest

from alignment.models.description import describe
from alignment.models.load import open_model
from alignment.records.refs import ModelRef
from alignment.records.text import Conversation, Message, PreferencePair
from alignment.scoring.engine import StepRows, Stock
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.losses import Sigmoid
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft

TOLERANCE = 1e-3
SHARED = {
    "engine": Stock(),  # other tests compare the packed engine with it
    "lora": Lora(r=4, alpha=8, dropout=0.05),
    "learning_rate": 3e-2,
    "batch": StepRows(per_device=2, accumulation=2),
    "max_steps": 20,
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": True,
}


def question(number):
    return (Message(role="user", content=f"What is {number} and {number + 3}?"),)


def answer(number):
    return (Message(role="assistant", content=f"The answer is {2 * number + 3}."),)


WRONG = (Message(role="assistant", content="I do not know."),)
CONVERSATIONS = [
    Conversation.of((*question(n), *answer(n)), task_type="sum", source="golden") for n in range(40)
]
PAIRS = [
    PreferencePair.of(
        question(n), chosen=answer(n), rejected=WRONG, task_type="sum", source="golden"
    )
    for n in range(40)
]


@pytest.fixture
def trained(tiny_model_folder, tmp_path):
    """A function that trains the tiny model with SFT or DPO and returns the losses of its steps."""
    workspace = Workspace(folder=tmp_path / "work", log=tmp_path / "log")
    workspace.out.mkdir(parents=True)
    base, tokenizer = describe(tiny_model_folder, f"folder:{tiny_model_folder}", None)
    ref = ModelRef(base=base, tokenizer=tokenizer)

    def run(train, config, **rows):
        policy = open_model(ref, Store(root=tmp_path), dtype="float32")
        train(
            config,
            policy=policy,
            **rows,
            held_out=[],
            seed=0,
            workspace=workspace,
            progress=Progress(),
        )
        history = (workspace.out / "history.jsonl").read_text().splitlines()
        return [row["loss"] for row in map(json.loads, history) if "loss" in row]

    return run


@pytest.fixture
def golden(request):
    """A function that compares losses with a recorded trajectory, or records them."""

    def compare(name, losses):
        path = Path(__file__).with_name(f"{name}.json")
        if request.config.getoption("--golden"):
            path.write_text(json.dumps(losses, indent=2) + "\n")
            pytest.skip(f"recorded {path.name}")
        assert losses == pytest.approx(json.loads(path.read_text()), rel=TOLERANCE)

    return compare


def test_sft_follows_its_recorded_trajectory(trained, golden):
    losses = trained(train_sft, SftConfig(**SHARED), conversations=CONVERSATIONS)
    assert len(losses) == 20
    golden("sft", losses)


def test_dpo_follows_its_recorded_trajectory(trained, golden):
    config = DpoConfig(**SHARED, max_prompt_length=200, loss=Sigmoid(beta=0.5))
    losses = trained(train_dpo, config, pairs=PAIRS)
    assert len(losses) == 20
    golden("dpo", losses)
