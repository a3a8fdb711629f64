"""Batches of prompts in an inbox, and files of prompts that somebody names: one round, once."""

import json

import pytest

from alignment.errors import ConfigError, DataError
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.inbox import why_unreadable
from alignment.rounds.intake import Wanted
from tests.alignment.rounds.played import EveryRoundIsKept, changed, drop


@pytest.fixture
def history(tmp_path):
    """A started line whose gate keeps every round, and whose champion answers prompts."""
    made = EveryRoundIsKept(0, tmp_path)
    made.config = changed(made.config, inbox={"promotion": {"name": "gate"}})
    return made


def prompts(name, count=20):
    return "".join(json.dumps({"prompt": f"{name} {number}"}) + "\n" for number in range(count))


def round_(history, config=None, **wanted):
    built = []

    def build(step):
        built.append(step.stage)
        history.build(step)

    hooks = Hooks(run_chain=lambda: None, build=build, inspect=why_unreadable)
    done = RoundDriver(config or history.config, history.line, hooks, Wanted(**wanted)).run()
    return done, built


def used(history):
    return [[batch.file for batch in o.batches] for o, _ in history.line.state().history]


def test_a_round_answers_the_prompts_that_have_arrived_and_none_twice(history):
    drop(history, "monday.prompts.jsonl", text=prompts("monday"))
    drop(history, "again.prompts.jsonl", text=prompts("monday"))
    done, built = round_(history)
    assert done.outcome == "kept"
    own = ["intake-prompts", "answers", "labels", "own-pairs", "dpo"]
    assert [stage for stage in built if stage in own][-5:] == own
    assert used(history) == [["again.prompts.jsonl"]], "the same content is the same batch"
    done, _ = round_(history)
    assert done.outcome == "no new data"
    assert done.message == (
        "no new data: 0 new pairs in 0 batches, 16 are needed; "
        "0 new prompts in 0 batches, 16 are needed"
    )


def test_pairs_come_before_prompts_unless_only_answers_are_wanted(history):
    drop(history, "a.prompts.jsonl", text=prompts("a"))
    drop(history, "b.prompts.jsonl", text=prompts("b"))
    drop(history, "c.jsonl")
    round_(history)
    drop(history, "d.jsonl")
    round_(history, answers=True)
    done = round_(history)[0]
    assert done.outcome == "kept", done
    both = ["a.prompts.jsonl", "b.prompts.jsonl"]
    assert list(map(sorted, used(history))) == [["c.jsonl"], both, ["d.jsonl"]]


def test_too_few_prompts_wait_but_a_named_file_does_not(history, tmp_path):
    drop(history, "few.prompts.jsonl", text=prompts("few", 3))
    assert "3 new prompts in 1 batches, 16 are needed" in round_(history)[0].message
    named = tmp_path / "questions.jsonl"
    named.write_text(prompts("named", 2))
    done, _ = round_(history, files=(str(named),))
    assert done.outcome == "kept"
    assert used(history) == [["questions.jsonl"]]
    done, built = round_(history, files=(str(named),))
    assert done.message == "no new data: questions.jsonl: used by round 1: kept"
    assert "dpo" not in built


def test_a_named_file_waits_for_the_round_that_is_open(history, tmp_path):
    drop(history, "monday.jsonl")
    history.failing = True
    with pytest.raises(Exception, match="NaN"):
        round_(history)
    history.failing = False
    named = tmp_path / "questions.jsonl"
    named.write_text(prompts("named"))
    done, _ = round_(history, files=(str(named),))
    assert done.message.endswith("questions.jsonl was not used; run the command again")
    round_(history, files=(str(named),))
    assert used(history) == [["monday.jsonl"], ["questions.jsonl"]]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.jsonl", None, "missing.jsonl"),
        ("cut.jsonl", '{"prompt": "a"}\n{"prom', "truncated"),
        ("notes.txt", "hello", "does not end like a data file"),
    ],
)
def test_a_named_file_that_cannot_be_one_is_an_error(history, tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        round_(history, files=(str(tmp_path / name),))


def test_without_settings_for_answers_prompts_are_left_and_named(history):
    config = changed(history.config, inbox={"answers": None})
    drop(history, "monday.prompts.jsonl", text=prompts("monday"))
    done, _ = round_(history, config)
    assert done.outcome == "no new data"
    assert "it holds prompts; to use them, add inbox.answers" in str(done.notes[0])
    with pytest.raises(ConfigError, match=r"add inbox\.answers"):
        round_(history, config, answers=True)
    assert round_(history)[0].outcome == "kept", "nothing was spent"


def test_prompts_under_the_name_of_pairs_are_used_once_they_are_renamed(history):
    file = drop(history, "monday.jsonl", text=prompts("monday"))
    done, _ = round_(history)
    assert done.refused == 1
    file.rename(file.with_name("monday.prompts.jsonl"))
    assert round_(history)[0].outcome == "kept"
    assert used(history) == [["monday.prompts.jsonl"]]
