"""A round whose process, worker or server is killed is resumed."""

import os
import signal

import psutil
import pytest

from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from tests.inbox import drop, line_settings, rows
from tests.postgres import postgresql
from tests.prefect_service import (
    WORKER,
    answering,
    bootstrap,
    planned,
    running,
    wait_for,
)

pytestmark = pytest.mark.slow

SOONER = """
from datetime import timedelta
from prefect.client.orchestration import get_client
from flows.deploying import crash_silent_runs

sooner = crash_silent_runs(after=timedelta(seconds=45))
with get_client(sync_client=True) as client:
    for found in client.read_automations_by_name(sooner.name):
        client.delete_automation(found.id)
    client.create_automation(sooner)
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def planned_service(request, tmp_path_factory):
    """A separate server, not started yet, on either database."""
    folder = tmp_path_factory.mktemp("crashes")
    if request.param == "sqlite":
        yield planned(folder)
        return
    with postgresql() as database:
        yield planned(folder, PREFECT_SERVER_DATABASE_CONNECTION_URL=database.url)


def prepare(server):
    """Bootstrap the server; runs count as crashed after 45 seconds without a heartbeat."""
    bootstrap(server)
    done = server.run("-c", SOONER)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def service(planned_service):
    """The prepared server; a test may kill and restart it."""
    with answering(planned_service):
        prepare(planned_service)
        yield planned_service


@pytest.fixture
def config(tiny_settings, write_config, tmp_path):
    """A line with one batch, whose round takes long enough to be killed."""
    settings = line_settings(tiny_settings, tmp_path)
    settings["dpo"]["epochs"] = 20
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 32))
    return write_config(settings)


def in_training(store):
    marks = list(store.glob("work/dpo-*/progress.jsonl"))
    return marks[0] if marks and marks[0].stat().st_size else None


def kill_in_training(service, run, store, *more):
    log = service.folder / "log"
    wait_for("training", lambda: in_training(store), seconds=300, log=log)
    check_held(service)
    for process in (*more, *service.processes(run)):
        os.kill(process.pid, signal.SIGKILL)


def check_held(service):
    """One run holds its deployment's slot, a lease on it, and its place in the queue."""
    held = service.held()
    assert (held.slots, held.leases, held.runs) == (1, 1, 1), held


def check_one_round(service, run, line):
    state = wait_for(  # a Crashed state is final for Prefect, but not here: the run is resumed
        "the end of the run",
        lambda: now if (now := service.state(run))["type"] in ("COMPLETED", "FAILED") else None,
        seconds=300,
        log=service.folder / "log",
    )
    assert (state["type"], state["name"]) == ("COMPLETED", "Kept"), state["message"]
    assert service.ask(f"/flow_runs/{run}")["run_count"] == 2
    assert [e.event.name for e in line.ledger.read()] == ["started", "opened", "closed"]
    assert [closed.fate for _, closed in line.state().history] == ["kept"]
    service.check_free()


def test_killed_flow_process_is_resumed(service, config, tmp_path):
    line = RoundLine(store=Store(root=tmp_path / "store"))
    with running(service, *WORKER):
        run = service.start("dpo-round/cpu", f"config={config}")
        kill_in_training(service, run, tmp_path / "store")
        check_one_round(service, run, line)


def test_run_whose_worker_died_with_it_is_detected_and_resumed_by_another(
    service, config, tmp_path
):
    line = RoundLine(store=Store(root=tmp_path / "store"))
    with running(service, *WORKER) as worker:
        run = service.start("dpo-round/cpu", f"config={config}")
        kill_in_training(service, run, tmp_path / "store", worker)
    assert service.state(run)["type"] == "RUNNING", "no process is left to report the crash"
    with running(service, *WORKER):
        check_one_round(service, run, line)


def test_run_survives_a_kill_of_its_worker(service, config, tmp_path):
    """Its process continues, or counts as dead and the next one continues: one round either way."""
    line = RoundLine(store=Store(root=tmp_path / "store"))
    log = service.folder / "log"
    with running(service, *WORKER) as worker:
        run = service.start("dpo-round/cpu", f"config={config}")
        wait_for("training", lambda: in_training(tmp_path / "store"), seconds=300, log=log)
        worker.kill()
        with running(service, *WORKER):
            wait_for(
                "the end of the run",
                lambda: True if service.state(run)["name"] == "Kept" else None,
                seconds=300,
                log=log,
            )
            wait_for(
                "the end of its processes",
                lambda: None if service.processes(run) else True,
                seconds=300,
                log=log,
            )
            service.check_free()
    assert [e.event.name for e in line.ledger.read()] == ["started", "opened", "closed"]


def servers(service):
    """The processes that listen on the server's port, and their descendants."""
    port = int(service.url.rpartition(":")[2].removesuffix("/api"))
    found = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port == port and connection.pid
    }
    return [one for pid in found for one in family(psutil.Process(pid))]


def family(process):
    return [process, *process.children(recursive=True)]


def test_run_survives_a_kill_of_the_server(service, config, tmp_path):
    """Training continues; the flow reconnects to the server, or is restarted."""
    line = RoundLine(store=Store(root=tmp_path / "store"))
    with running(service, *WORKER):
        run = service.start("dpo-round/cpu", f"config={config}")
        log = service.folder / "log"
        wait_for("training", lambda: in_training(tmp_path / "store"), seconds=300, log=log)
        check_held(service)
        for process in servers(service):
            process.kill()
        with answering(service):
            state = wait_for(
                "the end of the run",
                lambda: now if (now := service.state(run))["type"] == "COMPLETED" else None,
                seconds=300,
                log=log,
            )
            service.check_free()
    assert state["name"] == "Kept", state["message"]
    assert [e.event.name for e in line.ledger.read()] == ["started", "opened", "closed"]
