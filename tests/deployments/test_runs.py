"""Runs of both deployments on a real server and a real worker, with the tiny model."""

import json
import os
import time

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from alignment.config.file import load
from alignment.pipeline.chain_builder import chain
from alignment.records.refs import AdapterRef
from alignment.store.store import Store
from flows.sft_dpo import sft_dpo
from tasks.stage import watching
from tests.long_training import LongTraining
from tests.prefect_service import overrides


def test_cpu_runs_every_step_of_the_chain_in_its_order(service, finished, config):
    steps = list(chain(load(config)).steps())
    assert service.tasks(finished) == [
        *((step.name, "Built") for step in steps),
        ("report", "Completed"),
    ]
    assert {step.key for step in steps} <= set(Store(root=service.store).list_keys())


def test_run_page_shows_a_card_for_each_step_and_the_report(service, finished, config):
    shown = service.artifacts(finished)
    assert {f"tiny-{step.name}" for step in chain(load(config)).steps()} <= set(shown)
    assert "| Model |" in shown["tiny-report"]["data"]
    models = json.loads(shown["tiny-models"]["data"])
    assert [row["Model"] for row in models] == ["base", "sft", "round 1"]
    assert shown["tiny-report"]["description"].startswith("In pass rate, round 1 is ")
    assert (service.store / "reports" / "tiny.html").as_uri() in shown["tiny-page"]["data"]


def test_the_runs_message_is_the_verdict_and_its_report_belongs_to_it(service, finished):
    shown = service.artifacts(finished)
    message = service.state(finished)["message"]
    assert message.startswith("In pass rate, round 1 is ")
    for key in ("tiny-report", "tiny-models", "tiny-page"):
        assert shown[key]["description"].startswith(message)
        assert (shown[key]["flow_run_id"], shown[key]["task_run_id"]) == (finished, None)


def test_adapter_is_shown_with_kind_key_path_digest_and_metrics(service, finished, config):
    store, round_ = Store(root=service.store), chain(load(config)).rounds[0]
    record = store.open(round_.train.key)
    ref = AdapterRef.model_validate(record.output)
    (row,) = json.loads(service.artifacts(finished)["tiny-dpo-1-adapter"]["data"])
    assert row["kind"] == "dpo"
    assert row["key"] == record.key
    assert row["path"] == str(store.path(ref.uri))
    assert row["sha256"] == ref.sha256
    assert row["loss"] == pytest.approx(record.metrics["loss"])


@pytest.mark.usefixtures("finished")
def test_second_run_builds_nothing(service, config):
    before = {path: path.stat().st_mtime_ns for path in service.store.glob("objects/*/*")}
    run = service.start("sft-dpo/cpu", f"config={config}")
    assert service.finish(run, seconds=300)["type"] == "COMPLETED"
    assert {state for _, state in service.tasks(run)} == {"Reused", "Completed"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("finished")
def test_flow_in_this_process_notifies_a_watcher_of_each_step(service, config):
    calls = []

    def watcher(step, mark, record):
        calls.append((step.name, mark, record is not None))

    with temporary_settings({PREFECT_API_URL: service.url}), watching(watcher):
        result = sft_dpo(config=str(config))
    steps = [step.name for step in chain(load(config)).steps()]
    assert calls == [call for name in steps for call in ((name, None, False), (name, None, True))]
    assert result.report.endswith("tiny.html")
    assert "round 1" in result.table


@pytest.mark.usefixtures("finished")
def test_preset_a100_says_what_it_runs_on_what_it_misses_and_that_it_merges(
    service, tiny_model_folder
):
    """Its steps at a tiny shape: one round, and an SFT adapter that is not there."""
    pairs = {"name": "practice", "part": "round-1", "rows": 12}
    held_out = {"name": "practice", "part": "held-out", "rows": 24}
    run = service.start(
        "sft-dpo/a100",
        overrides(
            "name=a100-tiny",
            "device=cpu",
            f"store={service.store}",
            f"model={{name: folder, path: {tiny_model_folder}}}",
            "quantisation=null",
            "sft={name: adapter, path: given/elsewhere}",
            "dpo.bf16=false",
            "dpo.max_steps=1",
            "dpo.sample_tokens=4",
            f"rounds=[{{data: {{sources: [{json.dumps(pairs)}]}}}}]",
            f"evaluation={{data: {{sources: [{json.dumps(held_out)}], min_rows: 0}}, "
            "max_new_tokens: 4, max_length: 256, dtype: float32}",
        ),
    )
    state = service.finish(run, seconds=300)
    assert state["type"] == "COMPLETED", state["message"]
    missing = "no SFT adapter in given/elsewhere: the base model takes its place"
    log = service.whole_log(run).splitlines()
    (device,) = (line for line in log if line.startswith("device: "))
    assert device.startswith(f"device: CPU, {os.cpu_count()} cores (as configured) | driver: ")
    assert device.endswith("| the config expects the CPU, full weights, float32")
    assert log.index(device) < log.index(f"sft: {missing}")
    tasks = dict(service.tasks(run))
    assert tasks["base"] == "Reused"
    assert {"sft", "merge-sft", "dpo-1", "merge-dpo-1", "evaluate-round-1"} <= set(tasks)
    artifacts = service.artifacts(run)
    assert "kept share" in artifacts["a100-tiny-merge-dpo-1"]["description"]
    assert missing in artifacts["a100-tiny-sft"]["description"]
    assert artifacts["a100-tiny-report"]["description"].startswith(f"N{missing[1:]}. ")
    page = (service.store / "reports" / "a100-tiny.html").read_text()
    assert f"N{missing[1:]}." in page
    assert "ran on cpu, driver " in page
    records = {record.name: record for record in Store(root=service.store).records()}
    assert records["sft"].notes == (missing,)
    assert records["merge-dpo-1"].hardware["device"] == "cpu"


@pytest.mark.usefixtures("finished")
def test_a_whole_run_neither_contacts_nor_listens_to_another_machine(service):
    """Server, worker, runs and trainings all inherit an audit hook that watches their sockets."""
    probe = "import socket; socket.getaddrinfo('example.com', 80)"
    outside = service.folder / "outside"
    tried = outside.read_text().splitlines() if outside.exists() else []
    assert service.run("-c", probe).returncode == 1, "the hook is active"
    assert len(outside.read_text().splitlines()) == len(tried) + 1
    assert [line for line in tried if "example.com" not in line] == []


@pytest.mark.usefixtures("finished")
def test_bad_data_fails_task_and_run_with_the_same_line(service, config):
    run = service.start("sft-dpo/cpu", f"config={config}", overrides("sft.data.min_rows=999"))
    state = service.finish(run, seconds=300)
    assert state["type"] == "FAILED"
    assert state["message"].startswith("DataError: conversations: only ")
    assert dict(service.tasks(run))["conversations"] == "Failed"
    assert "Traceback" not in service.whole_log(run)


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_cancelled_training_saves_exits_and_is_resumed_by_the_next_run(
    service, config, record_property
):
    """Cancelled like `prefect flow-run cancel`; the button is tested in `tests/ui`."""
    training = LongTraining(service, config)
    run = training.start()
    training.check_progress(beyond=3)
    assert not training.checkpoints()
    asked = time.time()
    cancel(service, run)
    training.check_exit(asked, record_property)
    assert service.finish(run, seconds=300)["type"] == "CANCELLED"

    run = training.start()
    training.check_progress(beyond=training.steps()[-1])
    cancel(service, run)
    assert service.finish(run, seconds=300)["type"] == "CANCELLED"
    assert not training.processes()
    service.check_free()


def cancel(service, run):
    service.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
