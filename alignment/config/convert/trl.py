"""TRL: a file of `trl sft --config` or `trl dpo --config`, of ScriptArguments and its like."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.config.convert import trainer
from alignment.config.convert.draft import Draft, Stage, file_source, hub_source
from alignment.config.convert.loss import loss
from alignment.config.convert.theirs import Theirs, Values
from alignment.errors import UsageError

TOOL = "TRL"
MARKS = ("use_peft", "dataset_name", "lora_target_modules", "model_name_or_path")
ONLY_DPO = ("beta", "loss_type", "precompute_ref_log_probs", "disable_dropout", "max_prompt_length")
ONLY_SFT = ("packing", "assistant_only_loss", "completion_only_loss", "dataset_text_field")
CHANGES = (
    *("use_dora", "lora_modules_to_save", "lora_target_parameters", "load_in_8bit", "ld_alpha"),
    *("loss_weights", "use_weighting", "sync_ref_model", "neftune_noise_alpha"),
)
ALL_TOKENS = (
    "only replies are targets; TRL's default for `messages` is every token of the chat, prompts too"
)
PEFTS_DEFAULT = ["q_proj", "v_proj"]
"""PEFT's choice for Llama, Qwen2 and Mistral where no target modules are named."""


def convert(keys: Mapping[str, Any], stage: Stage | None) -> Draft:
    """The file as a draft; `stage` is the command it was written for, if the keys do not say.

    Raises:
        UsageError: it trains what this project does not, such as all weights.
    """
    theirs = Theirs(keys, tool=TOOL)
    stage = stage or _stage(theirs)
    if not theirs.flag("use_peft"):
        raise UsageError(
            f"{TOOL}'s file trains all weights, as it lacks use_peft: true, and cannot be "
            "converted: only LoRA adapters are trained"
        )
    theirs.refuse_changes(CHANGES)
    shared = _model(theirs)
    training = _training(theirs, stage)
    data = {
        "sources": list(_sources(theirs)),
        "held_out_share": trainer.held_out(theirs, "test_split_size"),
    }
    _settled(theirs, stage)
    theirs.name_the_rest()
    return Draft(stage, shared, training, data, "", tuple(theirs.notes))


def _stage(theirs: Theirs) -> Stage:
    dpo, sft = theirs.has(*ONLY_DPO), theirs.has(*ONLY_SFT)
    if dpo == sft:
        raise UsageError(
            f"{TOOL}'s file does not say which command it is for: add --stage sft or --stage dpo"
        )
    return "dpo" if dpo else "sft"


def _model(theirs: Theirs) -> Values:
    values = trainer.model(theirs, "model_name_or_path", "model_revision")
    values["seed"] = int(theirs.take("seed", 42))
    four, nested = theirs.flag("load_in_4bit"), theirs.flag("use_bnb_nested_quant")
    kind = theirs.take("bnb_4bit_quant_type", "nf4")
    if four and kind != "nf4":
        raise UsageError(f"{TOOL}'s bnb_4bit_quant_type: {kind} cannot be converted: nf4 can")
    return values | {"quantisation": {"kind": "nf4", "double": nested} if four else None}


def _training(theirs: Theirs, stage: Stage) -> Values:
    defaults = {
        "learning_rate": 2e-5 if stage == "sft" else 1e-6,
        "gradient_checkpointing": True,
        "bf16": True,
    }
    values = trainer.training(theirs, defaults=defaults)
    if not theirs.has("lora_target_modules"):
        theirs.note(
            "lora_target_modules", "not named", "those that PEFT takes for Llama, Qwen2, Mistral"
        )
    values |= trainer.lora(
        theirs.take("lora_r", 16),
        theirs.take("lora_alpha", 32),
        theirs.take("lora_dropout", 0.05),
        theirs.take("lora_target_modules", PEFTS_DEFAULT),
        rslora=theirs.flag("use_rslora"),
    )
    values["max_length"] = int(theirs.take("max_length", 1024))
    return values | (_preference(theirs, values) if stage == "dpo" else {})


def _preference(theirs: Theirs, training: Values) -> Values:
    named = theirs.take("loss_type", "sigmoid")
    names = [named] if isinstance(named, str) else named
    if len(names) != 1:
        raise UsageError(f"{TOOL}'s loss_type: {named} cannot be converted: one loss is used")
    smooth = float(theirs.take("label_smoothing", 0))
    values = loss(theirs, names[0], float(theirs.take("beta", 0.1)), smooth=smooth)
    if theirs.flag("disable_dropout", default=True) and training["lora"]["dropout"]:
        theirs.note("lora_dropout", training["lora"]["dropout"], "0, as TRL's DPO switches it off")
        values["lora"] = training["lora"] | {"dropout": 0.0}
    return values | trainer.prompts(theirs, training["max_length"])


def _sources(theirs: Theirs) -> Iterator[Values]:
    listed = theirs.take("datasets", [])
    split = theirs.take("dataset_train_split", "train")
    if not listed and theirs.has("dataset_name"):
        name, config = theirs.take("dataset_name"), theirs.take("dataset_config")
        listed = [{"path": name, "name": config, "split": split}]
    if not listed:
        raise UsageError(f"{TOOL}'s file names no data set")
    for number, entry in enumerate(listed):
        one = Theirs(entry, tool=TOOL)
        yield from _source(one)
        one.name_the_rest()
        theirs.notes += [f"datasets[{number}], {note}" for note in one.notes]


def _source(entry: Theirs) -> Iterator[Values]:
    path, files = str(entry.take("path")), entry.take("data_files", [])
    names = list(files.values()) if isinstance(files, dict) else files
    names = [names] if isinstance(names, str) else names
    if Path(path).exists() or path in ("json", "csv", "parquet"):
        entry.take("split")
        root = Path() if path in ("json", "csv", "parquet") else Path(path)
        for name in names or [""]:
            yield file_source(root / name, tool=TOOL)
        return
    if names:
        entry.note("data_files", names, "the whole split is read")
    where = {"config": entry.take("name"), "split": entry.take("split")}
    yield hub_source(path, tool=TOOL, **where, data_dir=entry.take("data_dir"))


def _settled(theirs: Theirs, stage: Stage) -> None:
    if stage == "sft" and not theirs.flag("assistant_only_loss"):
        theirs.note("assistant_only_loss", "off", ALL_TOKENS)
    theirs.say("completion_only_loss", "only replies are targets")
    theirs.say("packing", "rows never see one another; engine: packed has the speed")
    theirs.say("padding_free", "engine: packed pads nothing")
    theirs.say("dataset_test_split", "held out is a share of the training prompts")
    theirs.say("precompute_ref_log_probs", "the reference is the adapter switched off")
    theirs.say("dtype", "full weights are loaded as the device computes")
    theirs.say("use_liger_kernel", "the packed engine has its own way to be fast")
    trainer.settled(theirs)
