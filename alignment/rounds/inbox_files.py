"""Files that somebody else is still writing: what is there, since when, and is it whole.

Local folders and every URL that fsspec opens. Not here: what the rows mean (`files.py`).
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from alignment.data.read import files
from alignment.records import Frozen

_SMALLEST_PARQUET = 12
"""Bytes: the mark at both ends, and the length of the footer."""


class FileStat(Frozen):
    """A file as its place describes it; `modified` in seconds since the epoch, where known."""

    name: str
    size: int
    modified: float | None
    is_link: bool = False


def list_files(place: str) -> list[FileStat]:
    """All files below a folder or URL, sorted by name; none where there is no such place.

    Raises:
        DataError: the place cannot be read.
    """
    with files.reading(place):
        system, root = files.filesystem(place)
        local = "://" not in place
        return sorted(
            (
                _described(
                    system,
                    info["name"] if local else system.unstrip_protocol(info["name"]),
                    info,
                )
                for info in _below(system, place, root)
            ),
            key=lambda file: file.name,
        )


def restat(file: FileStat) -> FileStat:
    """The same file as it is described now.

    Raises:
        DataError: it is gone.
    """
    with files.reading(file.name):
        system, path = files.filesystem(file.name)
        system.invalidate_cache()
        info = files.patiently(file.name, lambda: system.info(path))
        return _described(system, file.name, info)


def truncation(name: str) -> str | None:
    """What shows that a JSON Lines or Parquet file is not whole; None where nothing does.

    Raises:
        DataError: it cannot be read, or is compressed and has no end.
    """
    with files.reading(name):
        if name.lower().endswith(".parquet"):
            whole = files.patiently(name, lambda: _has_footer(name))
            return None if whole else "it has no Parquet footer yet"
        last = files.patiently(name, lambda: _last_line(name))
        if not last:
            return "it is empty"
        return None if last.endswith(b"\n") or _is_json(last) else "its last line is cut"


def _below(system: Any, place: str, root: str) -> Iterator[dict[str, Any]]:
    """The description of every file; none where there is no such folder.

    `system.exists` and `system.find` would take a network that is down for an empty folder.
    """
    system.invalidate_cache()
    folders = [root]
    for folder in folders:
        try:
            found = files.patiently(place, partial(system.ls, folder, detail=True))
        except FileNotFoundError:  # never there, or removed meanwhile
            continue
        for info in found:
            if info["type"] != "directory":
                yield info
            elif not info.get("islink"):
                folders.append(info["name"])


def _last_line(name: str) -> bytes:
    last = b""
    with files.opened(name) as packed, files.unpacked(name, packed) as lines:
        for line in lines:
            last = line
    return last


def _described(system: Any, name: str, info: dict[str, Any]) -> FileStat:
    return FileStat(
        name=name,
        size=info["size"] or 0,
        modified=files.patiently(name, lambda: _modified(system, info["name"])),
        is_link=bool(info.get("islink")),
    )


def _modified(system: Any, path: str) -> float | None:
    try:
        return float(system.modified(path).timestamp())
    except (NotImplementedError, KeyError, AttributeError):
        return None


def _has_footer(name: str) -> bool:
    """Parquet files begin and end with the same four bytes; the last ones are written last."""
    with files.opened(name) as stream:
        size = stream.seek(0, 2)
        if size < _SMALLEST_PARQUET:
            return False
        stream.seek(0)
        head = stream.read(4)
        stream.seek(size - 4)
        return head == stream.read(4) == b"PAR1"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
