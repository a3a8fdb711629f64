"""Reads batches in a process of its own, with limits on its time and memory.

A file may make a reader run for hours, fill the memory or crash it. Then that file is refused, and
the process is started again for the next one.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import IO

from alignment.config.inbox import InboxConfig
from alignment.data.read.sources import FileSource
from alignment.processes import python_module
from alignment.rounds.inbox import problem_in
from alignment.rounds.ledger import BatchKind

SECONDS = 600
"""CPU time for one file, and half the time by the clock."""
MEMORY = 4 * 2**30
"""Address space, in bytes, in addition to twice the size of the file."""


class Inspector:
    """Reads batches one after another in a child process; a context manager."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._limits = (str(seconds), str(memory))
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Inspector":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stop()

    def problem(self, config: InboxConfig, path: str, kind: BatchKind = "pairs") -> str | None:
        """Why a batch cannot be read; None if it can be read."""
        child = self._running()
        source = config.source(path, prompts=kind == "prompts")
        request = [source.model_dump_json(), config.max_malformed_share, kind]
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        answer = _answer(child.stdout, seconds=2 * self._seconds)
        if answer.endswith(b"\n"):
            problem: str | None = json.loads(answer)
            return problem
        timed_out = child.poll() is None and not answer
        code = self._stop()
        return _why_it_ended(code, timed_out=timed_out, seconds=self._seconds)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._child is not None and self._child.poll() is not None:
            self._stop()
        if self._child is None:
            self._child = subprocess.Popen(
                python_module("alignment.rounds.inspection", *self._limits),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child

    def _stop(self) -> int:
        child, self._child = self._child, None
        if child is None:
            return 0
        if child.poll() is None:
            child.kill()
        child.communicate()
        return child.returncode


def _answer(stream: IO[bytes], *, seconds: float) -> bytes:
    """The child's next line; without a line break if it ended or took too long."""
    line, until = b"", time.monotonic() + seconds
    while not line.endswith(b"\n") and (left := until - time.monotonic()) > 0:
        if select.select([stream], [], [], left)[0]:
            read = os.read(stream.fileno(), 2**16)
            if not read:
                break
            line += read
    return line


def _why_it_ended(code: int, *, timed_out: bool, seconds: float) -> str:
    if timed_out or code == -signal.SIGXCPU:
        return f"reading it takes more than {seconds:.0f} s"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"reading it ends the reader ({name}): it needs too much memory, or it is damaged"


# --- the child's side -----------------------------------------------------------------------------


def main(seconds: float, memory: int) -> None:
    """Answer each request (source, share, kind) with the problem in that source."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        described, tolerated, kind = json.loads(line)
        source = FileSource.model_validate_json(described)
        _limit(source.path, seconds, memory)
        answers.write(json.dumps(problem_in(source, tolerated, kind)) + "\n")
        answers.flush()


def _limit(path: str, seconds: float, memory: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, most))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory + 2 * os.path.getsize(path), most))  # noqa: PTH202


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
