"""The evidence of a verdict: repeated from its file alone, and refused after any change."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from alignment.errors import EvidenceError
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.evidence import (
    Evidence,
    ModelEvidence,
    columns_of,
    judged_by,
    read_evidence,
    rows_of,
    schema,
)
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.summary import summarise
from alignment.records.evaluation import EvalReport, Generation, PairScore

ROOT = Path(__file__).parents[3]
WORDS = ("yes", "no", "the", "I'm sorry", "")


def drawn(label, dice, rows):
    """A model with random results; a few of its rows are missing."""
    kept = [row for row in range(rows) if dice.random() < 0.98]
    scored = ScoredRows(
        pairs=[
            PairScore(
                id=f"q{row}",
                task_type=f"type {row % 3}",
                source=f"source {row % 2}",
                chosen=-dice.random() * 40,
                rejected=-dice.random() * 40,
                base_chosen=-20.0,
                base_rejected=-20.0,
                chosen_tokens=dice.randint(1, 9),
                rejected_tokens=dice.randint(1, 9),
                prompt=f"{row // 3}",
            )
            for row in kept
        ],
        generations=[
            Generation(
                id=f"g{row}",
                task_type=f"type {row % 3}",
                source="one",
                prompt=f"{row // 2}",
                reply=" ".join(dice.choices(WORDS, k=dice.randint(0, 6))),
                tokens=dice.randint(0, 9),
                stopped=dice.random() < 0.9,
                passed=dice.choice((True, False, None)),
            )
            for row in kept
        ],
    )
    summary = summarise(scored)._asdict()
    report = EvalReport(model=label, generations="", pairs="", **summary)
    return JudgedModel.of(report, scored)


def evidence_of(rule, models, look=1):
    rows = rows_of(list(models.values()))
    described = {
        role: ModelEvidence(
            label=model.label,
            model=f"merge-{role}",
            weights="0" * 64,
            evaluation=f"evaluate-{role}",
            rows={"pairs": "1" * 64, "generations": "2" * 64},
            settings={},
            values=columns_of(model, rows),
            stored=dict(model.stored),
        )
        for role, model in models.items()
    }
    verdict = judged_by(rule, models, look=look)
    return Evidence(
        gate="anchored-0", rule=rule, look=look, rows=rows, models=described, verdict=verdict
    )


def three(seed, rows):
    dice = random.Random(seed)
    return {role: drawn(role, dice, rows) for role in ("candidate", "champion", "anchor")}


EXAMPLE = evidence_of(AnchoredGate(), three(0, 40), look=3).encoded()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 60),
    margin=st.floats(0.01, 0.9),
    plain=st.booleans(),
)
def test_verdict_repeated_from_its_file_is_the_verdict(seed, rows, margin, plain):
    models = three(seed, rows)
    rule = PlainGate() if plain else AnchoredGate(margin=margin, max_nll_rise=margin)
    written = evidence_of(rule, models, look=seed % 60 + 1)
    read = read_evidence(written.encoded(), "a file")
    assert read == written
    assert read.replay() == judged_by(rule, models, look=seed % 60 + 1)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(EXAMPLE) - 1), by=st.integers(1, 255))
def test_changed_byte_is_noticed(at, by):
    changed = bytearray(EXAMPLE)
    changed[at] ^= by
    with pytest.raises(EvidenceError):
        read_evidence(bytes(changed), "a file")


@pytest.mark.parametrize("cut", [1, 40, 90, len(EXAMPLE) // 2, len(EXAMPLE)])
def test_cut_file_is_noticed(cut):
    with pytest.raises(EvidenceError, match=r"a file was changed since the gate wrote it"):
        read_evidence(EXAMPLE[:-cut], "a file")


def test_verdict_that_does_not_follow_from_the_values_is_refused_though_its_digest_fits():
    """As from someone who edits the file and writes a digest of their own."""
    honest = read_evidence(EXAMPLE, "a file")
    assert not honest.verdict.kept
    passed = [check.model_copy(update={"finding": "passed"}) for check in honest.verdict.checks]
    verdict = honest.verdict.model_copy(update={"checks": tuple(passed)})
    forged = honest.model_copy(update={"verdict": verdict})
    with pytest.raises(EvidenceError, match="a file says 'kept', but its values give 'rejected'"):
        read_evidence(forged.encoded(), "a file")


def test_number_that_is_none_survives_the_file():
    models = three(1, 40)
    values = models["candidate"].values
    broken = {**values["nll"], "q1": values["nll"]["q1"]._replace(total=math.nan)}
    models["candidate"] = JudgedModel(
        label="candidate",
        values={**values, "nll": broken},
        rows=models["candidate"].rows,
        stored=models["candidate"].stored,
    )
    read = read_evidence(evidence_of(AnchoredGate(), models).encoded(), "a file")
    assert any("nll is nan" in check.words for check in read.verdict.checks)


def test_evidence_holds_no_text_of_a_row():
    assert b"sorry" not in EXAMPLE


def test_committed_schema_matches_the_classes_and_an_evidence_file():
    committed = json.loads((ROOT / "docs" / "verdict.schema.json").read_text())
    assert committed == json.loads(json.dumps(schema())), "run `make schema`"
    Draft202012Validator(committed).validate(json.loads(EXAMPLE))
