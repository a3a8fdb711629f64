"""The store: a folder of artifacts, each complete or absent.

    ROOT/objects/<key>/   a finished artifact: files and `manifest.json`, moved here by one rename
    ROOT/work/<key>/      a stage being built: out/, checkpoints/, progress.jsonl; survives a kill;
                          only the process that holds the key's lock makes or removes it
    ROOT/logs/<key>.log   output of the stage's process
    ROOT/locks/<key>.lock held by the process that builds the key; the OS frees it when that dies
    ROOT/damaged/         artifacts whose digests no longer matched, moved aside
    ROOT/trials/          what trials of models that passed had to say; only saves the next trial
    ROOT/lines/<line>/    the ledger of a line of rounds (`ledger.py`)
    ROOT/origin/          what is known of the bucket that ROOT is a working copy of, if it is one
                          (`remote/origin.py`); `objects` then holds what was built or needed here

The permissions of ROOT, 0700 if it is made here, are those of everything in it, as far as the umask
allows: rows may be personal data. For a group: `mkdir -m 2770 ROOT`, and a umask of 007.

A key identifies an artifact's inputs (`alignment.pipeline.step.Step.key`), so a stage is done if
and only if its manifest exists. The store is the source of truth; the scheduler's database may be
lost.
Not here: what a stage does (`pipeline/steps/`), ancestors and descendants (`lineage.py`).
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from alignment.errors import ArtifactError, LaterVersion, StorageError
from alignment.records.base import Frozen, inside
from alignment.records.manifest import MANIFEST_FORMAT, LedgerTip, StageRecord
from alignment.records.refs import FileDigest
from alignment.store.checksum import file_digest, file_sha256, verified, with_digest
from alignment.store.durable import ensure_folder, flush_tree, remove, rename, replace, write
from alignment.store.errors import storage_errors
from alignment.store.locks import Busy, OnWait, hold, refuse_to_wait
from alignment.store.remote.working_copy import url_of
from alignment.store.workspace import Workspace

if TYPE_CHECKING:
    from alignment.store.remote.origin import Origin

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_verified: dict[Path, tuple[int, ...]] = {}
"""Modification times of the artifacts that this process has hashed, to hash each only once."""
TICK = 20_000_000
"""In nanoseconds. File systems record times in steps of up to 10 ms, so a file younger than this
may change and keep its modification time."""
REBUILD = (
    ". `sft-dpo run` or `sft-dpo round`, with the config that it was made with, moves the artifact "
    "aside and builds it again."
)
"""What to do about a damaged artifact."""
_skipped: set[Path] = set()
"""Artifacts whose manifests this process could not read, to name each only once."""


class Store(Frozen):
    """Artifacts under one folder."""

    root: Path

    @property
    def origin(self) -> "Origin | None":
        """The bucket that this is a working copy of; None if it is a store of its own."""
        url = url_of(self.root)
        if url is None:
            return None
        from alignment.store.remote.origin import origin_at  # few stores need its thirty modules

        return origin_at(self.root, url)

    def place(self, key: str) -> Path:
        """The folder of the artifact of a key, whether or not it exists.

        Raises:
            ArtifactError: the key leads outside the store.
        """
        try:
            return self.root / "objects" / inside(key)
        except ValueError as error:
            raise ArtifactError(f"not a path in {self.root}: {error}") from error

    def folder(self, key: str) -> Path:
        """The same, to read from: an artifact that only the bucket has is copied from there."""
        folder = self.place(key)
        if self.origin is not None and not folder.exists() and self.origin.look(key):
            with self.lock(f"fetch-{key}"):
                record = self.find(key)
                if record is not None and not folder.exists():
                    self.origin.fetch(key, folder, record.files)
        return folder

    def path(self, uri: str) -> Path:
        """The path of a `store:<key>/<path>` or `folder:<path>` uri.

        Raises:
            ArtifactError: the uri is of another kind, or leads outside the store.
        """
        scheme, _, rest = uri.partition(":")
        if scheme == "store":
            self.folder(rest.partition("/")[0])  # there from now on, if the bucket has it
            return self.place(rest)
        if scheme == "folder":
            return Path(rest)
        raise ArtifactError(f"{uri!r} is not a path on disk; expected store:<key>/<path>")

    def list_keys(self) -> list[str]:
        """The keys of all finished artifacts, sorted."""
        here = {manifest.parent.name for manifest in self.root.glob(f"objects/*/{MANIFEST}")}
        return sorted(here.union(self.origin.keys()) if self.origin else here)

    def records(self) -> list[StageRecord]:
        """The records of all finished artifacts, oldest first. Reads the manifests only.

        A manifest that cannot be read is skipped, and named once in the log.
        """
        found = filter(None, map(self._readable, self.list_keys()))
        return sorted(found, key=lambda record: record.started)

    def _readable(self, key: str) -> StageRecord | None:
        try:
            return self.find(key)
        except (ArtifactError, LaterVersion, StorageError) as error:
            if self.place(key) not in _skipped:
                _skipped.add(self.place(key))
                logger.warning("skipped: %s", error)
            return None

    def find(self, key: str) -> StageRecord | None:
        """The record of a key, or None if there is no artifact. Reads the manifest only.

        Of a bucket, it knows what was there when the command started, and what was used since.

        Raises:
            ArtifactError: the manifest is damaged.
            LaterVersion: a later version wrote it.
            StorageError: it cannot be read.
        """
        manifest = self.place(key) / MANIFEST
        if self.origin is not None and not manifest.exists():
            manifest = self.origin.manifest(key)
        try:
            return _parsed(manifest, manifest.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                f"{manifest} cannot be read: {error.strerror}. Fix its permissions."
            ) from error

    def open(self, key: str) -> StageRecord:
        """The record of a key, after checking every file against its digest.

        Raises:
            ArtifactError: there is no such artifact, or a file is missing or was changed.
            LaterVersion: a later version wrote it.
        """
        folder, now = self.folder(key), time.time_ns()
        record = self.find(key)
        if record is None:
            raise ArtifactError(f"no artifact {key!r} in {self.root}")
        seen = _times(folder, record)
        if _verified.get(folder) != seen:
            for file in record.files:
                _check(folder, file)
            _remember(folder, seen, now)
        return record

    def reuse(self, key: str) -> StageRecord | None:
        """The record of a key if its files are intact; a damaged artifact is moved aside.

        Also does what a process left undone that died after the commit: removes the workspace, and
        gives the artifact to the bucket. Leaves all alone while another process holds the key's
        lock. An artifact that only the bucket has is copied once it is opened.
        """
        record = self._intact(key)
        left = self.place(key) if record is None else self._work(key)
        if os.path.lexists(left) or not self._is_shared(record):
            with contextlib.suppress(Busy), self.lock(key, on_wait=refuse_to_wait):
                return self.reuse_locked(key)
        return record or self._at_origin(key)

    def reuse_locked(self, key: str) -> StageRecord | None:
        """Like `reuse`, for the holder of the key's lock."""
        record = self._intact(key)
        if record is not None:
            remove("workspace.leftover", self._work(key))
            return self._shared(record)
        if os.path.lexists(self.place(key)):
            aside = self._made("damaged") / f"{key}-{time.time_ns()}"
            logger.warning("moved %s to %s, building it again", self.place(key), aside)
            rename("artifact.aside", self.place(key), aside)
        return self._at_origin(key)

    def _intact(self, key: str) -> StageRecord | None:
        try:
            return self.open(key) if self.place(key).exists() else None
        except ArtifactError as error:
            logger.warning("%s", str(error).removesuffix(REBUILD))
            return None

    def _at_origin(self, key: str) -> StageRecord | None:
        """The record of an artifact that the bucket has; a damaged one there is moved aside."""
        if self.origin is None or not self.origin.look(key):
            return None
        try:
            return self.find(key)
        except ArtifactError as error:
            logger.warning("%s", str(error).removesuffix(REBUILD))
            self.origin.set_aside(key)
            return None

    def _is_shared(self, record: StageRecord | None) -> bool:
        if self.origin is None or record is None:
            return True
        return self.origin.has(record.key, (self.place(record.key) / MANIFEST).read_bytes())

    def _shared(self, record: StageRecord) -> StageRecord:
        """The artifact that all machines share: this one, unless another machine was first."""
        folder = self.place(record.key)
        if self.origin is None or self._is_shared(record):
            return record
        manifest = (folder / MANIFEST).read_bytes()
        if not self.origin.share(record.key, folder, manifest, record.files):
            logger.warning("%s was built by another machine first; using that one", record.key)
            remove("artifact.second", folder)
        shared = self.find(record.key)
        assert shared is not None, "it was just noted"
        return shared

    def workspace(self, key: str) -> Workspace:
        """The workspace of a key, for the holder of its lock; files of an earlier attempt stay."""
        with storage_errors(self.root):
            copies = self.origin.checkpoints(key) if self.origin else None
            workspace = Workspace(folder=self._made("work", key), log=self.log(key), copies=copies)
            self._made("work", key, "out")
            self._made("objects")
        return workspace

    def log(self, key: str) -> Path:
        """The log of the processes that build a key; its folder exists."""
        with storage_errors(self.root):
            path = self._made("logs") / f"{key}.log"
            path.touch(mode=self._access() & 0o666)
        return path

    def has_checkpoint(self, key: str) -> bool:
        """Whether an unfinished training run of this key can be continued."""
        if any(self._work(key).glob("checkpoints/*/digests.json")):
            return True
        return self.origin is not None and self.origin.checkpoints(key).exist()

    def passed_trial(self, trial: str) -> list[str] | None:
        """What a trial, by its digest, had to say when it passed; None if it has not."""
        try:
            return (self.root / "trials" / trial).read_text(encoding="utf-8").splitlines()
        except OSError:
            return None

    def note_passed(self, trial: str, notes: Sequence[str]) -> None:
        """Note that a trial has passed; it only saves the next one."""
        with contextlib.suppress(OSError, StorageError):
            replace("trial.passed", self._made("trials") / trial, "\n".join(notes))

    def forecast(self, key: str) -> tuple[float, str] | None:
        """Seconds that the doctor forecast for a step, and for which device; None if it did not."""
        try:
            text = (self.root / "trials" / f"{key}.seconds").read_text(encoding="utf-8")
            seconds, _, device = text.partition(" ")
            return float(seconds), device
        except (OSError, ValueError):
            return None

    def note_forecast(self, key: str, seconds: float, device: str) -> None:
        """Note how long a step will take; only shown."""
        with contextlib.suppress(OSError, StorageError):
            place = self._made("trials") / f"{key}.seconds"
            replace("trial.forecast", place, f"{seconds:.1f} {device}")

    @contextlib.contextmanager
    def lock(
        self, key: str, *, purpose: str = "", on_wait: OnWait = lambda _: None
    ) -> Iterator[None]:
        """Hold the lock for building a key; `purpose` and `on_wait` as in `hold`."""
        with storage_errors(self.root):
            self._made("locks")
            mode = self._access() & 0o666
        with hold(self._lock(key), purpose=purpose or key, on_wait=on_wait, mode=mode):
            yield

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def _work(self, key: str) -> Path:
        return self.root / "work" / key

    def _access(self) -> int:
        """Who may use what is in the store: the permissions of its folder."""
        return self.root.stat().st_mode & 0o777

    def _made(self, *parts: str) -> Path:
        """A folder in the store, which exists now."""
        try:
            ensure_folder(self.root, 0o700)
        except FileNotFoundError as error:  # what /proc says of every new name
            raise StorageError(
                f"cannot make a folder {self.root}: {error.strerror}. Choose another one with "
                "--set store=FOLDER."
            ) from error
        folder = self.root.joinpath(*parts)
        ensure_folder(folder)
        return folder

    def line_names(self) -> list[str]:
        """The names of all lines of rounds."""
        here = {folder.name for folder in self.root.glob("lines/*")}
        return sorted(here.union(self.origin.lines()) if self.origin else here)

    def ledger_tips(self) -> dict[str, LedgerTip]:
        """The last entry of the ledger of every line."""
        folders = sorted(self.root.glob("lines/*"))
        last = {folder.name: max(folder.glob("[0-9]*.json"), default=None) for folder in folders}
        return {line: _tip(path) for line, path in last.items() if path is not None}

    def commit(self, record: StageRecord, workspace: Workspace) -> StageRecord:
        """Turn the workspace's files into the artifact of `record.key`: digests, manifest, rename.

        The manifest is written last and the rename is atomic, so a reader sees all or nothing.
        Everything is flushed to disk before the rename, so a power cut cannot leave a folder that
        looks complete but has empty files.
        """
        target, now = self.place(record.key), time.time_ns()
        with storage_errors(self.root):
            files = tuple(file_digest(workspace.out, path) for path in _files(workspace.out))
            record = record.model_copy(update={"files": files, "ledgers": self.ledger_tips()})
            write("artifact.manifest", workspace.out / MANIFEST, with_digest(record))
            _restrict(workspace.out, self._access())
            flush_tree("artifact.flush", workspace.out)
            rename("artifact.publish", workspace.out, target)
        with contextlib.suppress(
            OSError
        ):  # the artifact is complete; `reuse` removes the rest later
            remove("workspace.remove", workspace.folder)
        _remember(target, _times(target, record), now)
        return self._shared(record)


def _tip(entry: Path) -> LedgerTip:
    return LedgerTip(number=int(entry.stem), sha256=file_sha256(entry))


class _Format(BaseModel):
    """What every version of a manifest says of itself; the rest is ignored."""

    format: int = 1


def _parsed(manifest: Path, content: bytes) -> StageRecord:
    try:
        text = verified(content)
        with contextlib.suppress(ValidationError):  # a store has thousands, nearly all of this kind
            record = StageRecord.model_validate_json(text)
            if record.format <= MANIFEST_FORMAT:
                return record
        written = _Format.model_validate_json(text).format
        if written <= MANIFEST_FORMAT:
            raise ValueError("not a record of its own format")
    except ValueError as error:
        raise _damage(f"{manifest} is damaged") from error
    raise LaterVersion(
        f"{manifest.parent} was written by a later version of sft-dpo (manifest format {written}, "
        f"this version reads up to {MANIFEST_FORMAT}). Update sft-dpo to use it."
    )


def _damage(what: str) -> ArtifactError:
    return ArtifactError(what + REBUILD)


def _restrict(folder: Path, access: int) -> None:
    """Take away permissions; libraries write files that everyone may read."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode & 0o777
        if mode & ~access:
            path.chmod(mode & access)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _check(folder: Path, expected: FileDigest) -> None:
    path = folder / expected.path
    if path.resolve() != folder.resolve() / expected.path:
        raise _damage(f"{path} is a link, but an artifact must contain its own files")
    try:
        intact = path.stat().st_size == expected.size and file_sha256(path) == expected.sha256
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _damage(f"{path} is missing from its artifact") from error
    if not intact:
        raise _damage(f"{path} does not match the digest in its manifest")


def _remember(folder: Path, seen: tuple[int, ...], hashed: int) -> None:
    """Remember that the files were hashed, unless one is so new that it may change unnoticed."""
    if all(changed < hashed - TICK for changed in seen):
        _verified[folder] = seen
    else:
        _verified.pop(folder, None)


def _times(folder: Path, record: StageRecord) -> tuple[int, ...]:
    """Modification times of the artifact's files, in the manifest's order; 0 if missing."""
    return tuple(_time(folder / file.path) for file in record.files)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
