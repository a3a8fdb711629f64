"""What transformers' trainer is told, in TRL's and LLaMA-Factory's files; Axolotl renames a few."""

import math
from pathlib import Path
from typing import Any

from alignment.config.convert.theirs import Theirs, Values
from alignment.errors import UsageError

SCHEDULES = ("cosine", "linear", "constant_with_warmup")
OPTIMISERS = ("adamw_torch_fused", "adamw_torch", "paged_adamw_8bit")
RENAMED = {
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch.per_device",
    "gradient_accumulation_steps": "batch.accumulation",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "gradient_checkpointing": "gradient_checkpointing",
}
"""Keys that mean the same here."""
DEFAULTS: Values = {
    "epochs": 3.0,
    "batch.per_device": 8,
    "batch.accumulation": 1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "schedule": "linear",
    "warmup_ratio": 0.0,
    "bf16": False,
}
"""What transformers does where a file says nothing; ours are another recipe's."""
HERE = {
    "output_dir": "artifacts go to `store`, under keys made of what they depend on",
    "overwrite_output_dir": "an artifact is never overwritten",
    "resume_from_checkpoint": "the same command resumes by itself",
    "logging_steps": "every step is logged",
    "save_strategy": "checkpoints are taken by steps: save_every",
    "save_total_limit": "the last intact checkpoint is enough to resume",
    "save_only_model": "checkpoints can always be resumed from",
    "report_to": "`trackers` in the configuration follow a run (docs/trackers.md)",
    "run_name": "`name` names the run",
    "do_train": "a run trains",
    "do_eval": "every model is evaluated",
    "push_to_hub": "sft-dpo publish uploads, when you ask",
    "dataloader_num_workers": "rows are prepared before training",
    "dataset_num_proc": "rows are prepared on all cores",
    "preprocessing_num_workers": "rows are prepared on all cores",
    "remove_unused_columns": "columns are kept where they are needed",
    "ddp_timeout": "one process trains",
    "per_device_eval_batch_size": "evaluation.batch has its own default",
    "trust_remote_code": "code shipped with a model is never run",
    "attn_implementation": "the engine chooses its attention",
    "fp16": "computed in bfloat16, or in fp32 with bf16: false",
}
"""Keys whose matter is settled here in another way."""


def training(theirs: Theirs, *, defaults: Values) -> Values:
    """The settings of a training, with the other tool's defaults where its file says nothing."""
    given = {ours: theirs.take(key) for key, ours in RENAMED.items() if theirs.has(key)}
    values = DEFAULTS | defaults | {ours: _number(value) for ours, value in given.items()}
    values |= _schedule(theirs) | _optimiser(theirs) | _steps(theirs)
    if theirs.has("bf16"):
        values["bf16"] = theirs.take("bf16") in (True, "auto", "true")
    if theirs.flag("fp16"):
        values["bf16"] = True
        theirs.note("fp16", "on", HERE["fp16"])
    return values


def settled(theirs: Theirs) -> None:
    """Name the keys that need no equal, each with the reason."""
    for key, why in HERE.items():
        theirs.say(key, why)


def model(theirs: Theirs, key: str, revision: str) -> Values:
    """The base model: a folder that exists, or a repository of the hub.

    Raises:
        UsageError: the file names none.
    """
    name = theirs.take(key)
    if not name:
        raise UsageError(f"{theirs.tool}'s file has no {key}")
    if Path(str(name)).is_dir():
        return {"model": {"name": "folder", "path": str(Path(str(name)).resolve())}}
    found = {"name": "hub", "id": str(name)}
    at = theirs.take(revision)
    return {"model": found | ({"revision": str(at)} if at and at != "main" else {})}


def prompts(theirs: Theirs, length: int) -> Values:
    """The limit of prompts, which other trainers do not have, or no longer."""
    if theirs.has("max_prompt_length"):
        return {"max_prompt_length": int(theirs.take("max_prompt_length"))}
    why = "prompts get half of max_length; longer ones lose their oldest turns"
    theirs.note("max_prompt_length", "not set", why)
    return {"max_prompt_length": length // 2}


def held_out(theirs: Theirs, key: str, *, default: float = 0.1) -> float:
    """The share of prompts to hold out, of which the gate and the evaluation live."""
    share = float(theirs.take(key, 0) or 0)
    if 0 < share <= 0.5:
        return share
    theirs.note(
        key, share or "nothing held out", f"{default:g} of the prompts are: the gate needs rows"
    )
    return default


def lora(r: int, alpha: float, dropout: float, targets: Any, *, rslora: bool) -> Values:
    """An adapter; rank-stabilised LoRA scales by alpha / sqrt(r), which is another alpha here."""
    scale = float(alpha) * math.sqrt(r) if rslora else float(alpha)
    return {"lora": {"r": int(r), "alpha": scale, "dropout": float(dropout)} | targets_of(targets)}


def targets_of(targets: Any) -> Values:
    """Names of layers, however they are written."""
    if targets in ("all", "all-linear", ["all-linear"]):
        return {"target_modules": "all-linear"}
    names = targets.split(",") if isinstance(targets, str) else targets
    return {"target_modules": [str(name).strip() for name in names]} if names else {}


def _number(value: Any) -> Any:
    """YAML 1.1 reads 5e-6 as text, and so do the parsers of these tools."""
    return float(value) if isinstance(value, str) else value


def _schedule(theirs: Theirs) -> Values:
    name, values = theirs.take("lr_scheduler_type"), Values()
    warmup = _number(theirs.take("warmup_ratio", theirs.take("warmup_steps", 0)) or 0)
    if 0 < warmup < 1:
        values["warmup_ratio"] = warmup
    elif warmup:
        theirs.note("warmup_steps", warmup, "warm-up is a share of the steps here: warmup_ratio")
    if name == "constant":
        return {"schedule": "constant_with_warmup", "warmup_ratio": 0.0}
    if name in SCHEDULES:
        values["schedule"] = name
    elif name:
        values["schedule"] = "cosine"
        theirs.note("lr_scheduler_type", name, "cosine is used; known are " + ", ".join(SCHEDULES))
    return values


def _optimiser(theirs: Theirs) -> Values:
    name = theirs.take("optim")
    if name in OPTIMISERS:
        return {"optimiser": name}
    if name:
        theirs.note("optim", name, "adamw_torch_fused is used; known are " + ", ".join(OPTIMISERS))
    return {}


def _steps(theirs: Theirs) -> Values:
    values, limit = Values(), int(theirs.take("max_steps", -1))
    if limit > 0:
        values["max_steps"] = limit
    save = _number(theirs.take("save_steps", 0))
    if save >= 1:
        values["save_every"] = int(save)
    strategy = theirs.take("eval_strategy", "no")
    evaluate = _number(theirs.take("eval_steps", 0)) if strategy == "steps" else 0
    if evaluate:
        values["evaluate_every"] = evaluate if evaluate < 1 else int(evaluate)
    theirs.say("eval_steps", "not used without eval_strategy: steps")
    return values
