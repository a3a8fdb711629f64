"""Sizes of rounds, steps, warm-up and learning rates."""

import pytest

from alignment.doctor.checks.rounds import check_rounds
from alignment.doctor.forecast.schedule import check_schedule, usual_rates
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.scoring.engine import StepRows, Stock
from alignment.train.settings import DpoConfig, SftConfig
from tests.alignment.doctor.conftest import pair

QWEN_7B = Shape(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=152064,
    tie_word_embeddings=False,
)


def pairs(number):
    return [pair(f"Question number {n}", "yes", "no") for n in range(number)]


def dpo(rows=320, **settings):
    return Training(
        "dpo-1", DpoConfig(**{"engine": Stock(), **settings}), rows, [(100, 90)] * min(rows, 8)
    )


def test_held_out_pairs_decide_whether_rounds_can_be_told_apart(pair_set):
    for held, verdict in ((0, "fail"), (49, "warn"), (50, "ok")):
        found = check_rounds([pair_set(pairs(60), held_out=pairs(held))])
        assert (found.verdict, found.figures["held_out_pairs"]) == (verdict, held)


def test_rounds_of_very_different_size_warn(pair_set):
    held = pairs(50)
    sets = [pair_set(pairs(40), held_out=held), pair_set(pairs(10), name="pairs-2")]
    assert check_rounds(sets).verdict == "warn"
    assert check_rounds([sets[0], pair_set(pairs(11), name="pairs-2")]).verdict == "ok"


def test_steps_are_counted_as_the_trainer_counts_them():
    """33 rows, 2 per pass: 17 passes; 8 passes per step: 3 steps per epoch; 1.5 epochs: 5."""
    training = dpo(33, batch=StepRows(per_device=2, accumulation=8), epochs=1.5)
    assert training.steps == 5
    assert training.micro_batches == 26  # 1.5 x 17 = 25.5
    assert training.warmup == 1  # a tenth of 5, rounded up
    assert dpo(33, max_steps=7).steps == 7


def test_the_trainer_itself_takes_as_many_steps(tiny_model_folder):
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    rows = [{"input_ids": [1, 2], "labels": [1, 2]}] * 33
    arguments = TrainingArguments(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        num_train_epochs=1.5,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == dpo(33, epochs=1.5).steps == 5


def test_few_steps_warn_and_a_warm_up_as_long_as_the_run_fails():
    assert check_schedule([dpo(160)], None).verdict == "ok"  # 10 steps
    few = check_schedule([dpo(144)], None)
    assert (few.verdict, few.headline) == ("warn", "dpo-1: only 9 optimiser steps.")
    warming = check_schedule([dpo(144, warmup_ratio=0.9)], None)  # 8.1, rounded up: all 9
    assert warming.verdict == "fail"
    assert "warm-up of 9 steps is as long as the run of 9" in warming.headline
    assert check_schedule([dpo(0)], None).verdict == "fail"


@pytest.mark.parametrize(
    ("rate", "verdict"), [(5e-6, "ok"), (1e-7, "warn"), (1.5e-5, "ok"), (2e-4, "warn")]
)
def test_rates_far_from_the_reference_recipe_warn(rate, verdict):
    found = check_schedule([dpo(learning_rate=rate)], QWEN_7B)
    assert found.verdict == verdict


def test_every_problem_of_a_training_is_named():
    found = check_schedule([dpo(144, learning_rate=1e-2)], QWEN_7B)
    assert "only 9 optimiser steps; dpo-1: learning rate 1.0e-02 is outside" in found.headline
    assert "fewer rows per step" in found.remedy
    assert "usual range" in found.remedy


def test_a_small_model_may_learn_faster():
    """The practice recipe, 135 M: 2e-4 worked in DPO, 4e-4 made replies run on."""
    low, high = usual_rates(1.345e8, is_dpo=True)
    assert low == pytest.approx(5e-7)
    assert 2e-4 < high < 4e-4
    assert usual_rates(1.345e8, is_dpo=False)[1] > 1e-3
    assert usual_rates(7.6e9, is_dpo=False)[1] == pytest.approx(6e-5)


def test_the_settings_of_the_reference_recipe_are_ok():
    trainings = [Training("sft", SftConfig(), 2000, [(500,)]), dpo()]
    assert check_schedule(trainings, QWEN_7B).verdict == "ok"
