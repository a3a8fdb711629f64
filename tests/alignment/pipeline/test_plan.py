"""What a plan says about steps that were made before and would be made again."""

import re

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.effort import Efforts
from alignment.pipeline.plan import plan
from alignment.store.store import Store
from flows.forecast import Forecast
from tests import tiny
from tests.alignment.artifacts import record_of

VERDICT = {
    "model": {
        "base": {"uri": "folder:base", "sha256": "0" * 64, "dtype": "float32"},
        "tokenizer": {"uri": "folder:base", "sha256": "", "chat_template_sha256": ""},
    },
    "evaluation": "evaluate-0",
    "verdict": {"candidate": "new", "champion": "old", "checks": []},
}


def noted(steps, store, changed):
    """What a plan says of each step, after steps as they were have been made."""
    for step in steps:
        record = record_of(step.key, parents=step.roles, config=step.settings, name=step.name)
        store.commit(
            record.model_copy(update={"seed": step.seed, "version": step.version}),
            store.workspace(step.key),
        )
    settings = PipelineConfig.model_validate(changed)
    return {step.name: step.notes[-1] for step in plan(chain(settings), store) if step.notes}


def test_a_step_that_would_run_again_says_which_setting_is_another_one(tmp_path):
    """Judged against the artifact that differs least, here not the newest."""
    settings = config(tmp_path, 2).model_dump(mode="json")
    steps = [
        step
        for step in chain(PipelineConfig.model_validate(settings)).steps()
        if step.stage not in ("gate", "sft-gate")
    ]
    other = {**settings, "seed": 5, "dpo": {**settings["dpo"], "learning_rate": 0.3}}
    newer = [
        step for step in chain(PipelineConfig.model_validate(other)).steps() if step.stage == "dpo"
    ]
    settings["dpo"]["learning_rate"] = 0.25
    found = noted([*steps, *newer], Store(root=tmp_path), settings)
    dpo = next(step.key for step in steps if step.name == "dpo-1")
    assert found["dpo-1"] == f"not {dpo}: config.learning_rate 0.01 -> 0.25"
    assert found["merge-dpo-1"].endswith(": another adapter (dpo-1)")
    assert "another policy (merge-dpo-1)" in found["dpo-2"]
    assert "not " not in found["sft"]


def test_another_seed_and_other_files_are_named(tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": []}\n')
    settings = config(tmp_path / "store", 1).model_dump(mode="json")
    settings["sft"]["data"]["sources"] = [{"name": "file", "path": str(chats)}]
    steps = chain(PipelineConfig.model_validate(settings))
    chats.write_text('{"messages": [1]}\n')
    found = noted([steps.conversations, steps.sft], Store(root=tmp_path / "store"), settings)
    assert found["conversations"].endswith(": the content of its files is another one")
    assert found["sft"].endswith(": another data (conversations); another watched (conversations)")
    found = noted([], Store(root=tmp_path / "store"), {**settings, "seed": 1})
    assert re.search(r"seed \d+ -> \d+", found["sft"])


def test_a_training_takes_as_long_as_its_rows(tmp_path):
    """A trial of 10 steps took 20 s: 1,000 steps take 2,000 s, and not 20."""
    settings = config(tmp_path, 1).model_dump(mode="json")
    settings["dpo"]["max_steps"] = 1000
    steps = chain(PipelineConfig.model_validate(settings)).steps()
    train, merge = (step for step in steps if step.name in ("dpo-1", "merge-dpo-1"))
    store = Store(root=tmp_path)
    tried = record_of(
        "dpo-trial",
        metrics={"steps": 10.0, "peak_gpu_gib": 3.5},
        config={"config": {"batch": {"per_device": 4, "accumulation": 1}}},
    )
    store.commit(tried.model_copy(update={"seconds": 20.0}), store.workspace("dpo-trial"))
    efforts = Efforts(store)
    assert efforts.rates() == {"dpo": 0.5}
    assert efforts.work(train) == 4000.0
    effort = efforts.of([train, merge])
    assert (effort.seconds, effort.gpu_gib, effort.unknown) == (2000.0, 3.5, ("merge",))
    forecast = Forecast([train], efforts.rates(), efforts.work)
    assert forecast.between() == 2000.0


def config(store, rounds, **changes):
    settings = tiny.settings("model", store) | {"model": {"name": "hub", "id": "someone/tiny"}}
    parts = [{"name": "practice", "part": f"round-{n}", "rows": 16} for n in range(1, rounds + 1)]
    settings["rounds"] = [{"data": {"sources": [part]}} for part in parts]
    settings["evaluation"] |= changes
    return PipelineConfig.model_validate(settings)


@pytest.fixture
def store(tmp_path):
    """The store of a finished run with one round."""
    store = Store(root=tmp_path)
    for step in chain(config(tmp_path, 1)).steps():
        output = VERDICT if step.stage == "gate" else {}
        record = record_of(step.key, parents=step.roles, output=output, name=step.name)
        made = {"version": step.version, "seed": step.seed, "config": step.settings}
        store.commit(record.model_copy(update=made), store.workspace(step.key))
    return store


def notes(store, settings):
    planned = plan(chain(settings), store)
    judging = (step for step in planned if step.stage in ("evaluate", "gate"))
    return {step.name: step.notes for step in judging if step.notes}


def test_a_run_that_is_done_makes_nothing_again(store):
    assert notes(store, config(store.root, 1)) == {}


def test_an_appended_round_has_its_rows_measured_and_earlier_gates_judged_again(store):
    found = notes(store, config(store.root, 2))
    assert ": another model (merge-control)" in found.pop("evaluate-control")[0]
    joined = "measured again: the held-out rows of pairs-2 join those of all evaluations"
    assert found == {
        "evaluate-base": (joined,),
        "evaluate-sft": (joined,),
        "evaluate-round-1": (joined,),
        "gate-1": ("judged again on the new evaluations; the verdict may be another one",),
    }


def test_other_settings_of_the_evaluation_are_named_as_the_cause(store):
    found = notes(store, config(store.root, 1, max_new_tokens=3))
    assert found["evaluate-base"] == ("measured again: config.max_new_tokens 8 -> 3",)
