"""Where a store is: a folder of this machine, or a bucket with a working copy on this machine."""

import hashlib
import re
from pathlib import Path

from alignment.errors import UsageError
from alignment.store.remote.working_copy import make_working_copy
from alignment.store.store import Store
from alignment.urls import is_url

_BUCKET = re.compile(r"(?:s3|gs|az)://[a-z0-9][a-z0-9._-]+(?:/[\w.=-]+)*/?")
EXPECTED = "expected a folder, or s3://BUCKET/PREFIX, gs://... or az://... without user or query"


def store_place(place: object) -> Path | str:
    """A folder, or the URL of a bucket.

    Raises:
        ValueError: it is another URL. The error does not repeat it, as it may hold a secret.
    """
    text = str(place)
    if not is_url(text):
        return Path(text)
    if not _BUCKET.fullmatch(text):
        raise ValueError(EXPECTED)
    return text.rstrip("/")


def store_at(place: Path | str, cache: Path | None = None) -> Store:
    """The store in a folder, or of a bucket with its working copy; asks no network.

    Args:
        place: a folder, or the URL of a bucket.
        cache: folder of the working copy; by default one for each URL in `~/.cache/sft-dpo`.

    Raises:
        UsageError: it is a URL of another kind.
        StorageError: the cache holds something else.
    """
    try:
        found = store_place(place)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if isinstance(found, Path):
        return Store(root=found)
    root = cache or _default_cache(found)
    make_working_copy(root, found)
    return Store(root=root)


def connect(store: Store) -> None:
    """Take over what the bucket of a store has, if it has one.

    Raises:
        StorageError: it cannot hold a store.
        Interrupted: it cannot be reached.
    """
    if store.origin is not None:
        store.origin.connect()


def _default_cache(url: str) -> Path:
    readable = re.sub(r"[^\w.-]+", "-", url)
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path.home() / ".cache" / "sft-dpo" / "stores" / f"{readable}-{digest}"
