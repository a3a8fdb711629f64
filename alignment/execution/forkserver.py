"""Child processes that start in milliseconds, because the heavy libraries are already imported.

Importing torch, transformers, PEFT and TRL takes 8 s on a laptop, and a chain of three rounds has
sixteen children. So one process, the fork server, imports them once and forks a child for each
request. The server exits with the process that started it, and its children exit with the server.
`multiprocessing`'s fork server does not offer that (decision 13).
A process that has opened a GPU must not fork. PEFT opens it, by importing bitsandbytes, so where
there may be one, only torch and transformers are imported before the fork, which take two thirds
of the time. Not here: what a child does.
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
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from alignment.processes import die_with, python_module

STOPS = {signal.SIGTERM, signal.SIGINT}
"""The signals that ask a child to stop; blocked from the fork until it has its handlers."""
LIBRARIES = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
)
"""Modules that the steps in child processes need, with two kinds of models; open no GPU."""
MODULES = (
    "alignment.models.description",
    "alignment.train.sft",
    "alignment.train.dpo",
    "alignment.compose.handover",
    "alignment.evaluate.suite",
)
"""Modules of ours that they need when they build; may open a GPU."""
GPU_FILES: tuple[str, ...] = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")
"""What the names of the files begin with through which a process uses a GPU."""
BARE = "bare"
"""Argument of a fork server that imports nothing."""
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
MOST_FILES = 8
"""Maximum number of open files that go with a request."""
POLL_SECONDS = 0.05
"""Interval at which the fork server checks whether a child has exited."""


# --- in the process that requests children -------------------------------------------------------


class Child:
    """A process that the fork server started for this process."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._code: int | None = None
        self.pid = self._receive()

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, or minus the number of the signal that killed it; None: still running."""
        if self._code is None:
            self._answers.settimeout(timeout)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self._code = self._receive()
                self._answers.close()
        return self._code

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal unless the child has exited."""
        if self.wait(0.0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def _receive(self) -> int:
        answer = self._answers.recv(64)
        return (
            int(answer) if answer else -signal.SIGKILL
        )  # the server is gone, and its child with it


class Default(NamedTuple):
    """A variable of a process that has none of its own.

    Attributes:
        others: further variables that decide the same; if one is there, this one is not set.
    """

    name: str
    value: str
    others: tuple[str, ...] = ()


class ForkServer:
    """Starts children that run `python -m module` with their own arguments.

    The `__main__` part of the module calls `serve`. `environment` is set when the server starts:
    for variables that a process reads only at its start, such as allocator settings. `defaults` are
    set for the server and its children, unless our environment decides the same.
    """

    def __init__(
        self, module: str, environment: Mapping[str, str], defaults: Sequence[Default] = ()
    ) -> None:
        self._module = module
        self._environment = environment
        self._defaults = defaults
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        atexit.register(self.close)

    def start(
        self,
        arguments: list[str],
        *,
        log: BinaryIO,
        files: Sequence[IO[bytes]] = (),
        gpus: int | None = None,
    ) -> Child:
        """Start a child with our working directory and environment; its output goes to `log`.

        The numbers of the descriptors that it has of `files` are its last arguments. It sees the
        first so many of our GPUs (`gpus`), or all.
        """
        request = {
            "arguments": arguments,
            "folder": str(Path.cwd()),
            "environment": with_gpus(gpus, with_defaults(self._defaults, os.environ)),
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, _in_memory(request) as content, self._lock:
                numbers = [log.fileno(), theirs.fileno(), content.fileno()]
                numbers += [file.fileno() for file in files]
                socket.send_fds(self._connection(), [b"start"], numbers)
            return Child(ours)
        except BaseException:
            ours.close()  # the server then cannot report the child, and kills it
            raise

    def close(self) -> None:
        """Stop the server, and its children with it."""
        if self._requests is not None and self._server is not None:
            self._requests.close()
            self._server.wait()

    def _connection(self) -> socket.socket:
        """The socket of the running server; starts one if there is none."""
        if self._requests is None or self._server is None or self._server.poll() is not None:
            self.close()
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._server = subprocess.Popen(
                    python_module(self._module, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**with_defaults(self._defaults, os.environ), **self._environment},
                    pass_fds=[theirs.fileno()],
                )
        return self._requests


def with_defaults(defaults: Sequence[Default], environment: Mapping[str, str]) -> dict[str, str]:
    """An environment with the defaults about which it says nothing."""
    silent = [d for d in defaults if not environment.keys() & {d.name, *d.others}]
    return {**environment, **{default.name: default.value for default in silent}}


def with_gpus(count: int | None, environment: Mapping[str, str]) -> dict[str, str]:
    """An environment that shows only the first so many of the GPUs that it shows; None: all."""
    if count is None:
        return dict(environment)
    visible = environment.get(VISIBLE_GPUS)
    names = map(str, range(count)) if visible is None else visible.split(",")[:count]
    return {**environment, VISIBLE_GPUS: ",".join(names)}


def _in_memory(request: Mapping[str, Any]) -> IO[bytes]:
    """A request as an open file without a name: an environment may be too large for a message."""
    file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - the caller closes it
    file.write(json.dumps(request).encode())
    file.flush()
    return file


# --- in the fork server -------------------------------------------------------------------------


def serve(number: int, *arguments: str) -> list[str]:
    """Fork a child for each request on a socket; returns only in the children, with arguments.

    `STOPS` are blocked on return; the child unblocks them once it has installed its handlers.
    The fork server itself exits when the process that started it is gone.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    if BARE not in arguments:
        with contextlib.suppress(Exception):  # a child fails on it too, with the error in its log
            preload()
        if open_gpus():  # a library has changed: children would fail with it
            os.execv(sys.executable, [*sys.orig_argv, BARE])
    gc.freeze()  # so that collections in children do not touch, and copy, shared pages
    server, requests = os.getpid(), socket.socket(fileno=number)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests], [], [], POLL_SECONDS if running else None)
        _report_exits(running)
        if not ready:
            continue
        text, files, _, _ = socket.recv_fds(requests, 64, MOST_FILES)
        if not text:
            _kill(running)
            sys.exit()
        log, answers, content, *others = files[0], socket.socket(fileno=files[1]), *files[2:]
        child = os.fork()
        if not child:
            for unused in (requests, answers, *running.values()):
                unused.close()
            return [*_run_child(content, log, server), *map(str, others)]
        for file in (log, content, *others):
            os.close(file)
        running[child] = answers
        try:
            answers.send(b"%d" % child)
        except OSError:  # its requester is gone
            os.kill(child, signal.SIGKILL)


def preload() -> None:
    """Import what steps need, except what may open a GPU on this machine."""
    import torch

    if sys.platform != "linux":
        return
    no_gpu = torch.version.cuda is None and torch.version.hip is None
    for name in (*LIBRARIES, *MODULES) if no_gpu else LIBRARIES:
        importlib.import_module(name)


def open_gpus() -> list[str]:
    """The files of GPUs that this process has opened."""
    files = Path("/proc/self/fd")
    if not files.is_dir():
        return []
    targets = [str(file.readlink()) for file in files.iterdir() if file.is_symlink()]
    return [target for target in targets if target.startswith(GPU_FILES)]


def _kill(children: Mapping[int, Any]) -> None:
    """Kill children and wait until they are gone, so that whoever waits for us leaves none."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def _report_exits(running: dict[int, socket.socket]) -> None:
    for child in list(running):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            with running.pop(child) as answers, contextlib.suppress(OSError):
                answers.send(b"%d" % os.waitstatus_to_exitcode(status))


def _run_child(content: int, log: int, server: int) -> list[str]:
    """In a new child: set its output, working directory and environment; returns its arguments."""
    with os.fdopen(content, "rb") as file:
        request = json.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    die_with(server)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["arguments"])
