"""All shipped configurations parse, and a100.yaml resolves to the reference recipe."""

from pathlib import Path

import pytest

from alignment.config.file import load
from alignment.pipeline.chain import chain
from alignment.pipeline.plan import plan
from alignment.store.store import Store

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


def test_each_round_starts_from_the_stack_of_the_previous_stage(reference):
    policies = [reference[f"dpo-{number}"].parents["policy"] for number in (1, 2, 3)]
    assert policies == [reference[f"stack-{name}"].key for name in ("sft", "dpo-1", "dpo-2")]


def test_one_override_restores_the_merge_in_bfloat16_of_the_reference_recipe(tmp_path):
    config = load(CONFIGS / "a100.yaml", ["compose={name: merge, dtype: bfloat16}"])
    merging = {step.name: step for step in plan(chain(config), Store(root=tmp_path))}
    policies = [merging[f"dpo-{number}"].parents["policy"] for number in (1, 2, 3)]
    assert policies == [merging[f"merge-{name}"].key for name in ("sft", "dpo-1", "dpo-2")]
    compose = merging["merge-dpo-1"].settings["config"]
    assert (compose["name"], compose["dtype"]) == ("merge", "bfloat16")
