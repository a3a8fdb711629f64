"""Whether a planned step has the content of a stored artifact, and what differs if not.

A key covers the paths in the settings, so the same files in another folder give other keys. The
step's own digests cover what is in the files, and their names.
Not here: what else a line is made of (`identity.py`).
"""

from collections.abc import Iterator, Mapping

from alignment.errors import ArtifactError
from alignment.pipeline.step import Step
from alignment.records.manifest import StageRecord
from alignment.store.store import Store

PLACES = frozenset({"path"})
"""Settings that say where something lies; a digest beside them says what is there."""


def known_keys(
    store: Store, known: tuple[str, ...], found: tuple[str, ...], steps: Mapping[str, Step]
) -> tuple[str, ...]:
    """The keys that were found; a known one where only the places of its files differ."""
    if len(known) != len(found):
        return found
    pairs = zip(known, found, strict=True)
    return tuple(old if same_content(store, old, new, steps) else new for old, new in pairs)


def same_content(store: Store, known: str, found: str, steps: Mapping[str, Step]) -> bool:
    """Whether an artifact was made like a step, except for the places of files.

    Args:
        store: has the artifact.
        known: key of the artifact.
        found: key of the step.
        steps: the steps of the run, by key.
    """
    if known == found:
        return True
    record, step = _record(store, known), steps.get(found)
    if record is None or step is None:
        return False
    made, planned = _kind(record), _kind(step)
    if made != planned or _content(record.config) != _content(step.settings):
        return False
    roles = step.roles
    return record.parents.keys() == roles.keys() and all(
        same_content(store, key, roles[role], steps) for role, key in record.parents.items()
    )


def changes(store: Store, known: str, found: str, steps: Mapping[str, Step]) -> Iterator[str]:
    """The settings in which a step, or one that it needs, differs from what made an artifact."""
    record, step = _record(store, known), steps.get(found)
    if record is None or step is None or same_content(store, known, found, steps):
        return
    yield from different(step.name, record.config, step.settings)
    for role, key in record.parents.items():
        if role in step.roles:
            yield from changes(store, key, step.roles[role], steps)


def different(name: str, known: object, found: object) -> Iterator[str]:
    """'name: the line has ..., the config ...', for each value that differs."""
    if isinstance(known, dict) and isinstance(found, dict):
        if known.get("name") != found.get("name"):  # another kind, with settings of its own
            yield f"{name}: the line has {known.get('name')}, the config {found.get('name')}"
            return
        for key in sorted(known.keys() | found.keys()):
            yield from different(f"{name}.{key}", known.get(key), found.get(key))
    elif isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        for number, (one, other) in enumerate(zip(known, found, strict=True)):
            yield from different(f"{name}.{number}", one, other)
    elif known != found:
        yield f"{name}: the line has {_shown(known)}, the config {_shown(found)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _record(store: Store, key: str) -> StageRecord | None:
    try:
        return store.find(key)
    except ArtifactError:  # damaged, so it is not known what made it
        return None


def _kind(made: object) -> list[object]:
    return [getattr(made, name) for name in ("stage", "version", "name", "seed")]


def _content(settings: object) -> object:
    """The settings without places."""
    if isinstance(settings, dict):
        return {name: _content(one) for name, one in settings.items() if name not in PLACES}
    if isinstance(settings, (list, tuple)):
        return [_content(one) for one in settings]
    return settings
