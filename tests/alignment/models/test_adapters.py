import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.errors import ModelError
from alignment.models.adapters import REFUSED, check_adapter, describe_adapter
from alignment.models.factors import Factors, concatenate, read_factors
from alignment.store.checksum import file_sha256

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(make_adapter, tmp_path):
    """The folder of a valid adapter."""
    make_adapter("adapter", seed=1)
    return tmp_path / "adapter"


def test_an_adapter_is_described_by_its_bytes_and_its_shape(adapter):
    found = describe_adapter(adapter, uri="store:x/adapter", stage="sft", trained_on="abc")
    assert found.sha256 == file_sha256(adapter / WEIGHTS)
    assert (found.r, found.alpha) == (4, 8)
    assert found.target_modules == ("down_proj", "q_proj", "up_proj", "v_proj")


@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_an_adapter_folder_without_one_of_its_files_names_it(adapter, name):
    (adapter / name).unlink()
    with pytest.raises(ModelError, match=f"has no {name}. Point to a folder written by"):
        check_adapter(adapter)


def test_a_pickled_adapter_is_no_adapter(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="with safetensors weights"):
        check_adapter(adapter)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_adapter_is_damaged_wherever_it_was_truncated(adapter, kept):
    content = (adapter / WEIGHTS).read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    (adapter / WEIGHTS).write_bytes(content[:size])
    with pytest.raises(ModelError, match="not fall back to the base model: fetch or train the"):
        check_adapter(adapter)


def test_factors_are_the_files_own_with_the_scale_in_b(adapter):
    """r = 4, alpha = 8: the delta is 8 / 4 = 2 times B A."""
    tensors = load_file(adapter / WEIGHTS)
    name = "model.layers.1.mlp.up_proj"
    key = f"base_model.model.{name}"
    found = read_factors(adapter)[name]
    assert torch.equal(found.a, tensors[f"{key}.lora_A.weight"])
    assert torch.equal(found.b, 2 * tensors[f"{key}.lora_B.weight"])


def test_an_adapter_without_some_of_its_tensors_is_refused(adapter):
    """PEFT only warns and continues with the tensors it finds."""
    tensors = load_file(adapter / WEIGHTS)
    gone = next(name for name in tensors if "lora_B" in name)
    save_file({name: t for name, t in tensors.items() if name != gone}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match=f"lacks {gone}: not a complete plain LoRA adapter"):
        read_factors(adapter)


def test_an_adapter_with_more_than_factors_is_refused(adapter):
    tensors = load_file(adapter / WEIGHTS)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2)}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match=r"contains base_model\.model\.lm_head\.weight|lacks"):
        read_factors(adapter)


def test_concatenated_factors_are_the_sum_of_the_deltas():
    """[b1, b2] [a1; a2] = b1 a1 + b2 a2, ranks 1 and 2; a layer with one adapter keeps its rank.

    b1 a1 = (1, 2)^T (1, 1) = ((1, 1), (2, 2));  b2 a2 = I diag(3, 4): the sum is
    ((4, 1), (2, 6)).
    """
    one = Factors(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [2.0]]))
    two = Factors(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.eye(2))
    found = concatenate([{"x": one, "y": one}, {"x": two}])
    assert found["x"].a.shape == (3, 2)
    assert torch.equal(found["x"].b @ found["x"].a, torch.tensor([[4.0, 1.0], [2.0, 6.0]]))
    assert torch.equal(found["y"].b, one.b)


CONFIGURED = {
    "rank_pattern": {"q_proj": 8},
    "alpha_pattern": {"q_proj": 8},
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [1],
    "target_parameters": ["experts"],
    "layer_replication": [[0, 1]],
    "alora_invocation_tokens": [1, 2],
    "kasa_config": {"beta": 1},
    "bias": "lora_only",
    "init_lora_weights": "pissa_niter_4",
}


@pytest.mark.parametrize("option", [*REFUSED, "bias", "init_lora_weights"])
def test_an_adapter_that_is_not_plain_lora_is_refused_with_a_reason(adapter, option):
    path = adapter / "adapter_config.json"
    value = CONFIGURED.get(option, True)
    path.write_text(json.dumps({**json.loads(path.read_text()), option: value}))
    with pytest.raises(ModelError, match=f"uses {option}: .+, so it cannot be merged or stacked"):
        describe_adapter(adapter, uri="", stage="sft", trained_on="")
    with pytest.raises(ModelError, match="Use a plain LoRA adapter"):
        read_factors(adapter)


def test_every_refused_option_exists_in_peft():
    """A name unknown to PEFT would never occur in a config and so would refuse nothing."""
    from dataclasses import fields

    from peft import LoraConfig

    assert REFUSED.keys() <= {field.name for field in fields(LoraConfig)}
