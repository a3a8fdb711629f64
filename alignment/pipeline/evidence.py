"""Whether the evidence of a verdict is still about what is in a store, and in a config.

Only manifests and the files of rows are read, no weights, so this takes a moment.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError, EvidenceError
from alignment.evaluate.evidence import EVIDENCE, Evidence, ModelEvidence
from alignment.evaluate.settings import UNMEASURED, AnchoredGate, EvaluationConfig
from alignment.pipeline.steps import AnchorGate, ParentGate, SftGate, made_by
from alignment.pipeline.steps.gate import digest_of_model, digests_of_rows
from alignment.records.base import Frozen, Json
from alignment.records.manifest import StageRecord
from alignment.store.store import Store

GATES = (SftGate, ParentGate, AnchorGate)
"""Steps that leave a verdict."""


def evidence_file(store: Store, record: StageRecord) -> Path:
    """The evidence of a gate's verdict, or of the newest verdict on a model.

    Raises:
        EvidenceError: there is none.
    """
    gate = record if made_by(record, *GATES) else _newest_gate(store, record.key)
    if gate is None:
        raise EvidenceError(
            f"no gate has judged {record.name} ({record.key}). Name a gate or the model of a "
            "round: sft-dpo show"
        )
    path = store.folder(gate.key) / EVIDENCE
    if not path.exists():
        raise EvidenceError(
            f"{gate.name} ({gate.key}) was judged by a version that kept no evidence. Its verdict: "
            f"{' '.join(gate.notes)}"
        )
    return path


def _newest_gate(store: Store, model: str) -> StageRecord | None:
    judged = (
        record
        for record in reversed(store.records())
        if made_by(record, *GATES) and record.parents["candidate"] == model
    )
    return next(judged, None)


def check_unchanged(store: Store, evidence: Evidence, content: bytes) -> None:
    """Compare the evidence with the gate, rows and models that are in the store.

    Raises:
        EvidenceError: one of them is another one now, or gone.
    """
    changes = [*_gate(store, evidence, content), *_models(store, evidence)]
    _refuse(changes, f"{store.root} has changed since the gate judged {evidence.verdict.candidate}")


def check_config(config: PipelineConfig, evidence: Evidence) -> None:
    """Compare the rule and the evaluation with those that a config sets.

    Raises:
        EvidenceError: they differ, so the verdict is another config's.
    """
    rule = config.gate or (AnchoredGate() if config.inbox else None)  # as rounds are judged
    gate = _settings(rule) if rule else {"name": "none"}
    changes = list(_different("gate", _settings(evidence.rule), gate))
    measured = _measured(_settings(config.evaluation))
    for model in evidence.models.values():
        changes += _different("evaluation", _measured(_evaluation(model.settings)), measured)
    _refuse(list(dict.fromkeys(changes)), "the config is another one than the gate judged under")


def _refuse(changes: list[str], what: str) -> None:
    if changes:
        listed = "".join(f"\n  {change}" for change in changes)
        raise EvidenceError(f"{what}, so the verdict is not about it:{listed}\nJudge it again.")


def _gate(store: Store, evidence: Evidence, content: bytes) -> Iterator[str]:
    if (problem := _problem(store, evidence.gate)) is not None:
        yield f"gate: {problem}"
    elif (store.folder(evidence.gate) / EVIDENCE).read_bytes() != content:
        yield f"gate: {evidence.gate} holds other evidence"


def _models(store: Store, evidence: Evidence) -> Iterator[str]:
    for role, model in evidence.models.items():
        yield from (f"{role}: {change}" for change in _model(store, model))


def _model(store: Store, known: ModelEvidence) -> Iterator[str]:
    if (problem := _problem(store, known.evaluation)) is not None:
        yield problem
    elif digests_of_rows(store.open(known.evaluation)) != known.rows:
        yield f"the rows of {known.evaluation} are others"
    if known.weights is not None and digest_of_model(store, known.model) != known.weights:
        yield f"{known.model} is another model, or gone"


def _problem(store: Store, key: str) -> str | None:
    """Why an artifact cannot be opened, after hashing its files; None if it can."""
    try:
        store.open(key)
    except AlignmentError as error:
        return str(error)
    return None


def _settings(config: Frozen) -> Json:
    """All settings, those too that a dump leaves out where they are the defaults."""
    every = {name: getattr(config, name) for name in type(config).model_fields}
    return {**every, **config.model_dump(mode="json")}


def _evaluation(known: Json) -> Json:
    """Settings as a record has them; one that did not exist then had its default."""
    try:
        return _settings(EvaluationConfig.model_validate(known))
    except ValidationError:  # of another version
        return known


def _measured(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in UNMEASURED}


def _different(
    name: str, known: Mapping[str, object], found: Mapping[str, object]
) -> Iterator[str]:
    for key in sorted(known.keys() & found.keys()):
        if known[key] != found[key]:
            yield f"{name}.{key}: {known[key]} then, {found[key]} now"
