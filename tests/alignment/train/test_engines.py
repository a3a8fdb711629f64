"""Two engines, one training: stock and packed take the same steps on the same rows.

In fp32 and without dropout they differ only by rounding; the tolerance is 1e-4.
"""

import json
import logging
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignment.errors import Interrupted, ModelError, TrainingError
from alignment.scoring.engine import Packed, StepRows, Stock
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.dpo import train_dpo
from alignment.train.losses import (
    ApoZero,
    Hinge,
    Ipo,
    Robust,
    Sigmoid,
    SigmoidNorm,
    SimPo,
    SppoHard,
)
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft
from benchmarks.tiny_models import tiny_model
from tests.golden.test_trajectories import CONVERSATIONS, PAIRS

PACKED = Packed(tokens_per_micro_batch=150)
"""Fits three or four of these rows, or one or two pairs: every step is split."""

LORA = Lora(r=4, alpha=8, dropout=0.0)
DROPPING = Lora(r=4, alpha=8, dropout=0.3)
SETTINGS = {
    "lora": LORA,
    "learning_rate": 1e-2,
    "batch": StepRows(per_device=4, accumulation=2),
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": False,
    "warmup_ratio": 0.0,
    "epochs": 4,
}


@pytest.fixture
def run(open_tiny, tmp_path):
    """A function that trains the tiny model: the losses of its steps, and its workspace."""

    def run(kind, name, engine, *, rows=None, progress=None, held_out=(), loaded=None, **changes):
        workspace = Workspace(folder=tmp_path / name, log=tmp_path / f"{name}.log")
        workspace.out.mkdir(parents=True, exist_ok=True)
        shared = {
            "policy": loaded or open_tiny(),
            "held_out": held_out,
            "seed": 0,
            "workspace": workspace,
            "progress": progress or Progress(),
        }
        settings = {**SETTINGS, "engine": engine, **changes}
        if kind == "sft":
            rows = CONVERSATIONS if rows is None else rows
            train_sft(SftConfig(**settings), conversations=rows, **shared)
        else:
            rows = PAIRS if rows is None else rows
            train_dpo(DpoConfig(**settings, max_prompt_length=200), pairs=rows, **shared)
        history = (workspace.out / "history.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, history) if "loss" in row], workspace

    return run


def losses(history):
    return [row["loss"] for row in history]


def weights(workspace):
    return load_file(workspace.out / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_twenty_steps_have_the_same_losses(run, kind):
    stock, _ = run(kind, "stock", Stock())
    packed, _ = run(kind, "packed", PACKED, gradient_checkpointing=True)
    assert len(packed) == 20
    assert losses(packed) == pytest.approx(losses(stock), rel=1e-4)
    assert packed[-1]["loss"] < 0.99 * packed[0]["loss"], "of a model that learns"


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize(
    "engine",
    [PACKED, PACKED.model_copy(update={"fuse_adapters": True, "recompute": 0.5})],
    ids=["plain", "accelerated"],
)
def test_one_step_has_the_same_gradient(kind, engine, open_tiny, run, monkeypatch):
    """The gradient after all micro-batches and before clipping."""
    found = {}
    for name, used in (("stock", Stock()), ("packed", engine)):
        loaded = open_tiny()

        def keep(parameters, *_, name=name, **__):
            found[name] = [p.grad.clone() for p in parameters if p.grad is not None]
            return torch.tensor(1.0)

        monkeypatch.setattr(
            "accelerate.Accelerator.clip_grad_norm_", lambda _, *a, **k: keep(*a, **k)
        )
        run(kind, name, used, loaded=loaded, max_steps=1, gradient_checkpointing=True)
    assert len(found["stock"]) == 2 * 7 * 2, "A and B of seven layers in two blocks"
    for stock, packed in zip(found["stock"], found["packed"], strict=True):
        assert (packed - stock).norm() <= 1e-5 * max(stock.norm(), 1e-3)


def test_dropout_is_active_from_the_first_step(run, open_tiny):
    """A loaded model is in evaluation mode, even if its adapter is in training mode."""
    loaded, seen = open_tiny(), []
    layer = loaded.model.get_decoder().layers[0]
    layer.register_forward_hook(lambda module, *_: seen.append(module.training))
    run("sft", "packed", PACKED, loaded=loaded, max_steps=2)
    assert len(seen) > 2
    assert all(seen)


@pytest.mark.parametrize(
    "loss",
    [Sigmoid(), Ipo(), Hinge(), Robust(), SigmoidNorm(), ApoZero(), SppoHard()],
    ids=lambda loss: loss.name,
)
def test_every_loss_of_the_trainer_library_has_its_value(run, loss):
    """Three steps at a learning rate that changes the margin; one epoch, so each row is new."""
    changes = {"loss": loss, "max_steps": 3}
    stock, _ = run("dpo", "stock", Stock(), **changes)
    packed, _ = run("dpo", "packed", PACKED, **changes)
    assert losses(packed) == pytest.approx(losses(stock), rel=1e-4)
    for name in ("rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        expected = [row[name] for row in stock]
        assert [row[name] for row in packed] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_weight_of_the_chosen_replys_likelihood_is_the_librarys(run):
    """One padded batch per step, so that both average over the same tokens."""
    changes = {"sft_weight": 0.5, "max_steps": 3, "batch": StepRows(per_device=8, accumulation=1)}
    stock, _ = run("dpo", "stock", Stock(), **changes)
    packed, _ = run("dpo", "packed", PACKED, **changes)
    assert losses(packed) == pytest.approx(losses(stock), rel=1e-4)


def test_simpo_raises_the_margin_of_mean_logprobs(run):
    packed, _ = run("dpo", "packed", PACKED, loss=SimPo(), max_steps=8)
    assert packed[-1]["loss"] < packed[0]["loss"]
    assert packed[-1]["rewards/margins"] > packed[0]["rewards/margins"]


def test_a_loss_that_the_library_lacks_is_refused_with_the_stock_engine():
    with pytest.raises(ValidationError, match=r"engine stock has no simpo loss.*name: packed"):
        DpoConfig(loss=SimPo(), engine=Stock())


@pytest.mark.parametrize(
    ("kind", "engines"),
    [
        ("sft", (PACKED, PACKED)),
        ("dpo", (PACKED, PACKED)),
        ("sft", (Stock(), PACKED)),
        ("dpo", (PACKED, Stock())),
    ],
)
def test_a_checkpoint_of_either_engine_is_continued(run, kind, engines):
    """Stopped after step 1, then continued; one engine alone gives the same bytes, with dropout."""
    first, second = engines
    same = first == second
    changes = {"max_steps": 4, "lora": DROPPING if same else LORA}
    undisturbed, whole = run(kind, "whole", second, **changes)
    stopping = Progress()
    stopping.ask_to_stop()
    with pytest.raises(Interrupted, match="stopped at step 1 of 4"):
        run(kind, "parts", first, progress=stopping, **changes)
    continued, parts = run(kind, "parts", second, **changes)
    assert losses(continued) == pytest.approx(losses(undisturbed), rel=0 if same else 1e-4)
    for name, expected in weights(whole).items():
        if same:
            assert torch.equal(weights(parts)[name], expected)
        else:
            torch.testing.assert_close(weights(parts)[name], expected, rtol=1e-3, atol=1e-4)


def limit_memory(loaded, tokens):
    """The tiny model, running out of memory beyond this number of tokens."""

    def refuse(_, positional, named):
        if named.get("segments") is not None and named["input_ids"].shape[1] > tokens:
            raise torch.OutOfMemoryError(f"more than {tokens} tokens")
        return positional, named

    loaded.model.get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)
    return loaded


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_out_of_memory_halves_the_budget_and_repeats_the_same_step(run, kind, open_tiny, caplog):
    """With dropout: the same rows and random numbers as with a budget of 150 from the start.

    The first micro-batch of a step may fit and leave gradients behind before a later one fails.
    """
    changes = {"max_steps": 3, "lora": DROPPING}
    _, expected = run(kind, "small", PACKED, **changes)
    small = limit_memory(open_tiny(), tokens=150)
    history, found = run(
        kind, "halved", Packed(tokens_per_micro_batch=600), loaded=small, **changes
    )
    assert "out of memory with 300 tokens per micro-batch; retrying the same rows with 150" in (
        caplog.text
    )
    assert {row["tokens_per_micro_batch"] for row in history} == {150}
    for name, tensor in weights(expected).items():
        assert torch.equal(weights(found)[name], tensor)


def test_out_of_memory_first_makes_every_layer_recompute(run, open_tiny, caplog):
    """No layer can keep its activations: the same steps as if all had recomputed from the start."""
    changes = {"max_steps": 2, "lora": DROPPING, "gradient_checkpointing": True}
    _, expected = run("sft", "all", PACKED.model_copy(update={"recompute": 1.0}), **changes)
    small = open_tiny()

    def refuse(layer, *_):
        if layer.training and not layer.gradient_checkpointing:
            raise torch.OutOfMemoryError("kept activations do not fit")

    for layer in small.model.get_decoder().layers:
        layer.register_forward_pre_hook(refuse)
    half = PACKED.model_copy(update={"recompute": 0.5})
    history, found = run("sft", "half", half, loaded=small, **changes)
    assert "out of memory with 50% of the layers recomputing; retrying the same rows with all" in (
        caplog.text
    )
    assert {(row["recompute"], row["tokens_per_micro_batch"]) for row in history} == {(1.0, 150)}
    for name, tensor in weights(expected).items():
        assert torch.equal(weights(found)[name], tensor)


def test_a_row_that_does_not_fit_alone_ends_the_run(run, open_tiny):
    with pytest.raises(TrainingError, match=r"a single row of up to \d+ tokens"):
        run("sft", "tiny", PACKED, loaded=limit_memory(open_tiny(), tokens=10))


def test_the_configured_budget_is_warned_about_and_recorded(run, caplog):
    history, _ = run("sft", "low", Packed(tokens_per_micro_batch=16), max_steps=1)
    assert "tokens_per_micro_batch is 16, but the longest row has" in caplog.text
    assert history[0]["tokens_per_micro_batch"] == 16


def test_the_automatic_budget_gives_the_same_weights_every_time(run, caplog):
    with caplog.at_level(logging.INFO, logger="alignment"):
        first, second = (run("dpo", name, Packed(), max_steps=2)[1] for name in "ab")
    assert "tokens_per_micro_batch: auto resolved to 1024" in caplog.text
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor)


def test_a_loss_that_is_not_finite_names_the_rows(run, open_tiny):
    """One word's embedding is broken: only rows with it are named, and nothing is written."""
    loaded = open_tiny()
    (broken,) = loaded.tokenizer.encode("7", add_special_tokens=False)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[broken] = torch.nan
        loaded.model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(loaded.tokenizer), 32))
    rows = CONVERSATIONS[:8]
    sick = {row.id for row in rows if any("7" in m.content for m in row.messages)}
    assert 0 < len(sick) < 8
    with pytest.raises(TrainingError, match="the loss is nan at step 1") as stopped:
        run("sft", "sick", PACKED, rows=rows, loaded=loaded)
    assert {row.id for row in rows if row.id in str(stopped.value)} == sick


def test_both_engines_evaluate_held_out_rows(run):
    stock, packed = (
        run("dpo", engine.name, engine, max_steps=2, held_out=PAIRS[:5], sample_tokens=2)[1]
        for engine in (Stock(), PACKED)
    )
    found = [
        next(
            row
            for row in map(json.loads, (each.out / "history.jsonl").read_text().splitlines())
            if "eval_loss" in row
        )
        for each in (stock, packed)
    ]
    for name in ("eval_loss", "eval_rewards/margins", "eval_logps/chosen"):
        assert found[1][name] == pytest.approx(found[0][name], rel=0.05)
    samples = [(each.out / "samples.jsonl").read_text() for each in (stock, packed)]
    assert samples[0] == samples[1], "generation does not know the engine"


def test_a_family_that_the_packed_engine_does_not_support_is_refused(run, open_tiny):
    tiny = open_tiny()
    lfm2 = replace(tiny, model=tiny_model("lfm2", vocab_size=len(tiny.tokenizer)))
    lora = Lora(r=4, alpha=8, target_modules=("q_proj",))
    with pytest.raises(ModelError, match=r"Lfm2ShortConv \(layer 0\) .*; set engine.name=stock"):
        run("sft", "lfm2", PACKED, loaded=lfm2, lora=lora)


def test_target_modules_that_match_nothing_end_a_training_before_it_starts(run):
    lora = Lora(r=4, alpha=8, target_modules=("q_proj", "qkv_proj"))
    with pytest.raises(ModelError, match="qkv_proj match no linear layer of qwen2; set it to all-"):
        run("dpo", "names", PACKED, lora=lora)
