"""Child processes that start in milliseconds, because the heavy libraries are loaded already.

Importing torch, transformers, PEFT and TRL takes 8 s on a laptop, and a chain of three rounds has
sixteen children. So one process, the starter, imports them once and forks a child for each request
(the way of `multiprocessing.forkserver`, which cannot give a child its own log, signals and
environment). The starter ends with whoever started it, and its children with it.
What opens a GPU must not be forked: there nothing is imported before the fork.
Not here: what a child does.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

STOPS = {signal.SIGTERM, signal.SIGINT}
"""What asks a child to stop; blocked from its birth until it is ready to answer."""
MODULES = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "peft.peft_model",
)
"""With what they import themselves, all but a second of what a step imports."""
LARGEST = 1 << 17
"""Bytes of a request: arguments and environment."""


class Descriptor(Protocol):
    """An open file, a socket or a pipe."""

    def fileno(self) -> int:
        """Its number."""


# --- the side that asks -------------------------------------------------------------------------


class Child:
    """A process that the starter forked, as its asker sees it."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._code: int | None = None
        self.pid = self._hear(None)

    def poll(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs still after `timeout` seconds.
        """
        if self._code is None:
            self._code = self._hear(timeout)
            self._answers.close()
        return self._code

    def send_signal(self, signum: signal.Signals) -> None:
        """As `os.kill`; nothing once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def _hear(self, timeout: float | None) -> int:
        self._answers.settimeout(timeout)
        try:
            answer = self._answers.recv(64)
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired("step", timeout or 0.0) from None
        return int(answer) if answer else -signal.SIGKILL  # the starter is gone, so its child is


class ForkServer:
    """Starts children that run `python -m module`, with arguments of their own.

    The module's `__main__` part calls `serve`. `environment` is set for them from their birth,
    for what is read no later (an allocator's settings).
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._module = module
        self._environment = environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self, arguments: list[str], *, log: Descriptor) -> Child:
        """A child with this process's folder and environment; what it prints goes to `log`."""
        request = {
            "arguments": arguments,
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._lock:
                files = [log.fileno(), theirs.fileno()]
                socket.send_fds(self._connection(), [json.dumps(request).encode()], files)
            return Child(ours)
        except BaseException:
            ours.close()  # so the starter has nobody to tell, and ends the child
            raise

    def close(self) -> None:
        """End the starter, and its children with it."""
        with self._lock:
            if self._requests is not None and self._process is not None:
                self._requests.close()
                self._process.wait()
                self._requests = self._process = None

    def _connection(self) -> socket.socket:
        """The socket to a living starter."""
        if self._requests is None or self._process is None or self._process.poll() is not None:
            if self._requests is not None:
                self._requests.close()
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **self._environment},
                    pass_fds=[theirs.fileno()],
                )
            atexit.unregister(self.close)
            atexit.register(self.close)
        return self._requests


# --- the starter itself -------------------------------------------------------------------------


def serve(number: int) -> list[str]:
    """Fork a child for every request on a socket; returns in each child, with its arguments.

    Returns with `STOPS` blocked: the child unblocks them when it has its handlers.
    In the starter it ends the process, when the asker is gone.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    with contextlib.suppress(Exception):  # a child will fail on it too, and say so in its log
        preload()
    gc.freeze()  # a collection in a child need not look at, and so copy, what is shared
    forkserver, requests = os.getpid(), socket.socket(fileno=number)
    ended = _pipe_of_ended_children()
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            ended.recv(LARGEST)
            _tell_who_ended(running)
        if requests not in ready:
            continue
        text, files, _, _ = socket.recv_fds(requests, LARGEST, 2)
        if not text:
            _end(running)
        log, answers = files[0], socket.socket(fileno=files[1])
        child = os.fork()
        if not child:
            for unused in (requests, ended, answers, *running.values()):
                unused.close()
            return _run_child(json.loads(text), log, forkserver)
        os.close(log)
        running[child] = answers
        if not _tell(answers, child):
            os.kill(child, signal.SIGKILL)


def preload() -> None:
    """Import what steps need, unless this is a machine where that may open a GPU."""
    import torch

    if sys.platform == "linux" and torch.version.cuda is None and torch.version.hip is None:
        for name in MODULES:
            importlib.import_module(name)


def _run_child(request: dict[str, Any], log: int, forkserver: int) -> list[str]:
    """In a new child: its signals, output, folder and environment; the arguments."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    _die_with(forkserver)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["arguments"])


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


def _pipe_of_ended_children() -> socket.socket:
    """It has something to read after every SIGCHLD."""
    reading, writing = socket.socketpair()
    writing.settimeout(0.0)
    signal.set_wakeup_fd(writing.detach())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _tell_who_ended(running: dict[int, socket.socket]) -> None:
    for child in list(running):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            with running.pop(child) as answers:
                _tell(answers, os.waitstatus_to_exitcode(status))


def _tell(answers: socket.socket, number: int) -> bool:
    """Send a process id or an exit code to whoever asked; False: nobody listens any more."""
    try:
        answers.send(str(number).encode())
    except OSError:
        return False
    return True


def _end(running: dict[int, socket.socket]) -> NoReturn:
    """The asker is gone: so are its children."""
    for child in running:
        os.kill(child, signal.SIGKILL)
    sys.exit()
