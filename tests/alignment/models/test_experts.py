"""Adapters on experts in one tensor: merged, stacked, exported and packed, they compute the same.

Expected are the model's own logits under PEFT, with factors large enough to change them by nats.
"""

import pytest
import torch
from peft import PeftModel, get_peft_model

from alignment.models.adapters import PlainBase, describe_adapter
from alignment.models.description import describe
from alignment.models.factors import read_factors, write_concatenated
from alignment.models.load import load_base
from alignment.models.merge import plan_merge, write_merge
from alignment.models.stack import attach, freeze_trained
from alignment.models.targets import adapter_config
from alignment.records.refs import ModelRef
from alignment.scoring.engine import Packed, Stock
from alignment.scoring.logprobs import Completion
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.train.settings import Lora
from benchmarks.tiny_models import tiny_model

IDS = torch.tensor([[1, 40, 41, 42, 300, 5, 2, 77, 91]])
EVERYTHING = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear").peft_arguments()
FAMILIES = ["mixtral", "qwen3-next", "gpt-oss", "granite4-hybrid", "deepseek-v3"]
"""Stored apart; with a shared expert; transposed and with biases; stored as one; with dense layers
whose names PEFT would turn into experts."""


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(params=FAMILIES)
def made(request, tmp_path, chatml_tokenizer):
    """The folder of a tiny model, and two random adapters on all of it."""
    model = tiny_model(request.param, vocab_size=len(chatml_tokenizer))
    model.save_pretrained(tmp_path / "base")
    chatml_tokenizer.save_pretrained(tmp_path / "base")
    for seed, name in enumerate("ab"):
        base = load_base(tmp_path / "base", dtype="float32")
        adapted = get_peft_model(base, adapter_config(EVERYTHING, base))
        torch.manual_seed(seed)
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            torch.nn.init.normal_(parameter, std=0.05)
        adapted.save_pretrained(tmp_path / name)
    return tmp_path


def opened(folder, name):
    return PeftModel.from_pretrained(load_base(folder / "base", dtype="float32"), folder / name)


def test_the_reference_is_the_model_with_its_adapter_disabled(made):
    adapted = opened(made, "a")
    bare = logits(load_base(made / "base", dtype="float32"))
    assert (logits(adapted) - bare).abs().max() > 0.05
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), bare)


def test_every_linear_layer_and_expert_has_factors(made):
    base = load_base(made / "base", dtype="float32")
    experts = {name for name, tensor in base.named_parameters() if tensor.dim() == 3}
    experts = {name for name in experts if "conv" not in name}
    assert experts
    assert experts <= read_factors(made / "a").keys()


def test_a_merge_computes_what_the_adapter_does(made):
    base, tokenizer = describe(made / "base", f"folder:{made / 'base'}", None)
    adapter = describe_adapter(made / "a", uri=f"folder:{made / 'a'}", stage="sft", trained_on="x")
    ref = ModelRef(base=base, tokenizer=tokenizer, adapters=(adapter,))
    _, kept = write_merge(
        plan_merge(ref),
        store=Store(root=made),
        dtype="float32",
        folder=made / "merged",
        progress=Progress(),
    )
    merged = load_base(made / "merged", dtype="float32")
    torch.testing.assert_close(logits(merged), logits(opened(made, "a")), rtol=0, atol=1e-5)
    assert kept == pytest.approx(1, abs=1e-4)


def test_a_stack_computes_what_was_trained_on_top_of_it(made):
    """The second adapter, above the first, and frozen in memory: the bits of both from disk."""
    live = load_base(made / "base", dtype="float32")
    attach(live, [made / "a"])
    torch.testing.assert_close(logits(live), logits(opened(made, "a")), rtol=0, atol=1e-5)
    adapted = PeftModel.from_pretrained(live, made / "b")
    before = logits(adapted)
    freeze_trained(live)
    stacked = load_base(made / "base", dtype="float32")
    attach(stacked, [made / "a", made / "b"])
    assert torch.equal(logits(live), logits(stacked))
    torch.testing.assert_close(logits(stacked), before, rtol=0, atol=1e-5)


def test_two_adapters_as_one_compute_the_same(made):
    (made / "one").mkdir()
    rank = write_concatenated([made / "a", made / "b"], made / "one", base=PlainBase("base"))
    stacked = load_base(made / "base", dtype="float32")
    attach(stacked, [made / "a", made / "b"])
    torch.testing.assert_close(logits(opened(made, "one")), logits(stacked), rtol=0, atol=1e-5)
    assert rank == 8


@pytest.mark.parametrize("made", ["mixtral", "gpt-oss", "deepseek-v3"], indirect=True)
def test_packed_rows_meet_the_same_adapter(made):
    rows = [
        Completion((1, 40, 41), (42, 300)),
        Completion((1, 40, 41), (7, 8, 9)),
        Completion((5,), (2,)),
    ]
    adapted = opened(made, "a").eval()
    stock, packed = (
        engine.reply_logprobs(adapted, rows, batch=1)
        for engine in (Stock(), Packed(tokens_per_micro_batch=20))
    )
    for one, other in zip(stock, packed, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
