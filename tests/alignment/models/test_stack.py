"""A stack: earlier adapters as one frozen branch in the layers of a model."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.errors import ModelError
from alignment.models.load import open_model
from alignment.models.stack import FROZEN_A, freeze_trained
from alignment.records.refs import Nf4
from alignment.store.store import Store

IDS = torch.tensor([[3, 4, 5, 6, 7, 8]])
NF4 = Nf4(compute_dtype="float32")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def with_branch(model):
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, FROZEN_A)}


@pytest.fixture
def two(tiny_ref, make_adapter):
    """The tiny model with two adapters, of ranks 4 and 2 and scales 2 and 3."""
    return tiny_ref.push(make_adapter("a", seed=1)).push(make_adapter("b", seed=2, r=2, alpha=6))


@pytest.fixture(params=[None, NF4], ids=["fp32", "nf4"])
def stacked(request, two):
    """The stacked model in full weights and in four bits."""
    return two.model_copy(update={"quantisation": request.param})


# --- what it computes --------------------------------------------------------------------------


def test_a_layer_with_a_branch_adds_the_sum_of_the_deltas(open_tiny, two, tmp_path):
    """y = W x + 2 B1 A1 x + 3 B2 A2 x, from the files."""
    name = "model.layers.0.self_attn.q_proj"
    layers: list[Any] = [open_tiny(*ref).model.get_submodule(name) for ref in ((), (two,))]
    plain, layer = layers
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(x)
        for folder, scale in (("a", 2), ("b", 3)):
            tensors = load_file(tmp_path / folder / "adapter_model.safetensors")
            a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
            expected = expected + scale * x @ a.T @ b.T
        torch.testing.assert_close(layer(x), expected)
    assert layer.frozen_a.shape == (4 + 2, 32), "one product for both"


def test_a_stack_computes_what_peft_computes_of_the_same_adapters(open_tiny, stacked, tmp_path):
    from peft import PeftModel

    bare = open_tiny(stacked.model_copy(update={"adapters": ()})).model
    theirs: Any = PeftModel.from_pretrained(bare, tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", "b")
    theirs.base_model.set_adapter(["a", "b"])
    torch.testing.assert_close(logits(open_tiny(stacked).model), logits(theirs), rtol=0, atol=1e-5)
    with theirs.disable_adapter():
        assert (logits(theirs) - logits(open_tiny(stacked).model)).abs().max() > 0.01


def test_a_stack_does_not_touch_the_weights_below_it(open_tiny, stacked):
    bare = open_tiny(stacked.model_copy(update={"adapters": ()})).model.state_dict()
    found = open_tiny(stacked).model.state_dict()
    assert found.keys() == bare.keys(), "the branch is in no state_dict"
    assert all(torch.equal(found[name], bare[name]) for name in bare)


def test_a_stack_in_bfloat16_keeps_its_factors_in_bfloat16(two, tmp_path):
    model = open_model(two, Store(root=tmp_path), dtype="bfloat16").model
    assert {layer.frozen_a.dtype for layer in with_branch(model).values()} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16


def test_an_adapter_of_another_shape_is_refused_with_the_layer(open_tiny, two, tmp_path):
    path = tmp_path / "b" / "adapter_model.safetensors"
    tensors = load_file(path)
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file({**tensors, key: torch.ones(2, 31)}, path)
    with pytest.raises(ModelError, match=r"/b does not fit the model at model\.layers\.0\.mlp\.up"):
        open_tiny(two)


def test_an_adapter_that_lacks_a_layer_is_refused(open_tiny, two, tmp_path):
    """A complete file, but its config targets layers that the file does not contain."""
    path = tmp_path / "b" / "adapter_model.safetensors"
    kept = {name: t for name, t in load_file(path).items() if "layers.1.mlp.down" not in name}
    save_file(kept, path)
    with pytest.raises(ModelError, match=r"at model\.layers\.1\.mlp\.down_proj \(1 such layers\)"):
        open_tiny(two)


# --- from trained to frozen ----------------------------------------------------------------------


def test_a_trained_adapter_frozen_in_memory_is_the_one_read_from_disk_bit_for_bit(
    open_tiny, stacked, make_adapter, tmp_path
):
    """Three adapters: two frozen, the third trained by PEFT on top of them and then frozen."""
    from peft import PeftModel

    third = make_adapter("c", seed=3, r=3, alpha=5)
    live = open_tiny(stacked).model
    adapted = PeftModel.from_pretrained(live, tmp_path / "c")
    before = logits(adapted)
    freeze_trained(live)
    after = logits(live)
    assert torch.equal(after, logits(open_tiny(stacked.push(third)).model))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert (after - logits(open_tiny(stacked).model)).abs().max() > 0.01, "the third one matters"
