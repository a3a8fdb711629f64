"""Child processes that start in milliseconds, because the heavy libraries are loaded already.

Importing torch, transformers, PEFT and TRL takes 8 s on a laptop, and a chain of three rounds has
sixteen children. So one process, the fork server, imports them once and forks a child for each
request. It ends with the process that started it, and its children end with it; that, and a log
and an environment for each child, is why it is not `multiprocessing`'s (decision 13).
What opens a GPU must not be forked: there nothing is imported before the fork.
Not here: what a child does.
"""

import atexit
import contextlib
import ctypes
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
from typing import Any, BinaryIO

STOPS = {signal.SIGTERM, signal.SIGINT}
"""The signals that ask a child to stop; blocked from its birth until it is ready to answer."""
MODULES = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "alignment.models.description",
    "alignment.train.sft",
    "alignment.train.dpo",
    "alignment.compose.handover",
    "alignment.evaluate.suite",
)
"""What the steps that run in a child import when they are built, and two kinds of models."""
LARGEST = 1 << 17
"""Bytes of a request: arguments and environment."""
POLL_SECONDS = 0.05
"""How often the fork server looks whether a child has ended."""


# --- in the process that asks for children ------------------------------------------------------


class Child:
    """A process that the fork server started for us."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._code: int | None = None
        self.pid = self._receive()

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; None: still running."""
        if self._code is None:
            self._answers.settimeout(timeout)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self._code = self._receive()
                self._answers.close()
        return self._code

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless the child has ended."""
        if self.wait(0.0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def _receive(self) -> int:
        answer = self._answers.recv(64)
        return int(answer) if answer else -signal.SIGKILL  # the server is gone, its child with it


class ForkServer:
    """Starts children that run `python -m module` with their own arguments.

    The `__main__` part of the module calls `serve`. `environment` is set when the server starts,
    for what a process reads only at birth (the settings of its allocator).
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._module = module
        self._environment = environment
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        atexit.register(self.close)

    def start(self, arguments: list[str], *, log: BinaryIO) -> Child:
        """A child with our working directory and environment; its output goes to `log`."""
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
            ours.close()  # the server then finds nobody to tell, and ends the child
            raise

    def close(self) -> None:
        """End the server, and its children with it."""
        if self._requests is not None and self._server is not None:
            self._requests.close()
            self._server.wait()

    def _connection(self) -> socket.socket:
        """The socket of a running server."""
        if self._requests is None or self._server is None or self._server.poll() is not None:
            self.close()
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **self._environment},
                    pass_fds=[theirs.fileno()],
                )
        return self._requests


# --- in the fork server -------------------------------------------------------------------------


def serve(number: int) -> list[str]:
    """Fork a child for each request on a socket; returns in each child, with its arguments.

    Returns with `STOPS` blocked: the child unblocks them once it has its handlers.
    In the fork server it never returns: it exits when the process that started it is gone.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    with contextlib.suppress(Exception):  # a child will fail on it too, and say so in its log
        preload()
    gc.freeze()  # a collection in a child need not visit, and so copy, what is shared
    server, requests = os.getpid(), socket.socket(fileno=number)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests], [], [], POLL_SECONDS if running else None)
        _report_exits(running)
        if not ready:
            continue
        text, files, _, _ = socket.recv_fds(requests, LARGEST, 2)
        if not text:
            for child in running:
                os.kill(child, signal.SIGKILL)
            sys.exit()
        log, answers = files[0], socket.socket(fileno=files[1])
        child = os.fork()
        if not child:
            for unused in (requests, answers, *running.values()):
                unused.close()
            return _run_child(json.loads(text), log, server)
        os.close(log)
        running[child] = answers
        try:
            answers.send(b"%d" % child)
        except OSError:  # nobody waits for it any more
            os.kill(child, signal.SIGKILL)


def preload() -> None:
    """Import what steps need, unless this is a machine where that may open a GPU."""
    import torch

    if sys.platform == "linux" and torch.version.cuda is None and torch.version.hip is None:
        for name in MODULES:
            importlib.import_module(name)


def _report_exits(running: dict[int, socket.socket]) -> None:
    for child in list(running):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            with running.pop(child) as answers, contextlib.suppress(OSError):
                answers.send(b"%d" % os.waitstatus_to_exitcode(status))


def _run_child(request: dict[str, Any], log: int, server: int) -> list[str]:
    """In a new child: set its output, folder and environment; returns the arguments."""
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    _die_with(server)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["arguments"])


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")
