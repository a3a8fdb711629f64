import json
import math

import pytest
import torch
from safetensors.torch import load_file

from alignment.errors import Interrupted, TrainingError
from alignment.records.refs import Nf4
from alignment.scoring.engine import Packed, Stock
from alignment.store.progress import Progress
from alignment.train.callbacks import check_start, loss_at_start
from alignment.train.dpo import loss_before_training, train_dpo
from alignment.train.losses import Ipo, Sigmoid
from alignment.train.settings import DpoConfig

both_engines = pytest.mark.parametrize(
    "engine", [Stock(), Packed(tokens_per_micro_batch=150)], ids=lambda engine: engine.name
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(config, loaded, pairs, workspace, *, held_out=(), progress=None):
    return train_dpo(
        config,
        policy=loaded,
        pairs=pairs,
        held_out=held_out,
        seed=0,
        workspace=workspace,
        progress=progress or Progress(),
    )


@pytest.fixture
def trained(open_tiny, dpo_config, pairs, workspace):
    """A round of two steps of four pairs, evaluated on three held-out pairs after the last."""
    config = dpo_config.model_copy(update={"samples": 1})
    return train(config, open_tiny(), pairs, workspace, held_out=pairs[:3]), workspace.out


@both_engines
def test_loss_is_log_two_when_policy_equals_reference(trained):
    """A fresh adapter adds zero, with or without dropout: all margins are 0, loss -log(1/2)."""
    _, out = trained
    first, second = [row for row in lines(out / "history.jsonl") if "loss" in row]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert second["loss"] == pytest.approx(math.log(2), abs=1e-6), "warm-up begins at rate 0"


@both_engines
def test_a_round_leaves_adapter_history_and_samples(trained, pairs):
    summary, out = trained
    history = lines(out / "history.jsonl")
    assert summary.steps == 2
    assert [row["step"] for row in lines(out / "samples.jsonl")] == [0, 2]
    (by_task,) = [row for row in history if "eval_rewards/margins/source:practice" in row]
    for pair in pairs[:3]:
        assert f"eval_rewards/accuracies/{pair.task_type}" in by_task
    assert sorted(path.name for path in (out / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_training_raises_the_margin_of_the_pairs_trained_on(
    open_tiny, dpo_config, pairs, workspace
):
    config = dpo_config.model_copy(update={"max_steps": 12})
    train(config, open_tiny(), pairs, workspace)
    history = [row for row in lines(workspace.out / "history.jsonl") if "loss" in row]
    assert history[-1]["loss"] < history[0]["loss"] - 0.01
    assert history[-1]["rewards/margins"] > 0.02


@pytest.mark.parametrize("loss", [Sigmoid(beta=0.5), Ipo(beta=0.5)], ids=lambda loss: loss.name)
def test_a_round_starts_from_the_loss_of_equal_models(open_tiny, pairs, dpo_trainer, loss):
    """The check before the first step compares what the trainer itself computes."""
    trainer = dpo_trainer(open_tiny(), pairs)
    assert loss_before_training(trainer, loss, Stock()) == pytest.approx(
        loss_at_start(loss), abs=1e-6
    )


def test_an_adapter_that_is_not_fresh_is_detected_before_the_first_step(
    open_tiny, pairs, dpo_trainer
):
    """The reference is the model without its adapter, so the policy already differs from it."""
    trainer = dpo_trainer(open_tiny(), pairs)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    loss = Sigmoid(beta=0.5)
    with pytest.raises(TrainingError, match="policy and reference are not the same model"):
        check_start(loss, loss_before_training(trainer, loss, Stock()), tolerance=1e-4)


def test_measuring_the_first_loss_changes_neither_mode_nor_random_state(
    open_tiny, pairs, dpo_trainer
):
    """The first step's dropout must draw the same numbers whether or not the loss is measured."""
    trainer = dpo_trainer(open_tiny(), pairs)
    trainer.model.train()
    before = torch.get_rng_state()
    loss_before_training(trainer, Sigmoid(), Stock())
    assert trainer.model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_a_number_ends_the_round_before_it_starts(
    open_tiny, dpo_config, pairs, workspace
):
    loaded = open_tiny()
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match="before the first step is nan"):
        train(dpo_config, loaded, pairs, workspace)


@both_engines
def test_a_loss_that_becomes_infinite_ends_the_round(open_tiny, dpo_config, pairs, workspace):
    config = dpo_config.model_copy(
        update={"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0.0, "max_steps": 4}
    )
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d"):
        train(config, open_tiny(), pairs, workspace)
    assert not (workspace.out / "adapter").exists()


@both_engines
def test_a_stopped_round_saves_a_checkpoint_and_reports_its_step(
    open_tiny, dpo_config, pairs, workspace
):
    progress = Progress()
    progress.ask_to_stop()
    with pytest.raises(Interrupted, match="stopped at step 1 of 2"):
        train(dpo_config, open_tiny(), pairs, workspace, progress=progress)
    assert [path.name for path in workspace.checkpoints.iterdir()] == ["step-00000001"]


def test_pairs_reach_the_trainer_with_their_ids(open_tiny, pairs, dpo_trainer):
    trainer = dpo_trainer(open_tiny(), pairs)
    assert trainer.train_dataset["task_type"] == [pair.task_type for pair in pairs]
    assert trainer.train_dataset["source"] == [pair.source for pair in pairs]
    assert trainer.train_dataset["id"] == [pair.id for pair in pairs]


@both_engines
def test_one_dpo_step_on_a_quantised_base_moves_an_fp32_adapter(
    open_tiny, tiny_ref, dpo_config, pairs, workspace
):
    """NF4 on the CPU; the second step is the first with a learning rate above 0."""
    quantised = tiny_ref.model_copy(update={"quantisation": Nf4(compute_dtype="float32")})
    loaded = open_tiny(quantised)
    assert "Linear4bit" in {type(module).__name__ for module in loaded.model.modules()}
    config = dpo_config.model_copy(update={"warmup_ratio": 0.0, "max_steps": 1})
    train(config, loaded, pairs, workspace)
    (row, *_) = lines(workspace.out / "history.jsonl")
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
    stored = load_file(workspace.out / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert all(tensor.all() for name, tensor in stored.items() if "lora_B" in name)


def test_a_weight_for_the_chosen_replys_likelihood_adds_the_librarys_own_loss():
    arguments = DpoConfig(sft_weight=0.5).trl_arguments(seed=0)
    assert arguments["loss_type"] == ["sigmoid", "sft"]
    assert arguments["loss_weights"] == [1.0, 0.5]
    assert "loss_weights" not in DpoConfig().trl_arguments(seed=0)


def test_the_adapters_dropout_is_not_disabled():
    """By default the trainer library silently disables it."""
    assert DpoConfig().trl_arguments(seed=0)["disable_dropout"] is False
