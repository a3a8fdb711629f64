"""Sets up a Prefect server: creates what the deployments need, then deploys them. Idempotent.

Existing objects are kept as they are: limits and automations that a person has changed stay
changed. Deployments are updated to match `prefect.yaml`. On failure, prints the reason
and returns 1. Not here: starting a server or a worker.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from alignment.errors import UsageError
from alignment.execution.device import device_facts, machine_line, obstacle

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "deployments" / "templates"
POOL = "gpu"
PoolType = Literal["process", "docker", "kubernetes"]
"""How a pool's runs are started: by the worker itself, in containers, or as jobs of a cluster."""
QUEUES = {"a100": 1, "cpu": 1}
"""Concurrency limit by queue. Waiting runs are shown as scheduled."""
SILENCE = timedelta(seconds=180)
"""Six heartbeat intervals of the deployments' runs (`prefect.yaml`)."""
SETTLED = timedelta(seconds=10)
"""How long a run must stay crashed before it is resumed, see `resume_crashed_runs`."""
OUR_FLOWS = ResourceSpecification(
    {
        "prefect.resource.role": "flow",
        "prefect.resource.name": ["sft-dpo", "dpo-round", "promote"],
    }
)
DEPLOY = ("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")


def deploy(pool_type: PoolType | None) -> int:
    """Create and deploy everything; returns the exit code.

    `pool_type` None takes the pool as it is, and creates a process pool if there is none.

    Raises:
        UsageError: the pool exists and has another type.
    """
    problem = unreachable()
    if problem:
        print(problem, file=sys.stderr)
        return 1
    with get_client(sync_client=True) as client:
        kind = _pool(client, pool_type)
        for line in (*_queues(client), *_automations(client)):
            print(line)
    print(_machine())
    return _deploy(kind)


def unreachable() -> str | None:
    """Why no server can be reached, and what to do about it; None if one answers."""
    url = PREFECT_API_URL.value()
    if not url:
        return (
            "PREFECT_API_URL is not set. Start a server with `sft-dpo server` and "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`."
        )
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is None:
        return None
    return (
        f"no Prefect server answers at {url} ({error!r}). "
        "Start one with `sft-dpo server`, or fix PREFECT_API_URL."
    )


def _machine() -> str:
    """What a worker on this machine would train on; the GPU may be on another one."""
    facts = device_facts()
    found = obstacle(facts)
    advice = (
        f"; a worker here refuses the a100 presets; to mend it, {found.remedy}" if found else ""
    )
    return f"this machine: {machine_line(facts)}{advice}"


def _pool(client: SyncPrefectClient, wanted: PoolType | None) -> str:
    """Find or create the pool, and return its type."""
    try:
        found = client.read_work_pool(POOL).type
    except ObjectNotFound:
        return _create_pool(client, wanted or "process")
    if wanted not in (None, found):
        raise UsageError(
            f"the server has a work pool {POOL} of type {found}, not {wanted}, and the type of a "
            f"pool cannot be changed. Keep it with `--pool {found}`, or delete it and its queues "
            f"with `prefect work-pool delete {POOL}`, and deploy again."
        )
    print(f"work pool   {POOL}: found ({found})")
    return found


def _create_pool(client: SyncPrefectClient, kind: PoolType) -> str:
    template = base_job_template(kind)
    client.create_work_pool(WorkPoolCreate(name=POOL, type=kind, base_job_template=template))
    print(f"work pool   {POOL}: created ({kind})")
    return kind


def base_job_template(pool_type: str) -> dict[str, Any]:
    """What a new pool's runs are started with, and which of it a deployment may change."""
    if pool_type == ProcessWorker.type:
        return ProcessWorker.get_default_base_job_template()
    template: dict[str, Any] = YAML(typ="safe").load(TEMPLATES / f"{pool_type}.yaml")
    return template


def _queues(client: SyncPrefectClient) -> Iterator[str]:
    for name, limit in QUEUES.items():
        try:
            found = client.read_work_queue_by_name(name, work_pool_name=POOL)
        except ObjectNotFound:
            client.create_work_queue(name, work_pool_name=POOL, concurrency_limit=limit)
            yield f"work queue  {POOL}/{name}: created, {limit} run at a time"
        else:
            yield f"work queue  {POOL}/{name}: found, {found.concurrency_limit or 'any'} at a time"


def _automations(client: SyncPrefectClient) -> Iterator[str]:
    for automation in (crash_silent_runs(), resume_crashed_runs()):
        found = client.read_automations_by_name(automation.name)
        if not found:
            client.create_automation(automation)
        yield f"automation  {automation.name}: {'found' if found else 'created'}"


def crash_silent_runs(after: timedelta = SILENCE) -> AutomationCore:
    """Marks a run without heartbeats as crashed: the worker that would report it is dead, too."""
    return AutomationCore(
        name="sft-dpo: a silent run is crashed",
        description="Marks a run as crashed if it sends no heartbeat: its worker has died, too.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=OUR_FLOWS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=after,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat from its process or worker"
            )
        ],
    )


def resume_crashed_runs() -> AutomationCore:
    """Reschedules a crashed run, at most twice; it continues from where it was.

    Runner and worker both report the same crash, a second or two apart. The automation therefore
    only acts if the run stays crashed for a while, and not if it is already running again.
    """
    return AutomationCore(
        name="sft-dpo: a crashed run goes on",
        description="Restarts the run: finished stages are reused, interrupted training resumes.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Crashed"},
            expect={
                f"prefect.flow-run.{state}"
                for state in ("Pending", "Running", "Completed", "Cancelled")
            },
            match=ResourceSpecification(
                {"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": ["1", "2"]}
            ),
            match_related=OUR_FLOWS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SETTLED,
        ),
        actions=[ChangeFlowRunState(name="AwaitingRetry", state=StateType.SCHEDULED)],
    )


def _deploy(pool_type: str) -> int:
    """Deploy everything in prefect.yaml with Prefect's command line; returns the exit code."""
    before = set(_deployed())
    command = [sys.executable, "-m", "prefect", "--no-prompt", *DEPLOY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    for name in sorted(_deployed()):
        print(f"deployment  {name}: {'up to date' if name in before else 'created'}")
    print(_next_step(pool_type))
    return 0


def _next_step(pool_type: str) -> str:
    if pool_type == ProcessWorker.type:
        prefect = "prefect" if shutil.which("prefect") else f"{sys.executable} -m prefect"
        return (
            "next: sft-dpo worker   (in the folder that paths in a config are relative to), then "
            f"{prefect} deployment run sft-dpo/cpu"
        )
    return f"next: prefect worker start --pool {POOL}   (with prefect-{pool_type} installed)"


def _deployed() -> Iterator[str]:
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            if deployment.work_pool_name == POOL and deployment.flow_id:
                flow = client.read_flow(deployment.flow_id)
                yield f"{flow.name}/{deployment.name}"
