"""`sft-dpo verdict`: what CI runs. Real gates on rows in a store; no model is loaded."""

import json
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

from alignment.evaluate.settings import AnchoredGate
from alignment.execution.run_step import run_step
from alignment.pipeline.steps import AnchorGate
from alignment.store.store import Store
from flows.cli import main
from tests.alignment.artifacts import put, put_evaluation
from tests.faults.simulate import MODEL

PROGRAM = """
import sys
from flows.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "prefect", "datasets", "scipy"} & sys.modules.keys()
    print(f"loaded: {sorted(heavy)}", file=sys.stderr)
"""
ROWS = {"sft": 400, "round 1": 420, "round 2": 250, "round 3": 395}
"""Of 600 pairs, how many each model has right."""
KEEP = {"on_inconclusive": "keep_candidate"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four models, and one with only 10 pairs."""
    store = Store(root=tmp_path_factory.mktemp("made") / "runs")
    for label, right in ROWS.items():
        put_judged(store, label, right=right, of=600)
    put_judged(store, "few", right=5, of=10)
    return store


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "runs")
    return Store(root=tmp_path / "runs")


def put_judged(store, label, *, right, of):
    key = f"merge-{label.replace(' ', '')}"
    put(store, key, output={**MODEL, "derived_from": label})
    put_evaluation(
        store,
        key.replace("merge", "evaluate"),
        label,
        right=right,
        of=of,
        parents={"model": key},
        config={"config": {"max_new_tokens": 8}},
    )


def judged(store, candidate, champion="sft", **settings):
    step = AnchorGate(
        name=f"gate-{candidate[-1]}",
        config=AnchoredGate(**settings),
        candidate=f"merge-{candidate}",
        evaluation=f"evaluate-{candidate}",
        champion=f"merge-{champion}",
        against=f"evaluate-{champion}",
        anchor=f"evaluate-{champion}",
        look=1,
    )
    run_step(store, step)
    return store.folder(step.key) / "verdict.json"


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def sft_dpo_verdict(monkeypatch, capsys):
    """Run the command in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sft-dpo", "verdict", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run


def test_verdict_needs_no_heavy_library(store):
    words = [sys.executable, "-c", PROGRAM, "verdict", str(judged(store, "round1"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "loaded: []\n")


@pytest.mark.parametrize(
    ("candidate", "champion", "settings", "code", "word"),
    [
        ("round1", "sft", {}, 0, "kept"),
        ("round2", "sft", {}, 1, "rejected"),
        ("round3", "sft", {"margin": 0.02}, 3, "inconclusive"),
        ("round3", "sft", {"margin": 0.02, **KEEP}, 0, "inconclusive, kept"),
        ("few", "few", {}, 3, "cannot be judged"),
    ],
)
def test_exit_code_is_the_verdict(
    store, candidate, champion, settings, code, word, sft_dpo_verdict
):
    file = judged(store, candidate, champion, **settings)
    done = sft_dpo_verdict(file, "--json")
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == word
    assert found["evidence"] == str(file)
    assert done.stderr == ""


def test_verdict_is_found_by_the_model_that_it_is_about(store, sft_dpo_verdict):
    judged(store, "round2")
    for name in ("merge-round2", "gate-2"):
        done = sft_dpo_verdict(name, "--store", store.root)
        assert done.returncode == 1
        assert done.stdout.startswith(
            "round 2 is rejected, sft stays: preference accuracy is 0.250 below"
        )


def test_copy_of_the_file_is_repeated_where_there_is_no_store(store, tmp_path, sft_dpo_verdict):
    copy = tmp_path / "verdict.json"
    copy.write_bytes(judged(store, "round1").read_bytes())
    done = sft_dpo_verdict(copy, "--store", tmp_path / "none")
    assert done.returncode == 0
    assert f"not compared with a store: {tmp_path / 'none'} does not have anchored-" in done.stderr


def rows(store):
    path = store.folder("evaluate-round1") / "pairs.jsonl"
    path.write_text(path.read_text().replace("-1.0", "-1.5", 1))


def model(store):
    path = store.folder("merge-round1") / "manifest.json"
    path.unlink()


def evidence_in_the_store(store):
    (gate,) = store.root.glob("objects/anchored-*/verdict.json")
    gate.write_bytes(gate.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rows, "candidate: "),
        (model, "candidate: merge-round1 is another model, or gone"),
        (evidence_in_the_store, "gate: "),
    ],
)
def test_verdict_on_what_has_changed_since_is_refused(
    store, tmp_path, change, said, sft_dpo_verdict
):
    copy = tmp_path / "copy.json"
    copy.write_bytes(judged(store, "round1").read_bytes())
    assert sft_dpo_verdict(copy, "--store", store.root).returncode == 0
    change(store)
    done = sft_dpo_verdict(copy, "--store", store.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has changed since the gate judged round 1" in done.stderr
    assert said in done.stderr


def test_verdict_under_another_config_is_refused(
    store, tiny_settings, write_config, sft_dpo_verdict
):
    file = judged(store, "round1")
    same = {**tiny_settings, "gate": {"name": "anchored"}, "evaluation": {"max_new_tokens": 8}}
    config = write_config(same)
    assert sft_dpo_verdict(file, "--config", config).returncode == 0
    for change, said in (
        ("gate.margin=0.1", "gate.margin: 0.03 then, 0.1 now"),
        ("gate.sealed_share=0.2", "gate.sealed_share: 0.0 then, 0.2 now"),
        ("evaluation.max_new_tokens=9", "evaluation.max_new_tokens: 8 then, 9 now"),
        ("evaluation.suites=[{name: general}]", "evaluation.suites: [] then, ["),
    ):
        done = sft_dpo_verdict(file, "--config", config, "--set", change)
        assert done.returncode == 2
        assert said in done.stderr


def test_rounds_of_a_config_without_a_gate_are_judged_by_the_anchored_one(
    store, tiny_settings, write_config, tmp_path, sft_dpo_verdict
):
    file = judged(store, "round1")
    settings = {**tiny_settings, "evaluation": {"max_new_tokens": 8}, "gate": None}
    alone = sft_dpo_verdict(file, "--config", write_config(settings))
    assert "gate.name: anchored then, none now" in alone.stderr
    inbox = {"path": str(tmp_path / "inbox")}
    done = sft_dpo_verdict(file, "--config", write_config({**settings, "inbox": inbox}))
    assert (done.returncode, done.stderr) == (0, "")


def test_gate_of_an_earlier_version_says_that_it_has_no_evidence(old_store, sft_dpo_verdict):
    done = sft_dpo_verdict("gate-2", "--store", old_store / "store")
    assert done.returncode == 2
    assert "was judged by a version that kept no evidence. Its verdict: round 2 is" in done.stderr


def test_what_is_no_evidence_is_named(tmp_path, sft_dpo_verdict):
    other = tmp_path / "other.json"
    for content in ("{}", "not JSON at all"):
        other.write_text(content)
        done = sft_dpo_verdict(other)
        assert done.returncode == 2
        assert f"{other} is no evidence of a verdict. Name a file verdict.json" in done.stderr
