import torch

from alignment.models.load import bits_and_bytes
from alignment.models.tokenizer import open_tokenizer
from alignment.records import Quantisation
from alignment.store.store import Store


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
