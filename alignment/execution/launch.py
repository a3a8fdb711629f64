"""Builds a step on several devices of this machine: one process each, started by torch.

The process that holds the step's lock starts them, passes their progress on, and passes a request
to stop on to them. Rank 0 writes the artifact into the step's workspace; the others write beside
it, into a folder that is removed. If one ends, all end, and the step goes on from its checkpoint.
Not here: what each process does (`rank.py`), how rows are shared out (`scoring/ranks.py`).
"""

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from alignment.data.read.files import WHOLE
from alignment.errors import AlignmentError, Interrupted, TrainingError
from alignment.execution.gpu_locks import gpu_locks
from alignment.execution.machines import others_joined
from alignment.execution.rank import LOST, Job, Meeting, limit_gpu, run_rank
from alignment.pipeline.steps import Context, Outcome, Step, TrainDpo, TrainSft
from alignment.scoring.engine import Packed
from alignment.store.durable import failpoint_span
from alignment.store.progress import Failure, Follower, Mark, Progress

POLL_SECONDS = 0.3
SHUTDOWN_SECONDS = 20.0
"""How long processes may take to end by themselves after one of them has failed."""


@dataclass(frozen=True)
class Placement:
    """On what a step runs.

    Attributes:
        devices: number of devices of each machine.
        cuda: whether they are GPUs.
        memory_gib: GPU memory for tensors on each, in GiB; None: no limit.
        machines, address: number of machines, and where they meet if there are several.
    """

    devices: int
    cuda: bool
    memory_gib: float | None
    machines: int = 1
    address: str | None = None

    @property
    def count(self) -> int:
        """Number of devices on all machines."""
        return self.machines * self.devices


def build_on_devices(step: Step, context: Context, placement: Placement) -> Outcome:
    """Build a step in this process, or in one process per device if there are several.

    Raises:
        AlignmentError: what one of the processes raised.
        Interrupted: they were stopped, or one was killed.
    """
    progress = context.progress
    purpose = f"the GPU: {step.name} of {context.store.root}"
    with gpu_locks(placement.devices, purpose=purpose, on_wait=progress.waiting):
        if placement.count > 1:
            return _build_on_ranks(step, context, placement)
        limit_gpu(placement.memory_gib)
        return step.build(context)


def _build_on_ranks(step: Step, context: Context, placement: Placement) -> Outcome:
    _check_rows(step, placement.count)
    with TemporaryDirectory(prefix="ranks-", dir=context.workspace.folder) as ranks:
        job = Job(
            root=context.store.root.absolute(),
            step=step.model_dump_json(context=WHOLE),
            workspace=context.workspace,
            group=Meeting(
                Path(ranks).absolute(),
                placement.devices,
                placement.cuda,
                placement.memory_gib,
                address=placement.address,
                machines=placement.machines,
            ),
            parent=os.getpid(),
        )
        for rank in range(job.group.count):
            _prepare(job, rank)
        with others_joined(job, context.progress):
            _run(job, context.progress)
        found = json.loads(job.outcome.read_text(encoding="utf-8"))
    trains = isinstance(step, TrainSft | TrainDpo)
    notes = (f"trained on {job.group.count} devices",) if trains else ()
    return Outcome(
        output=step.produces.model_validate(found["output"]),
        metrics=found["metrics"],
        notes=(*found["notes"], *notes),
    )


def _check_rows(step: Step, count: int) -> None:
    """Refuse a training that cannot be shared out.

    Raises:
        TrainingError: with what to set.
    """
    if not isinstance(step, TrainSft | TrainDpo):
        return
    if not isinstance(step.config.engine, Packed):
        raise TrainingError(
            f"{step.name!r} cannot train on {count} devices with engine "
            f"{step.config.engine.name!r}: TRL averages over the batches of each device, so its "
            "gradients would depend on their number. Set engine.name=packed, or devices=1"
        )
    rows = step.config.batch.effective
    if rows < count:
        raise TrainingError(
            f"{step.name!r} has {rows} rows per step, which {count} devices cannot share. Set "
            f"devices to {rows} at most, or raise batch.accumulation"
        )


def _prepare(job: Job, rank: int) -> None:
    place = job.place(rank)
    place.out.mkdir(parents=True, exist_ok=True)
    job.reports(rank).touch()
    whole = job.workspace
    for shared in (whole.checkpoints, whole.folder / "trl", whole.parts):
        shared.mkdir(exist_ok=True)
        if rank:
            with failpoint_span("ranks.link"):
                (place.folder / shared.name).symlink_to(shared.absolute())


def _run(job: Job, progress: Progress) -> None:
    """Start the processes and follow them to their end."""
    with contextlib.ExitStack() as opened:
        files = [
            opened.enter_context(job.reports(rank).open("rb")) for rank in range(job.group.count)
        ]
        followers = [Follower(file) for file in files]
        here = job.group.devices
        processes = start_processes(run_rank, args=(job,), nprocs=here, join=False)
        failures: list[AlignmentError] = []
        asked = finished = False
        while not finished:
            try:
                finished = processes.join(timeout=POLL_SECONDS, grace_period=SHUTDOWN_SECONDS)
            except (ProcessRaisedException, ProcessExitedException) as error:
                raise _reason([*failures, *_follow(followers, progress)], error) from error
            failures += _follow(followers, progress)
            if failures and job.group.machines > 1:  # perhaps of a process on another machine
                _end_all(processes.processes)
                raise _reason(failures, failures[0])
            if progress.asked_to_stop and not asked:
                asked = True
                _ask_to_stop(processes.pids())


def _end_all(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _ask_to_stop(pids: Sequence[int | None]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid or 0, signal.SIGTERM)


def _follow(followers: Sequence[Follower], progress: Progress) -> list[AlignmentError]:
    """Pass the first process's marks on; the failures that any of them reports."""
    found: list[AlignmentError] = []
    for rank, follower in enumerate(followers):
        for report in follower.new():
            if isinstance(report, Failure):
                found.append(report.error())
            elif isinstance(report, Mark) and rank == 0:
                progress.mark(report.phase, report.done, report.total, **report.numbers)
    return found


def _reason(failures: Sequence[AlignmentError], ended: Exception) -> AlignmentError:
    """What went wrong first: an error before an interruption, which may be its consequence."""
    errors = [error for error in failures if not isinstance(error, Interrupted)]
    if errors or failures:
        return (errors or list(failures))[0]
    last = str(ended).strip().splitlines()[-1]
    return Interrupted(f"{last}: {LOST}")
