"""One process of a data-parallel training on the CPU, for `test_processes`.

python -m tests.alignment.train.one_of_two KIND MODEL FOLDER [ADAPTER ...], torchrun's variables
in the environment: trains the tiny model, on top of a stack of the named adapters if any, with the
packed engine and writes its artifact to FOLDER.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed

from alignment.models.adapters import describe_adapter
from alignment.models.description import describe
from alignment.models.load import open_model
from alignment.records.refs import ModelRef
from alignment.records.text import Conversation, Message, PreferencePair
from alignment.scoring.engine import Packed, StepRows
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft

STEPS, ROWS = 3, 17
BUDGETS = {"sft": 400, "dpo": 500}


def text(role, number):
    """Up to 44 words, so that processes need different numbers of micro-batches."""
    return Message(role=role, content=f"{number} " + "word " * (number * 7 % 12 * 4))


def conversation(number):
    turns = text("user", number), text("assistant", number + 1)
    return Conversation.of(turns, task_type="test", source="test")


def pair(number):
    return PreferencePair.of(
        (text("user", number),),
        chosen=(text("assistant", number + 1),),
        rejected=(text("assistant", number + 5),),
        task_type="test",
        source="test",
    )


def train(
    kind: str, model: Path, folder: Path, *, per_device: int, adapters: Sequence[Path] = ()
) -> Path:
    base, tokenizer = describe(model, f"folder:{model}", None)
    ref = ModelRef(base=base, tokenizer=tokenizer)
    for number, path in enumerate(adapters):
        ref = ref.push(
            describe_adapter(path, uri=f"folder:{path}", stage=f"{number}", trained_on=ref.ref_hash)
        )
    policy = open_model(ref, Store(root=folder), dtype="float32")
    modes = _modes_of_training(policy.model)
    workspace = Workspace(folder=folder / "work", log=folder / "log")
    workspace.out.mkdir(parents=True)
    settings: Any = {
        "lora": Lora(r=4, alpha=8, dropout=0.0),
        "engine": Packed(tokens_per_micro_batch=BUDGETS[kind]),
        "learning_rate": 1e-2,
        "warmup_ratio": 0.0,
        "batch": StepRows(per_device=per_device, accumulation=1),
        "max_steps": STEPS,
        "evaluate_every": 1,
        "evaluation_rows": 1,
        "samples": 0,
        "max_length": 400,
        "bf16": False,
        "gradient_checkpointing": True,
    }
    shared: Any = {
        "policy": policy,
        "held_out": [conversation(50) if kind == "sft" else pair(50)],
        "seed": 0,
        "workspace": workspace,
        "progress": Progress(),
    }
    if kind == "sft":
        conversations = list(map(conversation, range(ROWS)))
        train_sft(SftConfig(**settings), conversations=conversations, **shared)
    else:
        config = DpoConfig(**settings, max_prompt_length=300, sft_weight=0.1)
        train_dpo(config, pairs=list(map(pair, range(ROWS))), **shared)
    assert len(modes) > 1, "expected several passes"
    assert all(modes), "after an evaluation, training must continue in training mode"
    return workspace.out


def _modes_of_training(model: Any) -> list[bool]:
    """A list that gets, at every pass with gradients, whether the model is in training mode."""
    found: list[bool] = []

    def note(module: Any, *_: Any) -> None:
        import torch

        if torch.is_grad_enabled():
            found.append(module.training)

    model.get_decoder().layers[0].register_forward_hook(note)
    return found


if __name__ == "__main__":
    named, (in_model, to, *of) = sys.argv[1], map(Path, sys.argv[2:])
    distributed.init_process_group("gloo")
    train(named, in_model, to, per_device=8, adapters=of)
