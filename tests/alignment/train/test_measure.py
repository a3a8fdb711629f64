"""The held-out loss of a training is the mean over tokens (SFT) or pairs (DPO) of all rows."""

import math
import random

import pytest

from alignment.models.encoding import encode_chat
from alignment.records.text import Conversation, Message, PreferencePair
from alignment.scoring.engine import Packed, StepRows, Stock
from tests.alignment.naive import naive_logprob

ENGINES = {"stock": Stock(), "packed": Packed(tokens_per_micro_batch=150)}
SHAPES = {"1x8": (1, 8), "3x1": (3, 1), "8x1": (8, 1)}


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]


def said(role, words):
    return Message(role=role, content=words)


def words(generator, least, most):
    return " ".join(
        generator.choices(["yes", "no", "license", "work"], k=generator.randint(least, most))
    )


def conversations(count):
    """Replies of one word and of sixty."""
    generator = random.Random(0)
    lengths = [(1, 1), (60, 60), (2, 5)]
    return [
        Conversation.of(
            (said("user", f"Question {n}?"), said("assistant", words(generator, *lengths[n % 3]))),
            task_type="t",
            source="s",
        )
        for n in range(count)
    ]


def pairs(count):
    generator = random.Random(0)
    return [
        PreferencePair.of(
            (said("user", f"Question {n}?"),),
            chosen=(
                said("assistant", words(generator, 1, 3) if n % 2 else words(generator, 30, 40)),
            ),
            rejected=(said("assistant", words(generator, 4, 12)),),
            task_type="t",
            source="s",
        )
        for n in range(count)
    ]


def evaluations(build, config, rows, engine):
    """The evaluation before any step, by the shape of the batch."""
    found = {}
    for name, (per_device, accumulation) in SHAPES.items():
        batch = StepRows(per_device=per_device, accumulation=accumulation)
        trainer = build(config.model_copy(update={"batch": batch, "engine": engine}), rows)
        found[name] = trainer.evaluate()
    return found


def test_the_loss_of_sft_is_the_mean_over_the_tokens_of_all_rows(
    sft_trainer, sft_config, open_tiny, engine
):
    rows = conversations(7)
    loaded = open_tiny()
    total, tokens = 0.0, 0
    for row in rows:
        chat = encode_chat(loaded.tokenizer, row.messages)
        ((start, _),) = chat.spans
        encoded = list(chat.ids)
        total -= naive_logprob(loaded.model, encoded[:start], encoded[start:])
        tokens += len(encoded) - start

    def build(config, rows):
        return sft_trainer(open_tiny(), rows, rows, config=config)

    found = evaluations(build, sft_config, rows, engine)
    losses = [evaluation["eval_loss"] for evaluation in found.values()]
    assert losses == pytest.approx([total / tokens] * len(SHAPES), rel=1e-5)


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_the_loss_of_dpo_is_the_mean_over_all_pairs_and_over_all_chosen_tokens(
    dpo_trainer, dpo_config, open_tiny, engine, sft_weight
):
    """Before any step the preference part is ln 2; single pairs give the log-probs of the rest."""
    rows = pairs(7)

    def build(config, rows):
        return dpo_trainer(open_tiny(), rows, rows, config=config)

    config = dpo_config.model_copy(update={"sft_weight": sft_weight})
    found = evaluations(build, config, rows, engine).values()
    trainer = build(dpo_config, rows)
    single = [trainer.evaluate(trainer.eval_dataset.select([row])) for row in range(7)]
    chosen = [one["eval_logps/chosen"] for one in single]
    likelihood = sum(chosen) / sum(map(len, trainer.eval_dataset["chosen_ids"]))
    expected = math.log(2) - sft_weight * likelihood
    assert [one["eval_loss"] for one in found] == pytest.approx([expected] * 3, rel=1e-5)
    assert [one["eval_logps/chosen"] for one in found] == pytest.approx([sum(chosen) / 7] * 3)
