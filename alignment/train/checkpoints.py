"""Verified checkpoints of an unfinished training run.

The trainer library writes a checkpoint file by file into its final folder and resumes from the
newest one without checking it. Half of the faults we tried (a missing optimizer, files from two
checkpoints) are then silently accepted and change the result. So the library's folder only serves
as staging: `commit_checkpoint` flushes it, writes a digest of every file and renames it, and
`newest` returns the last checkpoint whose digests match.
"""

import json
import logging
from pathlib import Path

from alignment.store.checksum import file_sha256
from alignment.store.durable import flush_tree, remove, rename, write

logger = logging.getLogger(__name__)

DIGESTS = "digests.json"


def commit_checkpoint(staged: Path, directory: Path, *, step: int, keep: int = 2) -> Path:
    """Atomically make a staged folder the checkpoint of `step`, and delete old checkpoints.

    Args:
        staged: folder that the trainer has just written.
        directory: folder of the committed checkpoints, each in `step-<n>`.
        step: optimiser steps done.
        keep: number of committed checkpoints to keep; two, in case one turns out damaged.
    """
    remove("checkpoint.begun", staged / DIGESTS)  # left by an attempt that was killed
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    digests = {path.relative_to(staged).as_posix(): file_sha256(path) for path in files}
    write("checkpoint.digests", staged / DIGESTS, json.dumps(digests, indent=2, sort_keys=True))
    flush_tree("checkpoint.flush", staged)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"step-{step:08d}"
    if target.exists():
        remove("checkpoint.again", target)
    rename("checkpoint.publish", staged, target)
    for old in _committed(directory)[:-keep]:
        remove("checkpoint.rotate", old)
    return target


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose files all match their digests; damaged ones are removed."""
    for folder in reversed(_committed(directory)):
        problem = _problem(folder)
        if problem is None:
            return folder
        logger.warning("checkpoint %s is damaged (%s); trying the previous one", folder, problem)
        remove("checkpoint.damaged", folder)
    return None


def _committed(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob(f"step-*/{DIGESTS}"))


def _problem(folder: Path) -> str | None:
    try:
        digests = json.loads((folder / DIGESTS).read_text())
    except ValueError:
        return f"{DIGESTS} is truncated"
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_sha256(path) != expected:
            return f"{name} has changed"
    return None
