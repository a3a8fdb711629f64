"""A round on own answers on the tiny model: its steps, their files, and what a kill leaves."""

import json
from collections import Counter

import pytest

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel, CandidatePrompt, Fate
from alignment.compose.settings import Merge
from alignment.config.pipeline import PipelineConfig
from alignment.data.build.report import PreparationReport
from alignment.data.row import Reason
from alignment.doctor.forecast.trainings import list_trainings
from alignment.doctor.inputs import PreparedSet
from alignment.errors import ConfigError, DataError
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps.own import rows_in
from alignment.records.refs import DataRef
from alignment.records.text import PreferencePair, Quarantined
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.faults.failpoints import Broken, arm
from tests.own_answers import own_settings


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
    by_text = {(fate.text.strip(), fate.fate) for fate in used}
    for pair in pairs:
        assert (pair.chosen[0].content.strip(), "chosen") in by_text
        assert (pair.rejected[0].content.strip(), "rejected") in by_text
        assert set(pair.chosen[0].content) & set("abcdef")
        assert not set(pair.rejected[0].content) & set("abcdef")


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


def test_a_function_that_does_not_exist_is_an_error_before_anything_is_answered(settings):
    settings["rounds"][0]["data"]["label"] = {
        "name": "verifier",
        "check": {"name": "function", "entry": "no_such_module:score"},
    }
    run = Run(settings)
    with pytest.raises(ConfigError, match="'function' cannot be used: ModuleNotFoundError"):
        run.build("prompts-1")
