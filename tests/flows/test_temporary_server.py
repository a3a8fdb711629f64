"""Prefect's temporary server: real ones, killed, refused and outlived."""

import os
import signal
import sqlite3
import subprocess
import sys

import psutil
import pytest

from tests.prefect_service import ROOT, SETTINGS, end_group, wait_for

RUN = "from flows.cli import main; main()"
NEXT = """
from flows.environment import quiet_prefect
quiet_prefect()
from flows.local import start_server
start_server()
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print([run.state_name for run in client.read_flow_runs()])
    print({run.state_name for run in client.read_task_runs()} & {"Running"})
"""


@pytest.fixture
def environment(tmp_path):
    """Prefect's data in a folder of the test, and no server but the temporary one."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    path = os.pathsep.join([str(ROOT), inherited.get("PYTHONPATH", "")])
    return inherited | SETTINGS | own | {"PYTHONPATH": path}


def test_a_killed_run_leaves_no_server_and_is_crashed_at_the_next_start(
    environment, tiny_settings, write_config, tmp_path
):
    log = tmp_path / "log"
    command = [sys.executable, "-c", RUN, "run", str(write_config(tiny_settings))]
    with log.open("wb") as out:
        run = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for("a first step", lambda: b"[ 1/" in log.read_bytes() or None, seconds=600, log=log)
        children = psutil.Process(run.pid).children(recursive=True)
        assert any("flows.owned_server" in child.cmdline() for child in children)
        run.send_signal(signal.SIGKILL)
        run.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
    finally:
        end_group(run)
    again = subprocess.run(
        [sys.executable, "-c", NEXT], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert again.stdout.splitlines() == ["['Crashed']", "set()"], again.stderr


def test_a_server_that_dies_at_its_start_is_noticed_and_says_why(
    environment, tiny_settings, write_config, tmp_path
):
    """A later Prefect has migrated the database to a revision that this one does not know."""
    (tmp_path / "home").mkdir()
    with sqlite3.connect(tmp_path / "home" / "prefect.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    database.close()
    done = subprocess.run(
        [sys.executable, "-c", RUN, "run", str(write_config(tiny_settings))],
        cwd=ROOT,
        env=environment | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "3600"},
        capture_output=True,
        text=True,
        timeout=900,  # it is not waited for
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "failed at its start" in last
    assert "Can't locate revision identified by 'ffffffffffff'" in last
    assert "PREFECT_HOME to another one" in last
    assert not (tmp_path / "store" / "objects").exists()
