"""The kernel's OOM killer ends a training; the next run goes on from its checkpoint.

Training and a neighbour that takes more and more share a memory control group, and the kernel is
told to take the training first. Skipped where no such group can be made.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.execution.run_step import build
from alignment.store.progress import Progress
from tests.alignment.elsewhere import Elsewhere, children, finish

GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
)
"""Version 2 and 1: where groups are made, the file of their limit, the file that counts kills."""
LIMIT = 64 << 20
ADAPTER = "adapter/adapter_model.safetensors"
NEIGHBOUR = """
import sys, time

sys.stdin.readline()
taken = []
while True:
    taken.append(bytearray(b"x") * (8 << 20))
    time.sleep(0.01)
"""


class Group:
    """A memory control group."""

    def __init__(self, folder, limit, counts):
        self.folder, self._counts = folder, folder / counts
        (folder / limit).write_text(str(LIMIT))

    def add(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self):
        counts = dict(line.split() for line in self._counts.read_text().splitlines())
        return int(counts["oom_kill"])


@pytest.fixture
def group():
    """A group of 64 MiB, empty; what is in it at the end is killed."""
    for root, limit, counts in GROUPS:
        folder = root / f"sft-dpo-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not (folder / limit).exists():
                continue
            yield Group(folder, limit, counts)
            return
        finally:
            folder.rmdir()  # `neighbour`, which was asked for later, is gone
    pytest.skip("no memory control group can be made here: it takes root, and Linux")


@pytest.fixture
def neighbour():
    """A process that takes memory without end, once its input ends."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_a_training_that_the_kernel_kills_for_its_memory_goes_on(
    finished, tmp_path, group, neighbour
):
    elsewhere = Elsewhere(finished, "sft", tmp_path)
    with elsewhere.running() as process:
        elsewhere.await_checkpoint(process)
        (child,) = children(process)
        child.send_signal(signal.SIGSTOP)  # or so small a training would be over first
        Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
        for pid in (child.pid, neighbour.pid):
            group.add(pid)
        neighbour.stdin.close()
        code, words = finish(process, timeout=60)
    assert group.kills() >= 1
    assert code == 75
    assert "was ended by SIGKILL (out of memory, or killed)" in words
    assert elsewhere.sealed()
    build(elsewhere.store, elsewhere.step, Progress())
    undisturbed = finished.store.folder(elsewhere.step.key) / ADAPTER
    assert elsewhere.file(ADAPTER) == undisturbed.read_bytes()
