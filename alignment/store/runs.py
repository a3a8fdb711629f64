"""The runs of a store, by the names that people gave them in their configs.

    ROOT/runs/<name>-<id>.json     a run that has ended
    ROOT/runs/<name>-<id>.begun    one that has not

A key says what was made, not for whom. This index says which run's "dpo-3" an artifact is. Losing
it loses names only: the next time a run ends, it is written again.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from alignment.records.base import Frozen, Json, digest_of
from alignment.records.manifest import StageRecord
from alignment.store.durable import ensure_folder, remove, replace
from alignment.store.errors import storage_errors
from alignment.store.store import Store

logger = logging.getLogger(__name__)
ELSEWHERE = (
    *("store", "store_cache", "device", "devices", "machines", "stall_minutes", "gpu_memory_gib"),
    "trackers",
)
"""Settings that say where a run takes place and who watches it; they are in no key."""


LONGEST_VALUE = 120
"""Characters of a setting's value that are shown."""
Entry = TypeVar("Entry", bound=Frozen)


class RunEntry(Frozen):
    """One run that has ended: the last time of a config.

    Attributes:
        id: digest of the config, which tells two configs of one name apart.
        finished: when its last step was built, in ISO format.
        report: the page, relative to the store.
        headline: the result in one sentence.
        steps: key of each step, by its name.
    """

    name: str
    id: str
    finished: str
    command: str
    report: str
    headline: str
    config: Json
    steps: dict[str, str]

    @property
    def title(self) -> str:
        """Its name and seed."""
        return f"{self.name}, seed {self.seed}"

    @property
    def seed(self) -> object:
        """The seed in its config."""
        return self.config.get("seed", 0)

    @property
    def line(self) -> str | None:
        """The line of rounds that its config continues; None without an inbox."""
        inbox = self.config.get("inbox")
        return str(inbox["line"]) if isinstance(inbox, dict) else None

    @property
    def reference(self) -> str:
        """Its name in references, which no other config of that name has."""
        return f"{self.name}-{self.id}"


class BegunRun(Frozen):
    """One run that has begun and not ended.

    Attributes:
        id: as of `RunEntry`.
        command: what continues it.
    """

    name: str
    id: str
    command: str

    @property
    def reference(self) -> str:
        """As of `RunEntry`."""
        return f"{self.name}-{self.id}"


class Change(Frozen):
    """A setting in which two configs differ, with its values as text."""

    key: str
    before: str
    after: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """The settings in which two configs differ, by dotted key, in the order of the first."""
    if not before or not after:
        return
    old, new = dict(leaves(before)), dict(leaves(after))
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            yield Change(key=key, before=_shown(old, key), after=_shown(new, key))


def run_id(config: Mapping[str, Any]) -> str:
    """The id of a run's config, wherever it runs."""
    return digest_of({name: v for name, v in config.items() if name not in ELSEWHERE})[:6]


def runs_in(store: Store) -> list[RunEntry]:
    """All runs that have ended, newest first; entries that cannot be read are named in the log."""
    entries = _read(store, "runs/*.json", RunEntry)
    return sorted(entries, key=lambda entry: entry.finished, reverse=True)


def unfinished_runs(store: Store) -> list[BegunRun]:
    """The runs that have begun and not ended, by name."""
    return sorted(_read(store, "runs/*.begun", BegunRun), key=lambda run: run.reference)


def _read(store: Store, files: str, kind: type[Entry]) -> Iterator[Entry]:
    for path in store.root.glob(files):
        try:
            yield kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:  # it has just ended
            continue
        except (OSError, ValidationError):
            logger.warning("skipped: %s cannot be read", path)


def note_begun(store: Store, name: str, config: Mapping[str, Any], command: str) -> None:
    """Write down that a run has begun, until `note_run`."""
    run = BegunRun(name=name, id=run_id(config), command=command)
    place = store.root / "runs" / f"{run.reference}.begun"
    with storage_errors(store.root):
        ensure_folder(place.parent)
        replace("run.begun", place, run.model_dump_json())


def page_of(store: Store, name: str, id_: str) -> str:
    """The name of a run's page: its own, or with its id if another config has that one."""
    taken = {entry.report: entry.id for entry in runs_in(store)}
    return name if taken.get(f"reports/{name}.html", id_) == id_ else f"{name}-{id_}"


def note_run(store: Store, entry: RunEntry) -> None:
    """Write a run that has ended into the index, unless it is there as it is."""
    place = store.root / "runs" / f"{entry.reference}.json"
    remove("run.ended", place.with_suffix(".begun"))
    text = entry.model_dump_json(indent=1)
    if place.is_file() and place.read_text(encoding="utf-8") == text:
        return
    with storage_errors(store.root):
        ensure_folder(place.parent)
        replace("run.entry", place, text)
    if store.origin is not None:
        store.origin.note_run(place.name, text.encode())


def finished_at(records: Iterable[StageRecord]) -> str:
    """When the last of a run's steps was started."""
    return max(record.started for record in records)


def of_run(store: Store, reference: str) -> str | None:
    """The key that RUN/PART stands for; None if there is no such run, or no such part of it.

    RUN is a run's name, which means the newest of that name, or the beginning of its reference.
    PART is a step's name, or what a report calls a model: "round-3" is the model of round 3.
    """
    run, _, part = reference.partition("/")
    for entry in called(store, run):
        if key := entry.steps.get(part):
            return key
        evaluation = store.find(entry.steps.get(f"evaluate-{part}", "no evaluation"))
        if evaluation is not None:
            return evaluation.parents["model"]
    return None


def called(store: Store, run: str) -> Iterator[RunEntry]:
    """The newest run of a name, else the one whose reference begins so; none if there is none."""
    entries = runs_in(store)
    yield from [entry for entry in entries if entry.name == run][:1] or [
        entry for entry in entries if entry.reference.startswith(run)
    ][:1]


def names_of_keys(store: Store) -> dict[str, str]:
    """For each key the run that it is part of, the newest if several share it."""
    found: dict[str, str] = {}
    for entry in reversed(runs_in(store)):
        found |= dict.fromkeys(entry.steps.values(), f"{entry.reference}, seed {entry.seed}")
    return found


def leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config with its dotted key."""
    children = dict(enumerate(node)) if isinstance(node, list) else node
    if not isinstance(children, Mapping) or not children:
        yield above, node
        return
    for key, value in children.items():
        if above or key not in ELSEWHERE:
            yield from leaves(value, f"{above}.{key}".lstrip("."))


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    if key not in leaves:
        return "unset"
    value = leaves[key]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
