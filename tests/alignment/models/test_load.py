import torch

from alignment.models.tokenizer import open_tokenizer
from alignment.records import Nf4
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
