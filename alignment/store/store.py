"""The store: where artifacts live, whole or absent.

    ROOT/objects/<key>/   a finished artifact: files and `manifest.json`, moved here by one rename
    ROOT/work/<key>/      a stage being built: out/, checkpoints/, progress.jsonl; survives a kill
    ROOT/logs/<key>.log   what the stage's process printed
    ROOT/locks/<key>.lock held by the process that builds the key; freed by the system when it dies
    ROOT/damaged/         artifacts whose digests no longer matched, moved out of the way
    ROOT/lines/<line>/    the ledger of a line of rounds (`ledger.py`)

A key names an artifact's inputs (`alignment.pipeline.step.Step.key`), so "was this done already?"
is "is there a manifest?". The store is the truth; a scheduler's database may be lost.
Not here: what a stage does, which stages there are (`stages.py`), who descends from whom
(`lineage.py`).
"""

import contextlib
import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import ArtifactError, StorageError
from alignment.records import FileDigest, Frozen, StageRecord, inside
from alignment.store.checksum import verified, with_digest
from alignment.store.durable import flush_tree, remove, rename, write

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_verified: dict[Path, tuple[int, ...]] = {}
"""Artifacts this process has hashed, by the modification times it saw: once, not per open."""
TICK = 20_000_000
"""Nanoseconds: file systems tell time in steps of up to 10 ms, so a file that is younger may change
and keep its time."""


class Workspace(Frozen):
    """Where one stage is built. Everything that must survive a kill is under `folder`."""

    folder: Path
    log: Path

    @property
    def out(self) -> Path:
        """Files of the artifact; becomes `objects/<key>`."""
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        """Verified checkpoints of an unfinished training run."""
        return self.folder / "checkpoints"

    @property
    def progress(self) -> Path:
        """JSON lines for whoever watches."""
        return self.folder / "progress.jsonl"


class Store(Frozen):
    """Artifacts under one folder."""

    root: Path

    def folder(self, key: str) -> Path:
        """Where the artifact of a key lies or would lie.

        Raises:
            ArtifactError: the key leads out of the store.
        """
        try:
            return self.root / "objects" / inside(key)
        except ValueError as error:
            raise ArtifactError(f"not a place in {self.root}: {error}") from error

    def path(self, uri: str) -> Path:
        """The place of a `store:<key>/<path>` or `folder:<path>` uri.

        Raises:
            ArtifactError: for another kind of uri, and one that leads out of the store.
        """
        scheme, _, rest = uri.partition(":")
        if scheme == "store":
            return self.folder(rest)
        if scheme == "folder":
            return Path(rest)
        raise ArtifactError(f"{uri!r} is not a place on disk; expected store:<key>/<path>")

    def list_keys(self) -> list[str]:
        """Keys of all finished artifacts, sorted."""
        return sorted(manifest.parent.name for manifest in self.root.glob(f"objects/*/{MANIFEST}"))

    def records(self) -> list[StageRecord]:
        """The record of every finished artifact, oldest first. Reads the manifests only."""
        found = (self.find(key) for key in self.list_keys())
        return sorted((r for r in found if r is not None), key=lambda record: record.started)

    def find(self, key: str) -> StageRecord | None:
        """The record of a key, or None where there is no artifact. Reads the manifest only."""
        manifest = self.folder(key) / MANIFEST
        try:
            return StageRecord.model_validate_json(verified(manifest.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ArtifactError(
                f"{manifest} is damaged. Remove {manifest.parent} and run again to rebuild it."
            ) from error

    def open(self, key: str) -> StageRecord:
        """The record of a key, after every file was checked against its digest.

        Raises:
            ArtifactError: no such artifact, or a file is missing, cut or changed.
        """
        record = self.find(key)
        if record is None:
            raise ArtifactError(f"no artifact {key!r} in {self.root}")
        folder, now = self.folder(key), time.time_ns()
        seen = _times(folder, record)
        if _verified.get(folder) != seen:
            for file in record.files:
                _check(folder, file)
            _remember(folder, seen, now)
        return record

    def reuse(self, key: str) -> StageRecord | None:
        """The record of a key if its files are intact; a damaged artifact is moved aside.

        What a process that died between commit and cleaning up has left is removed.
        """
        if not self.folder(key).exists():
            return None
        try:
            record = self.open(key)
        except ArtifactError as error:
            aside = self.root / "damaged" / f"{key}-{time.time_ns()}"
            logger.warning("%s; moved to %s and built again", error, aside)
            aside.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                rename("artifact.aside", self.folder(key), aside)
            return None
        left = self.root / "work" / key
        if not (left / "out").exists():
            remove("workspace.leftover", left)
        return record

    def workspace(self, key: str) -> Workspace:
        """The place to build a key in; what an earlier attempt left there is kept."""
        with storage_errors(self.root):
            workspace = Workspace(
                folder=self.root / "work" / key, log=self.root / "logs" / f"{key}.log"
            )
            for folder in (workspace.out, workspace.log.parent, self.root / "objects"):
                folder.mkdir(parents=True, exist_ok=True)
        return workspace

    def has_checkpoint(self, key: str) -> bool:
        """Whether an unfinished training run of this key can be continued."""
        return any((self.root / "work" / key / "checkpoints").glob("step-*/digests.json"))

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to build a key; waits for another process that has it."""
        from filelock import FileLock

        with storage_errors(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / f"{key}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def commit(self, record: StageRecord, workspace: Workspace) -> StageRecord:
        """Make the workspace's files the artifact of `record.key`: digests, manifest, one rename.

        The manifest is written last and the rename is atomic, so a reader sees all or nothing.
        Everything is flushed to disk before the rename: a power cut cannot leave a whole-looking
        folder of empty files.
        """
        target, now = self.folder(record.key), time.time_ns()
        with storage_errors(self.root):
            files = tuple(_digest(workspace.out, path) for path in _files(workspace.out))
            record = record.model_copy(update={"files": files})
            write("artifact.manifest", workspace.out / MANIFEST, with_digest(record))
            flush_tree("artifact.flush", workspace.out)
            rename("artifact.publish", workspace.out, target)
        with contextlib.suppress(OSError):  # the artifact is there, whatever is left of this
            remove("workspace.remove", workspace.folder)
        _remember(target, _times(target, record), now)
        return record


@contextlib.contextmanager
def storage_errors(place: Path, *, expected: type[OSError] | None = None) -> Iterator[None]:
    """Turn a full disk, a quota or a missing permission below `place` into one line that says so.

    An error of the `expected` kind is the caller's own business.
    """
    try:
        yield
    except OSError as error:
        if expected is not None and isinstance(error, expected):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(place, quota=error.errno == errno.EDQUOT) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"cannot write {error.filename or place}: {error.strerror}. "
                "Choose another folder with --set store=FOLDER, or mend its permissions."
            ) from error
        raise


def disk_full(place: Path, *, quota: bool = False) -> StorageError:
    """The error of a full disk, with the room that is left on it; or of a quota that is used up."""
    free = f"{_free(place) / 2**20:.0f} MiB"
    full = f"the disk of {place} is full ({free} free)"
    what = f"the quota on the disk of {place} is used up" if quota else full
    return StorageError(
        f"{what}. Free some space and run the same command again: finished stages are kept."
    )


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _free(place: Path) -> int:
    existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _digest(folder: Path, path: Path) -> FileDigest:
    return FileDigest(
        path=path.relative_to(folder).as_posix(),
        size=path.stat().st_size,
        sha256=file_sha256(path),
    )


def _check(folder: Path, expected: FileDigest) -> None:
    path = folder / expected.path
    if path.resolve() != folder.resolve() / expected.path:
        raise ArtifactError(f"{path} is a link: an artifact holds its own files")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing from its artifact")
    if path.stat().st_size != expected.size or file_sha256(path) != expected.sha256:
        raise ArtifactError(f"{path} does not match the digest in its manifest")


def _remember(folder: Path, seen: tuple[int, ...], hashed: int) -> None:
    """That these files were hashed from then on; not of one that was written in the same tick."""
    if all(changed < hashed - TICK for changed in seen):
        _verified[folder] = seen
    else:
        _verified.pop(folder, None)


def _times(folder: Path, record: StageRecord) -> tuple[int, ...]:
    """Modification times of the artifact's files, in the manifest's order; 0 where missing."""
    paths = [folder / file.path for file in record.files]
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths)
