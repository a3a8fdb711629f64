import json
import math

import pytest

from alignment.answers.ask import generate
from alignment.errors import TrainingError
from alignment.scoring.logprobs import pair_logprobs
from alignment.store.progress import Progress
from alignment.train.callbacks import (
    ProgressCallback,
    RewardsByTaskCallback,
    SampleGenerationCallback,
    check_start,
    loss_at_start,
)
from alignment.train.losses import Ipo, Sigmoid


@pytest.fixture
def at_step(tmp_path):
    """Keyword arguments of a callback's event at a step, as the trainer library gives them."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    def make(step, **parts):
        arguments = TrainingArguments(output_dir=str(tmp_path / "trl"), use_cpu=True)
        state = TrainerState(global_step=step, max_steps=10)
        return {"args": arguments, "state": state, "control": TrainerControl(), **parts}

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_ends_the_run(workspace, at_step, loss):
    callback = ProgressCallback(workspace, Progress(), phase="training")
    with pytest.raises(TrainingError, match=f"the loss is {loss} at step 3. Lower learning_rate"):
        callback.on_log(**at_step(3, logs={"loss": loss}))


def test_every_logged_loss_is_reported_as_progress(workspace, at_step):
    """With all finite numbers that are logged beside it; totals at the end are no step."""
    callback = ProgressCallback(workspace, Progress(workspace.progress), phase="training")
    callback.on_log(**at_step(3, logs={"loss": 0.5, "grad_norm": math.inf, "epoch": 1}))
    callback.on_log(**at_step(3, logs={"eval_loss": 0.25}))
    callback.on_log(**at_step(10, logs={"train_loss": 0.5}))
    marks = lines(workspace.progress)
    assert [(mark["phase"], mark["done"], mark["total"]) for mark in marks] == [
        ("training", 3, 10)
    ] * 2
    assert [mark["numbers"] for mark in marks] == [{"loss": 0.5, "epoch": 1.0}, {"eval_loss": 0.25}]


def test_training_continues_until_a_stop_is_requested(workspace, at_step):
    progress = Progress()
    callback = ProgressCallback(workspace, progress, phase="training")
    event = at_step(3)
    callback.on_step_end(**event)
    assert not event["control"].should_training_stop
    progress.ask_to_stop()
    callback.on_step_end(**event)
    assert event["control"].should_save
    assert event["control"].should_training_stop


def test_the_trainers_checkpoint_is_committed(workspace, at_step):
    event = at_step(3)
    staged = workspace.folder.parent / "trl" / "checkpoint-3"
    staged.mkdir(parents=True)
    (staged / "optimizer.pt").write_text("x")
    ProgressCallback(workspace, Progress(), phase="training").on_save(**event)
    assert (workspace.checkpoints / "step-00000003" / "optimizer.pt").read_text() == "x"
    assert not staged.exists()


def test_samples_are_the_greedy_replies(tmp_path, open_tiny, conversations, at_step):
    loaded, path = open_tiny(), tmp_path / "samples.jsonl"
    prompts = [row.messages[:-1] for row in conversations[:2]]
    callback = SampleGenerationCallback(loaded.tokenizer, prompts, path, max_new_tokens=4)
    callback.on_evaluate(**at_step(5, model=loaded.model))
    replies = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=4, batch=1)
    assert lines(path) == [
        {"step": 5, "prompt": prompt[-1].content, "reply": reply.text}
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def test_a_resumed_run_writes_no_sample_twice(tmp_path, chatml_tokenizer, at_step):
    """Samples of steps 2, 4 and 6 exist; the checkpoint of step 4 was made after evaluation 4.

    The one of step 5, a stop between two evaluations, knows the same two.
    """
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)))
    callback = SampleGenerationCallback(chatml_tokenizer, [], path, max_new_tokens=4)
    for step in (4, 5):
        event = at_step(step)
        event["state"].log_history = [
            {"step": 1, "loss": 1.0},
            {"step": 2, "eval_loss": 1.0},
            {"step": 4, "eval_loss": 1.0},
        ]
        callback.on_train_begin(**event)
        assert lines(path) == [{"step": 2}, {"step": 4}]


def test_rewards_are_beta_times_what_the_adapter_changed(open_tiny, adapted, pairs, at_step):
    """Per task and per source, compared with scores of the two models alone, beta 0.5."""
    base = open_tiny()
    named = [
        pair.model_copy(update={"task_type": task, "source": "one"})
        for pair, task in zip(pairs[:3], ("x", "y", "y"), strict=True)
    ]
    callback = RewardsByTaskCallback(
        adapted.tokenizer, named, Sigmoid(beta=0.5), batch=4, max_length=256
    )
    event = at_step(5, model=adapted.model)
    callback.on_evaluate(**event)
    policy, reference = (
        pair_logprobs(loaded.model, loaded.tokenizer, named, batch=1, max_length=256)
        for loaded in (adapted, base)
    )
    x, *ys = (0.5 * (policy.ratio - reference.ratio)).tolist()
    (row,) = event["state"].log_history
    assert row == pytest.approx(
        {
            "step": 5,
            "eval_rewards/margins/x": x,
            "eval_rewards/accuracies/x": float(x > 0),
            "eval_rewards/margins/y": sum(ys) / 2,
            "eval_rewards/accuracies/y": sum(y > 0 for y in ys) / 2,
            "eval_rewards/margins/source:one": (x + sum(ys)) / 3,
            "eval_rewards/accuracies/source:one": sum(m > 0 for m in (x, *ys)) / 3,
        },
        rel=1e-3,
    )


@pytest.mark.parametrize("loss", [Sigmoid(), Ipo()], ids=lambda loss: loss.name)
def test_the_loss_of_equal_models_lets_a_round_start(loss):
    check_start(loss, loss_at_start(loss), tolerance=1e-4)


def test_check_start_refuses_a_wrong_reference():
    """A reference without the earlier adapter gave 0.69260; ln 2 = 0.693147."""
    with pytest.raises(TrainingError, match=r"0\.692600, expected 0\.693147.*not the same model"):
        check_start(Sigmoid(), 0.69260, tolerance=1e-4)


def test_check_start_refuses_nan():
    with pytest.raises(TrainingError, match="not the same model"):
        check_start(Sigmoid(), math.nan, tolerance=1e-4)
