"""Checkpoints of an unfinished training in a bucket, so that another machine can go on from them.

    BUCKET/checkpoints/<key>/<step>-<random>/files.json   sizes and digests, written last
    BUCKET/checkpoints/<key>/<step>-<random>/...          the checkpoint, and the files beside it
                                                          that a resumed training continues

Each copy has a name of its own, so two machines that train the same cannot mix theirs.
"""

import logging
import secrets
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from alignment.errors import AlignmentError
from alignment.records.base import Frozen
from alignment.records.refs import FileDigest
from alignment.store.checksum import file_digest, file_sha256
from alignment.store.durable import ensure_folder, flush_tree, remove, rename
from alignment.store.remote.bucket import Bucket
from alignment.store.remote.parallel import in_parallel

logger = logging.getLogger(__name__)
FILES = "files.json"
_LISTED: TypeAdapter[tuple[FileDigest, ...]] = TypeAdapter(tuple[FileDigest, ...])
KEPT = 2
"""Copies of a training that are kept; two, in case one turns out damaged."""
BESIDE = ("out", "attempts.jsonl", "progress.jsonl")
"""What a resumed training continues, besides its checkpoint: the files that it appends to."""


class CheckpointCopies(Frozen):
    """The copies of one training's checkpoints."""

    bucket: Bucket
    key: str

    def add(self, checkpoint: Path) -> None:
        """Copy a committed checkpoint of a workspace; a failure is logged, and training goes on."""
        try:
            self._add(checkpoint)
        except AlignmentError as error:
            logger.warning("the checkpoint %s is only on this machine: %s", checkpoint.name, error)

    def take(self, workspace: Path) -> None:
        """Bring the newest intact copy into a workspace, unless that is as far.

        For the holder of the key's lock.
        """
        own = max((path.name for path in workspace.glob("checkpoints/step-*")), default="")
        for copy in self._copies():
            if copy.partition("-")[0] <= own.removeprefix("step-") or self._take(copy, workspace):
                return

    def exist(self) -> bool:
        """Whether there is any."""
        return bool(self._copies())

    def remove(self) -> None:
        """Remove all of them."""
        self.bucket.remove(found.name for found in self.bucket.below(self._folder))

    @property
    def _folder(self) -> str:
        return f"checkpoints/{self.key}"

    def _copies(self) -> list[str]:
        """The complete ones, the newest first."""
        found = self.bucket.below(self._folder)
        whole = [one.name.split("/")[-2] for one in found if one.name.endswith(f"/{FILES}")]
        return sorted(whole, reverse=True)

    def _add(self, checkpoint: Path) -> None:
        workspace = checkpoint.parent.parent
        copy = f"{checkpoint.name.removeprefix('step-')}-{secrets.token_hex(4)}"
        large = in_parallel(lambda path: self._upload(copy, workspace, path), _files(checkpoint))
        beside = [path for name in BESIDE for path in _files(workspace / name)]
        small = in_parallel(lambda path: self._write(copy, workspace, path), beside)
        self.bucket.write(self._name(copy, FILES), _LISTED.dump_json((*large, *small)))
        oldest = min(self._copies()[:KEPT])
        found = (one.name for one in self.bucket.below(self._folder))
        self.bucket.remove(name for name in found if name < f"{self._folder}/{oldest}")

    def _upload(self, copy: str, workspace: Path, path: Path) -> FileDigest:
        digest = file_digest(workspace, path)
        self.bucket.upload(self._name(copy, digest.path), path)
        return digest

    def _write(self, copy: str, workspace: Path, path: Path) -> FileDigest:
        """Copy a file that another process may append to meanwhile."""
        name, content = path.relative_to(workspace).as_posix(), path.read_bytes()
        self.bucket.write(self._name(copy, name), content)
        return FileDigest(path=name, size=len(content), sha256=sha256(content).hexdigest())

    def _take(self, copy: str, workspace: Path) -> bool:
        """Bring a copy into a workspace; False if it is not intact."""
        staged = workspace / "taken"
        remove("copy.begun", staged)
        try:
            files = _LISTED.validate_json(self.bucket.read(self._name(copy, FILES)) or b"")
        except ValidationError:
            return False
        if not all(in_parallel(lambda file: self._download(copy, file, staged), files)):
            logger.warning("the copy %s of a checkpoint of %s is damaged", copy, self.key)
            return False
        flush_tree("copy.flush", staged)
        checkpoint = Path("checkpoints") / f"step-{copy.partition('-')[0]}"
        beside = [path.relative_to(staged) for name in BESIDE for path in _files(staged / name)]
        for name in (*beside, checkpoint):  # the checkpoint last: what it relies on is there
            ensure_folder((workspace / name).parent)
            rename("copy.take", staged / name, workspace / name)
        remove("copy.over", staged)
        logger.warning("continuing from a checkpoint of another machine, %s", copy)
        return True

    def _download(self, copy: str, file: FileDigest, staged: Path) -> bool:
        path = staged / file.path
        ensure_folder(path.parent)
        there = self.bucket.download(self._name(copy, file.path), path, size=file.size)
        return there and file_sha256(path) == file.sha256

    def _name(self, copy: str, path: str) -> str:
        return f"{self._folder}/{copy}/{path}"


def _files(place: Path) -> list[Path]:
    """A file, or those in a folder; none if there is none."""
    return [path for path in (place, *place.rglob("*")) if path.is_file()]
