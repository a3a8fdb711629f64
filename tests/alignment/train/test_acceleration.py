"""Accelerated layers compute the same numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignment.scoring.attention import use_packed_attention
from alignment.scoring.batches import PackedRow, lay_out
from alignment.scoring.logprobs import predicted_logprobs
from alignment.train.acceleration import (
    Switch,
    compile_layers,
    fuse_adapters,
    set_recompute_share,
    unpack_scales,
    untrained_adapter,
)
from alignment.train.losses import Sigmoid
from alignment.train.objectives import PairObjective
from alignment.train.packed import _accept_micro_batches
from alignment.train.settings import SEVEN
from benchmarks.workload import pairs_of, tokenizer
from tests.alignment.train.models import random_model

ROWS = [PackedRow((5, 6, 7), ((8, 9), (10, 11, 12))), PackedRow((), ((20, 21, 22, 23),))]


@pytest.fixture
def adapted():
    """A function that makes a model with a non-zero adapter, the same at each call."""

    def make(dropout=0.0, modules=("q_proj", "v_proj", "down_proj"), **sizes):
        model = random_model("qwen2", **sizes)
        use_packed_attention(model)
        lora = LoraConfig(
            r=4,
            lora_alpha=12,
            lora_dropout=dropout,
            target_modules=list(modules),
            task_type="CAUSAL_LM",
        )
        found = get_peft_model(model, lora)
        torch.manual_seed(1)
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return found.train()

    return make


def gradients(model, *, autocast=False):
    """Log-probs of the rows, and the adapter's gradients of their sum."""
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = predicted_logprobs(model, lay_out(ROWS))
    found.sum().backward()
    return found.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def assert_same(found, expected, *, rtol):
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=rtol)
    assert len(found[1]) == len(expected[1]) == 2 * 3 * 2
    for own, other in zip(found[1], expected[1], strict=True):
        assert own.dtype == torch.float32
        assert (own - other).norm() <= rtol * other.norm()


def test_a_fused_adapter_computes_the_same_even_with_dropout(adapted):
    """The same random numbers are dropped; only the order of additions differs."""
    expected = gradients(adapted(dropout=0.5))
    fused = adapted(dropout=0.5)
    fuse_adapters(fused)
    assert_same(gradients(fused), expected, rtol=1e-5)


def test_a_fused_adapter_computes_in_bfloat16_what_peft_does(adapted):
    """bfloat16 has 8 bits: a rounding error of 2^-8 = 0.004 in each of several products."""
    expected = gradients(adapted(), autocast=True)
    fused = adapted()
    fuse_adapters(fused)
    assert_same(gradients(fused, autocast=True), expected, rtol=0.03)


def test_a_fused_adapter_can_still_be_disabled(adapted):
    fused = adapted()
    fuse_adapters(fused)
    with fused.disable_adapter(), torch.no_grad():
        off = predicted_logprobs(fused, lay_out(ROWS))
    plain = random_model("qwen2")
    use_packed_attention(plain)
    with torch.no_grad():
        assert torch.equal(off, predicted_logprobs(plain, lay_out(ROWS)))


def test_a_switch_disables_a_fused_adapter_completely(adapted):
    """Bit for bit, even in bfloat16: the product added is zero."""
    fused, switch = adapted(), Switch("cpu")
    fuse_adapters(fused)
    for module in fused.modules():
        if hasattr(module, "lora_A"):
            module.switch = switch.value
    plain = random_model("qwen2")
    use_packed_attention(plain)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        on = predicted_logprobs(fused, lay_out(ROWS))
        with switch.off():
            off = predicted_logprobs(fused, lay_out(ROWS))
        assert torch.equal(off, predicted_logprobs(plain, lay_out(ROWS)))
        assert torch.equal(on, predicted_logprobs(fused, lay_out(ROWS)))
        assert not torch.equal(on, off)


def test_compiling_does_not_change_rewards_by_task(adapted):
    """Scored outside autocast, where a bfloat16 base meets fp32 adapters."""
    from alignment.train.callbacks import RewardsByTaskCallback

    def margin(model):
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.bfloat16()
        state = SimpleNamespace(log_history=[], global_step=1)
        callback: Any = RewardsByTaskCallback(
            tokenizer(), list(pairs_of("short", 4, seed=0)), Sigmoid(), batch=4, max_length=128
        )
        callback.on_evaluate(None, state, None, model=model)
        return state.log_history[0]["eval_rewards/margins/benchmark"]

    compiled = adapted(vocab_size=2048)
    compile_layers(compiled)
    expected = margin(adapted(vocab_size=2048))
    assert abs(expected) > 1e-3
    assert margin(compiled) == pytest.approx(expected, rel=0.05)


def test_fusing_can_be_undone(adapted):
    model = adapted()
    kinds = [type(module) for module in model.modules()]
    undo = fuse_adapters(model)
    assert [type(module) for module in model.modules()] != kinds
    undo()
    assert [type(module) for module in model.modules()] == kinds


def test_unpacked_scales_give_the_same_weights_to_the_bit():
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    plain = torch.randn(256, 128, dtype=torch.bfloat16)
    packed, state = quantize_4bit(plain, quant_type="nf4", compress_statistics=True)
    weight: Any = torch.nn.Parameter(packed, requires_grad=False)
    weight.quant_state = state
    model = torch.nn.Module()
    model.register_parameter("weight", weight)
    before = dequantize_4bit(packed, state)
    assert state.nested
    unpack_scales(model)
    assert not state.nested
    assert torch.equal(dequantize_4bit(packed, state), before)


def test_half_of_the_layers_keep_their_activations(adapted):
    model = adapted()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    set_recompute_share(model, 0.5)
    layers = model.get_base_model().get_decoder().layers
    assert [layer.gradient_checkpointing for layer in layers] == [False, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own internals
def test_a_compiled_policy_with_a_fresh_adapter_is_its_reference_bit_for_bit(adapted):
    """In bfloat16, where kernels compiled without the adapter would round differently."""
    wide = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 4}
    model = adapted(0.3, SEVEN, initializer_range=0.02, **wide)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    compile_layers(model)
    prompt, chosen, rejected = ([7 * i % 90 for i in range(n)] for n in (50, 300, 200))
    micro, objective = (
        lay_out([PackedRow(prompt, (chosen, rejected))]),
        PairObjective(Sigmoid(), 0.0),
    )
    _accept_micro_batches(model.get_base_model())
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.gap(model, micro) > 0.1, "the adapter must not be zero"
        with untrained_adapter(model):
            assert objective.gap(model, micro) == 0
            model.eval()
            with torch.no_grad():
                assert objective.gap(model, micro) == 0, (
                    "also in an evaluation, which keeps nothing"
                )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiling_can_be_taken_back(adapted):
    model = adapted()
    layers = model.get_base_model().get_decoder().layers
    before = [layer.forward for layer in layers]
    undo = compile_layers(model)
    assert [layer.forward for layer in layers] != before
    undo()
    assert [layer.forward for layer in layers] == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own internals
def test_compiled_layers_compute_the_same(adapted):
    expected = gradients(adapted())
    compiled = adapted()
    compile_layers(compiled)
    assert_same(gradients(compiled), expected, rtol=1e-4)
