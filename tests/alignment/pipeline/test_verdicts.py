"""Three rounds of real training, of which the gate rejects the second: where the third starts."""

import shutil

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.verdict import GateResult
from alignment.execution.run_step import build
from alignment.pipeline.plan import plan
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.records.refs import AdapterRef, ModelRef
from alignment.rounds.steps import first_champion
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny
from tests.inbox import three_rounds


def run(config):
    """Build every step in this process, each after the verdicts before it; records by name."""
    store = Store(root=config.store)
    return {step.name: build(store, step, Progress()) for step in each_step(config, store)}


@pytest.fixture(scope="module")
def rejected(tiny_model_folder, tmp_path_factory):
    """The configuration and records of a finished run; tests copy its store."""
    folder = tmp_path_factory.mktemp("rejected")
    settings = three_rounds(tiny.settings(tiny_model_folder, folder / "store"), folder)
    config = PipelineConfig.model_validate(settings)
    return config, run(config)


@pytest.fixture
def run_again(rejected, tmp_path):
    """A function that runs it on a copy of the store with other settings; the names it built."""
    config, _ = rejected
    shutil.copytree(config.store, tmp_path / "store")

    def start(**changes):
        before = set(Store(root=tmp_path / "store").list_keys())
        settings = config.model_dump(mode="json") | {"store": str(tmp_path / "store")} | changes
        records = run(PipelineConfig.model_validate(settings))
        return {name for name, record in records.items() if record.key not in before}

    return start


def kept(records):
    return [GateResult.model_validate(records[f"gate-{n}"].output).verdict.kept for n in (1, 2, 3)]


def test_the_round_after_a_rejected_one_is_trained_on_the_one_before_it(rejected):
    _, records = rejected
    assert kept(records) == [True, False, True]
    assert records["dpo-2"].parents["policy"] == records["merge-dpo-1"].key
    assert records["dpo-3"].parents["policy"] == records["merge-dpo-1"].key
    trained_on = AdapterRef.model_validate(records["dpo-3"].output).trained_on
    assert trained_on == ModelRef.model_validate(records["merge-dpo-1"].output).ref_hash
    made = ModelRef.model_validate(records["merge-dpo-3"].output).materialised
    assert made is not None
    assert [delta.stage for delta in made.deltas] == ["dpo-1", "dpo-3"]


def test_the_first_champion_is_the_last_round_that_was_kept(rejected):
    config, records = rejected
    store = Store(root=config.store)
    assert first_champion(store, chain_so_far(config, store)).model == records["merge-dpo-3"].key


def test_second_run_reuses_every_step(rejected, run_again):
    config, records = rejected
    assert run_again() == set()
    planned = list(plan(chain_so_far(config, Store(root=config.store)), Store(root=config.store)))
    assert {step.key for step in planned} == {record.key for record in records.values()}
    assert {step.status for step in planned} == {"SKIP"}
    assert not any(step.assumes for step in planned)


def test_another_evaluation_with_the_same_verdicts_retrains_nothing(rejected, run_again):
    config, _ = rejected
    evaluation = config.evaluation.model_dump(mode="json") | {"max_new_tokens": 5}
    measured = {f"evaluate-{name}" for name in ("base", "no-sft", "round-1", "round-2", "round-3")}
    assert run_again(evaluation=evaluation) == measured | {"gate-1", "gate-2", "gate-3"}


def test_a_verdict_that_flips_rebuilds_the_rounds_after_it(run_again):
    """Without a gate, the third round starts from the second."""
    assert run_again(gate=None) == {"dpo-3", "merge-dpo-3", "evaluate-round-3"}


def test_a_plan_says_which_verdicts_it_assumes(rejected):
    """Round 2 with other settings has no verdict yet, so the plan for round 3 assumes one."""
    config, _ = rejected
    settings = config.model_dump(mode="json")
    settings["rounds"][1]["training"] = settings["dpo"] | {"epochs": 1}
    store = Store(root=config.store)
    other = PipelineConfig.model_validate(settings)
    planned = {step.name: step for step in plan(chain_so_far(other, store), store)}
    assert planned["dpo-1"].assumes == planned["dpo-2"].assumes == ()
    assert planned["dpo-3"].assumes == planned["gate-3"].assumes == ("gate-2",)
    assert planned["dpo-3"].parents["policy"] == planned["merge-dpo-2"].key
    assert planned["gate-1"].status == "SKIP"
