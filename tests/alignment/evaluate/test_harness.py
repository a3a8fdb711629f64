"""lm-eval's own tasks are not run here: each test writes a small task with its data."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from alignment.errors import ConfigError
from alignment.evaluate.harness import run_tasks
from alignment.evaluate.settings import EvaluationConfig, HarnessConfig
from alignment.evaluate.tasks import digest_of_tasks
from alignment.models.chat_template import render
from alignment.records.text import Message
from alignment.scoring.logprobs import Completion, reply_logprobs
from alignment.store.progress import Progress

pytest.importorskip("lm_eval", reason="the extra 'lm-eval' is not installed")

CAPITALS = (("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Peru", "Lima"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def tasks(tmp_path):
    """A folder with two tasks, one of choices and one of replies: its config, and its paths."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "capitals.jsonl"
    cities = [city for _, city in CAPITALS]
    rows = [
        {"country": land, "answer": n, "choices": cities} for n, (land, _) in enumerate(CAPITALS)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "What is the capital of {{country}}?",
        "metadata": {"version": 1.0},
    }
    choices = {
        **shared,
        "task": "capitals",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    replies = {
        **shared,
        "task": "capitals_said",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": [], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choices, replies):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))
    return SimpleNamespace(folder=folder, choices=choices, replies=replies, data=data)


def configured(tasks, *names, **settings):
    harness = HarnessConfig(tasks=names or ("capitals",), include=tasks.folder, **settings)
    return EvaluationConfig(dtype="float32", batch=4, harness=harness)


def run(config, model, tmp_path):
    return run_tasks(config, model=model, kept=tmp_path / "kept", progress=Progress())


def test_a_task_is_run_once_and_then_read_from_what_was_kept(tasks, open_tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    model = open_tiny()
    rows = run(configured(tasks, "capitals", "capitals_said"), model, tmp_path)
    assert [(row.task_type, row.metric) for row in rows] == [
        *[("capitals", "acc")] * 4,
        *[("capitals_said", "exact_match")] * 4,
    ]
    assert {row.score for row in rows} <= {0.0, 1.0}
    assert len({row.id for row in rows}) == 8
    assert caplog.text.count(": running") == 2
    assert (
        run(configured(tasks, "capitals_said", "capitals"), model, tmp_path) == rows[4:] + rows[:4]
    )
    assert caplog.text.count(": running") == 2
    assert caplog.text.count(": kept from an earlier run") == 2


def test_choices_are_scored_under_the_models_own_chat_template(tasks, open_tiny, tmp_path):
    """The likeliest city after the template's generation prompt, by the model's own logits."""
    model = open_tiny()
    rows = run(configured(tasks), model, tmp_path)
    for row, (land, _), right in zip(rows, CAPITALS, range(4), strict=True):
        question = Message(role="user", content=f"What is the capital of {land}?")
        prompt = render(model.tokenizer, [question], add_generation_prompt=True)
        cities = [model.tokenizer(city, add_special_tokens=False).input_ids for _, city in CAPITALS]
        completions = [Completion(tuple(prompt), tuple(city)) for city in cities]
        scores = [float(each.sum()) for each in reply_logprobs(model.model, completions, batch=4)]
        assert row.score == (max(range(4), key=scores.__getitem__) == right)


def test_another_model_limit_version_or_text_of_the_data_is_another_result(
    tasks, open_tiny, tiny_ref, make_adapter, tmp_path, caplog
):
    caplog.set_level("INFO")
    model = open_tiny()
    run(configured(tasks), model, tmp_path)
    first = digest_of_tasks(configured(tasks).harness)
    run(configured(tasks), open_tiny(tiny_ref.push(make_adapter("a", seed=1))), tmp_path)
    assert len(run(configured(tasks, limit=2), model, tmp_path)) == 2
    assert caplog.text.count(": running") == 3
    newer = {**tasks.choices, "metadata": {"version": 2.0}}
    (tasks.folder / "capitals.yaml").write_text(json.dumps(newer))
    second = digest_of_tasks(configured(tasks).harness)
    tasks.data.write_text(tasks.data.read_text().replace("France", "Spain"))
    third = digest_of_tasks(configured(tasks).harness)
    assert len({first, second, third}) == 3


def test_files_that_a_task_includes_count_for_its_results(tasks):
    """One file includes another elsewhere, which includes a third and takes a function."""
    shared = tasks.folder.parent / "shared"
    shared.mkdir()
    (shared / "code.py").write_text("def text(row):\n    return row['country']\n")
    question = {**tasks.choices, "doc_to_text": "City of {{country}}?"}
    own = question.pop("task")
    (shared / "last.yaml").write_text(json.dumps(question))
    (shared / "first.yaml").write_text("include: [last.yaml]\ndoc_to_text: !function code.text\n")
    (tasks.folder / "capitals.yaml").write_text(f"task: {own}\ninclude: ../shared/first.yaml\n")
    digests = [digest_of_tasks(configured(tasks).harness)]
    for name, old, new in (
        ("last.yaml", "mean", "median"),
        ("code.py", "country", "answer"),
        ("first.yaml", "code.text", "code.texts"),
    ):
        path = shared / name
        path.write_text(path.read_text().replace(old, new))
        digests.append(digest_of_tasks(configured(tasks).harness))
    assert len(set(digests)) == 4


def test_a_damaged_result_is_measured_again(tasks, open_tiny, tmp_path, caplog):
    model = open_tiny()
    rows = run(configured(tasks), model, tmp_path)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_text(kept.read_text().replace("acc", "bcc"))
    assert run(configured(tasks), model, tmp_path) == rows
    assert f"{kept} is damaged" in caplog.text


def test_a_model_folders_generation_settings_do_not_reach_a_task(tasks, open_tiny, tmp_path):
    model = open_tiny()
    plain = run(configured(tasks, "capitals_said"), model, tmp_path / "a")
    model.model.generation_config.repetition_penalty = 50.0
    assert run(configured(tasks, "capitals_said"), model, tmp_path / "b") == plain
    assert model.model.generation_config.repetition_penalty == 50.0


def test_a_folder_of_tasks_that_is_not_there_is_named(tmp_path):
    harness = HarnessConfig(tasks=("capitals",), include=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"evaluation\.harness\.include: .*none is not a folder"):
        digest_of_tasks(harness)


@pytest.mark.slow
def test_a_task_that_does_not_exist_is_named_before_any_work(tasks):
    """Slow: lm-eval reads all of its own tasks to list their names."""
    with pytest.raises(ConfigError, match=r"knows no task 'hellaswagg'.* Did you mean hellaswag"):
        digest_of_tasks(configured(tasks, "hellaswagg").harness)
    assert digest_of_tasks(configured(tasks, "mmlu", "capitals").harness)


@pytest.mark.parametrize("command", ["plan", "doctor", "run"])
def test_a_task_that_does_not_exist_is_refused_before_any_work(
    command, tiny_settings, write_config, tmp_path
):
    tiny_settings["evaluation"]["harness"] = {"tasks": ["arc_eazy"]}
    words = [sys.executable, "-c", "from flows.cli import main; main()"]
    config = str(write_config(tiny_settings))
    done = subprocess.run(
        [*words, command, config], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "knows no task 'arc_eazy'. Did you mean arc_easy, " in done.stderr
    assert not (tmp_path / "store" / "objects").exists()
