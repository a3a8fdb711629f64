"""Scores answers by a verifier in another process, which may fail, hang or die at any of them."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

from alignment.candidates.records import CheckRequest, CheckResult
from alignment.candidates.settings import Check
from alignment.errors import ConfigError
from alignment.processes import python_module

CHECKING = "alignment.candidates.checking"
"""The module that the process runs; importing it here would load what checks need."""

START_SECONDS = 120.0
"""How long a check may take to be imported."""


class Checker:
    """A verifier in a process of its own, which is started again after it hangs or dies.

    Args:
        check: the verifier.
        seconds: time limit for one answer.

    Raises:
        ConfigError: the verifier cannot be imported.
    """

    def __init__(self, check: Check, *, seconds: float) -> None:
        self._check, self._seconds = check, seconds
        self._start()

    def score(self, request: CheckRequest) -> CheckResult:
        """The score of one answer, or why it has none."""
        if self._process.poll() is not None:
            self._start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died; reading will say so
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        line = self._line(self._seconds)
        if line is None:
            self.close()
            return CheckResult(error=f"took longer than {self._seconds:g} s")
        if not line:
            self.close()
            return CheckResult(error=f"its process ended with code {self._process.returncode}")
        return CheckResult.model_validate_json(line)

    def close(self) -> None:
        """End the process and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _start(self) -> None:
        self._said = b""
        check = self._check.model_dump_json()
        self._process = subprocess.Popen(
            python_module(CHECKING, check, f"{self._seconds}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        line = self._line(START_SECONDS)
        result = CheckResult.model_validate_json(line or b'{"error": "it did not start"}')
        if result.error:
            self.close()
            raise ConfigError(f"label.check {self._check.name!r} cannot be used: {result.error}")

    def _line(self, seconds: float) -> bytes | None:
        """The next line that it says; empty if it has ended, None if time runs out."""
        assert self._process.stdout is not None
        descriptor, until = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._said:
            left = until - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            if not (more := os.read(descriptor, 65536)):
                return b""
            self._said += more
        line, self._said = self._said.split(b"\n", 1)
        return line


@contextlib.contextmanager
def checker(check: Check, *, seconds: float) -> Iterator[Checker]:
    """A `Checker` that is closed at the end."""
    opened = Checker(check, seconds=seconds)
    try:
        yield opened
    finally:
        opened.close()
