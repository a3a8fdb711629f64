"""Searches for two planted secrets after whole runs: one in the environment, one in a block.

It searches all files of the server, its database, the store, all logs, and the server's answers.
"""

import psutil
import pytest

from tests.inbox import line_settings
from tests.prefect_service import PLANTED, wait_for

IN_BLOCK = "hf_plantedInABlock0123456789"
SAVE = f"from prefect.blocks.system import Secret; Secret(value={IN_BLOCK!r}).save('hf-token')"
FROM_BLOCK = 'env={"HF_TOKEN": "{{ prefect.blocks.secret.hf-token }}"}'


def files_with(folder, text):
    """Paths of the files below a folder that contain a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.relative_to(folder) for path in files if text.encode() in path.read_bytes()]


def answers_about(service, run):
    """Everything that the server returns about a run."""
    of_run = [service.ask(f"/flow_runs/{run}"), service.log(run), service.artifacts(run)]
    return f"{of_run} {service.of_run('/task_runs/filter', run)}"


def test_a_secret_in_the_environment_appears_nowhere_after_a_whole_run(service, finished, config):
    assert PLANTED in service.environment.values()
    assert files_with(service.folder, config.name), "the search works"
    assert files_with(service.folder, PLANTED) == []
    assert PLANTED not in answers_about(service, finished)


@pytest.mark.slow
def test_a_secret_in_a_block_reaches_the_run_and_nothing_else(
    service, tiny_settings, write_config, tmp_path
):
    assert service.run("-c", SAVE).returncode == 0
    config = write_config(line_settings(tiny_settings, tmp_path))
    run = service.start("dpo-round/cpu", f"config={config}", job_variable=FROM_BLOCK)
    token = wait_for(
        "the run's process", lambda: token_of(run), seconds=300, log=service.folder / "log"
    )
    assert token == IN_BLOCK
    assert service.finish(run, seconds=300)["name"] == "No new data"
    assert files_with(service.folder, IN_BLOCK) == []
    assert IN_BLOCK not in answers_about(service, run)


def token_of(run):
    """The token in the environment of a run's process."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("PREFECT__FLOW_RUN_ID") == run:
            return environment.get("HF_TOKEN")
    return None
