import json
import struct

import pytest
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import bfloat16, float16, int8, ones, zeros

from alignment.errors import ModelError
from alignment.models.header import read_header


@pytest.fixture
def file(tmp_path):
    tensors = {
        "a": zeros(3, 5),
        "b.weight": ones(2, 4, dtype=bfloat16),
        "empty": zeros(0, 4),
        "half": ones(7, dtype=float16),
        "scalar": zeros(()),
        "small": ones(3, dtype=int8),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def read(file):
    return read_header(file, remedy="Fetch it again.")


def library(file):
    """What safetensors itself reads: the dtype and shape of each tensor."""
    with safe_open(file, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def test_the_header_says_what_the_library_reads(file):
    found = {name: (one.dtype, list(one.shape)) for name, one in read(file).items()}
    assert found == library(file)


def test_a_file_cut_anywhere_is_refused_as_by_the_library(file):
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged .* Fetch it again\."):
            read(file)
        with pytest.raises(SafetensorError):
            library(file)


def test_a_longer_file_is_refused(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"tensors of \d+ bytes, but \d+ follow the header"):
        read(file)


@pytest.mark.parametrize(
    "header",
    [
        b"[1]",
        b"[" * 100_000,
        b"\xff{}",
        b'{"a": {"dtype": "F32"}}',
        json.dumps({"a": {"dtype": "I8", "shape": [2], "data_offsets": [1, 3]}}).encode(),
        json.dumps({"a": {"dtype": "I8", "shape": [2], "data_offsets": [2, 0]}}).encode(),
        json.dumps({"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 3]}}).encode(),
        json.dumps({"a": {"dtype": "X9", "shape": [3], "data_offsets": [0, 3]}}).encode(),
        json.dumps(
            {
                name: {"dtype": "I8", "shape": [2], "data_offsets": [start, start + 2]}
                for name, start in (("a", 0), ("b", 1))
            }
        ).encode(),
    ],
)
def test_another_header_is_refused(tmp_path, header):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0")
    with pytest.raises(ModelError, match="is damaged"):
        read(file)
    with pytest.raises(SafetensorError):
        library(file)


def test_a_length_that_no_file_has_is_refused_without_reading(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * 16)
    with pytest.raises(ModelError, match=r"a header of [\d,]+ bytes in a file of 16\)"):
        read(file)
