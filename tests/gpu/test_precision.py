"""On a GPU in bfloat16: the packed engine is as close to fp32 as TRL's batches are.

    make gpu

Both engines round, and their errors are about independent. So the errors of two equally good
engines, each the length of a vector of n differences, have a ratio of 1 with a standard error of
1 / sqrt(n). The log-probs of 32 replies may lie three of these apart, which is 1.53; gradients,
with their thousands of elements, a tenth. With REHEARSE=1, small shapes run on a CPU.
"""

import os
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.models.load import LoadedModel, load_base
from alignment.records import BaseRef, Conversation, ModelRef, TokenizerRef
from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.scoring.logprobs import encode
from alignment.store.progress import Progress
from alignment.store.store import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft
from benchmarks.tiny_models import config_of
from benchmarks.workload import pairs_of, tokenizer

REHEARSAL = bool(os.environ.get("REHEARSE"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() and not REHEARSAL, reason="no CUDA device"),
    pytest.mark.filterwarnings(
        "ignore"
    ),  # from compilers, and from versions other than the pinned ones
]
PAIRS = list(pairs_of("real", 2 if REHEARSAL else 16, seed=0))
PLAIN = Packed(tokens_per_micro_batch=4096, recompute=1.0)
ENGINES = {
    "plain": PLAIN,
    "accelerated": Packed(
        tokens_per_micro_batch=4096, recompute=0.0, compile=not REHEARSAL, fuse_adapters=True
    ),
}
FAMILIES = (
    "qwen2",
    "llama",
    "qwen3",
    "mistral-window",
    "gemma3",
    "phi3",
    "olmo2",
    "granite",
    "gemma2",
    "qwen3-moe",
)
CASES = [
    *((family, "plain") for family in FAMILIES),
    ("qwen2", "accelerated"),
    ("gemma3", "accelerated"),
]
WIDE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
}
NARROW = {**WIDE, "hidden_size": 64, "intermediate_size": 128, "head_dim": 8}
LAYERS = ["sliding_attention", "full_attention"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: four layers of a family with random weights, in a folder."""

    @cache
    def make(family):
        torch.manual_seed(0)
        kinds = {"layer_types": 2 * LAYERS} if family in ("gemma2", "gemma3") else {}
        sizes = NARROW if REHEARSAL else WIDE
        config = config_of(family, vocab_size=2048, **sizes, **kinds)
        place = tmp_path_factory.mktemp(family)
        AutoModelForCausalLM.from_config(config).save_pretrained(place)
        return place

    return make


def opened(folder, dtype):
    uri = f"folder:{folder}"
    return LoadedModel(
        model=load_base(folder, dtype=dtype),
        tokenizer=tokenizer(),
        ref=ModelRef(
            base=BaseRef(uri=uri, sha256="", dtype=dtype),
            tokenizer=TokenizerRef(uri=uri, sha256="", chat_template_sha256=""),
        ),
    )


def divergence(found, truth):
    """Relative difference of two lists of tensors, each treated as one vector."""
    own, true = (torch.cat([t.flatten().double().cpu() for t in part]) for part in (found, truth))
    return float((own - true).norm() / true.norm())


def logprobs(folder, engine, dtype):
    """Sums over the replies."""
    loaded = opened(folder, dtype)
    rows = [
        encode(loaded.tokenizer, pair.prompt, reply, max_length=4096)
        for pair in PAIRS
        for reply in (pair.chosen, pair.rejected)
    ]
    return [row.sum()[None] for row in engine.reply_logprobs(loaded.model, rows, batch=4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_as_close_to_fp32_as_those_of_padded_batches(family, folder_of):
    folder = folder_of(family)
    truth = logprobs(folder, Stock(), "float32")
    stock, packed = (
        divergence(logprobs(folder, engine, "bfloat16"), truth) for engine in (Stock(), Packed())
    )
    print(f"\n{family} log-probs, relative to fp32: stock {stock:.2e}, packed {packed:.2e}")
    assert packed <= (1 + 3 / len(truth) ** 0.5) * stock


def gradient(folder, kind, engine, out, monkeypatch, *, bf16):
    """Gradients of the first step, before clipping, in a model with non-zero adapters."""
    found: list[torch.Tensor] = []

    def keep(_, parameters, *__, **___):
        found.extend(p.grad.clone() for p in parameters if p.grad is not None)
        return torch.tensor(1.0)

    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", keep)
    workspace = Workspace(folder=out / "work", log=out / "log")
    workspace.out.mkdir(parents=True)
    settings = {
        "lora": Lora(r=8, alpha=16, dropout=0.0, target_modules="all-linear"),
        "learning_rate": 1e-3,
        "batch": StepRows(per_device=4, accumulation=4),
        "max_steps": 1,
        "bf16": bf16,
        "engine": engine,
        "samples": 0,
    }
    shared = {
        "policy": opened(folder, "bfloat16" if bf16 else "float32"),
        "held_out": [],
        "seed": 0,
        "workspace": workspace,
        "progress": Progress(),
    }
    if kind == "sft":
        chats = [
            Conversation.of((*pair.prompt, *pair.chosen), task_type="t", source="s")
            for pair in PAIRS
        ]
        train_sft(SftConfig(**settings), conversations=chats, **shared)
    else:
        train_dpo(DpoConfig(**settings), pairs=PAIRS, **shared)
    return found


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize(
    ("family", "engine"),
    [
        *((family, "plain") for family in FAMILIES),
        ("qwen2", "accelerated"),
        ("gemma3", "accelerated"),
    ],
)
def test_gradients_are_as_close_to_fp32_as_those_of_padded_batches(
    kind, family, engine, folder_of, tmp_path, monkeypatch
):
    runs = (("truth", Stock()), ("stock", Stock()), ("packed", ENGINES[engine]))
    found = [
        gradient(folder_of(family), kind, used, tmp_path / name, monkeypatch, bf16=name != "truth")
        for name, used in runs
    ]
    stock, packed = (divergence(part, found[0]) for part in found[1:])
    print(f"\n{family} {kind} gradient, relative to fp32: stock {stock:.2e}, packed {packed:.2e}")
    assert packed <= (2.0 if REHEARSAL else 1.1) * stock
