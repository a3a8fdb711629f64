"""Changes to the disk that must be complete after a crash, each with a name.

Every write, flush, rename and removal of data that outlives a process is made here, so that tests
can make each one fail (`tests/faults`). `tests/architecture` checks that there are no others. The
name is the first argument, and appears only once in the source.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

Observer = Callable[[str], None]
ATTEMPTS = 100
"""Tries of a change that fails when another process makes a change at the same moment."""
observers: list[Observer] = []
"""Called with the name of every failpoint that this process passes. Only tests add one."""


def hit(failpoint: str) -> None:
    """Pass a failpoint: a place where a test can have this process die or fail."""
    for observer in tuple(observers):
        observer(failpoint)


@contextlib.contextmanager
def failpoint_span(name: str) -> Iterator[None]:
    """Marks a block that writes through a library, or piece by piece, as one named change."""
    hit(f"{name}:before")
    yield
    hit(f"{name}:after")


def ensure_folder(path: Path, mode: int | None = None) -> None:
    """Create a folder and its parents unless they exist, while other processes remove them.

    `mkdir` with `exist_ok` makes several system calls, and fails if the folder goes away or a
    parent appears in between; the next try then meets another state.

    Args:
        path: the folder.
        mode: permissions of the folder if it is new; by default those of its parent. The umask
            may take away more.
    """
    for attempt in range(ATTEMPTS):
        try:
            if not path.parent.exists():
                ensure_folder(path.parent)
            inherited = path.parent.stat().st_mode & 0o777 | 0o700
            path.mkdir(inherited if mode is None else mode, exist_ok=True)
        except (FileExistsError, FileNotFoundError):
            if attempt == ATTEMPTS - 1 or path.is_file():
                raise
        else:
            return


def write(name: str, path: Path, content: str | bytes) -> None:
    """Write a file in place, without flushing it; the caller that commits it flushes it.

    A new file is as private as its folder.
    """
    mode = path.parent.stat().st_mode & 0o666
    with (
        failpoint_span(name),
        open(path, "wb", opener=partial(os.open, mode=mode)) as stream,
    ):
        stream.write(content.encode() if isinstance(content, str) else content)


def flush(name: str, path: Path) -> None:
    """Flush a file or folder to disk; a rename may survive a crash that unflushed data does not."""
    with failpoint_span(name):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_tree(name: str, folder: Path) -> None:
    """Flush everything below a folder, then the folder itself."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush(name, path)
    flush(name, folder)


def rename(name: str, source: Path, target: Path) -> None:
    """Move a file or folder within one file system, and flush the change.

    An error is ignored if the rename has happened anyway (a network file system lost the answer).
    """
    with failpoint_span(name):
        try:
            source.replace(target)
        except OSError:
            if source.exists() or not target.exists():
                raise
    flush(f"{name}.flush", target.parent)


def remove(name: str, path: Path) -> None:
    """Remove a file or folder, if it exists.

    A folder is renamed first, so that no later attempt finds a half-removed one.
    """
    gone = path.with_name(f".{path.name}.gone")
    with failpoint_span(name):
        shutil.rmtree(gone, ignore_errors=True)  # left by an attempt that was killed here
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            try:
                path.unlink()
            except (IsADirectoryError, PermissionError):  # macOS says "not permitted" of a folder
                path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextlib.contextmanager
def staged(name: str, path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file or folder to; move it to `path` when complete.

    For one process at a time, such as the holder of a key's lock; otherwise use `replace`. Files
    left by a killed attempt are removed first, because a library's temporary files would otherwise
    end up in an artifact.
    """
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with failpoint_span(name):
        yield aside / path.name
        if path.is_dir():
            shutil.rmtree(path)
        (aside / path.name).replace(path)
        aside.rmdir()


def replace(name: str, path: Path, content: str | bytes) -> None:
    """Replace a file atomically, even while other processes read or write it.

    Each process writes to its own temporary file; the last rename wins.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        write(f"{name}.write", aside, content)
        flush(f"{name}.flush", aside)
        rename(f"{name}.rename", aside, path)
    finally:
        remove(f"{name}.remove", aside)


def create(name: str, path: Path, content: bytes) -> None:
    """Create a file atomically: complete and flushed, or not at all.

    The content is written to a temporary file, which is then linked to the path. Linking fails if
    the path exists, so of two processes that create the same path exactly one succeeds.

    Raises:
        FileExistsError: the path exists already.
    """
    ensure_folder(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        write(f"{name}.write", aside, content)
        flush(f"{name}.flush", aside)
        with failpoint_span(f"{name}.link"):
            _link(aside, path)
        flush(f"{name}.folder", path.parent)
    finally:
        remove(f"{name}.remove", aside)


def _link(source: Path, target: Path) -> None:
    """Link a file to a second name; an error is ignored if the link was made anyway."""
    try:
        os.link(source, target)
    except OSError:
        if not (target.exists() and target.samefile(source)):
            raise
