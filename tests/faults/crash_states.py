"""All states in which a crash can leave a folder while a function writes to it.

The function runs once and is observed. At every failpoint, the folder is in a state that a SIGKILL
could leave. A power cut can also tear each file that is not flushed yet: empty, half, or truncated
to a multiple of 512 bytes, one file at a time or all of them at once.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.failpoints import observe

Files = dict[str, bytes | None]
"""Content by relative path; None for a folder."""


class State(NamedTuple):
    """A folder after a crash, and the point of the crash."""

    at: str
    files: Files


class Recorder:
    """Records the states of a folder while functions run. Flushed content is tracked by inode."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self._root = root
        self._flushed: dict[int, bytes] = {}
        monkeypatch.setattr(os, "fsync", self._fsync)  # this class decides what is on disk

    def _fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            self._flushed[path.stat().st_ino] = path.read_bytes()

    def states(self, run: Callable[[], object]) -> list[State]:
        """The distinct states that `run` passes through."""
        found: list[State] = []

        def record(name: str) -> None:
            found.extend(State(f"{name}, {how}", files) for how, files in self._possible())

        end = observe(record)
        run()
        end()
        record("end")
        unique = {tuple(sorted(state.files.items())): state for state in reversed(found)}
        return list(unique.values())[::-1]

    def _possible(self) -> Iterator[tuple[str, Files]]:
        files = snapshot(self._root)
        yield "killed", files
        torn = [name for name, content in files.items() if content and self._is_torn(name, content)]
        for name in torn:
            content = files[name]
            assert content is not None
            for size in sorted({0, len(content) // 2, *range(512, len(content), 512)}):
                yield f"{name} cut to {size}", {**files, name: content[:size]}
        if torn:
            yield "all unflushed files empty", {**files, **dict.fromkeys(torn, b"")}

    def _is_torn(self, name: str, content: bytes) -> bool:
        return self._flushed.get((self._root / name).stat().st_ino) != content


def snapshot(root: Path) -> Files:
    """The content of everything below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def restore(state: State, root: Path) -> Path:
    """Write a recorded state to another folder."""
    root.mkdir(parents=True)
    for name, content in state.files.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
    return root
