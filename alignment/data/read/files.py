"""Files to rows, on disk or behind any URL that fsspec opens, packed or not.

A row that cannot be read is handed on as `Rejected`, with its line; a file that cannot be read
at all is a `DataError`.
Not here: what is in a file's bytes (`json_rows.py`, `tables.py`); what the columns mean
(`formats/`).
"""

import contextlib
import glob
import gzip
import hashlib
import io
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar, cast

from pydantic import AfterValidator

from alignment.data.read import json_rows, tables
from alignment.data.read.tables import Rows
from alignment.data.row import Rejected
from alignment.errors import DataError

T = TypeVar("T")

LINES, LISTS = (".jsonl", ".ndjson"), (".json",)
KINDS = (*LINES, *LISTS, ".csv", ".tsv", ".xlsx", ".parquet")
PACKED = (".gz", ".zst")
SUFFIXES = tuple(kind + packed for kind in KINDS for packed in ("", *PACKED))
PAUSES = (0.1, 0.4, 1.6)
"""Seconds between tries of a place behind a URL."""

_SECRET = re.compile(
    r"://[^/?#]*:[^/?#]*@|[?&][^=&]*(token|secret|passw|signature|api_?key)[^=&]*=", re.IGNORECASE
)


class SecretFound(ValueError):
    """A mistake whose value is not to be repeated."""


def without_secret(path: str) -> str:
    """The path or URL, unless a password or token stands in it: `SecretFound`."""
    if _SECRET.search(path):
        raise SecretFound(
            "a password or token in a URL would be written to manifests and logs; give it to the "
            "worker by the environment names of its storage (HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...)"
        )
    return path


Place = Annotated[str, AfterValidator(without_secret)]
"""A path or URL as a person gives it: it is shown and written down, so it holds no secret."""


class Meter:
    """How far a pass over files is, by their bytes as they lie there, packed or not.

    Args:
        total: bytes of all files; 0 where nobody knows.
    """

    def __init__(self, total: int = 0) -> None:
        self._total, self._before = total, 0
        self._stream: IO[bytes] | None = None

    @contextlib.contextmanager
    def following(self, stream: IO[bytes]) -> Iterator[None]:
        """Count what is read of one file."""
        self._stream = stream
        yield
        self._before, self._stream = self._read(), None

    def expected(self, rows: int) -> int:
        """How many rows there will be in all, after so many; 0 where nobody knows."""
        read = self._read()
        return max(rows, round(rows * self._total / read)) if self._total and read else 0

    def _read(self) -> int:
        within = self._stream is not None and not self._stream.closed
        return self._before + (cast(IO[bytes], self._stream).tell() if within else 0)


def find(path: str) -> list[str]:
    """The data files that a file, folder (searched downwards) or glob pattern names, sorted.

    Raises:
        DataError: there is none, or a file is of an unknown kind.
    """
    found, exact = _find_remote(path) if "://" in path else _find_local(path)
    known = sorted(name for name in found if name.lower().endswith(SUFFIXES))
    if exact and not known:
        raise DataError(f"{path}: unknown kind of file; known are {_known()}")
    if not known:
        kinds = f"none of the {len(found)} files there is of a known kind: {_known()}"
        raise DataError(
            f"{path}: no such data ({kinds if found else 'nothing is there'}). "
            "Check the path; a relative one starts at the folder the command runs in."
        )
    return known


def sha256(file: str) -> str:
    """The sha256 of a file's bytes as they lie there (compressed files: of the compressed bytes).

    Raises:
        DataError: the file cannot be read.
    """
    with reading(file):
        return patiently(file, lambda: _sha256(file))


def size(file: str) -> int:
    """Bytes of a file as they lie there; 0 where its place does not tell.

    Raises:
        DataError: the file cannot be looked at.
    """
    with reading(file):
        if "://" not in file:
            return Path(file).stat().st_size
        system, place = filesystem(file)
        return patiently(file, lambda: system.size(place) or 0)


def read(file: str, meter: Meter) -> Rows:
    """The rows of one file, in its order; `meter` follows.

    Raises:
        DataError: the file is missing, empty, damaged or without a single readable row.
    """
    readable = 0
    first: tuple[int, Rejected] | None = None
    with (
        reading(file),
        opened(file) as packed,
        meter.following(packed),
        unpacked(file, packed) as stream,
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
    """A file's name without folder and known suffixes: the source of its rows."""
    name = Path(file).name
    suffix = max((known for known in SUFFIXES if name.lower().endswith(known)), key=len, default="")
    return name[: len(name) - len(suffix)]


def _known() -> str:
    return f"{', '.join(KINDS)}, also as {' or '.join(PACKED)}"


def _rows(file: str, stream: IO[bytes]) -> Rows:
    name = file.lower()
    for suffix in PACKED:
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
        return f"{file} is empty: it holds no row. Remove it from the sources or write it again."
    number, rejected = first
    return (
        f"{file}: not one row can be read; the first, line {number}: {rejected.detail}. "
        "Expected one JSON object a line, or in a .json file a list of objects, as UTF-8."
    )


def _sha256(file: str) -> str:
    with opened(file) as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()


# --- where files lie ----------------------------------------------------------------------------


def _find_local(path: str) -> tuple[list[str], bool]:
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)], True
    if place.is_dir():
        return [str(file) for file in place.rglob("*") if file.is_file()], False
    matches = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob refuses absolute ones
    return [match for match in matches if Path(match).is_file()], False


def _find_remote(path: str) -> tuple[list[str], bool]:
    with reading(path):
        system, place = filesystem(path)
        if system.isfile(place):
            return [path], True
        found = system.find(place) if system.isdir(place) else system.glob(place)
        return [system.unstrip_protocol(name) for name in found], False


def filesystem(url: str) -> tuple[Any, str]:
    """What opens a URL or path, as fsspec has it, and the path there."""
    import fsspec

    system, place = fsspec.core.url_to_fs(url)
    return system, place


def opened(file: str) -> IO[bytes]:
    """A file's bytes as they are, packed or not."""
    if "://" not in file:
        return Path(file).open("rb")
    system, place = filesystem(file)
    return cast(IO[bytes], system.open(place, "rb"))


def unpacked(file: str, stream: IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    """What a file's name says is packed in its bytes."""
    if file.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if file.lower().endswith(".zst"):
        import pyarrow

        return cast(IO[bytes], io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd")))
    return contextlib.nullcontext(stream)


def patiently(place: str, attempt: Callable[[], T]) -> T:
    """What `attempt` gives; tried again where a place behind a URL does not answer.

    That there is no such file, or no permission, is an answer.
    """
    for seconds in PAUSES if "://" in place else ():
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, gzip.BadGzipFile):
            raise
        except OSError:
            time.sleep(seconds)
    return attempt()


@contextlib.contextmanager
def reading(file: str) -> Iterator[None]:
    """Turn what goes wrong with a file into a `DataError` of one line that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file. Check the path.") from error
    except ImportError as error:
        raise DataError(f"{file}: this kind of URL needs a package: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is cut or damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file} cannot be read: {problem}. Write or fetch it again.") from error
