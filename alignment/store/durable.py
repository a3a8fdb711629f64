"""Changes of the disk that must be whole after a crash, each under a name.

Every write, flush, rename and removal of what outlives a process is made here, so that a test can
make each of them fail (`tests/faults`). `tests/architecture` looks for any made elsewhere.
The name comes first and occurs at one place of the source only.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Observer = Callable[[str], None]
observers: list[Observer] = []
"""Called with the name of every failpoint that this process passes. Only tests add one."""


def hit(failpoint: str) -> None:
    """Pass a failpoint: a place where a test can have this process die or fail."""
    for observer in tuple(observers):
        observer(failpoint)


@contextlib.contextmanager
def failpoint_span(name: str) -> Iterator[None]:
    """Failpoints around a block that writes by a library, or piece by piece."""
    hit(f"{name}:before")
    yield
    hit(f"{name}:after")


def write(name: str, path: Path, content: str | bytes) -> None:
    """Write a file, in place and unflushed: whoever commits it flushes it."""
    with failpoint_span(name):
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(name: str, path: Path) -> None:
    """Make a file or folder durable: a rename of unflushed data may survive without the data."""
    with failpoint_span(name):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_tree(name: str, folder: Path) -> None:
    """The same for a folder and everything below it, the folder last."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush(name, path)
    flush(name, folder)


def rename(name: str, source: Path, target: Path) -> None:
    """Move a file or folder within one file system, and make that durable.

    An error of a rename that has happened all the same (a network's lost answer) is none.
    """
    with failpoint_span(name):
        try:
            source.replace(target)
        except OSError:
            if source.exists() or not target.exists():
                raise
    flush(f"{name}.flush", target.parent)


def remove(name: str, path: Path) -> None:
    """Remove a file or folder, if it is there.

    A folder is moved out of the way first, so that no later attempt meets a part of it.
    """
    gone = path.with_name(f".{path.name}.gone")
    with failpoint_span(name):
        shutil.rmtree(gone, ignore_errors=True)  # of an attempt that was killed here
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(name: str, path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file or folder to; it takes the path when it is whole.

    For one process at a time, such as the one that holds a key's lock; else `replace`. What a
    killed attempt has left there goes first: a library's temporary files would else end up in an
    artifact.
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


def replace(name: str, path: Path, content: str) -> None:
    """Write a text in one move, in place of what is there: whoever reads or writes it meanwhile.

    Of several processes that do so at once the last one stays; each writes to a file of its own.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        write(f"{name}.write", aside, content)
        flush(f"{name}.flush", aside)
        rename(f"{name}.rename", aside, path)
    finally:
        remove(f"{name}.remove", aside)


def create(name: str, path: Path, content: bytes) -> None:
    """Write a new file, whole and flushed, or not at all.

    The content is written beside it and then linked to the name, which fails where the name is
    taken: of two processes that create one path exactly one succeeds.

    Raises:
        FileExistsError: there is a file of that name already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """A second name for a file; an error of a link that was made all the same is none."""
    try:
        os.link(source, target)
    except OSError:
        if not (target.exists() and target.samefile(source)):
            raise
