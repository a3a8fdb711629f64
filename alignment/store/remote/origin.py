"""The bucket that a folder is a working copy of: what is shared, and how it is kept whole.

    BUCKET/sft-dpo.json               what this is, and in which format
    BUCKET/manifests/<key>.json       an artifact's manifest, created once, after its files
    BUCKET/files/<sha256>             a file of artifacts: the name says what must be in it
    BUCKET/lines/<line>/<n>.json      a ledger's entries, each created once (`entries.py`)
    BUCKET/runs/<name>-<id>.json      the index of runs; the last writer wins
    BUCKET/checkpoints/<key>/         unfinished trainings (`checkpoints.py`)
    BUCKET/damaged/                   manifests whose files turned out damaged

    ROOT/origin.json                  which bucket it is
    ROOT/origin/manifests/<key>.json  what the bucket's manifests say: those of a command's start,
                                      and those found since

Two machines may build one key at the same time. Neither can spoil the other's files, since a file
is named by its content; whose manifest comes first is the artifact, and the other machine takes it.
"""

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ValidationError

from alignment.errors import ArtifactError, LaterVersion, StorageError
from alignment.records.base import Frozen
from alignment.records.refs import FileDigest
from alignment.store.checksum import file_sha256, verified
from alignment.store.durable import ensure_folder, flush_tree, remove, rename, replace
from alignment.store.remote.bucket import Bucket, BucketObject
from alignment.store.remote.checkpoints import CheckpointCopies
from alignment.store.remote.entries import copy_entries
from alignment.store.remote.parallel import in_parallel

MARKER, FORMAT = "sft-dpo.json", 1
FRESH = 86400.0
"""Seconds in which nobody removes an object, so that it can be relied on."""


class _Marker(Frozen):
    format: int


class _Files(BaseModel):
    """What a manifest of any version says of its files; the rest is ignored."""

    files: tuple[FileDigest, ...]


class Origin(Frozen):
    """The bucket of a working copy.

    Attributes:
        root: folder of the working copy.
        bucket: what it is a copy of.
    """

    root: Path
    bucket: Bucket

    def connect(self) -> None:
        """Check the bucket, and take over what it has: manifests, ledgers, index of runs.

        Raises:
            StorageError: it cannot hold a store.
            LaterVersion: a later version wrote it.
            Interrupted: it cannot be reached.
        """
        self._check_format()
        self._take_manifests()
        for line in self.lines():
            copy_entries(self.bucket, self.root / "lines" / line)
        self._take_runs()

    def lines(self) -> list[str]:
        """The lines of rounds that it has."""
        return self.bucket.folders("lines")

    def keys(self) -> Iterable[str]:
        """The keys of its artifacts, as far as this machine knows."""
        return (path.stem for path in self._copies.glob("*.json"))

    def manifest(self, key: str) -> Path:
        """Where the copy of an artifact's manifest is, if it has the artifact."""
        return self._copies / f"{key}.json"

    def look(self, key: str) -> bool:
        """Whether it has an artifact; asks, unless this machine knows."""
        if not self.manifest(key).exists():
            content = self.bucket.read(_manifest(key))
            if content is not None:
                self._note(key, content)
        return self.manifest(key).exists()

    def share(self, key: str, folder: Path, manifest: bytes, files: Sequence[FileDigest]) -> bool:
        """Give it an artifact of this machine; False if another machine's was there first.

        An artifact there that lacks files is replaced.
        """
        while True:
            in_parallel(lambda file: self._upload(folder, file), files)
            if self.bucket.create(_manifest(key), manifest):
                break
            theirs = self.bucket.read(_manifest(key))
            if theirs is not None and self._is_whole(theirs):
                self._note(key, theirs)
                return False
            if theirs is not None and self.bucket.swap(_manifest(key), manifest, instead_of=theirs):
                break
        self._note(key, manifest)
        return True

    def has(self, key: str, manifest: bytes) -> bool:
        """Whether it has this very artifact, as far as this machine knows."""
        copy = self.manifest(key)
        return copy.exists() and copy.read_bytes() == manifest

    def fetch(self, key: str, folder: Path, files: Sequence[FileDigest]) -> None:
        """Copy an artifact into a folder that does not exist yet, whole and flushed.

        For one process at a time.

        Raises:
            ArtifactError: a file is missing or damaged; its manifest is moved to `damaged/`.
        """
        staged = self.root / "origin" / "fetched" / key
        remove("origin.begun", staged)
        ensure_folder(staged)
        bad = [bad for bad in in_parallel(lambda f: self._download(f, staged), files) if bad]
        if bad:
            self.set_aside(key)
            raise ArtifactError(
                f"{self.bucket.url} has no intact {bad[0]} of {key}; its manifest was moved to "
                "damaged/ there. The same command builds the artifact again."
            )
        text = self.manifest(key).read_text(encoding="utf-8")
        replace("origin.fetched", staged / "manifest.json", text)
        flush_tree("origin.flush", staged)
        ensure_folder(folder.parent)
        rename("origin.take", staged, folder)

    def set_aside(self, key: str) -> None:
        """Move a manifest to `damaged/`, so that the artifact can be built again."""
        content = self.manifest(key).read_bytes()
        self.bucket.write(f"damaged/{key}-{time.time_ns()}.json", content)
        self.bucket.remove([_manifest(key)])
        remove("origin.aside", self.manifest(key))

    def discard(self, keys: Iterable[str]) -> None:
        """Remove artifacts, and those of their files that no other one has; fresh files stay."""
        gone = tuple(keys)
        files = {file.sha256: file for key in gone for file in self.files(key)}
        for key in gone:
            self.bucket.remove([_manifest(key)])
            remove("origin.discard", self.manifest(key))
        self._take_manifests()  # of other machines, which may have the same files
        for key in self.keys():
            for file in self.files(key):
                files.pop(file.sha256, None)
        self.remove_old(map(_file, files.values()))

    def unused_files(self) -> list[BucketObject]:
        """The files that no artifact has, of an upload that was never finished."""
        used = {_file(file) for key in self.keys() for file in self.files(key)}
        return [found for found in self.bucket.below("files") if found.name not in used]

    def files(self, key: str) -> tuple[FileDigest, ...]:
        """The files of an artifact that it has."""
        return _Files.model_validate_json(verified(self.manifest(key).read_bytes())).files

    def remove_old(self, names: Iterable[str]) -> None:
        """Remove objects, unless a machine has just written them."""
        for name in names:
            found = self.bucket.find(name)
            if found is not None and found.modified < time.time() - FRESH:
                self.bucket.remove([name])

    def checkpoints(self, key: str) -> CheckpointCopies:
        """The copies of a training's checkpoints."""
        return CheckpointCopies(bucket=self.bucket, key=key)

    def note_run(self, name: str, content: bytes) -> None:
        """Give it an entry of the index of runs."""
        self.bucket.write(f"runs/{name}", content)

    @property
    def _copies(self) -> Path:
        return self.root / "origin" / "manifests"

    def _check_format(self) -> None:
        content = self.bucket.read(MARKER)
        if content is None:
            self.bucket.refuse_if_unsafe(f"probe-{secrets.token_hex(8)}")
            self.bucket.create(MARKER, _Marker(format=FORMAT).model_dump_json().encode())
            return
        try:
            found = _Marker.model_validate_json(content).format
        except ValidationError as error:
            raise StorageError(
                f"{self.bucket.url} has a {MARKER} that is none of ours. Choose another prefix."
            ) from error
        if found > FORMAT:
            raise LaterVersion(
                f"{self.bucket.url} was written by a later version of sft-dpo (format {found}, "
                f"this version reads up to {FORMAT}). Update sft-dpo to use it."
            )

    def _take_manifests(self) -> None:
        """Copy the manifests that are new; forget those that are gone, so they are shared again."""
        there = {Path(found.name).stem: found for found in self.bucket.below("manifests")}
        for key in set(self.keys()) - set(there):
            remove("origin.gone", self.manifest(key))
        in_parallel(self._take_manifest, there.values())

    def _take_manifest(self, found: BucketObject) -> None:
        key = Path(found.name).stem
        copy = self.manifest(key)
        if copy.exists() and int(copy.stat().st_mtime) == int(found.modified):
            return
        content = self.bucket.read(found.name)
        if content is not None:
            self._note(key, content, modified=found.modified)

    def _take_runs(self) -> None:
        in_parallel(self._take_run, self.bucket.below("runs"))

    def _take_run(self, found: BucketObject) -> None:
        own = self.root / "runs" / Path(found.name).name
        if own.exists() and own.stat().st_mtime >= found.modified:
            return
        content = self.bucket.read(found.name)
        if content is not None:
            ensure_folder(own.parent)
            replace("origin.run", own, content)

    def _note(self, key: str, manifest: bytes, *, modified: float = 0.0) -> None:
        """Copy a manifest; without the bucket's time of it, the next command looks again."""
        ensure_folder(self._copies)
        replace("origin.manifest", self.manifest(key), manifest)
        os.utime(self.manifest(key), (modified, modified))

    def _upload(self, folder: Path, file: FileDigest) -> None:
        there = self.bucket.find(_file(file))
        if there is None or there.size != file.size or there.modified < time.time() - FRESH:
            self.bucket.upload(_file(file), folder / file.path)

    def _download(self, file: FileDigest, staged: Path) -> str:
        """Copy a file; returns its path if it is missing or damaged, twice in a row."""
        path = staged / file.path
        ensure_folder(path.parent)
        for _ in range(2):
            there = self.bucket.download(_file(file), path, size=file.size)
            if there and file_sha256(path) == file.sha256:
                return ""
        self.bucket.remove([_file(file)])  # worthless: it is not what its name says
        return file.path

    def _is_whole(self, manifest: bytes) -> bool:
        """Whether all files of an artifact are there, by size."""
        files = _Files.model_validate_json(verified(manifest)).files
        found = in_parallel(lambda file: self.bucket.find(_file(file)), files)
        return all(f and f.size == file.size for f, file in zip(found, files, strict=True))


@lru_cache
def origin_at(root: Path, url: str) -> Origin:
    """The bucket of a working copy."""
    return Origin(root=root, bucket=Bucket(url=url))


def _manifest(key: str) -> str:
    return f"manifests/{key}.json"


def _file(file: FileDigest) -> str:
    return f"files/{file.sha256}"
