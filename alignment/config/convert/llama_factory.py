"""LLaMA-Factory: a file of `llamafactory-cli train`, and its dataset_info.json."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.config.convert import trainer
from alignment.config.convert.draft import Draft, file_source, hub_source
from alignment.config.convert.loss import loss
from alignment.config.convert.theirs import Theirs, Values
from alignment.errors import UsageError

TOOL = "LLaMA-Factory"
MARKS = ("finetuning_type", "dataset_dir", "cutoff_len", "lora_rank", "stage")
"""Keys that other tools do not have."""
CHANGES = (
    *("use_dora", "pissa_init", "use_galore", "use_apollo", "use_badam", "use_llama_pro"),
    *("loraplus_lr_ratio", "use_dft_loss", "use_asft_loss", "use_eaft_loss", "additional_target"),
    *("train_on_prompt", "mask_history", "pref_bco_weight", "ld_alpha", "ref_model", "use_muon"),
)
"""What would train another model, and has no equal."""
SPEED = ("flash_attn", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "deepspeed")
NAMES = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
"""Alpaca's columns, by the names of `columns` in dataset_info.json."""
MEDIA = ("images", "videos", "audios", "kto_tag")


def convert(keys: Mapping[str, Any]) -> Draft:
    """The file as a draft.

    Raises:
        UsageError: it trains what this project does not, such as all weights.
    """
    theirs = Theirs(keys, tool=TOOL)
    stage = theirs.take("stage", "sft")
    if stage not in ("sft", "dpo"):
        raise UsageError(f"{TOOL}'s stage: {stage} cannot be converted; sft and dpo can")
    tuned = theirs.take("finetuning_type", "lora")
    if tuned != "lora":
        raise UsageError(
            f"{TOOL}'s finetuning_type: {tuned} cannot be converted: only LoRA adapters are trained"
        )
    theirs.refuse_changes(CHANGES)
    shared = _model(theirs)
    start = _start(theirs, stage)
    training = _training(theirs, stage)
    data = {
        "sources": list(_sources(theirs, stage)),
        "held_out_share": trainer.held_out(theirs, "val_size"),
    }
    _settled(theirs)
    theirs.name_the_rest()
    return Draft(stage, shared, training, data, start, tuple(theirs.notes))


def _model(theirs: Theirs) -> Values:
    values = trainer.model(theirs, "model_name_or_path", "model_revision")
    values["seed"] = int(theirs.take("seed", 42))
    return values | {"quantisation": _quantisation(theirs)}


def _quantisation(theirs: Theirs) -> Values | None:
    bits, method = theirs.take("quantization_bit"), theirs.take("quantization_method", "bnb")
    kind = theirs.take("quantization_type", "nf4")
    double = theirs.flag("double_quantization", default=True)
    if bits is None:
        return None
    if (int(bits), method, kind) == (4, "bnb", "nf4"):
        return {"kind": "nf4", "double": double}
    raise UsageError(
        f"{TOOL}'s quantization_bit: {bits} ({method}, {kind}) cannot be converted: base weights "
        "are full or 4-bit NF4 by bitsandbytes"
    )


def _start(theirs: Theirs, stage: str) -> str:
    path = str(theirs.take("adapter_name_or_path", ""))
    if not path:
        return ""
    if stage == "sft" or "," in path:
        raise UsageError(
            f"{TOOL}'s adapter_name_or_path: {path} cannot be converted: SFT trains a fresh "
            "adapter, and DPO starts from one adapter at most"
        )
    theirs.note("adapter_name_or_path", path, "merged first; DPO trains a fresh adapter on that")
    return str(Path(path).resolve())


def _training(theirs: Theirs, stage: str) -> Values:
    values = trainer.training(
        theirs, defaults={"learning_rate": 5e-5, "gradient_checkpointing": True}
    )
    rank = int(theirs.take("lora_rank", 8))
    values |= trainer.lora(
        rank,
        theirs.take("lora_alpha", 2 * rank),
        theirs.take("lora_dropout", 0.0),
        theirs.take("lora_target", "all"),
        rslora=theirs.flag("use_rslora"),
    )
    values["max_length"] = int(theirs.take("cutoff_len", 2048))
    return values | (_preference(theirs, values["max_length"]) if stage == "dpo" else {})


def _preference(theirs: Theirs, length: int) -> Values:
    values = trainer.prompts(theirs, length) | loss(
        theirs,
        theirs.take("pref_loss", "sigmoid"),
        float(theirs.take("pref_beta", 0.1)),
        gamma=float(theirs.take("simpo_gamma", 0.5)),
        smooth=float(theirs.take("dpo_label_smoothing", 0)),
    )
    weight = float(theirs.take("pref_ftx", 0))
    return values | ({"sft_weight": weight} if weight else {})


def _sources(theirs: Theirs, stage: str) -> Iterator[Values]:
    names = [name.strip() for name in str(theirs.take("dataset", "")).split(",") if name.strip()]
    if not names:
        raise UsageError(f"{TOOL}'s file names no dataset")
    folder = Path(str(theirs.take("dataset_dir", "data")))
    limit = theirs.take("max_samples")
    listed = _dataset_info(folder)
    for name in names:
        if name not in listed:
            raise UsageError(f"{folder / 'dataset_info.json'} has no {name}")
        entry = Theirs(listed[name], tool=f"{TOOL}'s data set {name}")
        yield _source(entry, folder, stage, limit)
        entry.name_the_rest()
        theirs.notes += [f"dataset {name}, {note}" for note in entry.notes]


def _dataset_info(folder: Path) -> dict[str, Any]:
    path = folder / "dataset_info.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}. dataset_dir counts from the folder in which {TOOL} "
            "was started: run this command there"
        ) from error
    return found


def _source(entry: Theirs, folder: Path, stage: str, limit: int | None) -> Values:
    ranking = entry.flag("ranking")
    if ranking != (stage == "dpo"):
        raise UsageError(f"{entry.tool}: ranking is {ranking}, but stage is {stage}")
    more = {
        "columns": _columns(entry, ranking=ranking),
        "limit": limit or entry.take("num_samples"),
    }
    if entry.has("hf_hub_url"):
        where = {"config": entry.take("subset"), "split": entry.take("split")}
        where["data_dir"] = entry.take("folder")
        entry.say("ms_hub_url", "the hub of hf_hub_url is read")
        entry.say("file_name", "the hub is read")
        return hub_source(entry.take("hf_hub_url"), tool=TOOL, **where, **more)
    if not entry.has("file_name"):
        raise UsageError(f"{entry.tool} is neither a file nor on the Hugging Face hub")
    return file_source(folder / entry.take("file_name"), tool=TOOL, **more)


def _columns(entry: Theirs, *, ranking: bool) -> dict[str, str]:
    """Their names for our columns, where they differ."""
    columns, tags = dict(entry.take("columns", {})), dict(entry.take("tags", {}))
    media = [name for name in MEDIA if columns.get(name)]
    if media:
        raise UsageError(f"{entry.tool} has {', '.join(media)}: only text is trained on")
    if entry.take("formatting", "alpaca") == "alpaca":
        ours = NAMES | ({"prompt": "prompt"} if ranking else {})
        theirs = {"prompt": "instruction", "query": "input", "response": "output"} | columns
    else:
        ours = {"messages": "prompt" if ranking else _chat_column(entry, tags)}
        theirs = {"messages": "conversations"} | columns
    ours |= {"chosen": "chosen", "rejected": "rejected", "tools": "tools", "system": "system"}
    if history := theirs.pop("history", None):
        entry.note("columns.history", history, "a column named history is read, no other")
    return {theirs[k]: ours[k] for k in theirs if k in ours and theirs[k] != ours[k]}


def _chat_column(entry: Theirs, tags: dict[str, str]) -> str:
    """`messages` for role and content, `conversations` for from and value."""
    keys = tags.pop("role_tag", "from"), tags.pop("content_tag", "value")
    for name, value in tags.items():
        if value not in ("user", "assistant", "system", "human", "gpt", "observation", "tool"):
            entry.note(f"tags.{name}", value, "rows with a role of that name are quarantined")
    if keys not in (("from", "value"), ("role", "content")):
        entry.note("tags", "/".join(keys), "turns are {from, value} or {role, content} here")
    return "messages" if keys == ("role", "content") else "conversations"


def _settled(theirs: Theirs) -> None:
    theirs.say("template", "the model's own chat template is used; `template` takes a file")
    theirs.say("packing", "rows never see one another; engine: packed has the speed")
    theirs.say("neat_packing", "rows never see one another; engine: packed has the speed")
    theirs.say("overwrite_cache", "prepared rows are reused if nothing they depend on changed")
    theirs.say("plot_loss", "the report has the curves")
    for key in SPEED:
        theirs.say(key, "the packed engine has its own way to be fast")
    trainer.settled(theirs)
