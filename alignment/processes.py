"""What our processes need to know of each other: how to start, when to end, who may fork."""

import ctypes
import os
import signal
import sys
from pathlib import Path


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module in a process which finds the same modules as this one.

    `python -m` alone also looks into the working folder, and first: there a user's folder called
    `trackio`, for example, is taken for the package, at which TRL's trainers fail.
    """
    looks_there = {"", str(Path.cwd())} & set(sys.path)
    return [sys.executable, *([] if looks_there else ["-P"]), "-m", name, *arguments]


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent exits (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


_with_threads = False


def note_threads() -> None:
    """Note that a library has started threads of its own in this process.

    They do not exist in a forked process, where the library would wait for them for ever.
    """
    global _with_threads
    _with_threads = True


def may_fork() -> bool:
    """Whether a fork of this process can use every library."""
    return not _with_threads
