"""Rounds on own answers from a shell, on a tiny model and a real server, with each label."""

import json
import re

import pytest

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel
from alignment.rounds.line import RoundLine
from alignment.store.jsonl import read_rows
from alignment.store.store import Store
from tests.inbox import drop, line_settings, rows
from tests.judge import judging
from tests.own_answers import DRAWING, LETTERS, own_settings, write_reward_model


@pytest.fixture
def sft_dpo(server):
    """Run the command against a shared real server, so that no call has to start one."""

    def run(*words, code=0):
        main = "from flows.cli import main; main()"
        done = server.run("-c", main, *map(str, words), seconds=900)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def label(request, tmp_path, chatml_tokenizer):
    """The settings of each kind of label."""
    with judging() as judge:
        write_reward_model(tmp_path / "reward", chatml_tokenizer)
        yield {
            "verifier": LETTERS,
            "judge": judge_label(judge),
            "reward_model": {
                "name": "reward_model",
                "model": {"name": "folder", "path": str(tmp_path / "reward")},
            },
        }[request.param]


def rows_of(store, stage, kind):
    (key,) = [record.key for record in store.records() if record.stage == stage]
    return list(read_rows(store.folder(key) / "rows.jsonl", kind))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["verifier", "judge", "reward_model"], indirect=True)
def test_a_run_and_a_round_train_on_the_models_own_answers(
    sft_dpo, label, tiny_model_folder, tmp_path, write_config
):
    """A configured round, then one on prompts from the inbox, with the same label."""
    settings = own_settings(tiny_model_folder, tmp_path)
    settings["rounds"][0]["data"]["label"] = label
    settings["inbox"] = {
        "path": str(tmp_path / "inbox"),
        "answers": {**DRAWING, "label": label, "min_new_prompts": 5},
    }
    config = write_config(settings)
    output = sft_dpo("run", config)
    assert "round 1" in output
    store = Store(root=tmp_path / "store")
    stage = "rewards" if label["name"] == "reward_model" else "labels"
    answers, labels = rows_of(store, "answers", Answer), rows_of(store, stage, AnswerLabel)
    assert len({(row.prompt_id, row.sample) for row in answers}) == len(answers) == 72
    assert len(labels) == 72
    assert len({row.score for row in labels}) > 1
    page = next((store.root / "reports").glob("*.html")).read_text()
    assert "pairs-1" in page

    drop(tmp_path / "inbox" / "a.prompts.jsonl", [{"prompt": f"Ask {n}"} for n in range(6)])
    output = sft_dpo("round", config)
    assert "round 2 cannot be judged" in output, "it has too few rows to be judged on"
    (opened, _), *more = RoundLine(store=store).state().history
    assert not more
    assert [(batch.file, batch.kind) for batch in opened.batches] == [
        ("a.prompts.jsonl", "prompts")
    ]
    assert sft_dpo("round", config).startswith("no new data: ")
    shown = sft_dpo("show", "--store", store.root)
    for name in ("prompts-2", "answers-2", "labels-2", "pairs-2"):
        assert name in shown


@pytest.mark.slow
def test_an_overloaded_judge_ends_a_run_with_75_and_no_call_is_repeated(
    sft_dpo, tiny_model_folder, tmp_path, write_config
):
    settings = own_settings(tiny_model_folder, tmp_path)
    with judging() as judge:
        settings["rounds"][0]["data"]["label"] = judge_label(judge, retries=0)
        config = write_config(settings)
        judge.failures = [429]
        said = sft_dpo("run", config, code=75)
        assert "failed 1 times, at last with status 429; the same command goes on" in said
        assert "Traceback" not in said
        sft_dpo("run", config)
        asked = [json.dumps(body) for body, _ in judge.seen]
        assert len(set(asked)) == len(asked) - 1, "only the call that failed was made again"


def nonsense(own, judge, *_):
    own["label"], judge.replies = judge_label(judge), ["I cannot say"] * 20


def small_budget(own, judge, *_):
    own["label"] = judge_label(judge, max_tokens=1000)


def no_judge(own, judge, *_):
    own["label"] = judge_label(judge, url="http://127.0.0.1:1/v1", backoff=0.1, retries=2)


def two_labels(own, _judge, folder, tokenizer):
    write_reward_model(folder / "reward", tokenizer, labels=2)
    model = {"name": "folder", "path": str(folder / "reward")}
    own["label"] = {"name": "reward_model", "model": model}


def no_prompts(own, _judge, folder, _tokenizer):
    (folder / "asked.jsonl").write_text("")
    own["prompts"] = [{"name": "file", "path": str(folder / "asked.jsonl")}]


def judge_label(judge, **options):
    return {"name": "judge", "url": judge.url, "model": "m", "max_tokens": 10**6, **options}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "said", "answered"),
    [
        (nonsense, 2, "in 20 calls the judge never replied with A, B or C: 'I cannot say'", True),
        (no_judge, 75, r"failed 3 times, at last with ConnectError.* the same command goes", True),
        (small_budget, 2, "120 calls of the judge may cost .* raise it, or draw fewer", False),
        (two_labels, 2, "has 2 labels; a reward model has one", False),
        (no_prompts, 2, r"asked.jsonl is empty: it has no rows", False),
    ],
)
def test_bad_input_for_a_label_is_a_clear_error(
    sft_dpo, tiny_model_folder, chatml_tokenizer, tmp_path, write_config,
    change, code, said, answered,
):  # fmt: skip
    """What needs no answers to be seen is refused before any is written."""
    settings = own_settings(tiny_model_folder, tmp_path)
    with judging() as judge:
        change(settings["rounds"][0]["data"], judge, tmp_path, chatml_tokenizer)
        output = sft_dpo("run", write_config(settings), code=code)
    assert re.search(said, output), output
    assert "Traceback" not in output
    written = list((tmp_path / "store" / "objects").glob("answers-*"))
    assert bool(written) == answered


@pytest.mark.slow
def test_a_round_on_a_file_of_prompts(sft_dpo, tiny_model_folder, tmp_path, write_config):
    settings = own_settings(tiny_model_folder, tmp_path)
    line = line_settings(settings, tmp_path)
    line["inbox"]["answers"] = {**DRAWING, "label": LETTERS}
    line["gate"] = {"name": "plain"}
    config, questions = write_config(line), tmp_path / "questions.jsonl"
    asked = [{"prompt": row["prompt"]} for row in rows(500, 16)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = ("round", config, "--prompts", questions, "--answers")
    assert "round 1 " in sft_dpo(*words)
    assert "questions.jsonl: used by round 1: " in sft_dpo(*words)
    shown = sft_dpo("show", "round 1", "--lineage", "--store", tmp_path / "store")
    assert "rows of questions.jsonl" in shown
    assert "prompts-1" in shown
