"""Time and memory of one phase of the pipeline under one engine.

The pipeline's own functions run, from text to adapter; time is read from the marks that they leave
for a scheduler after each step, so set-up, warm-up and what follows the last step are not in it.
"""

import gc
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alignment.progress import Progress
from alignment.records import Conversation, Frozen, PreferencePair, Quantisation
from alignment.store import Workspace
from alignment.train.dpo import DpoConfig, train_dpo
from alignment.train.engine import Engine
from alignment.train.logprobs import encode
from alignment.train.settings import Batch
from alignment.train.sft import SftConfig, train_sft
from benchmarks.workload import load

Phase = Literal["sft", "dpo", "scoring"]

MAX_LENGTH = 4096


class Setup(Frozen):
    """What a measurement is taken on.

    Attributes:
        model: folder of the model.
        bf16, nf4: compute in bfloat16; 4-bit base weights in training.
        checkpointing: whether activations are recomputed.
        batch: rows of an optimiser step.
        steps, warm_up: optimiser steps counted, and before them.
    """

    model: Path
    bf16: bool
    nf4: bool
    checkpointing: bool
    batch: Batch
    steps: int
    warm_up: int


class Measured(Frozen):
    """One phase under one engine.

    Attributes:
        engine: its settings.
        tokens_per_second: real tokens; a prompt counts once per reply, shared or not.
        rows_per_second: conversations, or pairs.
        seconds: of the counted steps.
        peak_gib: of GPU memory in use; None on a CPU.
        limit_share: matmul work that cannot be avoided over what the device can do in that time.
        losses: of all steps, so that engines can be compared; empty in scoring.
    """

    phase: Phase
    engine: dict[str, Any]
    tokens_per_second: float
    rows_per_second: float
    seconds: float
    peak_gib: float | None
    limit_share: float
    losses: tuple[float, ...]


class _Work(NamedTuple):
    tokens: float
    rows: int
    seconds: float
    losses: tuple[float, ...] = ()


def measure(
    phase: Phase, engine: Engine, setup: Setup, pairs: Sequence[PreferencePair], *, limit: float
) -> Measured:
    """Run one phase on these pairs. `limit`: matmul operations per second of the device."""
    import torch

    dtype = "bfloat16" if setup.bf16 else "float32"
    quantisation = Quantisation(compute_dtype=dtype) if setup.nf4 and phase != "scoring" else None
    loaded = load(setup.model, dtype=dtype, quantisation=quantisation)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    run = _score if phase == "scoring" else _train
    work = run(phase, engine, setup, loaded, pairs)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    operations = 2 * _passes(phase, setup) * _matmul_weights(loaded.model) * work.tokens
    del loaded
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return Measured(
        phase=phase,
        engine=engine.model_dump(),
        tokens_per_second=work.tokens / work.seconds,
        rows_per_second=work.rows / work.seconds,
        seconds=work.seconds,
        peak_gib=peak,
        limit_share=operations / work.seconds / limit,
        losses=work.losses,
    )


def matmul_limit(*, bf16: bool) -> float:
    """Operations per second of a large square matmul: what no training of this kind exceeds."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, repeats = (8192, 50) if device == "cuda" else (1024, 5)
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for count in (3, repeats):  # the first round warms up
        start = _now()
        for _ in range(count):
            left @ right
        seconds = _now() - start
    return 2 * size**3 * repeats / seconds


def _train(
    phase: Phase, engine: Engine, setup: Setup, loaded: Any, pairs: Sequence[PreferencePair]
) -> _Work:
    settings: Any = {
        "engine": engine,
        "batch": setup.batch,
        "max_steps": setup.warm_up + setup.steps,
        "max_length": MAX_LENGTH,
        "bf16": setup.bf16,
        "gradient_checkpointing": setup.checkpointing,
        "save_every": 10**6,
    }
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(folder=Path(scratch) / "work", log=Path(scratch) / "log")
        workspace.out.mkdir(parents=True)
        shared: Any = {
            "policy": loaded,
            "held_out": [],
            "seed": 0,
            "workspace": workspace,
            "progress": Progress(workspace.progress),
        }
        if phase == "sft":
            chats = [
                Conversation.of((*p.prompt, *p.chosen), task_type=p.task_type, source=p.source)
                for p in pairs
            ]
            train_sft(SftConfig(**settings), conversations=chats, **shared)
        else:
            train_dpo(DpoConfig(**settings), pairs=pairs, **shared)
        marks = _lines(workspace.progress)
        history = [row for row in _lines(workspace.out / "history.jsonl") if "loss" in row]
    at = {mark["done"]: mark["time"] for mark in marks if mark["phase"] == "training"}
    tokens = [row["num_tokens"] for row in history]
    return _Work(
        tokens=tokens[-1] - tokens[setup.warm_up - 1],
        rows=setup.steps * setup.batch.effective,
        seconds=at[setup.warm_up + setup.steps] - at[setup.warm_up],
        losses=tuple(row["loss"] for row in history),
    )


def _score(
    phase: Phase, engine: Engine, setup: Setup, loaded: Any, pairs: Sequence[PreferencePair]
) -> _Work:
    """Both replies of each pair; a step's worth of pairs to warm up."""
    del phase
    rows = [
        encode(loaded.tokenizer, pair.prompt, reply, max_length=MAX_LENGTH)
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]
    first = 2 * setup.batch.effective
    engine.reply_logprobs(loaded.model, rows[:first], batch=setup.batch.effective)
    counted = rows[first:]
    start = _now()
    engine.reply_logprobs(loaded.model, counted, batch=setup.batch.effective)
    seconds = _now() - start
    return _Work(sum(row.length for row in counted), len(counted) // 2, seconds)


def _passes(phase: Phase, setup: Setup) -> int:
    """Forward, backward to the activations (the base is frozen), recomputation, reference."""
    if phase == "scoring":
        return 1
    return 2 + setup.checkpointing + (phase == "dpo")


def _matmul_weights(model: Any) -> int:
    """Weights that a token is multiplied with: the linear layers' and the head's, no adapter's."""
    from math import prod

    from torch.nn import Linear

    return sum(
        prod((module.in_features, module.out_features))
        for name, module in model.named_modules()
        if isinstance(module, Linear) and "lora_" not in name
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
