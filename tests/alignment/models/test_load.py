import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
from peft import LoraConfig, PeftModel, get_peft_model

from alignment.models.tokenizer import open_tokenizer
from alignment.records.refs import Nf4
from alignment.store.store import Store


def test_a_model_opens_in_evaluation_mode(open_tiny):
    loaded = open_tiny()
    assert not loaded.model.training
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_the_tokenizer_pads_on_the_right(tiny_ref, tmp_path):
    assert open_tokenizer(tiny_ref, Store(root=tmp_path)).padding_side == "right"


def test_quantisation_can_be_left_out_for_merging(tiny_ref, tmp_path):
    from alignment.models.load import open_model

    quantised = tiny_ref.model_copy(update={"quantisation": Nf4()})
    loaded = open_model(quantised, Store(root=tmp_path), dtype="float32", quantised=False)
    assert loaded.model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


@pytest.fixture
def open_nf4(tiny_ref, tmp_path):
    """A function that opens the tiny model in four bits, evaluated once or not."""
    from alignment.models.load import open_model

    def open_(*, evaluated):
        ref = tiny_ref.model_copy(update={"quantisation": Nf4(compute_dtype="float32")})
        model = open_model(ref, Store(root=tmp_path), dtype="float32").model
        if evaluated:
            logits(model)
        return model

    return open_


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits


def dequantised(model):
    return {
        name: dequantize_4bit(parameter.data, parameter.quant_state)
        for name, parameter in model.named_parameters()
        if hasattr(parameter, "quant_state")
    }


def merged(model, adapter):
    with pytest.warns(UserWarning, match="due to rounding errors"):  # what this project refuses
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


@pytest.mark.skipif(not has_avx512bf16(), reason="only such a CPU reorders the codes")
def test_an_evaluated_nf4_model_merges_dequantises_and_saves_like_one_that_was_not(
    open_nf4, tmp_path
):
    """Evaluation reorders the codes of a 4-bit layer, unless the loader switches that off."""
    lora = LoraConfig(r=4, lora_alpha=400, init_lora_weights=False, target_modules=["up_proj"])
    torch.manual_seed(0)
    get_peft_model(open_nf4(evaluated=False), lora).save_pretrained(tmp_path / "adapter")
    fresh, used = (open_nf4(evaluated=evaluated) for evaluated in (False, True))
    weights = dequantised(fresh)
    assert len(weights) == 14
    for name, weight in dequantised(used).items():
        assert torch.equal(weight, weights[name]), name
    used.save_pretrained(tmp_path / "saved")
    again = type(used).from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for name, weight in dequantised(again).items():
        assert torch.equal(weight, weights[name]), name
    before, after = (merged(model, tmp_path / "adapter") for model in (fresh, used))
    for name, weight in dequantised(before).items():
        assert torch.equal(weight, dequantised(after)[name]), name
    changed = [
        name
        for name, weight in dequantised(after).items()
        if not torch.equal(weight, weights[name])
    ]
    assert all("up_proj" in name for name in changed)
    assert len(changed) == 2, "the adapter's layers, so it was merged"
