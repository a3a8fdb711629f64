"""Rebuilds what a round reads, if it was damaged or is gone: the ancestors of a line are steps.

A step is made again from the artifact's manifest (that of a damaged artifact lies in `damaged/`),
from the configuration, or from the ledger; it must have the same key. Its parents come first.
Not here: moving a damaged artifact aside (`Store.reuse`).
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError, ArtifactError
from alignment.pipeline.step import Step
from alignment.pipeline.steps import STEPS, PrepareBatches, TakeBatch, TrainDpo, made_by
from alignment.pipeline.verdicts import chain_so_far
from alignment.records.manifest import StageRecord
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.steps import SETS, steps_of
from alignment.store.checksum import verified
from alignment.store.lineage import ancestors
from alignment.store.store import MANIFEST, Store

_STORED = r"\bstore:([^/\"]+)/"
"""What names an artifact in a record."""
Build = Callable[[Step], object]


class Repair:
    """Rebuilds the artifacts that a line needs.

    Args:
        config: the configuration of the line.
        line: the line.
        inbox: path by digest of the files in the inbox.
        build: builds a step, or reuses its artifact.
    """

    def __init__(
        self, config: PipelineConfig, line: RoundLine, inbox: Mapping[str, str], build: Build
    ) -> None:
        self._config, self._line, self._inbox, self._build = config, line, inbox, build
        self._store = line.store

    def champion(self, champion: Champion) -> None:
        """Make sure that a round can start from a champion.

        Raises:
            ArtifactError: an artifact can be neither read nor rebuilt; says what to do.
        """
        first = self._line.state().paths[0][0]  # its evaluation says on which rows all are measured
        for key in (champion.model, champion.evaluation, first.evaluation):
            self._readable(key, champion)
        for key in needed(self._store, champion):
            self._intact(key, champion)

    def evaluation(self, champion: Champion) -> None:
        """Make sure that a model's evaluation can be read; raises like `champion`."""
        self._intact(champion.evaluation, champion)

    def _readable(self, key: str, champion: Champion) -> None:
        """Rebuild what has lost its manifest, among a key and its ancestors."""
        pending, seen = [key], set[str]()
        while pending:
            key = pending.pop()
            if key in seen:
                continue
            seen.add(key)
            record = _record(self._store, key)
            if record is None:
                self._rebuild(key, champion)
                record = self._store.open(key)
            pending += record.parents.values()

    def _intact(self, key: str, champion: Champion) -> None:
        try:
            self._store.open(key)
        except ArtifactError:
            self._rebuild(key, champion)

    def _rebuild(self, key: str, champion: Champion) -> None:
        step = self._step(key)
        if step is None:
            raise _lost(self._line, key, champion, "nothing says how it was made")
        if _source_changed(step):
            raise _lost(self._line, key, champion, f"what {step.name} was read from has changed")
        for parent in step.parents:
            self._intact(parent.key, champion)
        self._build(step)

    def _step(self, key: str) -> Step | None:
        record = _record(self._store, key) or _damaged_record(self._store, key)
        made = None if record is None else self._from_record(record)
        if made is None or made.key != key:
            return self._configured.get(key)
        # no manifest has the query of a URL
        return self._configured.get(key, made) if _source_changed(made) else made

    def _from_record(self, record: StageRecord) -> Step | None:
        kind = STEPS.get(record.stage)
        if kind is None or kind is TakeBatch:  # a batch is made of its file, which no record names
            return None
        parents = _parents_by_field(kind, record, self._trained_before(record))
        named = {"name": record.name, "seed": record.seed}
        try:
            return kind.model_validate({**named, **record.config, **parents})
        except ValidationError:  # settings of an earlier version
            return None

    def _trained_before(self, record: StageRecord) -> set[str]:
        """The sets that DPO rounds were trained on before the round of these batches."""
        if record.stage != PrepareBatches.model_fields["stage"].default:
            return set()
        users = (one for one in self._store.records() if made_by(one, TrainDpo))
        policies = [one.parents["policy"] for one in users if one.parents["data"] == record.key]
        made = ancestors(self._store, policies[0]) if policies else []
        return {one.parents["data"] for one in made if made_by(one, TrainDpo)}

    @cached_property
    def _configured(self) -> dict[str, Step]:
        """The steps of the configured run, the line's rounds and the files in the inbox, by key."""
        return {step.key: step for step in self._configured_steps()}

    def _configured_steps(self) -> Iterator[Step]:
        yield from (TakeBatch.of(digest, file) for digest, file in self._inbox.items())
        with contextlib.suppress(AlignmentError):  # a source of the configured run is gone
            yield from chain_so_far(self._config, self._store).steps()
        for opened, _ in self._line.state().history:
            try:
                round_ = steps_of(self._config, self._store, opened)
            except AlignmentError:  # or the config no longer says how, or a file is gone
                continue
            yield from (round_.source, *round_.steps())


def check_undamaged(store: Store, champion: Champion) -> None:
    """Check the files of a champion and of the adapters and bases that it names.

    What is gone altogether is left to the round, which builds it again.

    Raises:
        ArtifactError: a file is damaged.
    """
    model = store.find(champion.model)
    named = re.findall(_STORED, model.model_dump_json(include={"output"})) if model else []
    for key in (champion.model, champion.evaluation, *named):
        if store.find(key) is not None:
            store.open(key)


def needed(store: Store, champion: Champion) -> Iterator[str]:
    """The keys whose files a round on a champion reads; of other ancestors, only the manifest.

    The manifests are whole, but the files may be damaged, those of the champion too.
    """
    model, evaluation = store.find(champion.model), store.find(champion.evaluation)
    assert model is not None
    assert evaluation is not None
    yield from re.findall(_STORED, model.model_dump_json(include={"output"}))
    yield from (champion.model, champion.evaluation)
    yield from evaluation.parents_as("data")
    yield from (key for role, key in evaluation.parents.items() if role == "base")
    yield from (record.key for record in ancestors(store, champion.model) if made_by(record, *SETS))


def _record(store: Store, key: str) -> StageRecord | None:
    try:
        return store.find(key)
    except ArtifactError:
        return None


def _damaged_record(store: Store, key: str) -> StageRecord | None:
    """The manifest of the newest artifact of a key that was moved aside."""
    for folder in sorted(store.root.glob(f"damaged/{key}-*"), reverse=True):
        try:
            return StageRecord.model_validate_json(verified((folder / MANIFEST).read_bytes()))
        except (OSError, ValueError):
            continue
    return None


def _parents_by_field(
    kind: type[Step], record: StageRecord, trained: set[str]
) -> dict[str, object]:
    """The parents of a record as the fields of its step, see `Step.roles`."""
    found: dict[str, object] = {}
    left = dict(record.parents)
    for field in kind.parent_fields:
        several = [role for role in left if re.fullmatch(rf"{field} \d+", role)]
        if field in left:
            found[field] = left.pop(field)
        elif several:
            found[field] = tuple(left.pop(role) for role in several)
        else:
            found |= _empty(kind, field)
    if "earlier" in kind.parent_fields:  # all others: a mapping's roles are its own names
        found["earlier"] = left
    if "trained" in kind.parent_fields:
        found["trained"] = {name: key for name, key in left.items() if key in trained}
    return found


def _empty(kind: type[Step], field: str) -> dict[str, object]:
    """The value of a field without a parent: None or no keys, whichever it may hold."""
    annotation = kind.model_fields[field].annotation
    assert annotation is not None
    for value in (None, ()):
        with contextlib.suppress(ValidationError):
            TypeAdapter[Any](annotation).validate_python(value)
            return {field: value}
    return {}


def _source_changed(step: Step) -> bool:
    """Whether a step would read other bytes than its key says."""
    source = getattr(step, "source", None) or getattr(step, "config", None)
    digest = getattr(source, "digest", None)
    if digest is None or not hasattr(step, "digest"):
        return False
    try:
        return bool(digest() != step.digest)
    except AlignmentError:
        return True


def _lost(line: RoundLine, key: str, champion: Champion, why: str) -> ArtifactError:
    role, way_out = "champion", "go back to a champion that does not need it: sft-dpo rollback"
    if champion != line.state().champion:
        role, way_out = "anchor", "judge from the champion instead: sft-dpo promote champion"
    return ArtifactError(
        f"{key}, from which {champion.label}, the {role} of line {line.name!r}, was made, is "
        f"gone or damaged and cannot be built again: {why}. Restore {line.store.place(key)} "
        f"from a backup, or {way_out} --line {line.name}"
    )
