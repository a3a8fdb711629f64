"""`sft-dpo compare`: two runs beside each other, from what their evaluations stored."""

import json

import pytest
from typer.testing import CliRunner

from alignment.errors import UsageError
from alignment.store.runs import RunEntry, note_run
from alignment.store.store import Store
from flows.cli import app
from tests.alignment.artifacts import put, put_evaluation
from tests.faults.simulate import MODEL


@pytest.fixture
def store(tmp_path):
    """Run `low` is right on 10 of 40 pairs, run `high` on 30, one of another config on 30."""
    store = Store(root=tmp_path / "store")
    for name, beta, right in (("low", 0.1, 10), ("high", 0.5, 30), ("low", 0.3, 30)):
        key = f"{name}{right}"
        put(store, f"merge-{key}", output={**MODEL, "derived_from": key})
        put(store, f"dpo-{key}", output={})
        put_evaluation(
            store, f"evaluate-{key}", "round 1", right=right, parents={"model": f"merge-{key}"}
        )
        entry = RunEntry(
            name=name,
            id=f"00{right}ff",
            finished=f"2026-11-0{right // 10}T00:00:00+00:00",
            command=f"sft-dpo run {name}.yaml",
            report=f"reports/{name}.html",
            headline="",
            config={"name": name, "seed": 0, "dpo": {"loss": {"name": "sigmoid", "beta": beta}}},
            steps={"merge-dpo-1": f"merge-{key}", "evaluate-round-1": f"evaluate-{key}"},
        )
        note_run(store, entry)
    return store


def compare(*words, store):
    return CliRunner().invoke(app, ["compare", *words, "--store", str(store.root)])


def test_settings_and_paired_metrics_are_printed_and_written(store):
    done = compare("low-0010ff", "high", store=store)
    assert done.exit_code == 0, done.output
    assert "In preference accuracy, high round 1 is better than low round 1." in done.stdout
    assert "dpo.loss.beta" in done.stdout
    assert "20 / 0 / 20" in done.stdout, "30 right against 10 on the same 40 rows"
    assert "Compared on the same 40 pairs" in done.stdout
    page = store.root / "reports" / "compare-low-round-1-high-round-1.html"
    assert done.stdout.splitlines()[-1] == f"page: {page}"
    text = page.read_text()
    assert "</html>" in text
    assert "<script" not in text


def test_json_has_changes_and_differences(store):
    found = json.loads(compare("low-0010ff", "high", "--json", store=store).stdout)
    assert {"key": "dpo.loss.beta", "before": "0.1", "after": "0.5"} in found["changes"]
    (accuracy,) = (c for c in found["comparisons"] if c["metric"] == "preference_accuracy")
    assert accuracy["paired"]["difference"]["value"] == 0.5
    assert (found["pairs"]["both"], found["pairs"]["only_first"]) == (40, 0)


def test_models_are_named_by_run_and_two_runs_of_a_name_by_their_ids(store):
    done = compare("low-0010ff/round-1", "high/merge-dpo-1", store=store)
    assert "high round 1 is better than low round 1." in done.stdout
    same_name = compare("low-0010ff", "low-0030ff", store=store)
    assert "low-0030ff round 1 is better than low-0010ff round 1." in same_name.stdout


def test_what_cannot_be_compared_says_so(store):
    same = compare("high", "high", store=store)
    assert isinstance(same.exception, UsageError)
    assert "are the same model" in str(same.exception)
    unmeasured = compare("high", "dpo-high30", store=store)
    assert "was not evaluated" in str(unmeasured.exception)
