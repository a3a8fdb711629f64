"""Checkpoints of an unfinished training run that can be trusted.

The trainer library writes a checkpoint file by file into its final folder and resumes from the
newest one without looking: half of the faults tried (a missing optimizer, files of two
generations) are then accepted in silence and change the result. So its folder is only a staging
place: `commit_checkpoint` flushes it, writes the digest of every file and renames it, and
`newest` returns the last one whose digests match.
"""

import json
import logging
from pathlib import Path

from alignment.store.durable import flush_tree, remove, rename, write
from alignment.store.store import file_sha256

logger = logging.getLogger(__name__)

DIGESTS = "digests.json"


def commit_checkpoint(staged: Path, directory: Path, *, step: int, keep: int = 2) -> Path:
    """Make a staged checkpoint the one of `step`, durable and whole, and drop old ones.

    Args:
        staged: folder the trainer has just written.
        directory: where sealed checkpoints live, as `step-<n>`.
        step: optimiser steps done.
        keep: how many sealed checkpoints to leave; two, so that one may turn out damaged.
    """
    remove("checkpoint.begun", staged / DIGESTS)  # of an attempt that was killed while sealing
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    digests = {path.relative_to(staged).as_posix(): file_sha256(path) for path in files}
    write("checkpoint.digests", staged / DIGESTS, json.dumps(digests, indent=2, sort_keys=True))
    flush_tree("checkpoint.flush", staged)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"step-{step:08d}"
    if target.exists():
        remove("checkpoint.again", target)
    rename("checkpoint.publish", staged, target)
    for old in _sealed(directory)[:-keep]:
        remove("checkpoint.rotate", old)
    return target


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose every file matches its digest; damaged ones are removed."""
    for folder in reversed(_sealed(directory)):
        problem = _problem(folder)
        if problem is None:
            return folder
        logger.warning("checkpoint %s is damaged (%s); trying the one before", folder, problem)
        remove("checkpoint.damaged", folder)
    return None


def _sealed(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob(f"step-*/{DIGESTS}"))


def _problem(folder: Path) -> str | None:
    try:
        digests = json.loads((folder / DIGESTS).read_text())
    except ValueError:
        return f"{DIGESTS} is cut"
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_sha256(path) != expected:
            return f"{name} has changed"
    return None
