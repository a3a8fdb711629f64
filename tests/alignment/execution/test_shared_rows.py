"""Scores, answers and labels on two devices: those of one, each once, also after a kill.

The devices are processes on this CPU.
"""

import json
import signal
import time

import pytest

from alignment.answers.answer import Answer
from alignment.candidates.shared import shared_journal
from alignment.config.pipeline import PipelineConfig
from alignment.execution.run_step import run_step
from alignment.pipeline.chain_builder import chain
from alignment.store.journal import Journal
from alignment.store.store import Store
from tests.alignment.conftest import Finished
from tests.alignment.elsewhere import Elsewhere, children, finish
from tests.own_answers import own_settings, write_reward_model

EACH = ("id", "prompt_id", "sample")


def rows(step, store, name="rows.jsonl"):
    """The rows of an artifact by what distinguishes them."""
    lines = (store.folder(step.key) / name).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {tuple(row.get(part) for part in EACH): row for row in found}, len(found)


def assert_equal(store, shared, name="rows.jsonl"):
    """The same rows, each once; numbers within the rounding of another batch."""
    (one, count), (two, lines) = (rows(shared.step, place, name) for place in (store, shared.store))
    assert lines == count == len(two)
    for key, row in one.items():
        numbers = [field for field in row if isinstance(row[field], float)]
        assert {field: two[key][field] for field in row if field not in numbers} == {
            field: row[field] for field in row if field not in numbers
        }
        found = [two[key][field] for field in numbers]
        assert found == pytest.approx([row[field] for field in numbers], rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def answered(tiny_model_folder, chatml_tokenizer, tmp_path_factory):
    """A round on own answers up to the labels of a reward model, on one device."""
    folder = tmp_path_factory.mktemp("answered")
    write_reward_model(folder / "reward", chatml_tokenizer)
    settings = own_settings(tiny_model_folder, folder)
    data = settings["rounds"][0]["data"]
    data["prompts"][0]["rows"] = 40
    data["label"] = {
        "name": "reward_model",
        "model": {"name": "folder", "path": str(folder / "reward")},
    }
    config = PipelineConfig.model_validate(settings)
    steps, store = chain(config), Store(root=folder / "store")
    records = {}
    for step in steps.steps():
        records[step.name] = run_step(store, step)
        if step.stage == "rewards":
            break
    return Finished(config=config, chain=steps, store=store, records=records)


@pytest.mark.slow
def test_an_evaluation_on_two_devices_has_the_scores_and_replies_of_one(finished, tmp_path):
    name = next(name for name in finished.records if name.startswith("evaluate-round"))
    shared = Elsewhere(finished, name, tmp_path)
    code, words = shared.run(devices=2)
    assert code == 0, words
    for file in ("pairs.jsonl", "generations.jsonl"):
        assert_equal(finished.store, shared, file)
        one, two = (rows(shared.step, store, file)[0] for store in (finished.store, shared.store))
        assert list(two) == list(one), "in the same order"
    assert json.loads(words)["metrics"]["pass_rate"] == finished.records[name].metrics["pass_rate"]


@pytest.mark.slow
def test_answers_killed_on_two_devices_go_on_on_one_and_each_is_there_once(answered, tmp_path):
    name = next(name for name in answered.records if name.startswith("answers"))
    shared = Elsewhere(answered, name, tmp_path)
    work = shared.store.root / "work" / shared.step.key
    with shared.running(devices=2) as process:
        while not all(
            path.exists() for path in (work / "out/rows.jsonl", work / "parts/1-rows.jsonl")
        ):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.002)
        (child,) = children(process)
        ranks = [rank for rank in child.children() if "spawn_main" in " ".join(rank.cmdline())]
        ranks[1].send_signal(signal.SIGKILL)
        code, words = finish(process)
    assert code == 75, words
    left = [len(path.read_bytes().splitlines()) for path in work.glob("parts/*")]
    assert sum(left), "the killed device had written some"
    assert shared.run()[0] == 0
    assert_equal(answered.store, shared)


@pytest.mark.slow
def test_labels_of_a_reward_model_on_two_devices_are_those_of_one(answered, tmp_path):
    name = next(record.name for record in answered.records.values() if record.stage == "rewards")
    shared = Elsewhere(answered, name, tmp_path)
    code, words = shared.run(devices=2)
    assert code == 0, words
    assert_equal(answered.store, shared)


def answer(sample):
    return Answer(
        prompt_id="p",
        sample=sample,
        text="",
        answer="",
        tokens=0,
        logprob=0.0,
        stopped=True,
        seed=0,
    )


def test_what_a_killed_device_has_written_is_put_into_the_whole_once(workspace):
    """The kill may come after its rows were copied and before its file was removed."""
    workspace.parts.mkdir()
    for name, samples in (("out/rows.jsonl", (0, 2)), ("parts/1-rows.jsonl", (2, 1))):
        journal = Journal(workspace.folder / name, Answer)
        for sample in samples:
            journal.append(answer(sample))
    with shared_journal(workspace, "rows.jsonl", Answer) as journal:
        assert [row.sample for row in journal.rows] == [0, 2, 1]
        journal.append(answer(3))
    assert [row.sample for row in Journal(workspace.out / "rows.jsonl", Answer).rows] == [
        0,
        2,
        1,
        3,
    ]
    assert not list(workspace.parts.iterdir())
