import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.errors import ModelError
from alignment.models.load import (
    bits_and_bytes,
    check_adapter,
    describe_adapter,
    load_adapter,
    open_tokenizer,
)
from alignment.records import Quantisation
from alignment.store import Store, file_sha256

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(make_adapter, tmp_path):
    """The folder of a sound adapter."""
    make_adapter("adapter", seed=1)
    return tmp_path / "adapter"


def test_a_reference_opens_with_its_adapters_on_top(open_tiny, tiny_ref, make_adapter):
    """y = W x, then W x + (alpha / r) B A x, compared at one layer's output."""
    ref = make_adapter("a", seed=1)
    plain, adapted = open_tiny().model, open_tiny(tiny_ref.push(ref)).model
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    before = plain.model.layers[0].self_attn.q_proj
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        torch.testing.assert_close(layer(x), before(x) + ref.alpha / ref.r * x @ a.T @ b.T)


def test_a_model_opens_ready_to_be_asked(open_tiny):
    loaded = open_tiny()
    assert not loaded.model.training
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_the_tokenizer_pads_on_the_right_as_training_wants_it(tiny_ref, tmp_path):
    assert open_tokenizer(tiny_ref, Store(root=tmp_path)).padding_side == "right"


def test_quantised_weights_are_four_bit_and_close_to_the_full_ones(open_tiny, tiny_ref):
    quantised = tiny_ref.model_copy(update={"quantisation": Quantisation(compute_dtype="float32")})
    model = open_tiny(quantised).model
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 32 * 64 // 2, "two weights in a byte"
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        gap = (model(input_ids=ids).logits - open_tiny().model(input_ids=ids).logits).abs().max()
    assert 0 < gap < 0.2


def test_quantisation_can_be_left_out_for_merging(tiny_ref, tmp_path):
    from alignment.models.load import open_model

    quantised = tiny_ref.model_copy(update={"quantisation": Quantisation()})
    loaded = open_model(quantised, Store(root=tmp_path), dtype="float32", quantised=False)
    assert loaded.model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def test_an_nf4_model_on_a_cpu_stays_trainable_after_it_was_evaluated(open_tiny, tiny_ref):
    """bitsandbytes would pack its weights at the first forward without gradients, for good."""
    quantised = tiny_ref.model_copy(update={"quantisation": Quantisation(compute_dtype="float32")})
    model = open_tiny(quantised).model
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        model(input_ids=ids)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0


def test_a_quantisation_goes_by_bitsandbytes_own_names():
    found = bits_and_bytes(Quantisation(double=True, compute_dtype="bfloat16"))
    assert found.load_in_4bit
    assert found.bnb_4bit_quant_type == "nf4"
    assert found.bnb_4bit_use_double_quant
    assert found.bnb_4bit_compute_dtype == torch.bfloat16


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
def test_a_cut_adapter_is_damaged_wherever_it_was_cut(adapter, kept):
    content = (adapter / WEIGHTS).read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    (adapter / WEIGHTS).write_bytes(content[:size])
    with pytest.raises(ModelError, match="never replaced by the base model: fetch or train it"):
        check_adapter(adapter)


def test_an_adapter_without_some_of_its_tensors_is_refused(adapter, open_tiny):
    """The library only warns and goes on with what is there."""
    tensors = load_file(adapter / WEIGHTS)
    gone = next(name for name in tensors if "lora_B" in name)
    save_file({name: t for name, t in tensors.items() if name != gone}, adapter / WEIGHTS)
    with (
        pytest.warns(UserWarning, match="Found missing adapter keys"),
        pytest.raises(ModelError, match="holds 15 LoRA tensors, the model takes 16"),
    ):
        load_adapter(open_tiny().model, adapter)


@pytest.mark.parametrize("option", ["use_rslora", "use_dora"])
def test_an_adapter_that_is_no_plain_product_is_refused(adapter, option):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), option: True}))
    with pytest.raises(ModelError, match=f"uses {option}, which this pipeline cannot merge"):
        describe_adapter(adapter, uri="", stage="sft", trained_on="")
