"""Marks the runs of processes that died without a word as crashed, so that none stays "Running".

A run from a shell notes its process. The next start on the same data of Prefect looks for it.
Not here: runs of a worker, which the service watches by their heartbeat.
"""

import socket
from typing import Any
from uuid import UUID

import psutil
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Crashed

PREFIX = f"shell:{socket.gethostname()}:"
"""What Prefect's `infrastructure_pid` of our runs begins with; the pid and its start follow."""


def note_process(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """A hook of a flow that starts, as Prefect calls it: note that this process runs it."""
    with get_client(sync_client=True) as client:
        me = psutil.Process()
        process = f"{PREFIX}{me.pid}:{me.create_time()}"
        client.update_flow_run(flow_run.id, infrastructure_pid=process)


def mark_lost_runs() -> None:
    """Mark every run that is "Running" as crashed, if its process on this machine is gone."""
    with get_client(sync_client=True) as client:
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state)):
            if _is_lost(run.infrastructure_pid or ""):
                _mark(client, run.id)


def _is_lost(noted: str) -> bool:
    if not noted.startswith(PREFIX):
        return False
    pid, began = noted.removeprefix(PREFIX).split(":")
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(began)) > 1)
    except psutil.NoSuchProcess:
        return True


def _mark(client: SyncPrefectClient, run: UUID) -> None:
    crashed: State[Any] = Crashed(
        message="its process ended without a word, for example by SIGKILL"
    )
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])),
        task_run_filter=TaskRunFilter(state=running),
    )
    for task in tasks:
        client.set_task_run_state(task.id, crashed, force=True)
    client.set_flow_run_state(run, crashed, force=True)
