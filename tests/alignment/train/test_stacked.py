"""Training on top of a stack, and its pitfalls.

We ran into each of these pitfalls of the trainer library and of PEFT with several native adapters;
with a frozen branch inside the layers none of them remains.
"""

import math
from pathlib import Path

import pytest
import torch

from alignment.models.adapters import base_below, describe_adapter
from alignment.records.refs import Nf4
from alignment.scoring.engine import Packed, Stock
from alignment.scoring.probe import (
    PROBE_FILE,
    Probe,
    divergence,
    last_replies,
    probe_rows,
    save_probe,
)
from alignment.store.progress import Progress
from alignment.train.dpo import train_dpo

IDS = torch.tensor([[3, 4, 5, 6, 7, 8]])
NF4 = Nf4(compute_dtype="float32")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def two(tiny_ref, make_adapter):
    """The tiny model with two adapters."""
    return tiny_ref.push(make_adapter("a", seed=1)).push(make_adapter("b", seed=2, r=2, alpha=6))


@pytest.fixture(params=[None, NF4], ids=["fp32", "nf4"])
def stacked(request, two):
    """The stacked model in full weights and in four bits."""
    return two.model_copy(update={"quantisation": request.param})


def test_the_reference_is_the_stack_and_not_the_raw_base(open_tiny, stacked, pairs, dpo_trainer):
    """PEFT's disable_adapter() disables every native adapter; the initial loss is then not ln 2.

    Here it turns the newest off, and the earlier ones, which are no adapters to it, stay.
    """
    loaded = open_tiny(stacked)
    start = logits(loaded.model)
    trainer = dpo_trainer(loaded, pairs)
    assert list(trainer.model.peft_config) == ["default"]
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model), start)
    bare = open_tiny(stacked.model_copy(update={"adapters": ()})).model
    assert (start - logits(bare)).abs().max() > 0.01


def test_only_the_newest_adapter_trains_and_is_saved(open_tiny, stacked, pairs, dpo_trainer):
    """`set_adapter` of a list makes every native adapter trainable; a buffer never is."""
    trainer = dpo_trainer(open_tiny(stacked), pairs)
    with trainer.model.disable_adapter():
        pass  # leaving it sets requires_grad again for all active adapters
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".default." in name for name in trained)
    assert not any("frozen" in name for name in trainer.model.state_dict())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_the_branch_to_the_layers_below(open_tiny, stacked, checkpointing):
    """With and without activation checkpointing: the same gradients, none of them missing."""
    from peft import LoraConfig, get_peft_model

    def gradients(*, on):
        torch.manual_seed(0)
        model = open_tiny(stacked).model
        lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian")
        adapted = get_peft_model(model, lora)
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        adapted.train()
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        return {n: p.grad for n, p in adapted.named_parameters() if "lora_B" in n}

    found = gradients(on=checkpointing)
    assert len(found) == 4
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    for name, gradient in gradients(on=False).items():
        torch.testing.assert_close(found[name], gradient)


def test_gradients_reach_the_layers_below_after_four_bits_were_evaluated(open_tiny, two):
    """bitsandbytes packs a CPU layer at its first forward without gradients, irreversibly."""
    model = open_tiny(two.model_copy(update={"quantisation": NF4})).model
    logits(model)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0


def test_precomputed_reference_logprobs_are_those_of_the_stack(
    open_tiny, stacked, pairs, dpo_config, workspace
):
    """The trainer computes them while it is built: the stack must be there before the trainer is.

    Against a raw base the first loss is not that of equal models. In four bits on a CPU this is
    a forward pass without gradients before the first step: all layers must still learn after it.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from alignment.train.trainers import on_this_machine

    loaded = open_tiny(stacked)
    arguments = on_this_machine(dpo_config.trl_arguments(seed=0), workspace.folder, evaluates=False)
    trainer = DPOTrainer(
        model=loaded.model,
        args=DPOConfig(**arguments | {"precompute_ref_log_probs": True, "max_steps": 2}),
        train_dataset=Dataset.from_list(
            [pair.model_dump(include={"prompt", "chosen", "rejected"}) for pair in pairs]
        ),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(**dpo_config.lora.peft_arguments()),
    )
    assert "ref_chosen_logps" in vars(trainer)["train_dataset"].column_names
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    learnt = {n: p for n, p in loaded.model.named_parameters() if "lora_B" in n}
    assert learnt
    assert all(parameter.abs().max() > 0 for parameter in learnt.values())


def test_an_adapter_trained_on_a_stack_names_no_base(two):
    """`AutoPeft` on its folder would load base and newest adapter without the stack between."""
    assert base_below(two, Path("model")).name is None
    assert base_below(two.model_copy(update={"adapters": ()}), Path("model")).name is not None


@pytest.mark.parametrize("engine", [Stock(), Packed()], ids=lambda engine: engine.name)
def test_a_round_trained_on_a_stack_is_handed_over_bit_for_bit_by_either_engine(
    open_tiny, stacked, pairs, dpo_config, conversations, workspace, engine
):
    """Whatever an engine does to the model during training, the probe matches the loaded model."""
    loaded = open_tiny(stacked)
    train_dpo(
        dpo_config.model_copy(update={"engine": engine}),
        policy=loaded,
        pairs=pairs,
        held_out=(),
        seed=0,
        workspace=workspace,
        progress=Progress(),
    )
    rows = probe_rows(last_replies(loaded.tokenizer, conversations))
    path, folder = workspace.out / PROBE_FILE, workspace.out / "adapter"
    assert save_probe(loaded.model, rows, path, bf16=False) < 1e-5
    newest = describe_adapter(folder, uri=f"folder:{folder}", stage="dpo-1", trained_on="")
    again = open_tiny(stacked.push(newest)).model
    assert divergence(Probe.load(path), again)["mean_abs_logprob"] == 0
    assert divergence(Probe.load(path), open_tiny(stacked).model)["mean_abs_logprob"] > 1e-4


def test_a_stack_generates_with_and_without_a_cache(open_tiny, stacked):
    """Generation uses the same layers, one token at a time."""
    model = open_tiny(stacked).model
    kwargs = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    attention = torch.ones_like(IDS)
    first, second = (
        model.generate(IDS, attention_mask=attention, use_cache=cache, **kwargs)
        for cache in (True, False)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("engine", [Stock(), Packed()], ids=lambda engine: engine.name)
def test_a_round_on_a_stack_is_the_same_with_checkpointing(
    open_tiny, two, pairs, dpo_config, tmp_path, engine
):
    """Recomputed or kept, the frozen branch's activations come from the same weights."""
    from safetensors.torch import load_file

    from alignment.store.workspace import Workspace

    found = []
    for on in (False, True):
        workspace = Workspace(folder=tmp_path / f"work-{on}", log=tmp_path / "log")
        workspace.out.mkdir(parents=True)
        train_dpo(
            dpo_config.model_copy(update={"engine": engine, "gradient_checkpointing": on}),
            policy=open_tiny(two),
            pairs=pairs,
            held_out=(),
            seed=0,
            workspace=workspace,
            progress=Progress(),
        )
        found.append(load_file(workspace.out / "adapter" / "adapter_model.safetensors"))
    assert any(tensor.abs().max() > 0 for name, tensor in found[0].items() if "lora_B" in name)
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own internals
def test_compiled_layers_compute_the_same_on_a_stack(open_tiny, stacked):
    """The frozen branch is a hook of the inner layers: the compiler must include it."""
    from peft import LoraConfig, get_peft_model

    from alignment.scoring.attention import use_packed_attention
    from alignment.scoring.batches import PackedRow, lay_out
    from alignment.scoring.logprobs import predicted_logprobs
    from alignment.train.acceleration import compile_layers

    def computed(*, compiled):
        torch.manual_seed(0)
        lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian")
        model = get_peft_model(open_tiny(stacked).model, lora)
        use_packed_attention(model)
        if compiled:
            compile_layers(model)
        packed_rows = [
            PackedRow((5, 6, 7), ((8, 9), (10, 11, 12))),
            PackedRow((), ((20, 21, 22, 23),)),
        ]
        found = predicted_logprobs(model, lay_out(packed_rows))
        found.sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if "lora_B" in n}
        return found.detach(), gradients

    (expected, of_plain), (found, of_compiled) = computed(compiled=False), computed(compiled=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(of_plain) == 4
    for name, gradient in of_plain.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(of_compiled[name], gradient, rtol=1e-3, atol=1e-4)
