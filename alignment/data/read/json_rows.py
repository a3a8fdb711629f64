"""JSON to rows: one object a line (https://jsonlines.org), or a list of objects.

A byte order mark, CRLF line ends and blank lines are read as what they are: no fault. Never more
than one row, or the buffer that holds it, is in memory.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from alignment.data.read.tables import Rows
from alignment.data.row import Reason, Rejected
from alignment.errors import DataError
from alignment.records import Json

MAX_ROW = 32 * 2**20
"""Bytes of the longest row that is read, 32 MiB; a longer one is set aside unread."""

_CHUNK = 2**16
_SPACE = re.compile(r"[ \t\r\n]*")


def lines(stream: IO[bytes]) -> Rows:
    """The lines of a file, each an object or what is wrong with it."""
    number = 0
    while line := stream.readline(MAX_ROW):
        number += 1
        if len(line) >= MAX_ROW and not line.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, Rejected(Reason.malformed, f"a line of more than {MAX_ROW} bytes")
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
    """A `.json` file: one list of objects, or JSON Lines under that name, which is common.

    Raises:
        DataError: the list is broken, with its line; what follows cannot be read.
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
    """The items of a JSON list, each read as soon as it is whole.

    A byte that is not UTF-8 becomes half a surrogate pair, so that its row is set aside for it
    and the others are read.
    """
    decode = json.JSONDecoder().raw_decode
    unread = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    text = unread.read(_CHUNK)
    above, at, ended = 0, text.index("[") + 1, False
    first = True
    while True:
        begin = _next_item(text, at, first=first)
        if text.startswith("]", begin):
            return
        try:
            value, end = decode(text, begin)
            whole = ended or _after_space(text, end) < len(text)
        except RecursionError as error:
            line = above + text.count("\n", 0, begin) + 1
            raise _broken(file, line, "nested too deeply") from error
        except ValueError as error:
            whole, problem = False, str(getattr(error, "msg", error))
            if not ended and len(text) - at > MAX_ROW:
                problem = f"an item of more than {MAX_ROW} characters, or {problem}"
                raise _broken(file, above + text.count("\n", 0, begin) + 1, problem) from error
            if ended:
                raise _broken(file, above + getattr(error, "lineno", 1), problem) from error
        if whole:
            yield value
            first, at = False, end
            continue
        above += text.count("\n", 0, at)
        more = unread.read(max(_CHUNK, len(text) - at))
        text, at, ended = text[at:] + more, 0, not more


def _next_item(text: str, at: int, *, first: bool) -> int:
    """Where the next item or the end of the list begins; the end of the text where neither does."""
    begin = _after_space(text, at)
    if first or text.startswith("]", begin):
        return begin
    return _after_space(text, begin + 1) if text.startswith(",", begin) else len(text)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Chained(io.RawIOBase):
    """Bytes that were read already, and then the stream they came from."""

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
        "A list cannot be read in part; mend the line, or write one object a line (.jsonl)."
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
    """A row; a text alone is a prompt."""
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
