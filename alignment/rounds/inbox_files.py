"""Lists files that others may still be writing: name, size, modification time, and completeness.

Local folders, and all URLs that fsspec can open. A file is never opened before it is known to be a
regular one, and what is read of it is limited.
Not here: reading rows (`data/read/reading.py`).
"""

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any, cast

from alignment.data.read import files
from alignment.data.read.json_rows import MAX_ROW
from alignment.errors import DataError, printable
from alignment.records.base import Frozen

_SMALLEST_PARQUET = 12
"""In bytes: the magic number at both ends and the length of the footer."""
_CHUNK = 2**18
_MOST_UNPACKED, _MOST_TIMES = 2**28, 100
"""A compressed file may unpack to 256 MiB plus a hundred times its size."""
NOT_THERE = "the inbox is not there, so no file was looked at; make it, and put files of rows in it"


class FileStat(Frozen):
    """Metadata of a file; `modified` is in seconds since the epoch, None if unknown."""

    name: str
    size: int
    modified: float | None


class SkippedFile(Frozen):
    """A file that this scan skips, and why."""

    file: str
    why: str

    @classmethod
    def of(cls, file: str, why: str) -> "SkippedFile":
        """The record; what cannot be printed is escaped."""
        return cls(file=printable(file), why=printable(why))


def list_files(place: str) -> list[FileStat | SkippedFile]:
    """All data files below a folder or URL, sorted by name, and those that cannot be used.

    Files and folders whose name begins with a dot or an underscore are left out: an upload in
    progress (`.rsync-partial/`, `_temporary/`).

    Raises:
        DataError: the folder or URL cannot be read.
    """
    with files.data_errors(place):
        found = _remote(place) if "://" in place else _local(Path(place).expanduser().absolute())
        return sorted(
            found, key=lambda file: file.name if isinstance(file, FileStat) else file.file
        )


def stat_of(name: str) -> FileStat | SkippedFile:
    """The metadata of the file with this path or URL, or why it cannot be used.

    Raises:
        DataError: it is not there, or is not a regular file.
    """
    if why := _unknown_suffix(name):
        return SkippedFile.of(name, why)
    return restat(FileStat(name=name, size=0, modified=None))


def restat(file: FileStat) -> FileStat:
    """The current metadata of the same file.

    Raises:
        DataError: the file is gone.
    """
    with files.data_errors(file.name):
        if "://" not in file.name:
            return _stat_local(file.name)
        system, path = files.filesystem(file.name)
        system.invalidate_cache()
        info = files.with_retries(file.name, lambda: system.info(path))
        return _stat(system, file.name, info)


def truncation(file: FileStat) -> str | None:
    """Why a file seems to be truncated; None if it seems complete.

    Raises:
        DataError: the file cannot be read, or is compressed and ends too early.
    """
    kind, packed = _kind(file.name)
    if not file.size:
        return "it is empty"
    with files.data_errors(file.name):
        if kind in (".parquet", ".xlsx") and not packed:
            return files.with_retries(file.name, lambda: _without_end(file.name, kind))
        end = files.with_retries(file.name, lambda: _last_line(file))
        return _cut_text(kind, end) if kind not in (".parquet", ".xlsx") else None


# --- listing ------------------------------------------------------------------------------------


def _local(root: Path) -> Iterator[FileStat | SkippedFile]:
    if not root.exists():
        yield SkippedFile.of(str(root), NOT_THERE)
        return
    folders, inside = [str(root)], os.path.realpath(root)
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if folder == folders[0]:
                raise
            reader = f" for user id {os.getuid()}" if isinstance(error, PermissionError) else ""
            yield SkippedFile.of(folder, f"it cannot be listed{reader}: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif (found := _local_file(entry, inside)) is not None:
                yield found


def _local_file(entry: "os.DirEntry[str]", inside: str) -> FileStat | SkippedFile | None:
    """One entry of a folder; None if it is gone already."""
    try:
        why = _why_unusable(entry, inside)
        return SkippedFile.of(entry.path, why) if why else _stat_local(entry.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return SkippedFile.of(entry.path, f"it cannot be looked at: {error.strerror}")


def _why_unusable(entry: "os.DirEntry[str]", inside: str) -> str | None:
    if not _is_utf8(entry.path):
        return "its name is not UTF-8; rename it"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):  # noqa: PTH110 - Path.exists raises for a loop of links
            return "it is a link to nothing"
        if os.path.commonpath([target, inside]) != inside:
            return "it is a link that leaves the inbox"
        if os.path.isdir(target):  # noqa: PTH112 - as above
            return "it is a link to a folder"
    if not stat.S_ISREG(entry.stat().st_mode):
        return "it is not a regular file"
    return _unknown_suffix(entry.name)


def _unknown_suffix(name: str) -> str | None:
    if name.lower().endswith(files.SUFFIXES):
        return None
    return f"ignored: its name does not end like a data file ({', '.join(files.KINDS)})"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stat_local(name: str) -> FileStat:
    found = Path(name).stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{name} is not a regular file")
    return FileStat(name=name, size=found.st_size, modified=found.st_mtime)


def _remote(place: str) -> Iterator[FileStat | SkippedFile]:
    """Every file at a URL.

    `system.exists` and `system.find` are not used: they report an empty folder when the network is
    down.
    """
    system, root = files.filesystem(place)
    system.invalidate_cache()
    folders = [root]
    for folder in folders:
        try:
            found = files.with_retries(place, partial(system.ls, folder, detail=True))
        except FileNotFoundError:  # it never existed, or was removed in the meantime
            if folder == root:
                yield SkippedFile.of(place, NOT_THERE)
            continue
        for info in found:
            name = PurePath(info["name"]).name
            if name.startswith((".", "_")):
                continue
            if info["type"] == "directory" and not info.get("islink"):
                folders.append(info["name"])
            else:
                yield _remote_file(system, system.unstrip_protocol(info["name"]), info)


def _remote_file(system: Any, name: str, info: dict[str, Any]) -> FileStat | SkippedFile:
    if not _is_utf8(name):
        return SkippedFile.of(name, "its name is not UTF-8; rename it")
    if info.get("islink"):
        return SkippedFile.of(name, "it is a link")
    if info["type"] != "file":
        return SkippedFile.of(name, "it is not a regular file")
    why = _unknown_suffix(name)
    return SkippedFile.of(name, why) if why else _stat(system, name, info)


def _stat(system: Any, name: str, info: dict[str, Any]) -> FileStat:
    modified = files.with_retries(name, lambda: _modified(system, info["name"]))
    return FileStat(name=name, size=info["size"] or 0, modified=modified)


def _modified(system: Any, path: str) -> float | None:
    try:
        return float(system.modified(path).timestamp())
    except (NotImplementedError, KeyError, AttributeError):
        return None


# --- the end of a file --------------------------------------------------------------------------


def _kind(name: str) -> tuple[str, bool]:
    """A file's kind, such as `.jsonl`, and whether it is compressed."""
    bare = name.lower()
    for end in files.COMPRESSED:
        bare = bare.removesuffix(end)
    return PurePath(bare).suffix, bare != name.lower()


def _without_end(name: str, kind: str) -> str | None:
    with files.opened(name) as stream:
        if kind == ".xlsx":
            return (
                None if zipfile.is_zipfile(cast(Any, stream)) else "it has no end of a ZIP file yet"
            )
        return None if _has_footer(stream) else "it has no Parquet footer yet"


def _has_footer(stream: IO[bytes]) -> bool:
    """Whether it starts and ends with `PAR1`; writers append the closing one last."""
    size = stream.seek(0, 2)
    if size < _SMALLEST_PARQUET:
        return False
    stream.seek(0)
    start = stream.read(4)
    stream.seek(size - 4)
    return start == stream.read(4) == b"PAR1"


def _last_line(file: FileStat) -> bytes:
    """The last line, with its line break; of a line that is too long, its end."""
    most = _MOST_UNPACKED + _MOST_TIMES * file.size
    last, read = bytearray(), 0
    with files.opened(file.name) as packed, files.decompressed(file.name, packed) as stream:
        while chunk := stream.read(_CHUNK):
            read += len(chunk)
            if read > most:
                raise DataError(
                    f"{file.name} unpacks to more than {most // 2**20:,} MiB. Split it into "
                    "smaller files."
                )
            start = chunk.rfind(b"\n", 0, len(chunk) - 1) + 1
            ended = last.endswith(b"\n")
            if start or ended:
                last = bytearray(chunk[start:])
            elif len(last) < MAX_ROW:
                last += chunk
            else:  # the reader drops a line this long; only its end is of interest
                last[-1:] = chunk[-1:]
    return bytes(last)


def _cut_text(kind: str, last: bytes) -> str | None:
    if not last.strip():
        return "it is empty" if not last else None
    if kind == ".json":
        ended = last.rstrip().endswith(b"]") or _is_json(last)
        return None if ended else "it does not end like a list or a row of JSON"
    if last.endswith(b"\n") or len(last) >= MAX_ROW:
        return None  # the reader says which lines are too long
    if kind in (".csv", ".tsv"):
        return "its last line has no line break, so it may be truncated"
    return None if _is_json(last) else "its last line is truncated"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
