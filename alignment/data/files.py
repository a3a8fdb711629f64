"""Bytes to rows: JSON Lines, JSON and Parquet, on disk or behind any URL that fsspec opens.

A row that cannot be read is handed on as `Rejected`, with its line; a file that cannot be read
at all is a `DataError`. A byte order mark, CRLF line ends and blank lines are read as what they
are: no fault. Not here: what the columns mean (`formats.py`).
"""

import contextlib
import glob
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from alignment.data.clean import Reason, Rejected
from alignment.errors import DataError
from alignment.records import Json

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
Rows = Iterator[tuple[int, Json | Rejected]]
"""(1-based line or row, its fields or why there are none)."""


def find(path: str) -> list[str]:
    """The data files that a file, folder (searched downwards) or glob pattern names, sorted.

    Raises:
        DataError: there is none, or a file is of an unknown kind.
    """
    found, exact = _find_remote(path) if "://" in path else _find_local(path)
    known = sorted(name for name in found if name.lower().endswith(SUFFIXES))
    if exact and not known:
        raise DataError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    if not known:
        what = f"none of the {len(found)} files there" if found else "nothing"
        raise DataError(
            f"{path}: no such data ({what} ends in {', '.join(SUFFIXES)}). "
            "Check the path; a relative one starts at the folder the command runs in."
        )
    return known


def sha256(file: str) -> str:
    """The sha256 of a file's bytes as they lie there (compressed files: of the compressed bytes).

    Raises:
        DataError: the file cannot be read.
    """
    with _reading(file), _open(file, compression=None) as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()


def read(file: str) -> Rows:
    """The rows of one file, in its order.

    Raises:
        DataError: the file is missing, empty, damaged or without a single readable row.
    """
    readable = 0
    first: tuple[int, Rejected] | None = None
    with _reading(file), _open(file, compression="infer") as stream:
        for number, row in _rows(file, stream):
            if not isinstance(row, Rejected):
                readable += 1
            elif first is None:
                first = (number, row)
            yield number, row
    if readable == 0:
        raise DataError(_nothing_readable(file, first))


def _rows(file: str, stream: IO[bytes]) -> Rows:
    name = file.lower()
    if name.endswith(".parquet"):
        return _parquet_rows(stream)
    if name.removesuffix(".gz").endswith(".json"):
        return _json_rows(file, stream)
    return _json_lines(stream)


def _json_lines(stream: IO[bytes]) -> Rows:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            yield number, _as_object(json.loads(_as_text(line.rstrip())))
        except Rejected as rejected:
            yield number, rejected
        except (ValueError, RecursionError) as error:
            yield number, Rejected(Reason.malformed, f"broken JSON: {_json_problem(error)}")


def _json_rows(file: str, stream: IO[bytes]) -> Rows:
    """A `.json` file: one list of objects, or JSON Lines under that name, which is common."""
    content = stream.read()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _json_lines(io.BytesIO(content))
        return
    try:
        items = json.loads(_as_text(content))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} line {error.lineno}: broken JSON: {_json_problem(error)}. "
            "A list cannot be read in part; mend the line, or write one object a line (.jsonl)."
        ) from error
    except (Rejected, ValueError, RecursionError) as error:
        problem = error.detail if isinstance(error, Rejected) else _json_problem(error)
        raise DataError(f"{file}: {problem}. Write it again as UTF-8 JSON.") from error
    for number, item in enumerate(items, start=1):
        try:
            yield number, _as_object(item)
        except Rejected as rejected:
            yield number, rejected


def _parquet_rows(stream: IO[bytes]) -> Rows:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _as_text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 at byte {error.start + 1}"
        raise Rejected(Reason.bad_encoding, detail) from error
    if "\0" in text:
        raise Rejected(Reason.bad_encoding, f"NUL at character {text.index(chr(0)) + 1}")
    return text


def _as_object(value: object) -> Json:
    if isinstance(value, dict):
        return value
    kind = "null" if value is None else type(value).__name__
    raise Rejected(Reason.malformed, f"a JSON {kind} where an object is expected")


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _nothing_readable(file: str, first: tuple[int, Rejected] | None) -> str:
    if first is None:
        return f"{file} is empty: it holds no row. Remove it from the sources or write it again."
    number, rejected = first
    return (
        f"{file}: not one row can be read; the first, line {number}: {rejected.detail}. "
        "Expected one JSON object a line, or in a .json file a list of objects, as UTF-8."
    )


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
    import fsspec

    with _reading(path):
        system, place = fsspec.core.url_to_fs(path)
        if system.isfile(place):
            return [path], True
        found = system.find(place) if system.isdir(place) else system.glob(place)
        return [system.unstrip_protocol(name) for name in found], False


def _open(file: str, *, compression: str | None) -> IO[bytes]:
    import fsspec

    return cast(IO[bytes], fsspec.open(file, "rb", compression=compression).open())


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
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
        problem = str(error).splitlines()[0]
        raise DataError(f"{file} cannot be read: {problem}. Write or fetch it again.") from error
