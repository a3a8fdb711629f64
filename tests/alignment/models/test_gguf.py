"""GGUF files compared with their source folders, by two independent readers."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from alignment.errors import ModelError
from alignment.models.gguf import FILE, load_gguf, pre_tokenizer, write_gguf
from alignment.models.load import load_base
from tests.alignment.train.models import random_model

IDS = torch.tensor([[1, 40, 41, 42, 300, 5, 2]])
TEXTS = (
    "<|im_start|>user\nIs it 12345, or 3.14?<|im_end|>\n<|im_start|>assistant\nIt's 12.\n\n\n",
    "  Two  spaces,\ttabs\r\n and I'LL say: naïve 😁 привет 工作 x=1;;;",
)


@pytest.fixture
def folder(tmp_path, chatml_tokenizer):
    """A function that writes a random model of a family with the tiny tokenizer."""

    def write(family, **changes):
        model = random_model(family, vocab_size=640, **changes)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                torch.nn.init.normal_(parameter, mean=1, std=0.3)
        model.save_pretrained(tmp_path / "model")
        chatml_tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return write


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_file_computes_what_the_folder_does(folder, tmp_path, family, tied):
    """Bit for bit: float32 is only copied, and each head's rows are back in their old order."""
    source = folder(family, tie_word_embeddings=tied, rope_parameters={"rope_theta": 5e4})
    write_gguf(source, tmp_path / FILE)
    with torch.no_grad():
        expected = load_base(source, dtype="float32")(IDS).logits
        assert torch.equal(load_gguf(tmp_path)(IDS).logits, expected)


def test_the_file_contains_tokens_and_template(folder, tmp_path):
    source = folder("llama")
    write_gguf(source, tmp_path / FILE)
    own, read = (
        AutoTokenizer.from_pretrained(source),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=FILE),
    )
    assert read.chat_template == own.chat_template
    assert (read.bos_token, read.eos_token, read.pad_token) == (
        own.bos_token,
        own.eos_token,
        own.pad_token,
    )
    for text in TEXTS:
        assert read(text)["input_ids"] == own(text)["input_ids"]


def test_bfloat16_weights_are_widened_and_nothing_else(folder, tmp_path):
    source = folder("qwen2")
    load_base(source, dtype="bfloat16").save_pretrained(source)
    write_gguf(source, tmp_path / FILE)
    with torch.no_grad():
        expected = load_base(source, dtype="float32")(IDS).logits
        assert torch.equal(load_gguf(tmp_path)(IDS).logits, expected)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {}, "mistral models are not supported"),
        ("qwen2", {"use_sliding_window": True}, "a sliding window"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope type 'linear'",
        ),
        ("llama", {"head_dim": 16}, "head size times heads differs from the hidden size"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_would_compute_something_else_is_refused(folder, tmp_path, family, changes, reason):
    with pytest.raises(
        ModelError, match=f"cannot write this model as GGUF: {reason}.*--form merged"
    ):
        write_gguf(folder(family, **changes), tmp_path / FILE)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("model", {"type": "Unigram"}, "not byte-level BPE"),
        ("pre_tokenizer", None, "not byte-level BPE"),
        ("pre_tokenizer", {"type": "Whitespace"}, "not byte-level BPE"),
        (
            "pre_tokenizer",
            {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
            r"llama.cpp does not support its pre-tokenizer \(ByteLevel\)",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_differently_is_refused(folder, part, value, reason):
    described = json.loads((folder("llama") / "tokenizer.json").read_text())
    assert pre_tokenizer(described) == "smollm"
    with pytest.raises(
        ModelError, match=f"cannot write this model as GGUF.*{reason}.*--form merged"
    ):
        pre_tokenizer(described | {part: value})


def test_qwens_pre_tokenizer_is_supported(qwen_tokenizer):
    assert pre_tokenizer(json.loads(qwen_tokenizer.backend_tokenizer.to_str())) == "qwen2"


# --- llama.cpp itself, where it is installed -----------------------------------------------------


@pytest.fixture
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python builds for ten minutes")


def opened(llama_cpp, folder):
    """In float32 throughout: by default llama.cpp keeps keys and values in float16."""
    float32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    path = str(folder / FILE)
    return llama_cpp.Llama(path, n_ctx=128, logits_all=True, verbose=False, n_threads=2, **float32)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_llama_cpp_computes_the_same(llama_cpp, folder, tmp_path, family):
    """Only the order of additions differs: at most 4e-6 nats when this was written."""
    source = folder(family)
    write_gguf(source, tmp_path / FILE)
    model = opened(llama_cpp, tmp_path)
    model.eval(IDS[0].tolist())
    found = torch.tensor(model.scores[: IDS.shape[1]]).log_softmax(-1)
    with torch.no_grad():
        expected = load_base(source, dtype="float32")(IDS).logits[0].log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny", "qwen2.5"])
def test_llama_cpp_reads_the_same_tokens(llama_cpp, folder, tmp_path, kind, request):
    source = folder("qwen2")
    if kind == "qwen2.5":
        tokenizer = request.getfixturevalue("qwen_tokenizer")
        random_model("qwen2", vocab_size=len(tokenizer) + 7).save_pretrained(source)
        tokenizer.save_pretrained(source)
    write_gguf(source, tmp_path / FILE)
    model, own = opened(llama_cpp, tmp_path), AutoTokenizer.from_pretrained(source)
    assert model.metadata["tokenizer.chat_template"] == own.chat_template
    for text in TEXTS:
        found = model.tokenize(text.encode(), add_bos=False, special=True)
        assert found == own(text)["input_ids"], text
