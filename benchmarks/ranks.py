"""Measures a phase on several devices: one process each, as a training on them runs.

One device is measured in a process of its own too, which sees that device only. Not here: what is
measured (`phases.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.multiprocessing.spawn import start_processes

from alignment.errors import AlignmentError
from alignment.execution.forkserver import with_gpus
from alignment.execution.rank import Meeting, limit_gpu, meet
from alignment.records.text import PreferencePair
from alignment.scoring.engine import Engine
from benchmarks.phases import Measured, Phase, Setup, matmul_limit, measure

ENVIRONMENT = dict(os.environ)
"""As it is before a measurement hides devices."""


@dataclass(frozen=True)
class Task:
    """What each of the processes measures, and where they meet."""

    phase: Phase
    engine: Engine
    setup: Setup
    pairs: Sequence[PreferencePair]
    meeting: Meeting

    def result(self, rank: int) -> Path:
        """Where a process writes what it has measured."""
        return self.meeting.folder / f"measured-{rank}.json"


def measure_on(
    devices: int,
    phase: Phase,
    engine: Engine,
    setup: Setup,
    pairs: Sequence[PreferencePair],
    *,
    cuda: bool,
    memory_gib: float | None,
) -> Measured:
    """Run one phase in so many processes; the peak is that of the device that needed most."""
    with TemporaryDirectory() as folder:
        meeting = Meeting(Path(folder), devices, cuda, memory_gib)
        task = Task(phase, engine, setup, pairs, meeting)
        os.environ |= with_gpus(devices, ENVIRONMENT)
        start_processes(measure_rank, args=(task,), nprocs=devices)
        found = [
            Measured.model_validate_json(task.result(rank).read_text()) for rank in range(devices)
        ]
    peaks = [row.peak_gib for row in found if row.peak_gib is not None]
    return found[0].model_copy(
        update={"devices": devices, "peak_gib": max(peaks) if peaks else None}
    )


def measure_rank(rank: int, task: Task) -> None:
    """Meet the other processes, measure with them, and write the result."""
    if task.meeting.count == 1:
        limit_gpu(task.meeting.memory_gib)
    else:
        meet(rank, task.meeting, on_late=_end)
    limit = task.meeting.count * matmul_limit(bf16=task.setup.bf16)
    found = measure(task.phase, task.engine, task.setup, task.pairs, limit=limit)
    task.result(rank).write_text(found.model_dump_json())


def _end(error: AlignmentError) -> None:
    print(error, flush=True)
    os._exit(error.exit_code)
