"""Prefect's database is deleted during a round: the store is the source of truth."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from tests.deployments.test_crashes import in_training
from tests.inbox import drop, line_settings, rows
from tests.postgres import postgresql
from tests.prefect_service import WORKER, answering, bootstrap, planned, running, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def lost(request, tmp_path):
    """A server, not started yet, and a function that deletes its database."""
    if request.param == "sqlite":
        service = planned(tmp_path)
        yield service, lambda: shutil.rmtree(Path(service.environment["PREFECT_HOME"]))
        return
    with postgresql() as database:
        service = planned(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=database.url)
        yield service, database.make_database


def test_round_resumes_from_the_store_after_the_database_was_deleted(
    lost, tmp_path, tiny_settings, write_config
):
    settings = line_settings(tiny_settings, tmp_path)
    settings["dpo"]["epochs"] = 10
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 32))
    config = write_config(settings)
    (service, lose), store = lost, Store(root=tmp_path / "store")
    with answering(service):
        bootstrap(service)
        with running(service, *WORKER) as worker:
            run = service.start("dpo-round/cpu", f"config={config}")
            log = service.folder / "log"
            wait_for("training", lambda: in_training(store.root), seconds=300, log=log)
            for process in (worker, *service.processes(run)):
                os.kill(process.pid, signal.SIGKILL)
    built = set(store.list_keys())
    lose()
    with answering(service):
        assert service.ask("/flow_runs/count", flow_runs={}) == 0, "the new database is empty"
        bootstrap(service)
        with running(service, *WORKER):
            again = service.start("dpo-round/cpu", f"config={config}")
            state = service.finish(again, seconds=300)
        assert (state["type"], state["name"]) == ("COMPLETED", "Kept"), state["message"]
        reused = [name for name, how in service.tasks(again) if how == "Reused"]
    assert len(built) >= 4
    assert "pairs-1" in reused
    events = [entry.event.name for entry in RoundLine(store=store).ledger.read()]
    assert events == ["started", "opened", "closed"]
