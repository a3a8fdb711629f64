"""Errors of the disk below a store, as the user is told them."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import StorageError


@contextlib.contextmanager
def storage_errors(place: Path, *, expected: type[OSError] | None = None) -> Iterator[None]:
    """Turn a full disk, a full quota or a missing permission below `place` into a `StorageError`.

    Errors of type `expected` are left to the caller.
    """
    try:
        yield
    except OSError as error:
        if expected is not None and isinstance(error, expected):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(place, quota=error.errno == errno.EDQUOT) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"cannot write {error.filename or place}: {error.strerror}. "
                "Choose another folder with --set store=FOLDER, or fix its permissions."
            ) from error
        raise


def disk_full(place: Path, *, quota: bool = False) -> StorageError:
    """The error for a full disk, with the free space left on it, or for an exceeded quota."""
    what, remedy = f"the disk quota for {place} is exceeded", "Free some space"
    if not quota:
        disk = os.statvfs(_existing(place))
        what = f"the disk of {place} is full ({disk.f_bavail * disk.f_frsize >> 20} MiB free)"
        if disk.f_files and not disk.f_favail:
            what, remedy = f"the disk of {place} has no inodes left", "Remove some files from it"
    return StorageError(
        f"{what}. {remedy} and run the same command again; finished stages are kept."
    )


def error_of_storage(error: Exception, root: Path) -> StorageError | None:
    """A full disk or exceeded quota, from the text of an error that a library raised."""
    text = str(error)
    if "Disk quota exceeded" in text or "os error 122" in text:
        return disk_full(root, quota=True)
    words = ("No space left", "os error 28", "PytorchStreamWriter", "inline_container")
    return disk_full(root) if any(word in text for word in words) else None


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())
