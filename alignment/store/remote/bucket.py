"""Objects of a bucket (S3, Google, Azure) by name, with outcomes that are known.

`obstore` makes the requests and repeats them, bounded, where that cannot do harm. What it cannot
know is decided here: a put that may create an object once only, and whose answer was lost, is read
back before anything else. Nothing is renamed, and nothing relies on the order of a listing.
Credentials are those of the environment, as `obstore` finds them; none is read or printed here.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignment.errors import AlignmentError, Interrupted, StorageError
from alignment.extras import require
from alignment.records.base import Frozen
from alignment.store.durable import failpoint_span

CLIENT = {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "1h", "allow_http": True}
"""A stalled request ends after 20 seconds; one that moves may take as long as its size needs. Plain
HTTP is used only if the environment names an endpoint so, which is somebody's own server."""
RETRIES: dict[str, Any] = {
    "max_retries": 5,
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=120),
}
PAUSES = (0.5, 2.0, 8.0)
"""Seconds between attempts whose outcome is read back first."""
CHUNK = 16 * 2**20
"""Bytes of a part of an upload, and of one request of a download."""
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The environment variables of each scheme that say who asks."""


class BucketObject(Frozen):
    """An object: its name, size in bytes, and last change in seconds since the epoch."""

    name: str
    size: int
    modified: float


class Bucket(Frozen):
    """The objects below a `s3://`, `gs://` or `az://` URL.

    Every method raises `StorageError` for what a person has to change, such as a bucket that is
    not there, and `Interrupted` where the network or the service failed for minutes.
    """

    url: str

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            return bytes(self._api.get(self._objects, name).bytes())
        return None

    def find(self, name: str) -> BucketObject | None:
        """An object, without its content; None if there is none."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            return _found(self._api.head(self._objects, name))
        return None

    def below(self, under: str) -> list[BucketObject]:
        """All objects whose names begin with `under` and a slash, in no order."""
        with self._errors():
            return [_found(one) for one in self._api.list(self._objects, under).collect()]

    def folders(self, under: str) -> list[str]:
        """The folders right below a folder."""
        with self._errors():
            found = self._api.list_with_delimiter(self._objects, under)
        return sorted(prefix.rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    def write(self, name: str, content: bytes) -> None:
        """Write an object, over an earlier one; the last writer wins."""
        with failpoint_span("bucket.write"):
            self._put(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Create an object unless there is one; whether the one there now has this content.

        Of several writers with contents of their own, exactly one gets True.
        """
        for pause in (*PAUSES, None):
            try:
                with self._errors(), failpoint_span("bucket.create"):
                    self._api.put(self._objects, name, content, mode="create")
            except (_Exists, Interrupted) as error:
                # It may exist because an attempt whose answer was lost made it. And it may not
                # exist: the library also says so of a 409, which asks for another attempt.
                there = self._read_back(name)
                if there is not None:
                    return there == content
                if pause is None:
                    raise Interrupted(f"{name} in {self.url}: {error or 'still busy'}") from None
                time.sleep(pause)
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def swap(self, name: str, content: bytes, *, instead_of: bytes) -> bool:
        """Replace an object if it still has the old content; whether it has the new one now."""
        with contextlib.suppress(FileNotFoundError, _Exists), self._errors():
            old = self._api.get(self._objects, name)
            version = {key: old.meta[key] for key in ("e_tag", "version") if old.meta[key]}
            if bytes(old.bytes()) == instead_of:
                with failpoint_span("bucket.swap"):
                    self._api.put(self._objects, name, content, mode=version)
        return self.read(name) == content

    def upload(self, name: str, path: Path) -> None:
        """Write an object from a file, a large one in parts; a failed one leaves no object."""
        with failpoint_span("bucket.upload"):
            self._put(name, path)

    def download(self, name: str, path: Path, *, size: int) -> bool:
        """Write an object of known size to a file, piece by piece; whether there is the object."""
        with (
            failpoint_span("bucket.download"),
            path.open("wb") as file,
            contextlib.suppress(FileNotFoundError),
            self._errors(),
        ):
            for start in range(0, size, CHUNK):
                end = min(start + CHUNK, size)
                file.write(self._api.get_range(self._objects, name, start=start, end=end))
            return True
        return False

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, as far as they are there."""
        with failpoint_span("bucket.remove"):
            for name in names:
                with contextlib.suppress(FileNotFoundError), self._errors():
                    self._api.delete(self._objects, name)

    def refuse_if_unsafe(self, probe: str) -> None:
        """Check that an object can be created once only; `probe` is a name that nobody else has.

        Raises:
            StorageError: a second put wins over the first.
        """
        safe = self.create(probe, b"first") and not self.create(probe, b"second")
        self.remove([probe])
        if not safe:
            raise StorageError(
                f"{self.url} has no conditional puts (If-None-Match), without which two machines "
                "could both move a champion. Use a service that has them, or a folder as store."
            )

    def _put(self, name: str, content: bytes | Path) -> None:
        for pause in (*PAUSES, None):
            try:
                with self._errors():
                    options = {"chunk_size": CHUNK, "max_concurrency": 4}
                    self._api.put(self._objects, name, content, **options)
            except _Exists:  # what the library makes of a 409, which asks for another attempt
                if pause is None:
                    raise Interrupted(f"{name} in {self.url} is still busy") from None
                time.sleep(pause)
            else:
                return

    def _read_back(self, name: str) -> bytes | None:
        """What is there after an unknown outcome, if the service answers."""
        with contextlib.suppress(Interrupted):
            return self.read(name)
        return None

    @property
    def _api(self) -> Any:
        return require("obstore", extra="bucket")

    @property
    def _objects(self) -> Any:
        return _opened(self.url, os.getpid())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what `obstore` raises into our errors; "no such object" is left to the caller."""
        kinds = require("obstore.exceptions", extra="bucket")
        try:
            yield
        except (AlignmentError, _Exists):
            raise
        except (kinds.AlreadyExistsError, kinds.PreconditionError) as error:
            raise _Exists from error
        except (kinds.BaseError, FileNotFoundError, PermissionError) as error:
            if isinstance(error, FileNotFoundError) and not _lacks_bucket(str(error)):
                raise
            raise self._told(str(error)) from None  # it may show a signed request

    def _told(self, text: str) -> AlignmentError:
        """The error for what a service or the network said."""
        names = CREDENTIALS[self.url.split(":")[0]]
        what = text.splitlines()[0].rsplit(" - ", 1)[-1][:200]
        if _lacks_bucket(text):
            return StorageError(f"{self.url} has no bucket. Create it, or correct `store`.")
        if any(sign in text for sign in _NO_CREDENTIALS):
            return StorageError(f"no credentials for {self.url}: set {names} in the environment.")
        if any(sign in text for sign in _REFUSED):
            return StorageError(
                f"{self.url} refuses these credentials ({what}). They come from {names} in the "
                "environment, and need to read, write, list and delete."
            )
        if "501 Not Implemented" in text:
            return StorageError(f"{self.url} cannot do what a store needs ({what}).")
        return Interrupted(
            f"{self.url} cannot be reached: {what}. What is finished is kept on this machine; the "
            "same command continues."
        )


class _Exists(Exception):
    """A condition of a put did not hold."""


_NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "must be specified")
"""Where a machine of a cloud is asked for credentials, which happens if there are no others; and
what is said of a missing account."""
_REFUSED = ("401 Unauthorized", "403 Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def _lacks_bucket(text: str) -> bool:
    return any(sign in text for sign in ("NoSuchBucket", "ContainerNotFound", "bucket does not"))


def _found(meta: Any) -> BucketObject:
    return BucketObject(
        name=meta["path"], size=meta["size"], modified=meta["last_modified"].timestamp()
    )


@lru_cache
def _opened(url: str, process: int) -> Any:  # noqa: ARG001  # a fork must not use its parent's threads
    stores = require("obstore.store", extra="bucket")
    return stores.from_url(url, client_options=CLIENT, retry_config=RETRIES)
