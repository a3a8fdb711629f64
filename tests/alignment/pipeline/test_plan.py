"""What a plan says about steps that were made before and would be made again."""

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.plan import plan
from alignment.store.store import Store
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
        store.commit(record, store.workspace(step.key))
    return store


def notes(store, settings):
    planned = plan(chain(settings), store)
    judging = (step for step in planned if step.stage in ("evaluate", "gate"))
    return {step.name: step.notes for step in judging if step.notes}


def test_a_run_that_is_done_makes_nothing_again(store):
    assert notes(store, config(store.root, 1)) == {}


def test_an_appended_round_has_its_rows_measured_and_earlier_gates_judged_again(store):
    found = notes(store, config(store.root, 2))
    joined = "measured again: the held-out rows of pairs-2 join those of all evaluations"
    assert found == {
        "evaluate-base": (joined,),
        "evaluate-sft": (joined,),
        "evaluate-round-1": (joined,),
        "gate-1": ("judged again on the new evaluations; the verdict may be another one",),
    }


def test_other_settings_of_the_evaluation_are_named_as_the_cause(store):
    found = notes(store, config(store.root, 1, max_new_tokens=3))
    assert found["evaluate-base"] == ("measured again: its settings are others",)
