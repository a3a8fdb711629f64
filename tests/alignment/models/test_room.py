"""Weights that a GPU cannot hold are refused before they are loaded."""

import pytest
from transformers import AutoModelForCausalLM

from alignment.errors import DeviceError
from alignment.models.room import check_room, loaded_bytes
from alignment.records.refs import Nf4


def test_weights_take_their_dtype_and_quantised_matrices_four_bits(tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    whole = sum(parameter.numel() for parameter in model.parameters())  # tied: one embedding
    assert loaded_bytes(tiny_model_folder, dtype="bfloat16") == 2 * whole
    assert loaded_bytes(tiny_model_folder, dtype="float32") == 4 * whole
    blocks = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    quantised = loaded_bytes(tiny_model_folder, dtype="bfloat16", quantisation=Nf4())
    assert quantised == pytest.approx(2 * (whole - blocks) + blocks * Nf4().bits_per_weight / 8)


def test_too_little_memory_is_refused_with_both_numbers():
    check_room(40 * 2**30, 40 * 2**30, dtype="bfloat16", quantised=False)
    with pytest.raises(DeviceError, match=r"in bfloat16 need 61.0 GiB, and the GPU has 39.4\..*"):
        check_room(61 * 2**30, 39.4 * 2**30, dtype="bfloat16", quantised=False)
