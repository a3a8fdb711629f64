"""Files in the shapes of other trainers' own examples become ours; what has no equal is named."""

import json

import pytest
from ruamel.yaml import YAML

from alignment.config.convert.write import as_text, draft_of
from alignment.config.file import load
from alignment.errors import UsageError

LLAMA_FACTORY_DPO = """
model_name_or_path: org/model
trust_remote_code: true
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.2
pref_loss: sigmoid  # choices: [sigmoid (dpo), orpo, simpo]
pref_ftx: 0.1
dataset: ranked
dataset_dir: data
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves/dpo
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
LLAMA_FACTORY_SFT = """
model_name_or_path: org/model
quantization_bit: 4
double_quantization: false
stage: sft
finetuning_type: lora
lora_rank: 16
lora_alpha: 16
lora_target: q_proj,v_proj
use_rslora: true
dataset: asked
packing: true
val_size: 0.2
learning_rate: 1.0e-4
"""
AXOLOTL_SFT = """
base_model: org/model
load_in_4bit: true
datasets:
  - path: chats.jsonl
    type: chat_template
    field_messages: conversations
    message_property_mappings: {role: from, content: value}
    roles_to_train: [assistant]
val_set_size: 0.1
output_dir: ./outputs/qlora-out
adapter: qlora
lora_model_dir:
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
loss_watchdog_threshold: 5.0
warmup_steps: 128
weight_decay: 0.0
special_tokens: {pad_token: "<|end_of_text|>"}
"""
AXOLOTL_DPO = """
base_model: org/model
rl: ipo
rl_beta: 0.3
datasets:
  - {path: owner/pairs, split: train, type: chatml.intel}
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
sequence_len: 1024
learning_rate: 1.0e-5
"""
TRL_DPO = """
model_name_or_path: org/model
model_revision: abc
dataset_name: owner/pairs
dataset_config: en
learning_rate: 5.0e-6
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
beta: 0.2
loss_type: [ipo]
max_length: 1024
logging_steps: 25
eval_strategy: steps
eval_steps: 50
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
"""


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """A file's text to its draft and the loaded configuration, in a folder with data sets."""
    (tmp_path / "data").mkdir()
    for name in ("data/ranked.json", "data/asked.json", "chats.jsonl"):
        (tmp_path / name).write_text("[]")
    info = {
        "ranked": {"file_name": "ranked.json", "ranking": True, "formatting": "sharegpt",
                   "columns": {"messages": "talk", "chosen": "chosen", "rejected": "rejected"}},
        "asked": {"file_name": "asked.json", "columns": {"prompt": "q", "response": "a"}},
        "pictures": {"file_name": "asked.json", "columns": {"images": "images"}},
    }  # fmt: skip
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.chdir(tmp_path)

    def converted(text, stage=None):
        (tmp_path / "theirs.yaml").write_text(text)
        draft = draft_of(tmp_path / "theirs.yaml", stage)
        ours = as_text(draft, origin="theirs.yaml", schema="s.json", name="mine", on_cpu=False)
        (tmp_path / "ours.yaml").write_text(ours)
        return draft, load(tmp_path / "ours.yaml")

    return converted


def named(draft):
    """The keys that are said to have no equal, or not quite."""
    return {note.split(":")[0] for note in draft.notes}


def test_llama_factorys_dpo(convert):
    _, config = convert(LLAMA_FACTORY_DPO)
    dpo, (round_,) = config.dpo, config.rounds
    assert config.sft.name == "none"
    assert config.quantisation is None
    assert (dpo.loss.name, dpo.loss.beta, dpo.sft_weight) == ("sigmoid", 0.2, 0.1)
    assert (dpo.lora.r, dpo.lora.alpha, dpo.lora.dropout) == (8, 16, 0)
    assert dpo.lora.target_modules == "all-linear"
    assert (dpo.batch.per_device, dpo.batch.accumulation) == (1, 8)
    assert (dpo.max_length, dpo.max_prompt_length, dpo.save_every) == (2048, 1024, 500)
    (source,) = round_.data.sources
    assert source.columns == {"talk": "prompt"}
    assert source.limit == 1000


def test_every_key_of_a_file_is_either_converted_or_named(convert):
    draft, _ = convert(LLAMA_FACTORY_DPO + "unheard_of: 3\n")
    keys = {key for key, value in YAML(typ="safe").load(LLAMA_FACTORY_DPO).items()
            if value is not None}  # fmt: skip
    assert "unheard_of" in named(draft)
    assert keys - named(draft) == {
        "model_name_or_path", "stage", "finetuning_type", "lora_rank", "lora_target", "pref_beta",
        "pref_loss", "pref_ftx", "dataset", "dataset_dir", "cutoff_len", "max_samples",
        "save_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
        "learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_ratio", "bf16",
    }  # fmt: skip


def test_llama_factorys_sft_with_its_own_defaults(convert):
    draft, config = convert(LLAMA_FACTORY_SFT)
    training = config.sft.training
    assert config.rounds == ()
    assert (config.quantisation.kind, config.quantisation.double) == ("nf4", False)
    assert (training.lora.r, training.lora.alpha) == (16, 64)  # rank-stabilised: 16 * sqrt(16)
    assert training.lora.target_modules == ("q_proj", "v_proj")
    assert (training.schedule, training.warmup_ratio, training.weight_decay) == ("linear", 0, 0)
    assert (training.epochs, training.max_length, training.bf16) == (3, 2048, False)
    assert (training.batch.per_device, training.batch.accumulation) == (8, 1)
    assert config.sft.data.held_out_share == 0.2
    assert config.sft.data.sources[0].columns == {"q": "instruction", "a": "output"}
    assert named(draft) == {"packing"}


def test_axolotls_sft(convert):
    draft, config = convert(AXOLOTL_SFT)
    training = config.sft.training
    assert (training.learning_rate, training.lora.alpha, training.max_length) == (0.0002, 16, 2048)
    assert (training.batch.per_device, training.batch.accumulation) == (2, 4)
    assert training.optimiser == "adamw_torch_fused"
    assert config.sft.data.sources[0].path.endswith("chats.jsonl")
    assert {"optim", "warmup_steps", "sample_packing", "loss_watchdog_threshold", "special_tokens",
            "datasets[0], roles_to_train"} <= named(draft)  # fmt: skip


def test_axolotls_preference_losses(convert):
    _, config = convert(AXOLOTL_DPO)
    assert (config.dpo.loss.name, config.dpo.loss.beta) == ("ipo", 0.3)
    (source,) = config.rounds[0].data.sources
    assert (source.name, source.dataset, source.split) == ("hub", "owner/pairs", "train")
    assert (config.dpo.warmup_ratio, config.dpo.schedule) == (0.03, "cosine")


def test_trls_dpo_switches_dropout_off_as_trl_does(convert):
    draft, config = convert(TRL_DPO)
    assert (config.model.id, config.model.revision) == ("org/model", "abc")
    assert (config.dpo.loss.name, config.dpo.loss.beta) == ("ipo", 0.2)
    assert (config.dpo.lora.dropout, config.dpo.evaluate_every) == (0, 50)
    assert config.rounds[0].data.sources[0].config == "en"
    assert "lora_dropout" in named(draft)


def test_a_trl_file_needs_its_command_where_it_does_not_say(convert):
    text = "model_name_or_path: o/m\ndataset_name: o/d\nuse_peft: true\n"
    with pytest.raises(UsageError, match="add --stage sft or --stage dpo"):
        convert(text)
    draft, config = convert(text, "sft")
    assert config.sft.training.lora.target_modules == ("q_proj", "v_proj")
    assert {"assistant_only_loss", "lora_target_modules"} <= named(draft)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LLAMA_FACTORY_DPO.replace("type: lora", "type: full"), "only LoRA adapters are trained"),
        (LLAMA_FACTORY_DPO.replace("loss: sigmoid", "loss: orpo"), "loss orpo cannot be converted"),
        (LLAMA_FACTORY_DPO.replace("stage: dpo", "stage: ppo"), "stage: ppo cannot be converted"),
        (LLAMA_FACTORY_DPO + "dpo_label_smoothing: 0.1\n", "label smoothing 0.1"),
        (LLAMA_FACTORY_DPO + "use_dora: true\n", "use_dora: true cannot be converted"),
        (LLAMA_FACTORY_DPO.replace("dataset: ranked", "dataset: nope"), "has no nope"),
        (LLAMA_FACTORY_SFT.replace("bit: 4", "bit: 8"), "quantization_bit: 8"),
        (LLAMA_FACTORY_SFT.replace("asked", "ranked"), "ranking is True, but stage is sft"),
        (LLAMA_FACTORY_SFT.replace("asked", "pictures"), "has images: only text"),
        (AXOLOTL_SFT.replace("adapter: qlora", "adapter:"), "adapter: none cannot be converted"),
        (AXOLOTL_SFT.replace("type: chat_template", "type: completion"), "not turns of a chat"),
        (AXOLOTL_SFT.replace("chats.jsonl", "gone.jsonl"), "gone.jsonl is not there"),
        (AXOLOTL_DPO.replace("rl: ipo", "rl: kto"), "rl: kto cannot be converted"),
        (TRL_DPO.replace("use_peft: true", ""), "trains all weights"),
        (TRL_DPO.replace("[ipo]", "[sigmoid, bco_pair]"), "one loss is used"),
        ("model: {name: hub}\n", "is no file of LLaMA-Factory, Axolotl or TRL"),
    ],
)
def test_what_would_train_another_model_is_refused(convert, text, why):
    with pytest.raises(UsageError, match=why):
        convert(text)
