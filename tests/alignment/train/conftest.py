"""The trainers that `train_sft` and `train_dpo` build, intercepted before their first step."""

import pytest

from alignment.scoring.engine import StepRows, Stock
from alignment.store.progress import Progress
from alignment.train.dpo import train_dpo
from alignment.train.settings import DpoConfig, Lora, SftConfig
from alignment.train.sft import train_sft

LORA = Lora(r=4, alpha=8, dropout=0.05)


class Caught(Exception):
    """Carries the trainer out of the function that built it."""


@pytest.fixture
def engine():
    """The engine of `sft_config` and `dpo_config`; tests of both engines parametrise it."""
    return Stock()


@pytest.fixture
def sft_config(engine):
    return SftConfig(
        lora=LORA,
        learning_rate=1e-2,
        batch=StepRows(per_device=4, accumulation=1),
        engine=engine,
        epochs=1,
        max_length=256,
        bf16=False,
        gradient_checkpointing=False,
        sample_tokens=4,
    )


@pytest.fixture
def dpo_config(engine):
    return DpoConfig(
        lora=LORA,
        learning_rate=1e-2,
        batch=StepRows(per_device=4, accumulation=1),
        engine=engine,
        max_length=256,
        max_prompt_length=200,
        bf16=False,
        gradient_checkpointing=False,
        sample_tokens=4,
    )


def catch(monkeypatch, module, train):
    def stop(trainer, **_):
        raise Caught(trainer)

    monkeypatch.setattr(f"alignment.train.{module}.fit", stop)
    with pytest.raises(Caught) as caught:
        train()
    return caught.value.args[0]


@pytest.fixture
def sft_trainer(monkeypatch, sft_config, workspace):
    """A function from a loaded model and conversations to the trainer that would train on them."""

    def build(loaded, conversations, held_out=(), config=sft_config):
        return catch(
            monkeypatch,
            "sft",
            lambda: train_sft(
                config,
                policy=loaded,
                conversations=conversations,
                held_out=held_out,
                seed=0,
                workspace=workspace,
                progress=Progress(),
            ),
        )

    return build


@pytest.fixture
def dpo_trainer(monkeypatch, dpo_config, workspace):
    """Like `sft_trainer`, for pairs."""

    def build(loaded, pairs, held_out=(), config=dpo_config):
        return catch(
            monkeypatch,
            "dpo",
            lambda: train_dpo(
                config,
                policy=loaded,
                pairs=pairs,
                held_out=held_out,
                seed=0,
                workspace=workspace,
                progress=Progress(),
            ),
        )

    return build
