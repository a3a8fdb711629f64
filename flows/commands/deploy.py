"""`sft-dpo deploy` and `sft-dpo worker`: put the flows on a Prefect server, and run them there."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from alignment.errors import UsageError
from alignment.execution.device import device_facts, obstacle
from alignment.processes import die_with, python_module
from flows.deploying import POOL, QUEUES, PoolType, deploy, unreachable
from flows.printing import say
from flows.report_server import HOST, PORT, serve, taken, wait_for
from tasks.artifacts import REPORTS

WRAPPER = Path(__file__).parents[2] / "docker" / "worker.py"
"""Lets the runs of a worker save before it stops."""


def deploy_all(pool_type: PoolType | None) -> None:
    """Create pool, queues and automations, and deploy every flow."""
    sys.exit(deploy(pool_type))


def start_worker(queues: list[str], limit: int) -> None:
    """Become a worker; by default without the queue of a GPU where none can be used.

    Raises:
        UsageError: no server is named, or it does not answer. Prefect's worker would start a
            temporary one, which nobody gives any work.
    """
    if problem := unreachable():
        raise UsageError(problem)
    served = queues or [queue for queue in QUEUES if queue == "cpu" or not obstacle(device_facts())]
    names = [word for queue in served for word in ("--work-queue", queue)]
    prefect = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, *names]
    command = [*prefect, "--type", "process", "--limit", str(limit), "--with-healthcheck"]
    os.environ.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if address := reports_beside(os.getpid()):
        os.environ[REPORTS] = address
    os.execv(sys.executable, [sys.executable, str(WRAPPER), *command])


def reports_beside(worker: int) -> str | None:
    """Serve the reports below this folder as long as the worker lives; the address, if it works."""
    if taken(PORT):
        say(f"port {PORT} is taken, so pages of runs name their reports by path only", error=True)
        return None
    command = python_module("sft_dpo", "reports", "--until", str(worker))
    subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(PORT, seconds=20)
    say(f"reports: http://{HOST}:{PORT}")
    return f"http://{HOST}:{PORT}"


def serve_reports(port: int, until: int | None) -> None:
    """Serve the reports below this folder until Ctrl-C, or until another process ends."""
    if until is not None:
        die_with(until)
    elif taken(port):
        raise UsageError(f"port {port} is taken; name another one with --port")
    else:
        say(f"http://{HOST}:{port}, until Ctrl-C")
    with suppress(KeyboardInterrupt):
        serve(Path.cwd(), port)
