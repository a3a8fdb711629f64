"""Reads rows from files: local or at any URL that fsspec opens, compressed or not.

A row that cannot be read is yielded as `Rejected`, with its line; a file that cannot be read at all
is a `DataError`.
Not here: parsing of a file's bytes (`json_rows.py`, `tables.py`); what the columns mean
(`formats/`).
"""

import contextlib
import glob
import gzip
import hashlib
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, PlainSerializer, SerializationInfo

from alignment.data.read import json_rows, tables
from alignment.data.read.tables import Rows
from alignment.data.row import Rejected
from alignment.errors import DataError
from alignment.extras import how_to_install
from alignment.urls import holds_more, is_digest, storable, without_query

T = TypeVar("T")

LINES, LISTS = (".jsonl", ".ndjson"), (".json",)
KINDS = (*LINES, *LISTS, ".csv", ".tsv", ".xlsx", ".parquet")
COMPRESSED = (".gz", ".zst")
SUFFIXES = tuple(kind + end for kind in KINDS for end in ("", *COMPRESSED))
RETRY_DELAYS = (0.1, 0.4, 1.6)
"""Seconds between attempts to reach a URL."""


class SecretFound(ValueError):
    """An invalid value that must not be repeated in the error message, as it holds a secret."""


def without_secret(path: str) -> str:
    """The path or URL, unchanged.

    Raises:
        SecretFound: it has a user, a query or a fragment, which may be a password or token.
    """
    if holds_more(path):
        raise SecretFound(
            "a password or token in a URL would be written to manifests and logs, so a URL may "
            "have no user, query or fragment; pass it to the worker in its storage's environment "
            "variables (HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...), or write ?${NAME} for a query "
            "that is in the environment variable NAME. An @ in a path on the web is written %40"
        )
    return path


def without_user(path: str) -> str:
    """The path or URL, unchanged; it may have a query.

    Raises:
        SecretFound: it has a user or a fragment.
    """
    without_secret(without_query(path))
    return path


def _stored(path: str, info: SerializationInfo) -> str:
    return path if info.context == WHOLE else storable(path)


WHOLE = {"urls": "whole"}
"""Context of a dump for another process of this run, which has to read what it names."""
DataFolder = Annotated[str, AfterValidator(without_secret)]
"""A path or URL of a folder, from the user. It is logged and stored, so it holds no secret."""
DataPath = Annotated[str, AfterValidator(without_user), PlainSerializer(_stored)]
"""A path or URL of data from the user. It is stored and shown without its query."""


class Meter:
    """Tracks progress through files by the bytes read of them, as stored (compressed or not).

    Args:
        total: bytes of all files; 0 if unknown.
    """

    def __init__(self, total: int = 0) -> None:
        self._total, self._before = total, 0
        self._stream: IO[bytes] | None = None

    @contextlib.contextmanager
    def following(self, stream: IO[bytes]) -> Iterator[None]:
        """Count the bytes that are read of one file."""
        self._stream = stream
        yield
        self._before, self._stream = self._read(), None

    def expected(self, rows: int) -> int:
        """Estimated total of rows, given the number read so far; 0 if unknown."""
        read = self._read()
        return max(rows, round(rows * self._total / read)) if self._total and read else 0

    def _read(self) -> int:
        is_open = self._stream is not None and not self._stream.closed
        return self._before + (cast(IO[bytes], self._stream).tell() if is_open else 0)


def find(path: str) -> list[str]:
    """The data files at a path, in a folder (recursively) or matching a glob pattern, sorted.

    Raises:
        DataError: there is none, or a file that was named is of an unknown kind.
    """
    found, exact = _find_remote(path) if "://" in path else _find_local(path)
    known = sorted(name for name in found if without_query(name).lower().endswith(SUFFIXES))
    if exact and not known:
        raise DataError(f"{path}: unknown file type; known types are {_known()}")
    if not known:
        types = f"none of the {len(found)} files there is of a known type: {_known()}"
        raise DataError(
            f"{path}: no data found ({types if found else 'nothing is there'}). "
            "Check the path; a relative path starts at the current directory."
        )
    return known


def sha256(file: str) -> str:
    """The sha256 of a file's bytes as stored; for a compressed file, of the compressed bytes.

    Raises:
        DataError: the file cannot be read.
    """
    with data_errors(file):
        return with_retries(file, lambda: _sha256(file))


def size(file: str) -> int:
    """Size of a file as stored, in bytes; 0 if its storage does not report it.

    Raises:
        DataError: the file cannot be accessed.
    """
    with data_errors(file):
        if "://" not in file:
            return Path(file).stat().st_size
        system, place = filesystem(file)
        return with_retries(file, lambda: system.size(place) or 0)


def read(file: str, meter: Meter) -> Rows:
    """The rows of one file, in order; `meter` tracks the progress.

    Raises:
        DataError: the file is missing, empty or damaged, or has no readable row.
    """
    readable = 0
    first: tuple[int, Rejected] | None = None
    with (
        data_errors(file),
        opened(file) as raw,
        meter.following(raw),
        decompressed(file, raw) as stream,
    ):
        for number, row in _rows(file, stream):
            if not isinstance(row, Rejected):
                readable += 1
            elif first is None:
                first = (number, row)
            yield number, row
    if readable == 0:
        raise DataError(_nothing_readable(file, first))


def stem(file: str) -> str:
    """A file's name without folder and known suffixes: the default `source` label of its rows."""
    name = Path(without_query(file)).name
    suffix = max((known for known in SUFFIXES if name.lower().endswith(known)), key=len, default="")
    return name[: len(name) - len(suffix)]


def _known() -> str:
    return f"{', '.join(KINDS)}, also as {' or '.join(COMPRESSED)}"


def _rows(file: str, stream: IO[bytes]) -> Rows:
    name = without_query(file).lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    kind = name[name.rfind(".") :]
    readers = {".csv": tables.csv, ".tsv": tables.tsv, ".xlsx": tables.xlsx}
    if kind in readers:
        return readers[kind](stream)
    if kind == ".parquet":
        return tables.parquet(stream)
    return json_rows.lists(file, stream) if kind in LISTS else json_rows.lines(stream)


def _nothing_readable(file: str, first: tuple[int, Rejected] | None) -> str:
    if first is None:
        return f"{file} is empty: it has no rows. Remove it from the sources, or write it again."
    number, rejected = first
    return (
        f"{file}: no row can be read; the first, line {number}: {rejected.detail}. "
        "Expected one JSON object per line, or a list of objects in a .json file, in UTF-8."
    )


def _sha256(file: str) -> str:
    with opened(file) as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()


# --- storage ------------------------------------------------------------------------------------


def _find_local(path: str) -> tuple[list[str], bool]:
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)], True
    if place.is_dir():
        return [str(file) for file in place.rglob("*") if file.is_file()], False
    matches = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob refuses absolute ones
    return [match for match in matches if Path(match).is_file()], False


def _find_remote(path: str) -> tuple[list[str], bool]:
    with data_errors(path):
        system, place = filesystem(path)
        if system.isfile(place):
            return [path], True
        found = system.find(place) if system.isdir(place) else system.glob(place)
        return [system.unstrip_protocol(name) for name in found], False


def filesystem(url: str) -> tuple[Any, str]:
    """What opens a URL or path, as fsspec has it, and the path there."""
    import fsspec

    system, place = fsspec.core.url_to_fs(_with_query(url))
    return system, place


def _with_query(url: str) -> str:
    """The URL with its query, which an environment variable holds if it ends in `?${NAME}`."""
    bare = without_query(url)
    query = url[len(bare) :]
    if is_digest(query):
        raise DataError(f"{bare}: its query is not stored, only in the config that it was in.")
    if not query.startswith("?${"):
        return url
    value = os.path.expandvars(query[1:])  # the only thing that knows the secret is its storage
    if value == query[1:]:
        raise DataError(f"{bare}: the environment variable in {query[1:]} is not set.")
    return f"{bare}?{value.removeprefix('?')}"


def opened(file: str) -> IO[bytes]:
    """A file's bytes as stored, without decompression."""
    if "://" not in file:
        return Path(file).open("rb")
    system, place = filesystem(file)
    return io.BufferedReader(system.open(place, "rb"))  # fsspec's readline takes no limit


def decompressed(file: str, stream: IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    """The decompressed bytes of a file, if its name ends in `.gz` or `.zst`."""
    name = without_query(file).lower()
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if name.endswith(".zst"):
        import pyarrow

        return cast(IO[bytes], io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd")))
    return contextlib.nullcontext(stream)


def with_retries(place: str, attempt: Callable[[], T]) -> T:
    """The result of `attempt`, retried if `place` is a URL and its storage does not respond.

    A missing file or missing permission is a response, so it is not retried.
    """
    for seconds in RETRY_DELAYS if "://" in place else ():
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, gzip.BadGzipFile):
            raise
        except OSError:
            time.sleep(seconds)
    return attempt()


def _missing_package(file: str, error: ImportError) -> str:
    """Which package reads this kind of file, and what installs it."""
    if "://" not in file or file.startswith(("http://", "https://")):
        return (
            f"{file}: reading it needs the extra `train`, which is not installed ({error}): "
            f"{how_to_install('train')}"
        )
    return f"{file}: this kind of URL needs a package: {error}"


@contextlib.contextmanager
def data_errors(file: str) -> Iterator[None]:
    """Turn any error in reading a file into a one-line `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file. Check the path.") from error
    except ImportError as error:
        raise DataError(_missing_package(file, error)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is truncated or damaged ({error}); fetch it again.") from error
    except PermissionError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror or error}. Let user id {os.getuid()}, which "
            "this process runs as, read it."
        ) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file} cannot be read: {problem}. Write or fetch it again.") from error
    except Exception as error:
        if "://" not in file:
            raise
        # A storage has errors of its own kind, whose text and cause may hold the whole URL.
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file} cannot be read: {problem}.") from None
