"""On a GPU in bfloat16: the packed engine is as close to fp32 as TRL's batches are.

    make gpu

Both round, and which one is closer in a single case is chance; hence the tolerance of a tenth.
"""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from alignment.models.load import LoadedModel, load_base
from alignment.records import BaseRef, Conversation, ModelRef, TokenizerRef
from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.scoring.logprobs import encode
from alignment.store.progress import Progress
from alignment.store.store import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft
from benchmarks.workload import pairs_of, tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings(
        "ignore"
    ),  # from compilers, and from versions other than the pinned ones
]
PAIRS = list(pairs_of("real", 16, seed=0))
ENGINES = [
    Packed(tokens_per_micro_batch=4096, recompute=1.0),
    Packed(tokens_per_micro_batch=4096, recompute=0.0, compile=True, fuse_adapters=True),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four layers of Qwen2 with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=2048,
    )
    place = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(place)
    return place


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


def test_logprobs_are_as_close_to_fp32_as_those_of_padded_batches(folder):
    truth = logprobs(folder, Stock(), "float32")
    stock, packed = (
        divergence(logprobs(folder, engine, "bfloat16"), truth) for engine in (Stock(), Packed())
    )
    print(f"\nlog-probs, relative to fp32: stock {stock:.2e}, packed {packed:.2e}")
    assert packed <= 1.1 * stock


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
        "lora": Lora(r=8, alpha=16, dropout=0.0),
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
@pytest.mark.parametrize("engine", ENGINES, ids=["plain", "accelerated"])
def test_gradients_are_as_close_to_fp32_as_those_of_padded_batches(
    kind, engine, folder, tmp_path, monkeypatch
):
    found = [
        gradient(folder, kind, used, tmp_path / name, monkeypatch, bf16=name != "truth")
        for name, used in (("truth", Stock()), ("stock", Stock()), ("packed", engine))
    ]
    stock, packed = (divergence(part, found[0]) for part in found[1:])
    print(f"\n{kind} gradient, relative to fp32: stock {stock:.2e}, packed {packed:.2e}")
    assert packed <= 1.1 * stock
