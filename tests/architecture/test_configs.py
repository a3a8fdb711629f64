"""All shipped configurations parse, and a100.yaml resolves to the reference recipe."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alignment.compose.settings import Merge
from alignment.config.file import load
from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.settings import AnchoredGate, EvaluationConfig
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.plan import plan
from alignment.records.refs import Nf4
from alignment.scoring.engine import Packed, StepRows
from alignment.store.store import Store
from alignment.train.losses import Sigmoid
from alignment.train.settings import DpoConfig, Lora, SftConfig

CONFIGS = Path(__file__).parents[2] / "deployments" / "configs"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_parses_and_makes_a_chain(path):
    config = load(path)
    names = [step.name for step in chain(config).steps()]
    assert names[0] == "base"
    assert len(names) == len(set(names))
    assert config.name == path.stem


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_opens_with_how_to_run_it(path):
    opening = path.read_text().split("\n\n")[0]
    assert f"sft-dpo run deployments/configs/{path.name}" in opening


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The plan of a100.yaml, the reference recipe, by step name."""
    store = Store(root=tmp_path_factory.mktemp("store"))
    return {step.name: step for step in plan(chain(load(CONFIGS / "a100.yaml")), store)}


def test_the_base_is_qwen_in_nf4_with_double_quantisation(reference):
    assert reference["base"].settings["source"]["id"] == "Qwen/Qwen2.5-7B-Instruct"
    for step in ("base", "sft", "dpo-1", "dpo-2", "dpo-3"):
        assert reference[step].resolved["bitsandbytes"] == {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        }


SHARED = {
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 16,  # as one batch for the packed engine, which splits it
    "gradient_accumulation_steps": 1,
    "max_length": 4096,
    "optim": "adamw_torch_fused",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "bf16": True,
    "remove_unused_columns": False,
    "max_steps": -1,
}
SFT = {**SHARED, "learning_rate": 2e-5, "warmup_steps": 0.05, "num_train_epochs": 3}
DPO = {**SHARED, "learning_rate": 5e-6, "warmup_steps": 0.1, "num_train_epochs": 1}


@pytest.mark.parametrize(("name", "value"), (SFT | {"packing": False}).items())
def test_sft_resolves_to_the_reference_recipe(reference, name, value):
    assert reference["sft"].resolved["trl.SFTConfig"][name] == value


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "value"),
    (DPO | {"loss_type": ["sigmoid"], "beta": 0.1, "disable_dropout": False}).items(),
)
def test_every_dpo_round_resolves_to_the_reference_recipe(reference, number, name, value):
    assert reference[f"dpo-{number}"].resolved["trl.DPOConfig"][name] == value


@pytest.mark.parametrize(
    ("step", "r", "alpha"), [("sft", 64, 128), ("dpo-1", 32, 64), ("dpo-3", 32, 64)]
)
def test_adapters_have_the_shape_of_the_reference_recipe(reference, step, r, alpha):
    lora = reference[step].resolved["peft.LoraConfig"]
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (r, alpha, 0.05)
    assert lora["target_modules"] == LINEAR


@pytest.mark.parametrize("step", ["sft", "dpo-1", "dpo-2", "dpo-3"])
def test_checkpointing_is_on_and_never_reentrant(reference, step):
    arguments = next(v for k, v in reference[step].resolved.items() if k.startswith("trl."))
    on = [value for name, value in arguments.items() if name.endswith("activation_checkpointing")]
    kwargs = [v for name, v in arguments.items() if name.endswith("checkpointing_kwargs")]
    assert on == [True]
    assert kwargs == [{"use_reentrant": False}]


def test_16_rows_per_step_are_2_x_8_in_trls_own_batches_with_the_stock_engine(reference, tmp_path):
    rows = {"per_device": 2, "accumulation": 8}
    stock = [f"{part}.engine={{name: stock}}" for part in ("sft.training", "dpo")]
    config = load(CONFIGS / "a100.yaml", stock)
    padded = {step.name: step for step in plan(chain(config), Store(root=tmp_path))}
    for step, library in (("sft", "trl.SFTConfig"), ("dpo-1", "trl.DPOConfig")):
        assert reference[step].settings["config"]["batch"] == rows
        assert reference[step].settings["config"]["engine"]["name"] == "packed"
        arguments = padded[step].resolved[library]
        assert arguments["per_device_train_batch_size"] == 2
        assert arguments["gradient_accumulation_steps"] == 8


def test_prompts_are_trimmed_to_2048_tokens(reference):
    assert reference["dpo-1"].resolved["prompts"] == {"max_prompt_length": 2048}


def test_every_stage_hands_a_merge_in_bfloat16_to_the_next(reference):
    policies = [reference[f"dpo-{number}"].parents["policy"] for number in (1, 2, 3)]
    assert policies == [reference[f"merge-{name}"].key for name in ("sft", "dpo-1", "dpo-2")]
    compose = reference["merge-dpo-1"].settings["config"]
    assert (compose["name"], compose["dtype"]) == ("merge", "bfloat16")


def test_the_stacked_preset_differs_in_its_handover_alone():
    merged, stacked = (load(CONFIGS / f"{name}.yaml") for name in ("a100", "a100-stack"))
    assert merged.inbox
    assert stacked.inbox
    line = stacked.inbox.model_copy(update={"line": merged.inbox.line})
    same = {"name": merged.name, "compose": merged.compose, "inbox": line}
    assert stacked.model_copy(update=same) == merged
    assert stacked.compose.name == "stack"
    names = [step.name for step in chain(stacked).steps() if step.stage == "stack"]
    assert names == ["stack-sft", "stack-dpo-1", "stack-dpo-2", "stack-dpo-3"]


@pytest.mark.parametrize("step", ["sft", "dpo-1", "dpo-2", "dpo-3"])
def test_trainings_are_watched_ten_times(reference, step):
    arguments = next(v for k, v in reference[step].resolved.items() if k.startswith("trl."))
    assert (arguments["eval_strategy"], arguments["eval_steps"]) == ("steps", 0.1)
    assert reference[step].settings["config"]["samples"] == 4


def test_model_and_data_of_the_recipe_are_pinned_by_commit():
    text = (CONFIGS / "a100.yaml").read_text()
    found = re.findall(r"\{name: hub,[^{}]*", text)
    assert len(found) == 6, "the model, two sets for SFT, one for each round"
    assert all(re.search(r"revision: [0-9a-f]{40}\b", source) for source in found)


SECTIONS = {
    "": PipelineConfig,
    "sft.training": SftConfig,
    "sft.training.batch": StepRows,
    "sft.training.engine": Packed,
    "sft.training.lora": Lora,
    "dpo": DpoConfig,
    "dpo.batch": StepRows,
    "dpo.engine": Packed,
    "dpo.lora": Lora,
    "dpo.loss": Sigmoid,
    "quantisation": Nf4,
    "compose": Merge,
    "gate": AnchoredGate,
    "evaluation": EvaluationConfig,
    "evaluation.engine": Packed,
    "inbox": InboxConfig,
}


@pytest.mark.parametrize(("place", "kind"), SECTIONS.items(), ids=lambda each: str(each) or "file")
def test_the_recipe_shows_everything_that_acts(place, kind):
    """A value that only a default decides would not be part of the contract."""
    section = YAML(typ="safe").load(CONFIGS / "a100.yaml")
    for key in filter(None, place.split(".")):
        section = section[key]
    assert set(kind.model_fields) - set(section) == set()
