"""Axolotl: a file of `axolotl train`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.config.convert import trainer
from alignment.config.convert.draft import Draft, Stage, file_source, hub_source
from alignment.config.convert.loss import loss
from alignment.config.convert.theirs import Theirs, Values
from alignment.errors import UsageError

TOOL = "Axolotl"
MARKS = ("base_model", "sequence_len", "micro_batch_size")
RENAMED = {
    "num_epochs": "num_train_epochs",
    "micro_batch_size": "per_device_train_batch_size",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
}
"""Where Axolotl has a name of its own for what transformers has, too."""
CHANGES = (
    *("peft_use_dora", "loraplus_lr_ratio", "lora_modules_to_save", "dpo_use_weighting"),
    *("dpo_loss_weights", "peft_init_lora_weights", "relora_steps", "unfrozen_parameters"),
    *("train_on_inputs", "lora_target_parameters", "load_in_8bit", "pretraining_dataset"),
)
RAW = ("completion", "input_output", "pretrain", "raw")
"""Kinds of data that are not turns of a chat."""
PACKING = (
    "rows never see one another; engine: packed has the speed. Their batch counts packed "
    "sequences, ours rows: raise batch.accumulation to see as many tokens a step"
)
SETTLED = {
    "chat_template": "the model's own chat template is used; `template` takes a file",
    "sample_packing": PACKING,
    "eval_sample_packing": "see sample_packing",
    "pad_to_sequence_len": "rows are laid end to end, without padding",
    "dataset_prepared_path": "prepared rows lie in the store",
    "flash_attention": "the engine chooses its attention",
    "special_tokens": "the tokenizer's own are used, and the closing token is always a target",
    "saves_per_epoch": "save_every counts steps",
    "evals_per_epoch": "evaluate_every counts steps, or is a share of them",
    "model_type": "transformers knows the class",
    "tokenizer_type": "transformers knows the class",
    "tf32": "not used",
    "wandb_project": "`trackers` in the configuration follow a run (docs/trackers.md)",
    "strict": "unknown keys are always errors",
}


def convert(keys: Mapping[str, Any]) -> Draft:
    """The file as a draft.

    Raises:
        UsageError: it trains what this project does not, such as all weights.
    """
    theirs = Theirs({RENAMED.get(key, key): value for key, value in keys.items()}, tool=TOOL)
    stage, kind = _stage(theirs)
    adapter = theirs.take("adapter")
    if adapter not in ("lora", "qlora"):
        raise UsageError(
            f"{TOOL}'s adapter: {adapter or 'none'} cannot be converted: only LoRA adapters are "
            "trained, with adapter: lora or qlora"
        )
    theirs.refuse_changes(CHANGES)
    shared = _model(theirs)
    start = _start(theirs, stage)
    training = _training(theirs)
    if stage == "dpo":
        training |= _preference(theirs, kind) | trainer.prompts(theirs, training["max_length"])
    data = {
        "sources": list(_sources(theirs, stage)),
        "held_out_share": trainer.held_out(theirs, "val_set_size"),
    }
    for key, why in SETTLED.items():
        theirs.say(key, why)
    trainer.settled(theirs)
    theirs.name_the_rest()
    return Draft(stage, shared, training, data, start, tuple(theirs.notes))


def _stage(theirs: Theirs) -> tuple[Stage, str]:
    kind = str(theirs.take("rl", "") or "")
    if not kind:
        return "sft", ""
    if kind not in ("dpo", "ipo", "simpo"):
        raise UsageError(f"{TOOL}'s rl: {kind} cannot be converted; dpo, ipo and simpo can")
    return "dpo", kind


def _model(theirs: Theirs) -> Values:
    values = trainer.model(theirs, "base_model", "revision_of_model")
    values["seed"] = int(theirs.take("seed", 42))
    four = theirs.flag("load_in_4bit")
    return values | {"quantisation": {"kind": "nf4", "double": True} if four else None}


def _start(theirs: Theirs, stage: Stage) -> str:
    path = str(theirs.take("lora_model_dir", ""))
    if path and stage == "sft":
        raise UsageError(
            f"{TOOL}'s lora_model_dir: {path} cannot be converted: SFT trains a fresh adapter"
        )
    if path:
        theirs.note("lora_model_dir", path, "merged first; DPO trains a fresh adapter on that")
    return str(Path(path).resolve()) if path else ""


def _training(theirs: Theirs) -> Values:
    ours: Values = {"epochs": 1.0, "batch.per_device": 1, "schedule": "cosine", "bf16": True}
    ours["warmup_ratio"] = 0.03
    if not theirs.has("learning_rate"):
        raise UsageError(f"{TOOL}'s file has no learning_rate")
    if theirs.has("gradient_checkpointing"):
        ours["gradient_checkpointing"] = bool(theirs.take("gradient_checkpointing"))
    values = trainer.training(theirs, defaults={"gradient_checkpointing": False} | ours)
    every = theirs.flag("lora_target_linear")
    names = theirs.take("lora_target_modules", [])
    values |= trainer.lora(
        theirs.take("lora_r", 8),
        theirs.take("lora_alpha", 16),
        theirs.take("lora_dropout", 0.0),
        "all-linear" if every else names,
        rslora=theirs.flag("peft_use_rslora"),
    )
    return values | {"max_length": int(theirs.take("sequence_len", 512))}


def _preference(theirs: Theirs, kind: str) -> Values:
    named = theirs.take("dpo_loss_type", ["sigmoid" if kind == "dpo" else kind])
    if len(named) != 1:
        raise UsageError(f"{TOOL}'s dpo_loss_type: {named} cannot be converted: one loss is used")
    return loss(
        theirs,
        named[0],
        float(theirs.take("rl_beta", theirs.take("dpo_beta", 0.1))),
        gamma=float(theirs.take("simpo_gamma", 0.5)),
        smooth=float(theirs.take("dpo_label_smoothing", 0)),
    )


def _sources(theirs: Theirs, stage: Stage) -> Iterator[Values]:
    listed = theirs.take("datasets", [])
    if not listed:
        raise UsageError(f"{TOOL}'s file names no datasets")
    for number, entry in enumerate(listed):
        one = Theirs(entry, tool=f"{TOOL}'s data set {entry.get('path', number)}")
        yield from _source(one, stage)
        one.name_the_rest()
        theirs.notes += [f"datasets[{number}], {note}" for note in one.notes]


def _source(entry: Theirs, stage: Stage) -> Iterator[Values]:
    columns = _columns(entry, stage)
    path, files = str(entry.take("path", "")), entry.take("data_files", [])
    files = [files] if isinstance(files, str) else files
    kind = entry.take("ds_type")
    if Path(path).exists():
        for file in files or [""]:
            yield file_source(Path(path) / file, tool=TOOL, columns=columns)
    elif path in ("json", "csv", "parquet") or (kind and files):
        for file in files:
            yield file_source(Path(file), tool=TOOL, columns=columns)
    elif path.endswith((".json", ".jsonl", ".csv", ".parquet")):
        yield file_source(Path(path), tool=TOOL, columns=columns)
    else:
        if files:
            entry.note("data_files", files, "the whole split is read")
        where = {key: entry.take(name) for key, name in HUB.items()}
        yield hub_source(path, tool=TOOL, **where, columns=columns)


HUB = {"config": "name", "split": "split", "revision": "revision"}
"""Our names of what says which rows of a repository of the hub."""


def _columns(entry: Theirs, stage: Stage) -> dict[str, str]:
    kind = entry.take("type", "")
    if isinstance(kind, dict):
        return _own_columns(entry, kind, stage)
    if kind in RAW or not kind:
        raise UsageError(
            f"{entry.tool} of type {kind or 'none'} cannot be converted: its rows are not turns of "
            "a chat"
        )
    messages = entry.take("field_messages", "messages")
    mapped = entry.take("message_property_mappings", {"role": "role", "content": "content"})
    if stage == "dpo":
        theirs = {messages: "prompt"} if kind.startswith("chat_template") else {}
        theirs |= {entry.take(f"field_{ours}", ours): ours for ours in ("chosen", "rejected")}
        entry.note("type", kind, "columns are recognised, and the model's own template is used")
        return {name: ours for name, ours in theirs.items() if name != ours}
    if kind != "chat_template":
        entry.note("type", kind, "columns are recognised, and the model's own template is used")
        return {}
    ours = "messages" if mapped.get("role", "role") == "role" else "conversations"
    return {messages: ours} if messages != ours else {}


def _own_columns(entry: Theirs, kind: Values, stage: Stage) -> dict[str, str]:
    """Of a `type` that names its columns."""
    ours = {"field_system": "system", "field_input": "input", "field_instruction": "instruction"}
    ours |= {"field_output": "output", "field_prompt": "prompt"}
    ours |= {"field_chosen": "chosen", "field_rejected": "rejected"} if stage == "dpo" else {}
    found = {str(kind[name]): column for name, column in ours.items() if kind.get(name)}
    for name in kind.keys() - ours.keys():
        entry.note(f"type.{name}", kind[name], "the model's own chat template is used")
    return {name: column for name, column in found.items() if name != column}
