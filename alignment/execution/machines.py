"""Several machines build a step together: one runs the command, the others join it.

The first one's process of a step waits at an address until the others are there; each then starts
its own processes, which meet there too, as torchrun's do at a static rendezvous. All machines see
the store's folder under the same path, where the processes leave what they have to tell.
Not here: what the processes do (`rank.py`).
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from alignment.errors import DeviceError, UsageError
from alignment.execution.gpu_locks import gpu_locks
from alignment.execution.rank import Job, Meeting, run_rank, store_at
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
ENDING_SECONDS = 20.0
"""How long the first machine waits for the processes of the others to end."""


# --- on the first machine ------------------------------------------------------------------------


@contextmanager
def others_joined(job: Job, progress: Progress) -> Iterator[None]:
    """Within the block, the other machines of a job have started their processes.

    Raises:
        DeviceError: the address cannot be served.
        Interrupted: the step was asked to stop while it waited.
    """
    group = job.group
    if group.address is None:
        yield
        return
    try:
        store = store_at(group.address, serve=True)
    except RuntimeError as error:
        raise DeviceError(
            f"machines.address: this machine cannot wait at {group.address}: {error}"
        ) from error
    store.set("job", _as_json(job))
    while (joined := store.add("joined", 0)) < group.machines - 1:
        progress.update(f"waiting at {group.address}", joined, group.machines - 1)
        time.sleep(POLL_SECONDS)
    yield
    until = time.monotonic() + ENDING_SECONDS
    while store.add("ended", 0) < group.machines - 1 and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _as_json(job: Job) -> str:
    group = job.group
    return json.dumps(
        {
            "root": str(job.root),
            "step": job.step,
            "workspace": [str(job.workspace.folder.absolute()), str(job.workspace.log.absolute())],
            "folder": str(group.folder),
            "devices": group.devices,
            "cuda": group.cuda,
            "memory_gib": group.memory_gib,
            "machines": group.machines,
        }
    )


# --- on the others -------------------------------------------------------------------------------


def join_others(address: str) -> None:
    """Take part in every step that waits at an address, until the process is stopped.

    Raises:
        UsageError: it is no address, this machine does not see the store, or it lacks devices.
    """
    if not re.fullmatch(r"[^:]+:\d+", address):
        raise UsageError(f"{address!r} is no HOST:PORT, such as 10.0.0.1:29500")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logger.info("waiting for steps at %s, until Ctrl-C", address)
    while True:
        store = _reached(address)
        if store is None:
            continue
        job = _job(address, json.loads(store.get("job")), number=store.add("joined", 1))
        logger.info("taking part as machine %d of %d", job.group.machine + 1, job.group.machines)
        purpose = f"the GPU: a step of {address}"
        with gpu_locks(job.group.devices, purpose=purpose, on_wait=lambda _: None):
            _take_part(job, store)


def _reached(address: str) -> Any:
    """The store at an address, once a step waits there; None if it went away again."""
    try:
        store = store_at(address)
        store.wait(["job"])
    except RuntimeError:
        time.sleep(POLL_SECONDS)
        return None
    return store


def _job(address: str, told: dict[str, Any], *, number: int) -> Job:
    folder = Path(told["folder"])
    if number >= told["machines"]:
        raise UsageError(
            f"{told['machines']} machines are at {address} already; see `machines` in the config"
        )
    if not folder.is_dir():
        raise UsageError(
            f"the store of {address} is {told['root']}, which this machine does not see: mount the "
            "same folder under the same path"
        )
    if told["cuda"] and torch.cuda.device_count() < told["devices"]:
        raise UsageError(
            f"{address} asks for {told['devices']} GPUs of each machine, and this one has "
            f"{torch.cuda.device_count()}"
        )
    meeting = Meeting(
        folder,
        told["devices"],
        told["cuda"],
        told["memory_gib"],
        address=address,
        machines=told["machines"],
        machine=number,
    )
    place, log = map(Path, told["workspace"])
    workspace = Workspace(place, log)
    return Job(Path(told["root"]), told["step"], workspace, meeting, parent=os.getpid())


def _take_part(job: Job, store: Any) -> None:
    """Run this machine's processes of a job until they end, or the first machine is gone."""
    processes = start_processes(run_rank, args=(job,), nprocs=job.group.devices, join=False)
    try:
        while not processes.join(timeout=POLL_SECONDS, grace_period=ENDING_SECONDS):
            store.add("joined", 0)  # fails once the first machine has ended
        logger.info("the step has ended")
    except Exception as error:  # the next attempt may come, with another step
        logger.warning("the step has ended: %s", str(error).strip().splitlines()[-1])
    finally:
        for process in processes.processes:
            process.kill()
            process.join()
    with suppress(RuntimeError):
        store.add("ended", 1)
        while True:  # until the first machine is gone, or it would be joined again
            store.add("ended", 0)
            time.sleep(POLL_SECONDS)
