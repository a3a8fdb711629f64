import re
from pathlib import Path

import pytest

from alignment.records.manifest import CodeVersion, StageRecord
from alignment.records.refs import AdapterRef, FileDigest
from alignment.store.progress import Mark
from alignment.store.store import Store
from tasks.artifacts import adapter_row, card, describe, headline, slug


@pytest.fixture
def record():
    """The record of a DPO step with a 2 MB adapter."""
    return StageRecord(
        key="dpo-0123",
        stage="dpo",
        version=1,
        name="dpo-1",
        parents={"policy": "merge-0123", "data": "pairs-0123"},
        config={},
        seed=1,
        output={
            "uri": "store:dpo-0123/adapter",
            "sha256": "ab" * 32,
            "stage": "dpo-1",
            "r": 4,
            "alpha": 8.0,
            "target_modules": ["q_proj"],
            "trained_on": "cd" * 32,
        },
        metrics={"steps": 12.0, "loss": 0.6512, "eval_rewards/accuracies": 0.75},
        notes=("1 of 3 | <b>bold</b>",),
        files=(FileDigest(path="adapter/a.safetensors", size=2_000_000, sha256="ef" * 32),),
        code=CodeVersion(revision="0123abc"),
        libraries={},
        hardware={},
        started="2026-01-02T03:04:05+00:00",
        seconds=61.0,
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [("a100-evaluate round 1", "a100-evaluate-round-1"), ("tiny-DPO_1 ", "tiny-dpo-1")],
)
def test_keys_have_lower_case_letters_digits_and_dashes(text, key):
    assert slug(text) == key
    assert re.fullmatch("[a-z0-9-]+", key)


def test_headline_has_the_main_metrics_of_the_kind_of_step(record):
    assert headline(record) == "loss 0.651 · held-out rewards/accuracies 0.75"


def test_headline_of_a_step_without_metrics_is_its_notes(record):
    assert headline(record.model_copy(update={"stage": "base"})) == "1 of 3 | <b>bold</b>"


def test_mark_reads_as_a_sentence():
    mark = Mark(phase="training", done=12, total=300, time=0.0, numbers={"loss": 0.6931})
    assert describe(mark) == "training 12 of 300, loss 0.693"
    assert describe(Mark(phase="fetching", done=3, total=0, time=0.0)) == "fetching 3"


def test_card_has_metrics_location_and_parents(record):
    text = card(record, Path("/store/objects/dpo-0123"))
    for expected in ("loss | 0.651", "/store/objects/dpo-0123", "1, 2.0 MB", "merge-0123"):
        assert expected in text


def test_text_from_elsewhere_cannot_inject_markup_into_a_card(record):
    assert "<b>" not in card(record, Path("/store"))


def test_adapter_row_has_path_and_digest(record, tmp_path):
    row = adapter_row(record, AdapterRef.model_validate(record.output), Store(root=tmp_path))
    assert row["kind"] == "dpo"
    assert row["key"] == "dpo-0123"
    assert row["path"] == str(tmp_path / "objects/dpo-0123/adapter")
    assert row["sha256"] == "ab" * 32
    assert row["trained_on"] == "merge-0123"
    assert row["loss"] == 0.6512
