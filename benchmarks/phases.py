"""Time and memory of one phase of the pipeline under one engine.

The pipeline's own functions run, from text to adapter. Times are read from the progress marks that
they write after each step, so set-up, warm-up and work after the last step are excluded.
"""

import gc
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from alignment.answers.ask import generate
from alignment.records.base import Frozen
from alignment.records.refs import Nf4
from alignment.records.text import Conversation, PreferencePair
from alignment.scoring.engine import Engine, StepRows
from alignment.scoring.logprobs import encode
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, SftConfig
from alignment.train.sft import train_sft
from alignment.train.trainers import on_this_machine
from benchmarks.workload import load

Phase = Literal["sft", "dpo", "reference", "scoring", "answering"]
"""sft, dpo: training. reference: log-probs of pairs under the reference, quantised as in training;
stock is TRL's own pass. scoring: log-probs as in evaluation, with full weights. answering: greedy
replies as in evaluation, whatever the engine; tokens are those of the replies."""

MAX_LENGTH, REPLY_TOKENS = 4096, 256

PASSES: dict[Phase, int] = {"sft": 2, "dpo": 3, "reference": 1, "scoring": 1, "answering": 1}
"""Passes that cannot be avoided: forward, backward to the activations (the base is frozen),
reference; without recomputation."""


class Setup(Frozen):
    """Model, precision and steps of a measurement.

    Attributes:
        model: folder of the model.
        bf16, nf4: whether to compute in bfloat16; whether to train on 4-bit base weights.
        checkpointing: whether activations are recomputed.
        batch: rows of an optimiser step.
        steps, warm_up: number of steps measured, and of steps before them.
        profile: whether to profile the GPU kernels of the measured steps, which costs some time.
    """

    model: Path
    bf16: bool
    nf4: bool
    checkpointing: bool
    batch: StepRows
    steps: int
    warm_up: int
    profile: bool = False


class Measured(Frozen):
    """One phase under one engine.

    Attributes:
        engine: the engine's settings.
        tokens_per_second: tokens without padding; a prompt counts once per reply, shared or not.
        rows_per_second: conversations or pairs per second.
        seconds: duration of the measured steps.
        peak_gib: peak GPU memory; None on a CPU.
        limit_share: unavoidable matmul work, as a share of what the device can do in that time.
        losses: losses of all steps, to compare engines; empty in scoring.
        chosen: the engine's own choices.
        kernels: lines showing where the GPU's time went, if profiled.
        devices: number of devices.
    """

    phase: Phase
    engine: dict[str, Any]
    tokens_per_second: float
    rows_per_second: float
    seconds: float
    peak_gib: float | None
    limit_share: float
    losses: tuple[float, ...]
    chosen: dict[str, float]
    kernels: tuple[str, ...]
    devices: int = 1


class _Work(NamedTuple):
    tokens: float
    rows: int
    seconds: float
    losses: tuple[float, ...] = ()
    chosen: Mapping[str, float] = MappingProxyType({})
    kernels: tuple[str, ...] = ()


def measure(
    phase: Phase, engine: Engine, setup: Setup, pairs: Sequence[PreferencePair], *, limit: float
) -> Measured:
    """Run one phase on these pairs. `limit`: matmul operations per second of the device."""
    import torch

    dtype = "bfloat16" if setup.bf16 else "float32"
    full = phase in ("scoring", "answering")
    quantisation = Nf4(compute_dtype=dtype) if setup.nf4 and not full else None
    loaded = load(setup.model, dtype=dtype, quantisation=quantisation)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    others = {"scoring": _score, "reference": _score_reference, "answering": _answer}
    run = others.get(phase, _train)
    work = run(phase, engine, setup, loaded, pairs)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    operations = 2 * PASSES[phase] * _matmul_weights(loaded.model) * work.tokens
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
        chosen=dict(work.chosen),
        kernels=work.kernels,
    )


def limit_gpu(gib: float | None) -> None:
    """Limit this process to this much GPU memory."""
    import torch

    if gib is not None and torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))


def matmul_limit(*, bf16: bool) -> float:
    """Operations per second of a large square matmul, an upper bound for any training."""
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
        progress = ProfiledProgress(workspace.progress, setup)
        shared: Any = {
            "policy": loaded,
            "held_out": [],
            "seed": 0,
            "workspace": workspace,
            "progress": progress,
        }
        if phase == "sft":
            chats = [
                Conversation.of((*p.prompt, *p.chosen), task_type=p.task_type, source=p.source)
                for p in pairs
            ]
            summary = train_sft(SftConfig(**settings), conversations=chats, **shared)
        else:
            summary = train_dpo(DpoConfig(**settings), pairs=pairs, **shared)
        marks = _lines(workspace.progress)
        history = [row for row in _lines(workspace.out / "history.jsonl") if "loss" in row]
    at = {mark["done"]: mark["time"] for mark in marks if mark["phase"] == "training"}
    tokens = [row["num_tokens"] for row in history]
    return _Work(
        tokens=tokens[-1] - tokens[setup.warm_up - 1],
        rows=setup.steps * setup.batch.effective,
        seconds=at[setup.warm_up + setup.steps] - at[setup.warm_up],
        losses=tuple(row["loss"] for row in history),
        chosen=summary.chosen,
        kernels=progress.kernels(),
    )


def _score_reference(
    phase: Phase, engine: Engine, setup: Setup, loaded: Any, pairs: Sequence[PreferencePair]
) -> _Work:
    """TRL's `precompute_ref_log_probs` pass at its default batch size, or the engine's own pass."""
    if engine.name != "stock":
        return _score(phase, engine, setup, loaded, pairs)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _reference_trainer(setup, loaded, pairs, Path(scratch))
        rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
        batches = [
            trainer.data_collator([rows[at] for at in range(start, min(start + size, len(rows)))])
            for start in range(0, len(rows), size)
        ]
        first = setup.batch.effective // size
        _pass_references(trainer, batches[:first])
        start_time = _now()
        _pass_references(trainer, batches[first:])
        seconds = _now() - start_time
    tokens = sum(float(batch["attention_mask"].sum()) for batch in batches[first:])
    return _Work(tokens, len(rows) - setup.batch.effective, seconds)


def _reference_trainer(
    setup: Setup, loaded: Any, pairs: Sequence[PreferencePair], scratch: Path
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    config = DpoConfig(batch=setup.batch, bf16=setup.bf16, max_length=MAX_LENGTH)
    arguments = on_this_machine(config.trl_arguments(seed=0), scratch, evaluates=False)
    rows = [pair.model_dump(include={"prompt", "chosen", "rejected"}) for pair in pairs]
    return DPOTrainer(
        model=loaded.model,
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(**config.lora.peft_arguments()),
    )


def _pass_references(trainer: Any, batches: Sequence[Any]) -> None:
    for batch in batches:
        on_device = {name: value.to(trainer.args.device) for name, value in batch.items()}
        trainer.compute_ref_log_probs(trainer.model, on_device)


def _score(
    phase: Phase, engine: Engine, setup: Setup, loaded: Any, pairs: Sequence[PreferencePair]
) -> _Work:
    """Score both replies of each pair; the pairs of one step serve as warm-up."""
    del phase
    rows = [
        encode(loaded.tokenizer, pair.prompt, reply, max_length=MAX_LENGTH)
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]
    first = 2 * setup.batch.effective
    engine.reply_logprobs(loaded.model, rows[:first], batch=setup.batch.effective)
    measured = rows[first:]
    start = _now()
    engine.reply_logprobs(loaded.model, measured, batch=setup.batch.effective)
    seconds = _now() - start
    return _Work(sum(row.length for row in measured), len(measured) // 2, seconds)


def _answer(
    phase: Phase, engine: Engine, setup: Setup, loaded: Any, pairs: Sequence[PreferencePair]
) -> _Work:
    """Answer the prompt of each pair; those of one step serve as warm-up."""
    del phase, engine
    prompts, first = [pair.prompt for pair in pairs], setup.batch.effective
    tokens = REPLY_TOKENS if setup.bf16 else 8
    answer = partial(generate, loaded.model, loaded.tokenizer, max_new_tokens=tokens, batch=16)
    answer(prompts[:first])
    start = _now()
    found = answer(prompts[first:])
    seconds = _now() - start
    return _Work(sum(one.tokens for one in found), len(found), seconds)


class ProfiledProgress(Progress):
    """Marks the steps of a training, and profiles the measured ones if configured."""

    def __init__(self, path: Path, setup: Setup) -> None:
        super().__init__(path)
        self._setup = setup
        self._profile: Any = None
        self._seconds = 0.0

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Write the mark, and start or stop the profiler around the measured steps."""
        super().mark(phase, done, total, **numbers)
        if not self._setup.profile or phase != "training":
            return
        if done == self._setup.warm_up:
            self._start_profile()
        elif done == self._setup.warm_up + self._setup.steps and self._profile is not None:
            self._seconds = _now() - self._seconds
            self._profile.stop()

    def _start_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._profile = profile(activities=[ProfilerActivity.CUDA])
        self._profile.start()
        self._seconds = _now()

    def kernels(self) -> tuple[str, ...]:
        """The slowest kernels, with their share of the steps' wall time."""
        if self._profile is None:
            return ()
        rows = sorted(self._profile.key_averages(), key=lambda row: -row.self_device_time_total)
        whole = 1e6 * self._seconds
        busy = sum(row.self_device_time_total for row in rows)
        lines = [
            f"{row.self_device_time_total / whole:6.1%} {row.count:6} x {row.key[:100]}"
            for row in rows[:30]
        ]
        return (f"GPU busy for {busy / whole:.1%} of {self._seconds:.2f} s", *lines)


def _matmul_weights(model: Any) -> int:
    """Number of weights in matmuls: linear layers and LM head, without adapters."""
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
