"""Artifacts put into a real store by hand, for tests of what is decided from them."""

from pathlib import Path

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.summary import summarise
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.records.manifest import CodeVersion, StageRecord

STARTED = "2026-01-01T00:00:00+00:00"


def record_of(
    key, *, output=None, parents=None, metrics=None, config=None, name="", started=STARTED
):
    """A record that says little beside its key."""
    return StageRecord(
        key=key,
        stage=key.split("-")[0],
        version=1,
        name=name or key,
        parents=parents or {},
        config=config or {},
        seed=0,
        output=output or {},
        metrics=metrics or {},
        files=(),
        code=CodeVersion(revision="test"),
        libraries={},
        hardware={},
        started=started,
        seconds=1.0,
    )


def put(store, key, *, files=None, **fields):
    """Commit an artifact with these files, by their names; `fields` as in `record_of`."""
    workspace = store.workspace(key)
    for file, text in (files or {}).items():
        path = Path(workspace.out / file)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return store.commit(record_of(key, **fields), workspace)


def put_model(store, key, ref, *, uri, **more):
    """Commit a model that says its weights lie at `uri`."""
    base = ref.base.model_copy(update={"uri": uri})
    return put(
        store, key, output=ref.model_copy(update={"base": base}).model_dump(mode="json"), **more
    )


def put_evaluation(store, key, label, *, right, of=40, **more):
    """Commit an evaluation in which the first `right` of `of` pairs are right."""
    pairs = [
        PairScore(
            id=f"q{row}",
            task_type="any",
            source="any",
            chosen=-1.0 if row < right else -3.0,
            rejected=-2.0,
            base_chosen=-2.0,
            base_rejected=-2.0,
            chosen_tokens=4,
            rejected_tokens=4,
        )
        for row in range(of)
    ]
    asked = [
        Generation(
            id="g", task_type="any", source="any", prompt="?", reply="!", tokens=4, stopped=True
        )
    ]
    report = EvalReport(
        model=label,
        **summarise(ScoredRows(pairs=pairs, generations=asked))._asdict(),
        generations=f"store:{key}/generations.jsonl",
        pairs=f"store:{key}/pairs.jsonl",
    )
    written = {
        "pairs.jsonl": "".join(row.model_dump_json() + "\n" for row in pairs),
        "generations.jsonl": "".join(row.model_dump_json() + "\n" for row in asked),
    }
    return put(store, key, output=report.model_dump(mode="json"), files=written, **more)
