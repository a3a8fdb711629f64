"""Stopping a worker, with real processes: the run saves first, then the worker is signalled."""

import signal
import subprocess
import sys
import time

import pytest

from tests.prefect_service import ROOT, end_group, serving, wait_for
from tests.prefect_service import WORKER as PREFECT_WORKER

PROGRAM = ROOT / "docker/worker.py"

RUN = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
pathlib.Path("running").touch()
time.sleep(30)
"""

WORKER = f"""
import pathlib, signal, subprocess, sys
run = subprocess.Popen([sys.executable, "-c", {RUN!r}], start_new_session=True)
def stop(*_):
    run.kill()  # as Prefect's worker does
    pathlib.Path("signalled").write_text(str(pathlib.Path("saved").exists()))
    if not pathlib.Path("ignores").exists():
        sys.exit(7)
signal.signal(signal.SIGTERM, stop)
run.wait()
while True:
    signal.pause()
"""


SAVES = """
import pathlib, time
from prefect import flow
FOLDER = pathlib.Path(__file__).parent

@flow
def saves():
    (FOLDER / "started").touch()
    try:
        time.sleep(120)
    finally:
        time.sleep(3)
        (FOLDER / "saved").touch()
"""

DEPLOY = """
from prefect import flow
run = flow.from_source({folder!r}, "saves.py:saves")
run.deploy("proof", work_pool_name="gpu", print_next_steps=False)
"""


@pytest.fixture
def program(tmp_path):
    process = subprocess.Popen(
        [sys.executable, PROGRAM, sys.executable, "-c", WORKER], cwd=tmp_path
    )
    until = time.monotonic() + 120
    while not (tmp_path / "running").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_has_saved_before_the_worker_is_signalled(program, tmp_path, number):
    program.send_signal(number)
    assert program.wait(120) == 7, "the worker's own exit code"
    assert (tmp_path / "signalled").read_text() == "True"


def test_second_signal_does_not_cut_the_saving_short(program, tmp_path):
    program.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    assert program.wait(120) == 7
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_worker_that_does_not_exit_is_killed_once_its_runs_have_saved(program, tmp_path):
    """As Prefect's worker does occasionally, it receives the signal and ignores it."""
    (tmp_path / "ignores").touch()
    program.send_signal(signal.SIGTERM)
    assert program.wait(120) != 0
    assert (tmp_path / "signalled").read_text() == "True"


@pytest.mark.slow
def test_a_run_of_prefects_own_worker_saves_and_is_shown_as_crashed(tmp_path):
    folder, log = tmp_path / "flow", tmp_path / "log"
    folder.mkdir()
    (folder / "saves.py").write_text(SAVES)
    with serving(tmp_path) as server:
        server.run("-m", "prefect", "work-pool", "create", "gpu", "--type", "process")
        server.run("-c", DEPLOY.format(folder=str(folder)))
        with log.open("ab") as output:
            worker = subprocess.Popen(
                [sys.executable, PROGRAM, sys.executable, "-m", *PREFECT_WORKER],
                cwd=ROOT,
                env=server.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            run = server.start("saves/proof")
            wait_for("run", lambda: (folder / "started").exists() or None, seconds=300, log=log)
            worker.terminate()
            worker.wait(120)
        finally:
            end_group(worker)
        assert (folder / "saved").exists()
        assert server.finish(run, seconds=300)["type"] == "CRASHED"
