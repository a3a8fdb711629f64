"""Reads rows from JSON: one object per line (https://jsonlines.org), or a list of objects.

A byte order mark, CRLF line ends and blank lines are accepted. At most one row, or the buffer that
holds it, is in memory.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from alignment.data.read.tables import Rows
from alignment.data.row import Reason, Rejected
from alignment.errors import DataError
from alignment.records.base import Json

MAX_ROW = 32 * 2**20
"""Maximum bytes of a row, 32 MiB; a longer row is quarantined without being parsed."""

_CHUNK = 2**16
_SPACE = re.compile(r"[ \t\r\n]*")


def lines(stream: IO[bytes]) -> Rows:
    """The lines of a file, each as an object or as what is wrong with it."""
    number = 0
    while line := stream.readline(MAX_ROW):
        number += 1
        if len(line) >= MAX_ROW and not line.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, Rejected(Reason.malformed, f"line of more than {MAX_ROW} bytes")
            continue
        if not line.strip():
            continue
        try:
            yield number, _as_object(json.loads(_as_text(line.rstrip())))
        except Rejected as rejected:
            yield number, rejected
        except (ValueError, RecursionError) as error:
            yield number, Rejected(Reason.malformed, f"broken JSON: {_json_problem(error)}")


def lists(file: str, stream: IO[bytes]) -> Rows:
    """The rows of a `.json` file: a list of objects or, as is common, JSON Lines under that name.

    Raises:
        DataError: the list is not valid JSON, so the rest cannot be read; names the line.
    """
    opening = stream.readline(_CHUNK)
    while not _bare(opening) and (more := stream.readline(_CHUNK)):
        opening += more
    whole = cast(IO[bytes], io.BufferedReader(_Chained(opening, stream)))
    if not _bare(opening).startswith(b"["):
        yield from lines(whole)
        return
    for number, item in enumerate(_list_items(file, whole), start=1):
        try:
            yield number, _as_object(item)
        except Rejected as rejected:
            yield number, rejected


def _bare(opening: bytes) -> bytes:
    return opening.removeprefix(b"\xef\xbb\xbf").lstrip()


def _list_items(file: str, stream: IO[bytes]) -> Iterator[object]:
    """The items of a JSON list, each yielded as soon as it is complete.

    A byte that is not UTF-8 becomes half a surrogate pair, so that only its row is quarantined.
    """
    decode = json.JSONDecoder().raw_decode
    unread = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    text = unread.read(_CHUNK)
    lines_above, at, ended = 0, text.index("[") + 1, False
    first = True
    while True:
        begin = _next_item(text, at, first=first)
        if text.startswith("]", begin):
            return
        try:
            value, end = decode(text, begin)
            complete = ended or _after_space(text, end) < len(text)
        except RecursionError as error:
            line = lines_above + text.count("\n", 0, begin) + 1
            raise _broken(file, line, "nested too deeply") from error
        except ValueError as error:
            complete, problem = False, str(getattr(error, "msg", error))
            if not ended and len(text) - at > MAX_ROW:
                problem = f"item of more than {MAX_ROW} characters, or {problem}"
                line = lines_above + text.count("\n", 0, begin) + 1
                raise _broken(file, line, problem) from error
            if ended:
                raise _broken(file, lines_above + getattr(error, "lineno", 1), problem) from error
        if complete:
            yield value
            first, at = False, end
            continue
        lines_above += text.count("\n", 0, at)
        more = unread.read(max(_CHUNK, len(text) - at))
        text, at, ended = text[at:] + more, 0, not more


def _next_item(text: str, at: int, *, first: bool) -> int:
    """Start of the next item or of the closing bracket; the end of the text if neither is there."""
    begin = _after_space(text, at)
    if first or text.startswith("]", begin):
        return begin
    return _after_space(text, begin + 1) if text.startswith(",", begin) else len(text)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Chained(io.RawIOBase):
    """Bytes that have already been read, followed by the rest of their stream."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._first[: len(buffer)] or self._rest.read(len(buffer))
        self._first = self._first[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _broken(file: str, line: int, problem: str) -> DataError:
    return DataError(
        f"{file} line {line}: broken JSON: {problem}. "
        "The rest of a list cannot be read; fix the line, or write one object per line (.jsonl)."
    )


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
    """A JSON value as a row; text alone is a prompt."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"prompt": value}
    kind = "null" if value is None else type(value).__name__
    raise Rejected(Reason.malformed, f"a JSON {kind} where an object is expected")


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
