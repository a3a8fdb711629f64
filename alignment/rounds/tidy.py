"""What of a store nothing needs any more, and what the rest takes.

Kept is what any line, recent run or recent artifact is made of, back to the base model; everything
else can be built again from its config. Deleting excludes commands that work in the store: each
announces itself (`store/activity.py`) before it looks anything up.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from alignment.errors import UsageError
from alignment.pipeline.steps import AnchorGate, ParentGate, SftGate, made_by
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.rounds.line import all_lines
from alignment.rounds.state import State
from alignment.store.activity import COMMAND, TIDYING, activities, commands
from alignment.store.durable import remove
from alignment.store.errors import storage_errors
from alignment.store.locks import Busy, refuse_to_wait
from alignment.store.remote.bucket import BucketObject
from alignment.store.remote.origin import FRESH, Origin
from alignment.store.runs import RunEntry, names_of_keys, runs_in
from alignment.store.store import Store

Kind = Literal["artifact", "unfinished", "damaged", "log", "cache", "leftover"]
Reasons = dict[str, str]
"""Why an artifact is kept, by key."""
CACHES = ("lm-eval",)
"""Folders of a store whose content is only made again."""


class Removable(Frozen):
    """Something that can be removed.

    Attributes:
        path: where it is, relative to the store, or in its bucket.
        name: what it is, for people.
        size: bytes on disk that become free.
        modified: seconds since the epoch.
        lost: what is lost with it.
    """

    kind: Kind
    path: str
    name: str
    size: int
    modified: float
    lost: str
    in_bucket: bool = False


class Tidying(Frozen):
    """What can be removed, in the order in which to remove it, and why the artifacts left stay."""

    pieces: tuple[Removable, ...]
    kept: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes that become free on this machine."""
        return sum(piece.size for piece in self.pieces if not piece.in_bucket)

    @property
    def size_in_bucket(self) -> int:
        """Bytes that become free in the bucket."""
        return sum(piece.size for piece in self.pieces if piece.in_bucket)


class Share(Frozen):
    """What one kind of content takes: folders or files, bytes, and the oldest change."""

    name: str
    count: int
    size: int
    oldest: float
    in_bucket: bool = False


def usage(store: Store) -> list[Share]:
    """What each stage's artifacts and each other folder of a store take, the largest first."""
    stages = {record.key: record.stage for record in store.records()}
    found: dict[str, list[Path]] = {}
    for path in sorted(store.root.glob("objects/*")):
        found.setdefault(f"artifacts: {stages.get(path.name, 'unreadable')}", []).append(path)
    for folder in sorted(path for path in store.root.iterdir() if path.name != "objects"):
        found[folder.name] = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    shares = [
        Share(name=name, count=len(paths), size=size_of(paths), oldest=min(map(_modified, paths)))
        for name, paths in found.items()
        if paths
    ]
    shares += _usage_of_bucket(store.origin) if store.origin else []
    return sorted(shares, key=lambda share: -share.size)


def _usage_of_bucket(origin: Origin) -> Iterator[Share]:
    found: dict[str, list[BucketObject]] = {}
    for one in origin.bucket.below(""):
        found.setdefault(one.name.partition("/")[0], []).append(one)
    for name, objects in found.items():
        yield Share(
            name=f"bucket: {name}",
            count=len(objects),
            size=sum(one.size for one in objects),
            oldest=min(one.modified for one in objects),
            in_bucket=True,
        )


def tidying(store: Store, *, before: float, larger: int = 0) -> Tidying:
    """What nothing needs and nobody has changed since `before` (seconds since the epoch).

    Args:
        store: the store.
        before: what was built or changed later is kept.
        larger: pieces of fewer bytes are left alone.
    """
    records = store.records()
    needed = _needed(store, records, before)
    pieces = [
        *_artifacts(store, records, needed),
        *_unfinished(store, before),
        *_damaged(store, needed, before),
        *_logs(store, needed, before),
        *_caches(store, before),
        *_leftovers(store),
        *(_in_bucket(store, store.origin, records, needed, before) if store.origin else ()),
    ]
    return Tidying(
        pieces=tuple(piece for piece in pieces if piece.size >= larger),
        kept=dict(Counter(needed[r.key] for r in records if r.key in needed)),
    )


def delete(store: Store, found: Tidying) -> int:
    """Remove what was found, unless something works in the store; returns the bytes freed here.

    A piece that another process has begun to build meanwhile is left.

    Raises:
        UsageError: a command works in the store.
    """
    freed = 0
    with storage_errors(store.root):
        try:
            with store.lock(TIDYING, purpose="sft-dpo gc", on_wait=refuse_to_wait):
                _refuse_beside(store)
                for piece in found.pieces:
                    freed += 0 if piece.in_bucket else _removed(store, piece)
                if store.origin is not None:
                    _remove_from_bucket(store.origin, [p for p in found.pieces if p.in_bucket])
        except Busy as error:
            raise UsageError(f"{store.root} is just being tidied by {error}") from error
    return freed


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that removing files and folders would free: of a hard-linked file only the last."""
    links, files = Counter[tuple[int, int]](), dict[tuple[int, int], os.stat_result]()
    for path in paths:
        for file in _files(path):
            status = file.lstat()
            place = (status.st_dev, status.st_ino)
            links[place] += 1
            files[place] = status
    return sum(s.st_size for place, s in files.items() if links[place] >= s.st_nlink)


def _refuse_beside(store: Store) -> None:
    """Deleting waits for nobody: a run may be about to reuse what would be removed."""
    busy = [holder.purpose for holder in commands(store)]
    busy += [one.holder.purpose for one in activities(store) if one.running and one.holder]
    if busy:
        raise UsageError(
            f"nothing was removed: {busy[0]} works in {store.root} and may need it. Run the same "
            f"command when it has ended: sft-dpo status --store {store.root}"
        )


def _removed(store: Store, piece: Removable) -> int:
    path = store.root / piece.path
    if piece.kind not in ("artifact", "unfinished"):
        remove("gc.file", path)
        return piece.size
    try:
        with store.lock(path.name, purpose="sft-dpo gc", on_wait=refuse_to_wait):
            remove("gc.folder", path)
    except Busy:
        return 0
    return piece.size


def _remove_from_bucket(origin: Origin, pieces: Iterable[Removable]) -> None:
    keys: list[str] = []
    for piece in pieces:
        if piece.kind == "artifact":
            keys.append(PurePosixPath(piece.path).stem)
        else:
            inside = origin.bucket.below(piece.path)
            origin.remove_old([one.name for one in inside] or [piece.path])
    origin.discard(keys)


# --- what is needed -------------------------------------------------------------------------------


def _needed(store: Store, records: Iterable[StageRecord], before: float) -> Reasons:
    """The artifacts to keep, with the reason: those asked for, and what they are made of."""
    by_key = {record.key: record for record in records}
    asked: Reasons = {}
    for reason, keys in _asked(store, by_key, before):
        asked |= {key: reason for key in keys if key in by_key and key not in asked}
    needed = dict(asked)
    waiting = list(asked)
    while waiting:
        key = waiting.pop()
        new = [other for other in _made_of(by_key[key]) if other in by_key and other not in needed]
        needed |= dict.fromkeys(new, needed[key])
        waiting += new
    verdicts = [r.key for r in by_key.values() if made_by(r, ParentGate, AnchorGate, SftGate)]
    return {**dict.fromkeys(verdicts, "verdicts"), **needed}  # small, and evidence


def _asked(
    store: Store, by_key: Mapping[str, StageRecord], before: float
) -> Iterator[tuple[str, Iterable[str]]]:
    for line in all_lines(store):
        yield f"line {line.name}", _of_line(line.state())
    newest: set[str] = set()
    for entry in runs_in(store):  # newest first
        if entry.name not in newest or _modified_run(store, entry) >= before:
            yield f"run {entry.reference}", entry.steps.values()
        newest.add(entry.name)
    yield "recent", [key for key in by_key if _modified_artifact(store, key) >= before]


def _modified_run(store: Store, entry: RunEntry) -> float:
    """When a run last ended; of a run of another machine, when this one heard of it."""
    page, noted = store.root / entry.report, store.root / "runs" / f"{entry.reference}.json"
    return max(_modified(page), _modified(noted) if store.origin else 0.0)


def _modified_artifact(store: Store, key: str) -> float:
    shared = _modified(store.origin.manifest(key)) if store.origin else 0.0
    return max(_modified(store.place(key)), shared)


def _of_line(state: State) -> Iterator[str]:
    """Every champion so far, since a line can go back to it, and all that rounds have claimed."""
    ends = [closed.head for closed in (state.waiting,) if closed]
    ends += [opened.parent for opened in (state.open,) if opened]
    for champion in (*(one for path in state.paths for one in path), *ends):
        yield from (champion.model, champion.evaluation)
    yield from (batch.key for batch in state.known_batches.values())
    if state.identity is not None:
        yield from (*state.identity.rows, state.identity.sft)


def _made_of(record: StageRecord) -> set[str]:
    """The keys of an artifact's parents, and of all artifacts whose files it names."""
    named = re.findall(r'"store:([^/"]+)', json.dumps(record.output))
    return {*record.parents.values(), *named}


# --- what is not ----------------------------------------------------------------------------------


def _artifacts(
    store: Store, records: Iterable[StageRecord], needed: Reasons
) -> Iterator[Removable]:
    runs = names_of_keys(store)
    # the newest first, so that no artifact ever lacks what it is made of
    for record in sorted(records, key=lambda one: one.started, reverse=True):
        if record.key not in needed and store.place(record.key).exists():
            run = f" [{runs[record.key]}]" if record.key in runs else ""
            yield _piece(
                store,
                "artifact",
                store.place(record.key),
                name=f"{record.name}{run}",
                lost=f"built again by its config, in about {record.seconds:.0f} s",
            )


def _in_bucket(
    store: Store, origin: Origin, records: Sequence[StageRecord], needed: Reasons, before: float
) -> Iterator[Removable]:
    """What may go from the bucket; files that several of these have are counted once."""
    shared = set(origin.keys())
    owners = Counter(file.sha256 for key in shared for file in origin.files(key))
    for record in sorted(records, key=lambda one: one.started, reverse=True):
        if record.key in needed or record.key not in shared:
            continue
        own = origin.files(record.key)
        owners.subtract(file.sha256 for file in own)
        yield Removable(
            kind="artifact",
            path=f"manifests/{record.key}.json",
            name=record.name,
            size=sum({f.sha256: f.size for f in own if owners[f.sha256] == 0}.values()),
            modified=_modified(origin.manifest(record.key)),
            lost=f"built again by its config, in about {record.seconds:.0f} s",
            in_bucket=True,
        )
    yield from _leftovers_in_bucket(store, origin, before)


def _leftovers_in_bucket(store: Store, origin: Origin, before: float) -> Iterator[Removable]:
    old: dict[tuple[Kind, str, str], list[BucketObject]] = {}
    for file in origin.unused_files():
        old.setdefault(("leftover", file.name, "a file of no artifact"), []).append(file)
    for one in origin.bucket.below("damaged"):
        old.setdefault(("damaged", one.name, "a manifest that was moved aside"), []).append(one)
    for one in origin.bucket.below("checkpoints"):
        key = one.name.split("/")[1]
        what = "nothing" if store.find(key) else "the checkpoint of an unfinished step"
        old.setdefault(("unfinished", f"checkpoints/{key}", what), []).append(one)
    for (kind, path, lost), objects in old.items():
        modified = max(one.modified for one in objects)
        if modified < min(before, time.time() - FRESH):
            size = sum(one.size for one in objects)
            yield Removable(
                kind=kind,
                path=path,
                name=path,
                size=size,
                modified=modified,
                lost=lost,
                in_bucket=True,
            )


def _unfinished(store: Store, before: float) -> Iterator[Removable]:
    for one in activities(store):
        folder = store.root / "work" / one.key
        done = store.find(one.key) is not None
        if not one.running and (done or _modified(folder) < before):
            lost = "the checkpoint of an unfinished step" if one.resumable else "an unfinished step"
            name = one.holder.purpose if one.holder else one.key
            yield _piece(store, "unfinished", folder, name=name, lost="nothing" if done else lost)
    for path in sorted(store.root.glob("runs/*.begun")):
        if _modified(path) < before:
            yield _piece(store, "unfinished", path, name=path.stem, lost="its line in sft-dpo runs")


def _damaged(store: Store, needed: Reasons, before: float) -> Iterator[Removable]:
    for path in sorted(store.root.glob("damaged/*")):
        key = path.name.rpartition("-")[0]
        in_place = store.find(key) is not None or key not in needed
        if in_place and _modified(path) < before:
            yield _piece(
                store, "damaged", path, name=key, lost="what was moved aside, for looking into it"
            )


def _logs(store: Store, needed: Reasons, before: float) -> Iterator[Removable]:
    for path in sorted(store.root.glob("logs/*.log")):
        used = path.stem in needed or (store.root / "work" / path.stem).exists()
        if not used and _modified(path) < before:
            yield _piece(store, "log", path, name=path.stem, lost="what its process printed")


def _caches(store: Store, before: float) -> Iterator[Removable]:
    for cache in CACHES:
        for path in sorted(store.root.glob(f"{cache}/*")):
            if _modified(path) < before:
                yield _piece(store, "cache", path, name=cache, lost="computed again when needed")


def _leftovers(store: Store) -> Iterator[Removable]:
    """What killed processes left: half-removed folders, and locks of commands."""
    for folder in ("objects", "work", "damaged"):
        for path in sorted(store.root.glob(f"{folder}/.*.gone")):
            yield _piece(store, "leftover", path, name="half removed", lost="nothing")
    for path in sorted(store.root.glob(".publish-*")):
        yield _piece(store, "leftover", path, name="of an upload", lost="nothing")
    alive = {f"{COMMAND}{one.host}-{one.pid}" for one in commands(store)}
    for path in sorted(store.root.glob(f"locks/{COMMAND}*")):
        if path.stem not in alive:
            yield _piece(store, "leftover", path, name="lock of an ended command", lost="nothing")


def _piece(store: Store, kind: Kind, path: Path, *, name: str, lost: str) -> Removable:
    return Removable(
        kind=kind,
        path=path.relative_to(store.root).as_posix(),
        name=name,
        size=size_of([path]),
        modified=_modified(path),
        lost=lost,
    )


def _modified(path: Path) -> float:
    """The last change of a file, or of anything in a folder; 0 if it is gone."""
    present = filter(os.path.lexists, (path, *_files(path)))
    return max((file.lstat().st_mtime for file in present), default=0.0)


def _files(path: Path) -> list[Path]:
    if path.is_dir() and not path.is_symlink():
        return [file for file in path.rglob("*") if file.is_symlink() or file.is_file()]
    return [path] if os.path.lexists(path) else []
