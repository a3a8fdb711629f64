"""Every state in which a crash can leave a folder while a function writes to it.

A function is run once and watched. At every failpoint that it passes the folder is as a SIGKILL
would leave it; a power cut may besides have torn each file that was not flushed by then: empty,
half, or cut at a multiple of 512 bytes, one file at a time and all of them at once.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.failpoints import observe

Files = dict[str, bytes | None]
"""Relative path to content; None is a folder."""


class State(NamedTuple):
    """A folder after a crash, and where the crash was."""

    at: str
    files: Files


class Recorder:
    """The states of one folder while functions run; `flushed` outlives a move of the file."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self._root = root
        self._flushed: dict[int, bytes] = {}
        monkeypatch.setattr(os, "fsync", self._fsync)  # what is on disk is decided here

    def _fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            self._flushed[path.stat().st_ino] = path.read_bytes()

    def states(self, run: Callable[[], object]) -> list[State]:
        """Those that `run` passes, each once."""
        found: list[State] = []

        def look(name: str) -> None:
            found.extend(State(f"{name}, {how}", files) for how, files in self._possible())

        end = observe(look)
        run()
        end()
        look("end")
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
    """Everything below a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def restore(state: State, root: Path) -> Path:
    """The folder as it was left, at another place."""
    root.mkdir(parents=True)
    for name, content in state.files.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
    return root
