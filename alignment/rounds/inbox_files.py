"""Lists files that others may still be writing: name, size, modification time, and completeness.

Local folders, and all URLs that fsspec can open. Not here: reading rows (`data/read/reading.py`).
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from alignment.data.read import files
from alignment.records import Frozen

_SMALLEST_PARQUET = 12
"""In bytes: the magic number at both ends and the length of the footer."""


class FileStat(Frozen):
    """Metadata of a file; `modified` is in seconds since the epoch, None if unknown."""

    name: str
    size: int
    modified: float | None
    is_link: bool = False


def list_files(place: str) -> list[FileStat]:
    """All files below a folder or URL, sorted by name; empty if it does not exist.

    Raises:
        DataError: the folder or URL cannot be read.
    """
    with files.data_errors(place):
        system, root = files.filesystem(place)
        local = "://" not in place
        return sorted(
            (
                _stat(
                    system,
                    info["name"] if local else system.unstrip_protocol(info["name"]),
                    info,
                )
                for info in _below(system, place, root)
            ),
            key=lambda file: file.name,
        )


def restat(file: FileStat) -> FileStat:
    """The current metadata of the same file.

    Raises:
        DataError: the file is gone.
    """
    with files.data_errors(file.name):
        system, path = files.filesystem(file.name)
        system.invalidate_cache()
        info = files.with_retries(file.name, lambda: system.info(path))
        return _stat(system, file.name, info)


def truncation(name: str) -> str | None:
    """Why a JSON Lines or Parquet file seems to be truncated; None if it seems complete.

    Raises:
        DataError: the file cannot be read, or is compressed and ends too early.
    """
    with files.data_errors(name):
        if name.lower().endswith(".parquet"):
            whole = files.with_retries(name, lambda: _has_footer(name))
            return None if whole else "it has no Parquet footer yet"
        last = files.with_retries(name, lambda: _last_line(name))
        if not last:
            return "it is empty"
        return None if last.endswith(b"\n") or _is_json(last) else "its last line is truncated"


def _below(system: Any, place: str, root: str) -> Iterator[dict[str, Any]]:
    """The fsspec entry of every file; none if the folder does not exist.

    `system.exists` and `system.find` are not used: they report an empty folder when the network is
    down.
    """
    system.invalidate_cache()
    folders = [root]
    for folder in folders:
        try:
            found = files.with_retries(place, partial(system.ls, folder, detail=True))
        except FileNotFoundError:  # it never existed, or was removed in the meantime
            continue
        for info in found:
            if info["type"] != "directory":
                yield info
            elif not info.get("islink"):
                folders.append(info["name"])


def _last_line(name: str) -> bytes:
    last = b""
    with files.opened(name) as packed, files.decompressed(name, packed) as lines:
        for line in lines:
            last = line
    return last


def _stat(system: Any, name: str, info: dict[str, Any]) -> FileStat:
    return FileStat(
        name=name,
        size=info["size"] or 0,
        modified=files.with_retries(name, lambda: _modified(system, info["name"])),
        is_link=bool(info.get("islink")),
    )


def _modified(system: Any, path: str) -> float | None:
    try:
        return float(system.modified(path).timestamp())
    except (NotImplementedError, KeyError, AttributeError):
        return None


def _has_footer(name: str) -> bool:
    """Whether it starts and ends with `PAR1`; writers append the closing one last."""
    with files.opened(name) as stream:
        size = stream.seek(0, 2)
        if size < _SMALLEST_PARQUET:
            return False
        stream.seek(0)
        start = stream.read(4)
        stream.seek(size - 4)
        return start == stream.read(4) == b"PAR1"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
