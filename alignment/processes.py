"""What our processes need to know of each other: when to end, and whether one may fork."""

import ctypes
import os
import signal
import sys


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
