"""A round on own answers on the tiny model: its steps, their files, and what a kill leaves."""

import json
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel, CandidatePrompt, Fate
from alignment.compose.settings import Merge
from alignment.config.pipeline import PipelineConfig
from alignment.data.build.report import PreparationReport
from alignment.data.row import Reason
from alignment.doctor.checks.counts import check_unwritten
from alignment.doctor.forecast.trainings import list_trainings
from alignment.doctor.sets import PreparedSet
from alignment.errors import ConfigError, DataError, ModelError
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.plan import plan
from alignment.pipeline.steps import OpenBase, made_by
from alignment.pipeline.steps.own import rows_in
from alignment.records.refs import DataRef
from alignment.records.text import PreferencePair, Quarantined
from alignment.report.own_answers import own_rounds
from alignment.store.jsonl import read_rows
from alignment.store.lineage import ancestors
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.faults.failpoints import Broken, arm
from tests.judge import judging
from tests.own_answers import own_settings, write_reward_model


@pytest.fixture
def settings(tiny_model_folder, tmp_path):
    return own_settings(tiny_model_folder, tmp_path)


class Run:
    """Builds the steps of a configuration in this process, by name."""

    def __init__(self, settings):
        self.config = PipelineConfig.model_validate(settings)
        self.store = Store(root=self.config.store)
        self.steps = {step.name: step for step in chain(self.config).steps()}

    def build(self, name):
        step = self.steps[name]
        for key in step.roles.values():
            parent = next(step.name for step in self.steps.values() if step.key == key)
            if self.store.find(key) is None:
                self.build(parent)
        return build(self.store, step, Progress())

    def rows(self, name, kind):
        return rows_in(self.store, self.steps[name].key, kind)


def test_every_answer_is_in_a_pair_or_in_the_quarantine_with_a_reason(settings):
    run = Run(settings)
    record = run.build("pairs-1")
    ref = DataRef.model_validate(record.output)
    answers = run.rows("answers-1", Answer)
    labels = run.rows("labels-1", AnswerLabel)
    fates = list(read_rows(run.store.folder(record.key) / "candidates.jsonl", Fate))
    pairs = list(read_rows(run.store.path(ref.train), PreferencePair))
    dropped = list(read_rows(run.store.path(ref.quarantine), Quarantined))
    assert len(answers) == len(labels) == len(fates) == 72
    used = [fate for fate in fates if fate.fate in ("chosen", "rejected")]
    candidates = [row for row in dropped if row.file == "pairs-1"]
    assert len(used) + len(candidates) == 72
    assert len(used) == 2 * (len(pairs) + len(dropped) - len(candidates)) > 0
    assert Counter(row.reason for row in dropped) == ref.quarantined
    (shown,) = own_rounds(run.store, {"pairs-1": record})
    assert sum(shown.counts.fates.values()) == 72
    assert shown.pairs[0].chosen.score == shown.counts.chosen == 1
    assert shown.pairs[0].rejected.score == shown.counts.rejected == 0
    by_text = {(fate.text.strip(), fate.fate) for fate in used}
    for pair in pairs:
        assert (pair.chosen[0].content.strip(), "chosen") in by_text
        assert (pair.rejected[0].content.strip(), "rejected") in by_text
        assert set(pair.chosen[0].content) & set("abcdef")
        assert not set(pair.rejected[0].content) & set("abcdef")


def test_a_weaker_model_writes_what_is_rejected(settings, tmp_path):
    """The other model has noise in its weights, and answers the same prompts as often."""
    weak = shutil.copytree(tmp_path / "model", tmp_path / "weak")
    weights = load_file(weak / "model.safetensors")
    noisy = {name: tensor + torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(noisy, weak / "model.safetensors", metadata={"format": "pt"})
    source = {"name": "folder", "path": str(weak)}
    settings["rounds"][0]["data"]["label"] = {"name": "delta", "weak": source}
    run = Run(settings)
    record = run.build("pairs-1")
    strong, theirs = run.rows("answers-1", Answer), run.rows("weak-answers-1", Answer)
    assert len(strong) == len(theirs) == 72
    assert {row.text for row in strong} != {row.text for row in theirs}
    fates = list(read_rows(run.store.folder(record.key) / "candidates.jsonl", Fate))
    assert len(fates) == 144
    assert {(fate.fate, fate.sample < 6) for fate in fates if fate.score is not None} >= {
        ("chosen", True),
        ("rejected", False),
    }
    assert not [f for f in fates if f.fate in ("chosen", "rejected") and f.score != (f.sample < 6)]
    (base,) = (one for one in ancestors(run.store, record.key) if made_by(one, OpenBase))
    assert base.name == "base", "the weaker model is no base"


def test_a_missing_vllm_is_told_by_plan_and_doctor_and_ends_the_run_before_any_answer(settings):
    settings["rounds"][0]["data"]["engine"] = {"name": "vllm", "python": "/nowhere/python"}
    run = Run(settings)
    steps = chain(run.config)
    (planned,) = (step for step in plan(steps, run.store) if step.name == "answers-1")
    assert planned.notes[0].startswith("engine.python: /nowhere/python does not run")
    (found,) = check_unwritten(steps, None)
    assert found.verdict == "warn"
    assert found.headline.endswith("Here, " + planned.notes[0] + ".")
    assert "pip install vllm" in found.remedy
    own = settings["rounds"][0]["data"]
    settings["inbox"] = {"answers": {name: own[name] for name in ("label", "engine")}}
    settings["rounds"][0]["data"] = own | {"engine": {"name": "auto"}}
    config = PipelineConfig.model_validate(settings)
    (found,) = check_unwritten(chain(config), config.inbox)
    assert found.verdict == "warn"
    assert found.headline.endswith(f"Here, inbox.answers.{planned.notes[0]}.")
    with pytest.raises(ConfigError, match=r"engine.python: /nowhere/python does not run .*Make an"):
        run.build("prompts-1")


def test_of_the_engine_only_vllm_decides_answers(settings):
    def key(**engine):
        settings["rounds"][0]["data"]["engine"] = engine
        return Run(settings).steps["answers-1"].key

    ours, vllm = key(name="auto"), key(name="vllm", python="/a/python")
    assert ours == key(name="hf") == key(name="continuous") != vllm
    assert vllm == key(name="vllm", python="/b/python")
    settings["rounds"][0]["data"]["temperature"] = 2.5
    with pytest.raises(ValueError, match=r"vllm takes a temperature from 0\.01 to 2"):
        key(name="vllm", python="/a/python")


def test_a_whole_run_trains_on_them_and_evaluates(settings):
    run = Run(settings)
    assert list(run.steps)[:3] == ["base", "pairs-evaluation", "prompts-1"]
    record = run.build("evaluate-round-1")
    assert record.metrics["preference_accuracy"] >= 0


@pytest.mark.parametrize("name", ["answers-1", "labels-1"])
def test_killed_anywhere_nothing_is_made_twice_and_nothing_is_missing(settings, name):
    whole = Run(settings)
    whole.build(name)
    expected = (whole.store.folder(whole.steps[name].key) / "rows.jsonl").read_text()
    settings["store"] += "-killed"
    run = Run(settings)
    for parent in run.steps[name].roles.values():
        run.build(next(step.name for step in run.steps.values() if step.key == parent))
    rows = run.store.workspace(run.steps[name].key).out / "rows.jsonl"
    for point in ("journal.append:before", "journal.append:after", "journal.flush:after"):
        before = rows.read_text() if rows.exists() else ""
        disarm = arm("raise", name=point, nth=4)
        with pytest.raises(Broken):
            run.build(name)
        disarm()
        assert rows.read_text().startswith(before)
    with rows.open("a") as stream:
        stream.write('{"prompt_id": "cut o')
    run.build(name)
    lines = (run.store.folder(run.steps[name].key) / "rows.jsonl").read_text().splitlines()
    assert sorted(map(without_logprob, lines)) == sorted(
        map(without_logprob, expected.splitlines())
    )


def without_logprob(line):
    """An answer's log-probability depends on its batch in the last digits."""
    row = json.loads(line)
    return json.dumps({name: value for name, value in row.items() if name != "logprob"})


def test_a_later_round_uses_other_prompts(settings):
    """The second round reads more rows of the same part; the first ones are spent."""
    again = json.loads(json.dumps(settings["rounds"][0]))
    again["data"]["prompts"][0]["rows"] = 15
    settings["rounds"].append(again)
    run = Run(settings)
    for name in ("prompts-1", "prompts-2"):
        run.build(name)
    first, second = (
        {row.id for row in run.rows(name, CandidatePrompt)} for name in ("prompts-1", "prompts-2")
    )
    assert (len(first), len(second)) == (12, 3)
    assert not first & second
    quarantine = run.store.folder(run.steps["prompts-2"].key) / "quarantine.jsonl"
    reasons = Counter(row.reason for row in read_rows(quarantine, Quarantined))
    assert reasons == {Reason.used_by_earlier_round: 12}


def test_the_doctor_forecasts_the_trainings_whose_rows_exist(settings):
    pairs = {"sources": [{"name": "practice", "part": "round-2", "rows": 4}]}
    settings["rounds"].append({"data": pairs})
    run = Run(settings)
    known = PreparedSet(
        name="pairs-2",
        key=run.steps["pairs-2"].key,
        whole=256,
        prompt=200,
        dropped=(),
        report=PreparationReport(sources=()),
        originals={},
    )
    found = list_trainings(chain(run.config), [known], compose=Merge())
    assert [training.name for training in found] == ["dpo-2"]


def test_rounds_on_own_answers_need_an_evaluation_set(settings):
    settings["evaluation"]["data"] = None
    with pytest.raises(ValueError, match=r"add evaluation\.data"):
        PipelineConfig.model_validate(settings)


def test_prompts_that_are_all_used_are_an_error(settings):
    settings["rounds"].append(settings["rounds"][0])
    with pytest.raises(DataError, match=r"prompts-2: no prompts are left of 12 rows.*used_by_ear"):
        Run(settings).build("prompts-2")


def test_answers_that_are_all_equal_are_an_error(settings):
    settings["rounds"][0]["data"]["label"] = {
        "name": "verifier",
        "check": {"name": "pattern", "pattern": "(?s).*"},
    }
    with pytest.raises(DataError, match=r"pairs-1: no pair came out of 72 answers: .*no_contrast"):
        Run(settings).build("pairs-1")


def test_prompts_without_verifiers_of_their_own_are_refused_before_anything_is_answered(
    settings, tmp_path
):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Why?"}\n')
    own = settings["rounds"][0]["data"]
    own["prompts"] = [{"name": "file", "path": str(tmp_path / "asked.jsonl")}]
    own["label"] = {"name": "verifier"}
    with pytest.raises(ConfigError, match=r"`own`, and none of 1 prompts has a verifier"):
        Run(settings).build("prompts-1")


def judge(**options):
    return {"name": "judge", "url": "http://127.0.0.1:1/v1", "model": "m", **options}


def test_a_budget_that_is_too_small_is_refused_before_anything_is_answered(settings):
    settings["rounds"][0]["data"]["label"] = judge(max_tokens=1000)
    with pytest.raises(ConfigError, match=r"120 calls of the judge may cost .* draw fewer samples"):
        Run(settings).build("prompts-1")


@pytest.mark.parametrize("labels", [1, 2])
def test_a_reward_model_with_two_labels_is_refused_before_anything_is_answered(
    settings, tmp_path, chatml_tokenizer, labels
):
    write_reward_model(tmp_path / "reward", chatml_tokenizer, labels=labels)
    model = {"name": "folder", "path": str(tmp_path / "reward")}
    settings["rounds"][0]["data"]["label"] = {"name": "reward_model", "model": model}
    if labels == 1:
        Run(settings).build("prompts-1")
        return
    with pytest.raises(ModelError, match="has 2 labels; a reward model has one"):
        Run(settings).build("prompts-1")


def test_a_language_model_is_no_reward_model(settings, tmp_path):
    model = {"name": "folder", "path": str(tmp_path / "model")}
    settings["rounds"][0]["data"]["label"] = {"name": "reward_model", "model": model}
    with pytest.raises(ModelError, match="is a Qwen2ForCausalLM; a reward model is a sequence"):
        Run(settings).build("prompts-1")


PEOPLE = [("What is it?", "a long answer", "no"), ("And now?", "yes", "longer, and wrong")]


@pytest.fixture
def people(tmp_path):
    """A file of pairs of which a judge that likes length agrees with one half."""
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in PEOPLE]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"sources": [{"name": "file", "path": str(path)}]}


def test_a_judge_is_measured_on_people_first_and_once_for_all_rounds(settings, people):
    with judging() as server:
        settings["rounds"][0]["data"]["label"] = judge(max_tokens=10**6, people=people) | {
            "url": server.url
        }
        run = Run(settings)
        assert list(run.steps).index("agreement-1") < list(run.steps).index("answers-1")
        record = run.build("agreement-1")
        assert record.metrics == {"agreement": 0.5, "pairs": 2, "undecided": 0}
        assert record.notes == ("the judge agrees with people on 1 of 2 pairs (50%), 0 undecided",)
        assert len(server.seen) == 4
        again = json.loads(json.dumps(settings["rounds"][0]))
        again["data"]["label"]["max_tokens"] = 10**5
        settings["rounds"].append(again)
        assert Run(settings).steps["agreement-2"].key == record.key


def test_a_judge_that_agrees_too_seldom_stops_the_run_before_anything_is_answered(settings, people):
    with judging() as server:
        label = judge(max_tokens=10**6, people={**people, "min_agreement": 0.7})
        settings["rounds"][0]["data"]["label"] = label | {"url": server.url}
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"1 of 2 pairs \(50%\).*min_agreement is 70%"):
                Run(settings).build("agreement-1")
        assert len(server.seen) == 4, "no call is repeated"


def test_a_function_that_does_not_exist_is_an_error_before_anything_is_answered(settings):
    settings["rounds"][0]["data"]["label"] = {
        "name": "verifier",
        "check": {"name": "function", "entry": "no_such_module:score"},
    }
    run = Run(settings)
    with pytest.raises(ConfigError, match="'function' cannot be used: ModuleNotFoundError"):
        run.build("prompts-1")
