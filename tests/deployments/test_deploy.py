"""`sft-dpo deploy` twice on a real server, and without a server."""

import os
import subprocess
import sys

import pytest

from alignment.execution.device import device_facts, machine_line, obstacle
from flows.deploying import base_job_template
from tests.prefect_service import ROOT, free_port, serving

DEPLOY = ("-m", "sft_dpo", "deploy")
QUEUE = "/work_pools/gpu/queues/a100"


def alone(command, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "sft_dpo", command],
        cwd=ROOT,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_each_queue_runs_one_flow_at_a_time(service):
    queues = service.ask("/work_pools/gpu/queues/filter", limit=50)
    limits = {queue["name"]: queue["concurrency_limit"] for queue in queues}
    assert limits["cpu"] == limits["a100"] == 1


def test_second_deploy_creates_what_was_deleted_and_keeps_manual_changes(service):
    deleted = service.ask("/deployments/name/promote/a100")["id"]
    service.send("DELETE", f"/deployments/{deleted}")
    before = {d["id"] for d in service.ask("/deployments/filter", limit=50)}
    service.send("PATCH", QUEUE, concurrency_limit=3)
    done = service.run(*DEPLOY)
    service.send("PATCH", QUEUE, concurrency_limit=1)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last.startswith("next: sft-dpo worker")
    machine = lines.pop(5)
    assert machine.startswith(f"this machine: {machine_line(device_facts())}")
    assert ("a worker here refuses the a100 presets" in machine) == bool(obstacle(device_facts()))
    assert lines == [
        "work pool   gpu: found (process)",
        "work queue  gpu/a100: found, 3 at a time",
        "work queue  gpu/cpu: found, 1 at a time",
        "automation  sft-dpo: a silent run is crashed: found",
        "automation  sft-dpo: a crashed run goes on: found",
        "deployment  dpo-round/a100: up to date",
        "deployment  dpo-round/cpu: up to date",
        "deployment  promote/a100: created",
        "deployment  promote/cpu: up to date",
        "deployment  sft-dpo/a100: up to date",
        "deployment  sft-dpo/a100-stack: up to date",
        "deployment  sft-dpo/cpu: up to date",
    ]
    again = service.ask("/deployments/name/promote/a100")["id"]
    assert {d["id"] for d in service.ask("/deployments/filter", limit=50)} == {*before, again}
    found = [automation["name"] for automation in service.ask("/automations/filter", limit=50)]
    ours = [name for name in found if name.startswith("sft-dpo: ")]
    assert len(ours) == len(set(ours)) == 2


def test_a_pool_of_another_type_is_refused_before_anything_changes(service):
    done = service.run(*DEPLOY, "--pool", "docker")
    assert done.returncode == 2
    assert done.stderr.startswith("the server has a work pool gpu of type process, not docker")
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("pool_type", ["docker", "kubernetes"])
def test_a_pool_for_containers_takes_every_deployment(pool_type, tmp_path):
    with serving(tmp_path) as server:
        done = server.run(*DEPLOY, "--pool", pool_type)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"work pool   gpu: created ({pool_type})")
        last = done.stdout.splitlines()[-1]
        assert (
            last == f"next: prefect worker start --pool gpu   (with prefect-{pool_type} installed)"
        )
        pool = server.ask("/work_pools/gpu")
        assert pool["base_job_template"] == base_job_template(pool_type)
        assert len(server.ask("/deployments/filter", limit=50)) == 7


def test_deployments_contain_no_path_of_this_machine(service):
    for deployment in service.ask("/deployments/filter", limit=50):
        texts = [deployment[key] for key in ("entrypoint", "path", "pull_steps", "job_variables")]
        assert str(ROOT) not in str(texts)


@pytest.mark.parametrize(("command", "code"), [("deploy", 1), ("worker", 2)])
def test_without_an_api_url_it_says_how_to_set_one(tmp_path, command, code):
    done = alone(command, PREFECT_HOME=str(tmp_path))
    assert done.returncode == code
    assert done.stderr.startswith("PREFECT_API_URL is not set. Start a server with")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_server_it_says_which_url_does_not_answer(tmp_path):
    url = f"http://127.0.0.1:{free_port()}/api"
    done = alone("deploy", PREFECT_HOME=str(tmp_path), PREFECT_API_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"no Prefect server answers at {url}")
    assert len(done.stderr.splitlines()) == 1
