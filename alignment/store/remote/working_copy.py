"""Which folders of this machine are the working copy of a bucket. Loads nothing of buckets."""

from functools import lru_cache
from pathlib import Path

from alignment.errors import StorageError
from alignment.records.base import Frozen
from alignment.store.durable import ensure_folder, replace

ORIGIN = "origin.json"
"""The file in such a folder that names the bucket."""


class _Place(Frozen):
    url: str


def url_of(root: Path) -> str | None:
    """The bucket that a folder is a working copy of; None if it is a store of its own."""
    place = root / ORIGIN
    try:
        return _read(place, place.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None


def make_working_copy(root: Path, url: str) -> None:
    """Make a folder a working copy of a bucket, unless it is one.

    Raises:
        StorageError: it holds something else.
    """
    known = url_of(root)
    if known == url:
        return
    if known is not None or (root / "objects").exists():
        raise StorageError(f"{root} is no working copy of {url}. Choose another `store_cache`.")
    ensure_folder(root, 0o700)
    replace("origin.place", root / ORIGIN, _Place(url=url).model_dump_json())


@lru_cache
def _read(place: Path, _changed: int) -> str:
    return _Place.model_validate_json(place.read_bytes()).url
