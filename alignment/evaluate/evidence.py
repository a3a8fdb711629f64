"""The evidence of a verdict: one JSON file with everything that the gate decided it from.

It holds the rule, the models by key, the digests of the rows, the value of each row in each metric,
and the verdict. So the verdict can be computed again (`replay`) without a model, and anyone can
check it. `python -m alignment.evaluate.evidence FILE` writes its JSON schema. Not here: whether the
models and rows in a store are still those of the evidence (`pipeline/evidence.py`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from alignment.errors import EvidenceError
from alignment.evaluate.anchored import judge_anchored
from alignment.evaluate.gate import judge
from alignment.evaluate.judged import (
    KINDS,
    JudgedModel,
    Kind,
    Labels,
    Value,
    gate_evaluators,
    kind_of,
)
from alignment.evaluate.settings import AnchoredGate, GateConfig
from alignment.evaluate.verdict import Verdict
from alignment.records.base import Frozen, Json
from alignment.records.evaluation import Estimate
from alignment.store.checksum import checked, with_digest

EVIDENCE = "verdict.json"
"""Name of the file in the artifact of a gate."""
Role = Literal["candidate", "champion", "anchor"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RowList(Frozen):
    """Held-out rows, column by column: the same position is the same row."""

    id: tuple[str, ...] = Field(description="Id of each row.")
    task_type: tuple[str, ...] = Field(description="Its task type.")
    source: tuple[str, ...] = Field(description="Where it came from.")
    prompt: tuple[str, ...] = Field(description="The same text for rows of one prompt.")

    @classmethod
    def of(cls, rows: Mapping[str, Labels]) -> Self:
        """The rows by id."""
        columns = {name: tuple(getattr(row, name) for row in rows.values()) for name in _LABELS}
        return cls(id=tuple(rows), **columns)

    def by_id(self) -> dict[str, Labels]:
        """The rows by id, as `of` takes them."""
        labels = zip(self.task_type, self.source, self.prompt, strict=True)
        return {key: Labels(*row) for key, row in zip(self.id, labels, strict=True)}


_LABELS = ("task_type", "source", "prompt")


class Column(Frozen):
    """The values of one model in one metric, in the order of the rows; a mean is sum over sum."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    kind: Kind = Field(description="The list of rows.")
    totals: tuple[float | None, ...] = Field(
        description="The numerator of each row; null where the model has no such value."
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="The denominator of each row, such as tokens. Default: all 1."
    )

    @classmethod
    def of(cls, kind: Kind, values: Mapping[str, Value], rows: RowList) -> Self:
        """The values by row."""
        found = [values.get(key, Value(0.0)) for key in rows.id]
        weighted = any(value.weight != 1 for value in found)
        return cls(
            kind=kind,
            totals=tuple(values[key].total if key in values else None for key in rows.id),
            weights=tuple(value.weight for value in found) if weighted else None,
        )

    def by_id(self, rows: RowList) -> dict[str, Value]:
        """The values by row, as `of` takes them."""
        weights = self.weights or (1.0,) * len(self.totals)
        listed = zip(rows.id, self.totals, weights, strict=True)
        return {key: Value(total, weight) for key, total, weight in listed if total is not None}


class ModelEvidence(Frozen):
    """One of the compared models: where it is, and its results."""

    label: str = Field(description="Its name in tables.")
    model: str = Field(description="Key of the model in the store.")
    weights: Sha256 | None = Field(
        description="Digest of what the model computes; null if it was no longer in the store."
    )
    evaluation: str = Field(description="Key of its evaluation in the store.")
    rows: dict[Kind, Sha256] = Field(description="The sha256 of the evaluation's files of rows.")
    settings: Json = Field(description="The settings of its evaluation.")
    values: dict[str, Column] = Field(description="The values of the rows by metric.")
    stored: dict[str, Estimate] = Field(description="Means as the evaluation reported them.")
    noise: dict[str, float] = Field(
        default_factory=dict,
        exclude_if=lambda noise: not noise,
        description="The difference up to which nothing counts as shown, by metric.",
    )


class Evidence(Frozen):
    """A verdict of a gate, and everything it was decided from."""

    format: Literal[1] = Field(default=1, description="Version of this schema.")
    gate: str = Field(description="Key of the gate in the store.")
    rule: GateConfig = Field(description="The rule and its settings.")
    look: int = Field(
        ge=1, description="The number of this verdict since a person approved a model; 1: the first"
    )
    rows: dict[Kind, RowList] = Field(description="The held-out rows that some model has.")
    models: dict[Role, ModelEvidence] = Field(description="The compared models.")
    verdict: Verdict = Field(description="What the gate decided: findings and reasons.")

    def replay(self) -> Verdict:
        """The verdict, decided again from the values."""
        models = {role: self._judged(model) for role, model in self.models.items()}
        return judged_by(self.rule, models, look=self.look)

    def encoded(self) -> bytes:
        """The bytes of its file; the last key is the digest of all bytes before it."""
        return with_digest(self, indent=None)

    def _judged(self, model: ModelEvidence) -> JudgedModel:
        return JudgedModel(
            label=model.label,
            values={name: c.by_id(self.rows[c.kind]) for name, c in model.values.items()},
            rows={kind: rows.by_id() for kind, rows in self.rows.items()},
            stored=model.stored,
            noise=model.noise,
        )


def judged_by(rule: GateConfig, models: Mapping[Role, JudgedModel], *, look: int) -> Verdict:
    """The verdict of a rule on these models; the plain gate does not look at an anchor."""
    candidate, champion = models["candidate"], models["champion"]
    if isinstance(rule, AnchoredGate):
        anchor = models["anchor"]
        return judge_anchored(
            rule, candidate=candidate, champion=champion, anchor=anchor, look=look
        )
    return judge(rule, candidate=candidate, champion=champion)


def rows_of(models: Sequence[JudgedModel]) -> dict[Kind, RowList]:
    """All rows of these models."""
    found = {
        kind: {key: row for m in models for key, row in m.rows.get(kind, {}).items()}
        for kind in KINDS
    }
    return {kind: RowList.of(rows) for kind, rows in found.items() if rows or kind != "tasks"}


def columns_of(model: JudgedModel, rows: Mapping[Kind, RowList]) -> dict[str, Column]:
    """The values of a model by metric."""
    found = {}
    for evaluator in gate_evaluators():
        if values := model.values.get(evaluator.name):
            kind = kind_of(evaluator)
            found[evaluator.name] = Column.of(kind, values, rows[kind])
    return found


_MARKS = (b'"gate"', b'"rule"')
"""What every evidence has near its beginning, even if its end is cut off."""


def read_evidence(content: bytes, where: str) -> Evidence:
    """Parse the bytes of a file, after checking its digest and that its verdict can be repeated.

    Raises:
        EvidenceError: a byte was changed, or the verdict does not follow from the values.
    """
    try:
        evidence = Evidence.model_validate_json(checked(content))
    except ValidationError as error:
        raise EvidenceError(
            f"{where} is no evidence of a verdict that this version reads: "
            f"{error.errors()[0]['msg']}. Name a file {EVIDENCE}, or a gate: sft-dpo show"
        ) from error
    except ValueError as error:
        if content and not any(mark in content for mark in _MARKS):
            raise EvidenceError(
                f"{where} is no evidence of a verdict. Name a file {EVIDENCE}, or a gate: sft-dpo "
                "show"
            ) from error
        raise EvidenceError(
            f"{where} was changed since the gate wrote it ({error}), so it shows nothing. Take it "
            "from the store again, or judge the round again."
        ) from error
    if (found := evidence.replay()) != evidence.verdict:
        raise EvidenceError(
            f"{where} says {evidence.verdict.word!r}, but its values give {found.word!r} under "
            f"this version's rule: {found.sentence}"
        )
    return evidence


def schema() -> dict[str, Any]:
    """The JSON schema of an evidence file."""
    found = Evidence.model_json_schema(mode="serialization")
    found["properties"]["digest"] = {
        "type": "string",
        "description": "The sha256 of all bytes before the line of this key.",
    }
    return found


if __name__ == "__main__":
    text = json.dumps(schema(), indent=2, sort_keys=True) + "\n"
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
