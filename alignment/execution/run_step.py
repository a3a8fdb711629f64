"""Reuses or builds one step, if necessary in a child process so that its memory is released.

`run_step` is what a scheduler calls. A finished artifact is opened and verified; otherwise one
process builds it under the key's lock while others wait and then reuse it. A child runs in the
caller's process group (so cancelling a run reaches it), dies with its parent, writes its own log
and holds an OS lock on its GPU. On SIGTERM and Ctrl-C it saves a checkpoint before it exits.
Not here: which steps there are and their order (`pipeline/chain_builder.py`), who watches.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from alignment.config.pipeline import DeviceName, Devices, Machines, PipelineConfig
from alignment.data.read.files import WHOLE
from alignment.errors import AlignmentError, Interrupted, ModelError, StorageError
from alignment.execution.attempts import begin_attempt
from alignment.execution.device import (
    check_device,
    device_facts,
    devices_to_use,
    obstacle,
)
from alignment.execution.forkserver import STOPS, Child, Default, ForkServer, serve
from alignment.execution.log_records import make_records_printable
from alignment.execution.provenance import code_version, hardware, libraries, peak_memory
from alignment.pipeline.steps import (
    Context,
    EvaluateModel,
    OpenBase,
    Outcome,
    Step,
    TrainDpo,
    TrainSft,
    read_step,
)
from alignment.records.base import Frozen, digest_of
from alignment.records.manifest import MANIFEST_FORMAT, Attempt, StageRecord
from alignment.records.refs import BaseRef
from alignment.store.errors import disk_full, error_of_storage, storage_errors
from alignment.store.progress import Failure, Follower, Mark, Progress
from alignment.store.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

OnMark = Callable[[Mark], None]
GRACE_SECONDS = 25.0
"""How long a child may take to save a checkpoint after it is asked to stop."""
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""glibc returns the memory of every large tensor and gets it zeroed again for the next one, which
takes a fifth of a training step on a CPU. A child exits with its step, so it may keep it."""
GROWING_SEGMENTS = Default(
    "PYTORCH_ALLOC_CONF", "expandable_segments:True", ("PYTORCH_CUDA_ALLOC_CONF",)
)
"""CUDA memory of micro-batches of changing sizes fragments without it: trainings at 7B ran out of
12 GiB with 10.5 GiB in tensors."""
SHORT_SPIN = Default("GOMP_SPINCOUNT", "5000", ("OMP_WAIT_POLICY",))
"""OpenMP's threads spin while they wait for each other, by default for milliseconds. On a busy
machine they take the core from the one that they wait for: a training step on two cores took 60 s
instead of 4. Sleeping at once makes an evaluation on an idle machine take 1.4 times as long."""
DEFAULTS = (GROWING_SEGMENTS, SHORT_SPIN)
"""What the process of a step has unless our environment says otherwise."""

TRIAL = "trial"
"""First argument of a child that tries a model instead of building a step."""

_forkserver = ForkServer("alignment.execution.run_step", KEEP_FREED_MEMORY, DEFAULTS)


class Limits(Frozen):
    """Limits on a step's process.

    Attributes:
        stall_minutes: minutes without progress or log output after which it is stopped; None: no
            timeout.
        gpu_memory_gib: GPU memory for tensors, in GiB; None: no limit.
        device: cuda: refuse a step that needs a GPU where none can be used; cpu: show it none.
        devices: how many a step uses that can share out its rows.
        machines: how many machines such a step uses, and where they meet; None: this one.
    """

    stall_minutes: float | None = None
    gpu_memory_gib: float | None = None
    device: DeviceName = "auto"
    devices: Devices = 1
    machines: Machines | None = None

    @classmethod
    def of(cls, config: PipelineConfig) -> "Limits":
        """The limits that a configuration sets."""
        return cls(
            stall_minutes=config.stall_minutes,
            gpu_memory_gib=config.gpu_memory_gib,
            device=config.device,
            devices=config.devices,
            machines=config.machines,
        )

    def gpus(self, step: Step) -> int:
        """How many GPUs the process of a step sees.

        transformers' trainer takes every GPU that it sees: it would multiply the rows of a step by
        their number.
        """
        return 0 if self.device == "cpu" else _devices(step, self)


def run_step(
    store: Store,
    step: Step,
    *,
    on_progress: OnMark = lambda _: None,
    limits: Limits = Limits(),
) -> StageRecord:
    """The record of a step: reused if its artifact is intact, built otherwise.

    Args:
        store: the artifact store.
        step: the step to build.
        on_progress: called with every progress mark.
        limits: limits on the step's process.

    Raises:
        AlignmentError: the subclass that the step itself raised, in whichever process.
        Interrupted: the building process was stopped, killed or hung; run again to continue.
    """
    record = store.reuse(step.key)
    if record is not None:
        return record
    if not step.in_child:
        return build(store, step, Progress(), limits=limits)
    _in_child(store, step, on_progress, limits)
    return store.open(step.key)


def build(
    store: Store,
    step: Step,
    progress: Progress,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    limits: Limits = Limits(),
) -> StageRecord:
    """Build a step in this process, under its lock, and commit the artifact.

    On several devices it is built by processes of its own. `tokenizer` as in `Context`.
    """
    with store.lock(step.key, purpose=f"{step.name} of {store.root}", on_wait=progress.waiting):
        record = store.reuse_locked(step.key)  # another process may have built it while we waited
        if record is not None:
            return record
        workspace = store.workspace(step.key)
        trains = isinstance(step, TrainSft | TrainDpo)
        if trains and workspace.copies is not None:
            workspace.copies.take(workspace.folder)
        started, clock, earlier = datetime.now(UTC), time.monotonic(), begin_attempt(workspace)
        with storage_errors(store.root), progress.recorded(workspace.progress):
            outcome = _built(step, Context(store, workspace, progress, tokenizer), limits)
        seconds = time.monotonic() - clock
        record = store.commit(_record(step, outcome, started, seconds, earlier), workspace)
        if trains and workspace.copies is not None:
            workspace.copies.remove()
        return record


def _devices(step: Step, limits: Limits) -> int:
    """On how many devices a step is built."""
    if limits.devices == 1 or not step.shares:
        return 1
    count = devices_to_use(device_facts(), limits.device, limits.devices)
    if limits.devices != "auto" or not isinstance(step, TrainSft | TrainDpo):
        return count
    packed = step.config.engine.name == "packed"
    return min(count, step.config.batch.effective) if packed else 1


def _built(step: Step, context: Context, limits: Limits) -> Outcome:
    if not step.needs_gpu:
        return step.build(context)
    from alignment.execution.launch import Placement, build_on_devices  # imports torch

    cuda = limits.device != "cpu" and obstacle(device_facts()) is None
    machines = limits.machines if step.shares else None
    placement = Placement(
        _devices(step, limits),
        cuda,
        limits.gpu_memory_gib,
        *((machines.count, machines.address) if machines else ()),
    )
    return build_on_devices(step, context, placement)


def _record(
    step: Step,
    outcome: Outcome,
    started: datetime,
    seconds: float,
    earlier: tuple[Attempt, ...],
) -> StageRecord:
    assert isinstance(outcome.output, step.produces), f"{step.stage} produces another kind"
    return StageRecord(
        format=MANIFEST_FORMAT,
        key=step.key,
        stage=step.stage,
        version=step.version,
        name=step.name,
        parents=step.roles,
        config=step.settings,
        seed=step.seed,
        output=outcome.output.model_dump(mode="json"),
        metrics={**peak_memory(), **outcome.metrics},
        notes=outcome.notes,
        files=(),
        code=code_version(),
        libraries=libraries(),
        hardware=hardware(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        earlier=earlier,
    )


def try_in_child(
    store: Store,
    base: BaseRef,
    steps: Sequence[Step],
    *,
    on_start: Callable[[], None] = lambda: None,
) -> list[str]:
    """Try a run's model without its weights in a child process, before anything is trained.

    Nothing is tried if all trainings among the steps are in the store, or if the same has passed
    before. Otherwise `on_start` is called: importing torch takes the child several seconds.

    Returns:
        Which share of the model each training leaves without an adapter, if it does.

    Raises:
        ModelError: the model's family cannot do what a step asks for.
    """
    if all(store.find(step.key) for step in steps if isinstance(step, TrainSft | TrainDpo)):
        return []
    passed = _trial(base, steps)
    known = store.passed_trial(passed)
    if known is not None:
        return known
    on_start()
    with tempfile.TemporaryDirectory() as scratch:
        listed, report, log = (Path(scratch) / name for name in ("steps", "report", "log"))
        listed.write_text("".join(f"{_sent(step)}\n" for step in steps))
        request = [
            TRIAL,
            str(store.root.absolute()),
            base.model_dump_json(),
            *map(str, (listed, report)),
        ]
        with log.open("ab") as stream:
            child = _forkserver.start(request, log=stream)
        code = child.wait()
        said = report.read_text(encoding="utf-8") if report.exists() else None
        if code and said is not None:
            raise ModelError(said)
        if code:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            logger.warning("the model could not be tried before the run: %s", "".join(last))
            return []
    notes = (said or "").splitlines()
    store.note_passed(passed, notes)
    return notes


def _trial(base: BaseRef, steps: Sequence[Step]) -> str:
    """A digest of all that a trial depends on: model, what is asked of it, and the code."""
    asked = [_asked(step) for step in steps]
    return digest_of([base.model_dump(), *asked, code_version().model_dump(), libraries()])


def _asked(step: Step) -> list[Any]:
    """What a step asks of a model's family; a learning rate, for example, is nothing of it."""
    if isinstance(step, OpenBase):
        return [step.key]
    if isinstance(step, TrainSft | TrainDpo):
        asked = step.config.model_dump(mode="json", include={"lora", "engine", "max_length"})
        return [step.name, asked]
    if isinstance(step, EvaluateModel):
        return [step.name, step.config.model_dump(mode="json", include={"engine", "max_length"})]
    return []


# --- the parent's side ------------------------------------------------------------------------


def _sent(step: Step) -> str:
    """A step for a child process, with the queries of its URLs, which are stored nowhere."""
    return step.model_dump_json(context=WHOLE)


def _in_child(store: Store, step: Step, on_progress: OnMark, limits: Limits) -> None:
    path = store.log(step.key)
    with path.open("ab") as log, tempfile.TemporaryFile("w+b") as reports:
        request = [str(store.root.absolute()), _sent(step), limits.model_dump_json()]
        child = _forkserver.start(request, log=log, files=[reports], gpus=limits.gpus(step))
        watch = _Watch(log, reports, on_progress)
        try:
            while (code := child.wait(timeout=0.3)) is None:
                watch.look()
                if limits.stall_minutes and watch.silence() > 60 * limits.stall_minutes:
                    raise Interrupted(
                        f"{step.name!r} made no progress for {limits.stall_minutes:g} minutes and "
                        f"was stopped (stall_minutes). The same command continues it. Log: {path}"
                    )
            watch.look()
        except BaseException:
            _stop(child)
            raise
    _raise_failure(code, watch.failure, store, step)


class _Watch:
    """What a child has said: marks, which are passed on, a failure, and lines in its log.

    Both files are read through their descriptors: their names may be gone, and the folder in which
    the child builds is renamed when it succeeds.
    """

    def __init__(self, log: BinaryIO, reports: IO[bytes], on_progress: OnMark) -> None:
        self.failure: Failure | None = None
        self._log, self._on_progress = log, on_progress
        self._reports = Follower(reports)
        self._logged, self._last_sign = 0, time.monotonic()

    def look(self) -> None:
        """Read what is new."""
        for report in self._reports.new():
            if isinstance(report, Failure):
                self.failure = report
            else:
                self._on_progress(report)
            self._last_sign = time.monotonic()
        logged = os.fstat(self._log.fileno()).st_size
        if logged != self._logged:
            self._logged, self._last_sign = logged, time.monotonic()

    def silence(self) -> float:
        """Seconds since it last said something."""
        return time.monotonic() - self._last_sign


def _stop(child: Child) -> None:
    """Ask a child to save and exit; kill it after `GRACE_SECONDS`."""
    child.send_signal(signal.SIGTERM)
    if child.wait(timeout=GRACE_SECONDS) is None:
        child.send_signal(signal.SIGKILL)
        child.wait()


def _raise_failure(code: int, failure: Failure | None, store: Store, step: Step) -> None:
    if code == 0:
        return
    if failure is not None:
        error = failure.error()
        raise type(error)(f"{error} (step {step.name}, log: {store.log(step.key)})")
    if code == StorageError.exit_code:  # without a report: the disk had no space for it
        raise disk_full(store.root)
    log = store.log(step.key)
    if code < 0:
        name = signal.Signals(-code).name
        raise Interrupted(
            f"the process of {step.name!r} was ended by {name} (out of memory, or killed). "
            f"The same command continues from its last checkpoint. Log: {log}"
        )
    lines = log.read_text(errors="replace").strip().splitlines()
    raise AlignmentError(
        f"{step.name!r} failed: {lines[-1] if lines else f'exit code {code}'}. Log: {log}"
    )


# --- the child's side -------------------------------------------------------------------------


def main(root: str, spec: str, limits: str, reports: str) -> int:
    """Build the step given as JSON, and report to a file by its descriptor; the exit code."""
    store, step = Store(root=Path(root)), read_step(spec)
    progress = Progress(int(reports))
    for signum in STOPS:
        signal.signal(signum, lambda *_: progress.ask_to_stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    make_records_printable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        limited = Limits.model_validate_json(limits)
        if step.needs_gpu:  # asked again: a GPU may be lost between two steps
            check_device(device_facts(), limited.device)
        build(store, step, progress, limits=limited)
    except Exception as error:
        known = error if isinstance(error, AlignmentError) else error_of_storage(error, store.root)
        logger.exception("%s failed", step.name)
        if known is None:
            return AlignmentError.exit_code
        with contextlib.suppress(OSError):  # a full disk has no space for the report
            progress.fail(known)
        return known.exit_code
    return 0


def _try(root: str, base: str, steps: str, report: str) -> int:
    """Try a base model on the steps in a file, one per line; write what there is to `report`."""
    from alignment.pipeline.trial import try_run

    try:
        lines = Path(steps).read_text(encoding="utf-8").splitlines()
        model = BaseRef.model_validate_json(base)
        notes = try_run(Store(root=Path(root)), model, map(read_step, lines))
    except AlignmentError as error:
        Path(report).write_text(str(error), encoding="utf-8")
        return error.exit_code
    Path(report).write_text("\n".join(notes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    arguments = serve(int(sys.argv[1]), *sys.argv[2:])
    exit_code = _try(*arguments[1:]) if arguments[0] == TRIAL else main(*arguments)
    with contextlib.suppress(OSError):  # a full disk has no space for the output
        sys.stdout.flush()
    os._exit(exit_code)  # skips Python's teardown of the libraries, which takes half a second
