"""Rounds and promotions on a real server: final states, triggers, and approval by a person."""

import json

import pytest

from alignment.execution.device import device_facts, obstacle
from alignment.rounds.ledger import Delivery
from alignment.rounds.line import RoundLine
from alignment.rounds.measure import as_champion
from alignment.store.store import Store
from tests.alignment.artifacts import put, put_evaluation, put_model
from tests.inbox import line_settings
from tests.prefect_service import FINAL, wait_for

EVENT = """
from prefect.events import emit_event
emit_event(
    event="preferences.batch.ready",
    resource={"prefect.resource.id": "alignment.preferences.monday"},
)
"""


def champion_of(store, name):
    return as_champion(store.open(f"evaluate-{name}"))


@pytest.fixture
def config(tiny_settings, write_config, tmp_path):
    """A config of a line with an empty inbox, in its own store."""
    return write_config(line_settings(tiny_settings, tmp_path))


@pytest.fixture
def waiting(tmp_path, tiny_ref_anywhere):
    """A line whose first round has passed the gate and waits for approval."""
    store = Store(root=tmp_path / "store")
    line = RoundLine(store=store)
    for name, label, right in (("old", "sft", 10), ("new", "round 1", 20)):
        put_model(store, f"merge-{name}", tiny_ref_anywhere, uri=f"folder:{name}")
        parents = {"model": f"merge-{name}"}
        put_evaluation(store, f"evaluate-{name}", label, right=right, parents=parents)
    put(store, "batch-0")
    line.start(champion_of(store, "old"), rounds=0)
    line.open((Delivery(digest="0" * 64, key="batch-0", file="monday.jsonl"),))
    line.close(1, champion_of(store, "new"), outcome="waiting", why="round 1 is kept")
    return line


@pytest.fixture
def tiny_ref_anywhere(tiny_model_folder):
    from alignment.models.description import describe
    from alignment.records.refs import ModelRef

    base, tokenizer = describe(tiny_model_folder, f"folder:{tiny_model_folder}", None)
    return ModelRef(base=base, tokenizer=tokenizer)


def test_an_empty_inbox_ends_as_a_named_completed_state(service, config):
    run = service.start("dpo-round/cpu", f"config={config}")
    state = service.finish(run, seconds=300)
    assert (state["type"], state["name"]) == ("COMPLETED", "No new data")
    assert "no new data: no complete batch in " in state["message"]


def test_an_event_starts_a_round_on_the_gpu(service):
    (deployment,) = [
        found
        for found in service.ask("/deployments/filter", limit=50)
        if found["name"] == "a100" and "dpo_round" in found["entrypoint"]
    ]
    chosen = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"name": {"any_": []}}}
    assert service.run("-c", EVENT).returncode == 0

    def ended():
        chosen["state"] = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}
        runs = service.ask("/flow_runs/filter", flow_runs=chosen)
        return runs[0]["state"] if runs else None

    state = wait_for("the round", ended, seconds=300, log=service.folder / "log")
    no_gpu = obstacle(device_facts())
    assert state["name"] == ("Failed" if no_gpu else "No new data"), state["message"]
    assert no_gpu is None or "DeviceError: " in state["message"]


def test_nightly_rounds_are_active_on_the_gpu_and_off_on_the_cpu(service):
    active = {
        f"{found['entrypoint']} {found['name']}": [s["active"] for s in found["schedules"]]
        for found in service.ask("/deployments/filter", limit=50)
        if found["entrypoint"]  # other tests may have deployed on this server, too
    }
    assert active["sft_dpo.served.dpo_round a100"] == [True]
    assert active["sft_dpo.served.dpo_round cpu"] == [False]


def test_promotion_by_the_gate_makes_a_better_model_the_champion(service, config, waiting):
    run = service.start("promote/cpu", f"config={config}", "ask=false")
    state = service.finish(run, seconds=300)
    assert (state["type"], state["name"]) == ("COMPLETED", "Promoted"), state["message"]
    assert waiting.state().champion == champion_of(waiting.store, "new")


@pytest.mark.slow
@pytest.mark.parametrize("decision", ["promote", "decline"])
def test_promotion_waits_for_a_person_without_a_process(service, config, waiting, decision):
    run = service.start("promote/cpu", f"config={config}")
    log = service.folder / "log"
    wait_for(
        "the suspension",
        lambda: service.state(run)["name"] == "Suspended" or None,
        seconds=300,
        log=log,
    )
    assert waiting.state().waiting is not None
    answer = {"decision": decision, "why": "read ten replies"}
    service.ask(f"/flow_runs/{run}/resume", run_input=answer)
    state = service.finish(run, seconds=300)
    assert state["name"] == {"promote": "Promoted", "decline": "Declined"}[decision]
    now = waiting.state()
    assert now.waiting is None
    assert now.champion == champion_of(waiting.store, "new" if decision == "promote" else "old")
    last = sorted(waiting.ledger.folder.iterdir())[-1]
    assert json.loads(last.read_text())["event"]["why"] == "read ten replies"


@pytest.mark.slow
def test_an_answer_is_only_about_the_model_that_was_shown(
    service, config, waiting, tiny_ref_anywhere
):
    """The round was approved in a shell meanwhile, and the next one waits: it has its own form."""
    log, store = service.folder / "log", waiting.store

    def asked_about(model):
        state = service.state(run)
        assert state["type"] not in FINAL, state
        return (state["name"] == "Suspended" and model in str(state["state_details"])) or None

    run = service.start("promote/cpu", f"config={config}")
    wait_for("the first form", lambda: asked_about("merge-new"), seconds=900, log=log)
    waiting.promote(champion_of(store, "new"), "in a shell")
    put_model(store, "merge-next", tiny_ref_anywhere, uri="folder:next")
    parents = {"model": "merge-next"}
    put_evaluation(store, "evaluate-next", "round 2", right=25, parents=parents)
    waiting.open((Delivery(digest="1" * 64, key="batch-0", file="tuesday.jsonl"),))
    waiting.close(2, champion_of(store, "next"), outcome="waiting", why="round 2 is kept")
    service.ask(f"/flow_runs/{run}/resume", run_input={"decision": "promote", "why": "for 1"})
    wait_for("the second form", lambda: asked_about("merge-next"), seconds=900, log=log)
    assert waiting.state().champion == champion_of(store, "new")
    service.ask(f"/flow_runs/{run}/resume", run_input={"decision": "decline", "why": "for 2"})
    assert service.finish(run, seconds=300)["name"] == "Declined"
    assert waiting.state().waiting is None
