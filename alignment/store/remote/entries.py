"""The entries of a line's ledger in a bucket: numbered objects, each created once.

The bucket decides who wrote an entry; the folder of a working copy follows it. Entries are asked
for by number, so nothing depends on what a listing shows.
"""

import contextlib
from pathlib import Path

from alignment.errors import ArtifactError
from alignment.store.durable import create
from alignment.store.remote.bucket import Bucket
from alignment.store.remote.parallel import in_parallel


def entry_name(number: int) -> str:
    """The name of an entry's file."""
    return f"{number:08d}.json"


def create_entry(bucket: Bucket, folder: Path, number: int, content: bytes) -> bool:
    """Create an entry in the bucket, then in the folder; False if another writer has that number.

    Contents of two writers must differ.
    """
    if not bucket.create(_object(folder, number), content):
        return False
    _copy(folder, number, content)
    return True


def copy_entries(bucket: Bucket, folder: Path) -> None:
    """Copy the entries that the folder of a line lacks.

    Raises:
        ArtifactError: the bucket lacks an entry of the folder, or has another one in its place.
    """
    last = len(list(folder.glob("[0-9]*.json")))
    if last and bucket.read(_object(folder, last)) != (folder / entry_name(last)).read_bytes():
        raise ArtifactError(
            f"entry {last} of line {folder.name!r} in {bucket.url} is not the one in {folder}: "
            "one of the two was changed or restored. Move the folder away if the bucket is right."
        )
    content = bucket.read(_object(folder, last + 1))
    if content is None:
        return
    _copy(folder, last + 1, content)
    listed = len(bucket.below(f"lines/{folder.name}"))  # only how many to ask for at once
    numbers = range(last + 2, max(listed, last + 2) + 2)
    found = in_parallel(lambda number: bucket.read(_object(folder, number)), numbers)
    for number, entry in zip(numbers, found, strict=True):
        if entry is None:
            return
        _copy(folder, number, entry)
    copy_entries(bucket, folder)


def _object(folder: Path, number: int) -> str:
    return f"lines/{folder.name}/{entry_name(number)}"


def _copy(folder: Path, number: int, content: bytes) -> None:
    with contextlib.suppress(FileExistsError):  # another process of this machine was faster
        create("entry.copy", folder / entry_name(number), content)
