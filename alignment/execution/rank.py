"""One process of a training on several devices: meets the others and builds the step with them."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]  # in no __all__

from alignment.errors import AlignmentError, DeviceError, Interrupted
from alignment.execution.forkserver import STOPS
from alignment.execution.log_records import make_records_printable
from alignment.execution.provenance import peak_memory
from alignment.pipeline.steps import Context, Outcome, read_step
from alignment.processes import die_with
from alignment.store.durable import write
from alignment.store.errors import error_of_storage
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace

PATIENCE = timedelta(days=1)
"""How long one process may wait for another: only the first runs tasks of lm-eval. One that ends
is noticed at once, by the process that started them."""

MEETING_SECONDS = 60.0
"""How long the processes may take to connect once all are there."""

CONNECTING = timedelta(seconds=30)
"""How long a process of another machine tries to reach the first one."""

POLL_SECONDS = 0.05

LOST = (
    "one of the processes of this training ended. The same command continues from its last "
    "checkpoint, also on another number of devices"
)

LOST_CONNECTIONS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says where another process has ended, in an error without a class of its own."""

ADVICE = "Set devices=1, or see what NCCL_DEBUG=INFO adds to the log"

NUMBERS = 2**20
"""How many known numbers the processes add up before they train."""


@dataclass(frozen=True)
class Meeting:
    """Processes that exchange data, one per device.

    Attributes:
        folder: where they meet, and leave files for each other.
        devices: number of processes on each machine.
        cuda: whether each has a GPU of its own.
        memory_gib: GPU memory for tensors on each, in GiB; None: no limit.
        address: where the processes of several machines meet: HOST:PORT of the first.
        machines, machine: number of machines, and which of them this is, from 0.
    """

    folder: Path
    devices: int
    cuda: bool
    memory_gib: float | None = None
    address: str | None = None
    machines: int = 1
    machine: int = 0

    @property
    def count(self) -> int:
        """Number of processes on all machines."""
        return self.machines * self.devices

    def rank(self, device: int) -> int:
        """Number of the process for one of this machine's devices among all."""
        return self.machine * self.devices + device


@dataclass(frozen=True)
class Job:
    """What each of the processes is given.

    Attributes:
        root, step: the store's folder, and the step as JSON.
        workspace: where the step is built.
        group: the processes; their folder also holds what all but the first write.
        parent: the process that starts them.
    """

    root: Path
    step: str
    workspace: Workspace
    group: Meeting
    parent: int

    def place(self, rank: int) -> Workspace:
        """Where a process builds; checkpoints and the trainer's own folder are shared."""
        if rank == 0:
            return self.workspace
        return Workspace(folder=self.group.folder / str(rank), log=self.workspace.log)

    def reports(self, rank: int) -> Path:
        """Where a process reports its progress and its failure."""
        return self.group.folder / f"reports-{rank}.jsonl"

    @property
    def outcome(self) -> Path:
        """Where the first process describes what was built."""
        return self.group.folder / "outcome.json"


def run_rank(device: int, job: Job) -> None:
    """Build the step of a job together with the other processes."""
    die_with(job.parent)
    rank = job.group.rank(device)
    progress = Progress(job.reports(rank))
    for signum in STOPS:
        signal.signal(signum, lambda *_: progress.ask_to_stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    make_records_printable()
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname)s %(name)s [device {rank}] %(message)s",
    )
    end = partial(_end, rank, progress)
    try:
        meet(device, job.group, on_late=end)
        context = Context(Store(root=job.root), job.place(rank), progress)
        outcome = read_step(job.step).build(context)
        if rank == 0:
            write("ranks.outcome", job.outcome, _as_json(outcome))
        distributed.barrier()
        distributed.destroy_process_group()
    except Exception as error:
        end(_known(error, job.root))


def _known(error: Exception, root: Path) -> AlignmentError:
    """An error as the process that started this one reports it, also if nobody foresaw it.

    Without the others nothing goes on here: why they ended is theirs to say, see `launch.py`.
    """
    if isinstance(error, AlignmentError):
        return error
    if _lost_others(error):
        return Interrupted(LOST)
    known = error_of_storage(error, root) or AlignmentError(f"{type(error).__name__}: {error}")
    return known.with_traceback(error.__traceback__)


def _lost_others(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in LOST_CONNECTIONS)
    )


def _end(rank: int, progress: Progress, error: AlignmentError) -> None:
    """Report an error and end this process at once: the others wait for it."""
    logging.getLogger(__name__).error("device %d failed", rank, exc_info=error)
    progress.fail(error)
    sys.stdout.flush()
    os._exit(error.exit_code)


def meet(device: int, group: Meeting, *, on_late: Callable[[DeviceError], None]) -> None:
    """Join a group of processes, and check that they can exchange data.

    `device` is the number of one of this machine's. `on_late` is called in another thread if they
    do not connect in time; it ends this process.

    Raises:
        DeviceError: they cannot exchange data.
    """
    rank = group.rank(device)
    os.environ |= {  # read by accelerate
        "RANK": str(rank),
        "LOCAL_RANK": str(device),
        "WORLD_SIZE": str(group.count),
        "LOCAL_WORLD_SIZE": str(group.devices),
        **({"MASTER_ADDR": group.address.split(":")[0]} if group.address else {}),
    }
    place = _take_device(device, group)
    store = _store(group)
    _await_all(store, group.count)
    try:
        with _deadline(MEETING_SECONDS, partial(on_late, _late(group.count))):
            distributed.init_process_group(
                "nccl" if group.cuda else "gloo",
                store=store,
                rank=rank,
                world_size=group.count,
                timeout=PATIENCE,
                device_id=place if group.cuda else None,
            )
            sums_are_right = _add_up(rank, group.count, place)
    except RuntimeError as error:
        raise DeviceError(
            f"{group.count} devices cannot exchange data: {error}. {ADVICE}"
        ) from error
    if not sums_are_right:
        raise DeviceError(
            f"{group.count} devices add up known numbers wrongly, so a training on them would be "
            "worthless. Set devices=1; with NVIDIA cards, try NCCL_P2P_DISABLE=1"
        )


def _take_device(number: int, group: Meeting) -> torch.device:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // group.devices))
    if not group.cuda:
        return torch.device("cpu")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    limit_gpu(group.memory_gib)
    return device


def _store(group: Meeting) -> Any:
    """Where the processes find each other: a file, or the first machine."""
    if group.address is None:
        return FileStore(str(group.folder / "meeting"), group.count)
    return store_at(group.address)


def store_at(address: str, *, serve: bool = False) -> Any:
    """A store for short words at HOST:PORT, which this process serves or uses."""
    host, _, port = address.rpartition(":")
    return TCPStore(host, int(port), is_master=serve, wait_for_workers=False, timeout=CONNECTING)


def _await_all(store: Any, count: int) -> None:
    """Wait until every process is here; whoever started them ends all if one does not come."""
    store.add("here", 1)
    while store.add("here", 0) < count:
        time.sleep(POLL_SECONDS)


@contextmanager
def _deadline(seconds: float, on_late: Callable[[], None]) -> Iterator[None]:
    """Call a function in another thread unless the block ends in time, as NCCL may not return."""
    timer = threading.Timer(seconds, on_late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _late(count: int) -> DeviceError:
    return DeviceError(f"{count} devices did not connect within {MEETING_SECONDS:g} s. {ADVICE}")


def limit_gpu(memory_gib: float | None) -> None:
    """Limit the tensors of this process on its GPU, if it has one."""
    if memory_gib is not None and torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib * 2**30 / total))


def _add_up(rank: int, count: int, device: torch.device) -> bool:
    """Whether the sum of known numbers over all processes is right; peer copies can lose data."""
    numbers = torch.arange(NUMBERS, dtype=torch.float64, device=device)
    found, expected = numbers * (rank + 1), numbers * (count * (count + 1) / 2)
    distributed.all_reduce(found)
    return torch.equal(found, expected)


def _as_json(outcome: Outcome) -> str:
    output = outcome.output.model_dump(mode="json")
    metrics = {**outcome.metrics, **peak_memory()}
    return json.dumps({"output": output, "metrics": metrics, "notes": outcome.notes})
