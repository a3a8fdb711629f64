"""A step of a finished run, to be built again in another store, by processes that can be killed."""

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil

from alignment.execution.run_step import Limits
from alignment.store.lineage import ancestors
from alignment.store.store import Store

RUN = """
import sys
from pathlib import Path
from alignment.errors import AlignmentError
from alignment.execution.run_step import Limits, run_step
from alignment.pipeline.steps import read_step
from alignment.store.store import Store

step = read_step(Path(sys.argv[2]).read_text())
print("ready", flush=True)
try:
    limits = Limits.model_validate_json(sys.argv[3])
    record = run_step(Store(root=Path(sys.argv[1])), step, limits=limits)
except AlignmentError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
print(record.model_dump_json())
"""


class Elsewhere:
    """Another store that holds what a step needs, and not the step's own artifact."""

    def __init__(self, finished, name, root, *, seed=None, **settings):
        """`settings` replace those of the training, and `seed` that of the step."""
        self.step = next(step for step in finished.chain.steps() if step.name == name)
        if seed is not None:
            self.step = self.step.model_copy(update={"seed": seed})
        parents = ancestors(finished.store, finished.records[name].key)[:-1]
        if settings:
            config = self.step.config.model_copy(update=settings)
            self.step = self.step.model_copy(update={"config": config})
        self.store = Store(root=root)
        for record in parents:
            shutil.copytree(finished.store.folder(record.key), self.store.folder(record.key))
        root.mkdir(parents=True, exist_ok=True)
        self._spec = root / "step.json"
        self._spec.write_text(self.step.model_dump_json())

    @contextmanager
    def running(self, **limits):
        """A process that builds the step in a child of its own, within `Limits`.

        Both are gone afterwards.
        """
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUN,
                str(self.store.root),
                str(self._spec),
                Limits(**limits).model_dump_json(),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            family = [*family_of(process), psutil.Process(process.pid)] if alive(process) else []
            for member in family:
                member.kill()
            process.wait(timeout=60)
            assert process.stdout is not None
            process.stdout.close()

    def run(self, **limits):
        """Build the step to its end: exit code and last words."""
        with self.running(**limits) as process:
            return finish(process)

    @property
    def checkpoints(self):
        """Where the step's sealed checkpoints lie until it is finished."""
        return self.store.root / "work" / self.step.key / "checkpoints"

    def sealed(self):
        """Steps of the checkpoints that are whole."""
        return {int(path.parent.name[5:]) for path in self.checkpoints.glob("step-*/digests.json")}

    def await_checkpoint(self, process, *, after=0, timeout=600):
        """Wait until a checkpoint of a later step than `after` is whole."""
        until = time.monotonic() + timeout
        while max(self.sealed(), default=0) <= after:
            assert process.poll() is None, f"it came to its end: {process.stdout.read()}"
            assert time.monotonic() < until, f"no checkpoint within {timeout} s"
            time.sleep(0.005)

    def file(self, path):
        """The bytes of a file of the artifact."""
        return (self.store.folder(self.step.key) / path).read_bytes()


def finish(process, *, timeout=600):
    """Exit code and last words of a process, waited for."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output.removeprefix("ready\n").strip()


def alive(process):
    return process.poll() is None


def family_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def children(process):
    """The processes that build a step: the fork server is between them and the one that waits."""
    servers = psutil.Process(process.pid).children()
    return [child for server in servers for child in server.children()]
