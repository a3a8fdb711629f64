"""`sft-dpo deploy` and `sft-dpo worker`: put the flows on a Prefect server, and run them there."""

import os
import sys
from pathlib import Path

from alignment.execution.device import device_facts, obstacle
from flows.deploying import POOL, QUEUES, PoolType, deploy

WRAPPER = Path(__file__).parents[2] / "docker" / "worker.py"
"""Lets the runs of a worker save before it stops."""


def deploy_all(pool_type: PoolType | None) -> None:
    """Create pool, queues and automations, and deploy every flow."""
    sys.exit(deploy(pool_type))


def start_worker(queues: list[str], limit: int) -> None:
    """Become a worker; by default without the queue of a GPU where none can be used."""
    served = queues or [queue for queue in QUEUES if queue == "cpu" or not obstacle(device_facts())]
    names = [word for queue in served for word in ("--work-queue", queue)]
    prefect = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, *names]
    command = [*prefect, "--type", "process", "--limit", str(limit), "--with-healthcheck"]
    os.environ.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.execv(sys.executable, [sys.executable, str(WRAPPER), *command])
