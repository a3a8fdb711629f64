"""Commands that look, from another terminal or at a machine: `status`, `env`, `show ROW_ID`."""

import json
import re
import time
from datetime import datetime

import pytest
from typer.testing import CliRunner

from alignment.config.file import load
from alignment.errors import UsageError
from alignment.execution.run_step import run_step
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.remaining import remaining
from alignment.pipeline.verdicts import each_step
from alignment.rounds.ledger import Champion, Delivery
from alignment.rounds.line import RoundLine
from alignment.rounds.references import find_model, find_one
from alignment.store.activity import activities, announced, note_steps
from alignment.store.checksum import file_sha256
from alignment.store.locks import holder_of
from alignment.store.progress import Mark, Progress
from alignment.store.runs import RunEntry, note_run
from alignment.store.store import Store
from flows.cli import app
from flows.printing import duration
from tests.alignment.artifacts import put
from tests.faults.simulate import MODEL
from tests.inbox import drop, line_settings, rows


def sft_dpo(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_status_names_step_progress_process_and_log(tmp_path):
    store = Store(root=tmp_path / "store")
    with store.lock("dpo-1", purpose="dpo-2 of store"):
        progress = Progress()
        with progress.recorded(store.workspace("dpo-1").progress):
            progress.mark("training", 12, 30, loss=0.5)
            running = sft_dpo("status", "--store", store.root)
            (listed,) = json.loads(sft_dpo("status", "--store", store.root, "--json"))
    assert running.startswith("running: dpo-2 of store: training 12/30, loss 0.5, process ")
    assert running.splitlines()[1] == f"  log: {store.root}/logs/dpo-1.log"
    assert (listed["running"], listed["mark"]["done"]) == (True, 12)
    ended = sft_dpo("status", "--store", store.root)
    assert ended.startswith("interrupted: dpo-2 of store: training 12/30, loss 0.5; the same ")
    (tmp_path / "other").mkdir()
    assert "nothing is being built" in sft_dpo("status", "--store", tmp_path / "other")


def test_status_says_how_long_a_training_still_takes(tmp_path):
    """Two seconds a step; steps of a process that was killed an hour ago do not count."""
    store, now = Store(root=tmp_path / "store"), time.time()
    with store.lock("dpo-1", purpose="dpo-1 of store"):
        lock = store.root / "locks" / "dpo-1.lock"
        began = datetime.fromtimestamp(now - 60).astimezone()
        holder, _ = holder_of(lock)
        assert holder
        lock.write_text(holder.model_copy(update={"since": began.isoformat()}).model_dump_json())
        killed = [(n, now - 3600 + n) for n in range(1, 11)]
        marks = killed + [(n, now - 20 + 2 * (n - 10)) for n in range(10, 21)]
        text = "".join(
            Mark(
                phase="training", done=n, total=50, time=at, numbers={"num_tokens": 100.0 * n}
            ).model_dump_json()
            + "\n"
            for n, at in marks
        )
        store.workspace("dpo-1").progress.write_text(text)
        said = sft_dpo("status", "--store", store.root)
        (listed,) = json.loads(sft_dpo("status", "--store", store.root, "--json"))
    assert "training 20/50, process " in said
    assert re.search(r", for 6\d s; about (5\d|60) s of training left, 50 tokens/s", said)
    assert listed["left"] == pytest.approx(60, abs=5)


def test_status_says_how_long_the_whole_run_still_takes(tiny_settings, write_config):
    """By the last of each kind, which took a second; by the doctor's forecast; or unknown."""
    config = load(write_config(tiny_settings), [])
    store = Store(root=config.store)
    put(store, "evaluate-earlier")
    put(store, "pairs-earlier")
    steps = list(chain(config).steps())
    known = sum(step.stage in ("evaluate", "pairs") for step in steps)
    names = [step.name for step in steps if step.stage not in ("evaluate", "pairs")]

    def left():
        return sft_dpo("status", "--store", store.root).splitlines()[1]

    with announced(store, "sft-dpo run tiny.yaml"):
        todo = each_step(config, store)
        put(store, next(todo).key)
        about = f"  time left: about {known} s for {len(steps) - 1} steps, with the present one; "
        assert left() == f"{about}unknown, not counted: {', '.join(names[1:])}"
        for step in steps:
            if step.stage == "dpo":
                store.note_forecast(step.key, 1800.0, "a100-40gb")
        assert f"about {duration(known + 3600)} for" in left()
        assert "; dpo-1, dpo-2: as the doctor forecast for a100-40gb; unknown" in left()
    assert not list(store.root.glob("locks/command-*"))


def test_steps_of_a_kind_that_runs_for_the_first_time_are_judged_by_its_pace(
    tiny_settings, write_config
):
    """Two seconds a step and 30 steps to go; the next round has as many rows in all as this one."""
    config = load(write_config(tiny_settings), [])
    store, now = Store(root=config.store), time.time()
    first, *_, second = (step for step in chain(config).steps() if step.stage == "dpo")
    with announced(store, "a run"), store.lock(first.key):
        note_steps(store, (first, second))
        marks = (Mark(phase="training", done=n, total=50, time=now - 40 + 2 * n) for n in range(21))
        store.workspace(first.key).progress.write_text(
            "".join(f"{mark.model_dump_json()}\n" for mark in marks)
        )
        lock = store.root / "locks" / f"{first.key}.lock"
        holder, _ = holder_of(lock)
        since = datetime.fromtimestamp(now - 60).astimezone().isoformat()
        assert holder
        lock.write_text(holder.model_copy(update={"since": since}).model_dump_json())
        found = remaining(store, activities(store))
    assert found
    assert found.seconds == pytest.approx(60 + (60 + 60), abs=6)
    assert (found.steps, found.unknown) == (2, ())


def test_status_knows_a_command_that_has_no_step_yet(tmp_path):
    store = Store(root=tmp_path / "store")
    (store.workspace("sft-1").checkpoints / "1").mkdir(parents=True)
    with announced(store, "sft-dpo run tiny.yaml"):
        starting = sft_dpo("status", "--store", store.root)
        listed = json.loads(sft_dpo("status", "--store", store.root, "--json"))
    first, second = starting.splitlines()[:2]
    assert first.startswith("running: sft-dpo run tiny.yaml, process ")
    assert first.endswith(", starting or between two steps")
    assert second.startswith("not running yet: sft-1")
    assert [one["key"] for one in listed] == ["sft-1", ""]
    assert list(store.root.glob("locks/command-*")) == []
    ended = sft_dpo("status", "--store", store.root)
    assert ended.startswith("interrupted: sft-1")


def test_inbox_believes_the_ledger_and_not_the_clock(tiny_settings, write_config, tmp_path):
    config = write_config(line_settings(tiny_settings, tmp_path))
    used = drop(tmp_path / "inbox" / "used.jsonl", rows(0, 20), age=0)
    drop(tmp_path / "inbox" / "new.jsonl", rows(40, 20), age=0)
    refused = drop(tmp_path / "inbox" / "refused.jsonl", [{"x": 1}], age=0)
    line = RoundLine(store=Store(root=tmp_path / "store"), name="main")
    line.start(Champion(model="merge-0", evaluation="evaluate-0", label="sft"), rounds=0)
    batches = [_delivery(path) for path in (used, refused)]
    opened = line.open((batches[0],))
    why = "columns x match no known format. Name it. " + "Known formats: many more. " * 30
    assert opened.open
    model = Champion(model="merge-1", evaluation="evaluate-1", label="round 1")
    line.close(opened.open.number, model, outcome="kept", why="")
    line.refuse(batches[1], why)
    said = sft_dpo("inbox", config).splitlines()
    assert said[0].endswith("new.jsonl: it changed 0 s ago")
    assert "refused.jsonl: refused: columns x match no known format. Name it." in said[1]
    assert len(said[1]) < 400
    assert said[2].endswith("used.jsonl: used by round 1: kept")


def test_a_round_is_listed_under_its_run_and_found_by_it(tmp_path):
    store = Store(root=tmp_path / "store")
    put(store, "dpo-1", output={"steps": 1})
    for key in ("merge-0", "merge-1"):
        put(store, key, output=MODEL, parents={"adapter": f"dpo-{key[-1]}"})
    assert find_one(store, "dpo-1").key == "dpo-1"
    assert find_model(store, "dpo-1").key == "merge-1", "what to chat with, or to promote"
    with pytest.raises(UsageError, match=r"no champion yet\. Run .*: `sft-dpo round CONFIG`"):
        RoundLine(store=store, name="mine").earlier_champion()
    note_run(store, run_entry("full", {"inbox": {"line": "mine"}}))
    line = RoundLine(store=store, name="mine")
    line.start(Champion(model="merge-0", evaluation="evaluate-0", label="sft"), rounds=1)
    line.open((Delivery(digest="0" * 64, key="batch-0", file="monday.jsonl"),))
    with pytest.raises(UsageError, match=r"round 2 of full has not .*: sft-dpo round full.yaml$"):
        find_one(store, "full/round-2")
    unfinished = "  full/round-2  not finished; to go on: sft-dpo round full.yaml\n"
    assert unfinished in sft_dpo("runs", "--store", store.root)
    model = Champion(model="merge-1", evaluation="evaluate-1", label="round 2")
    line.close(2, model, outcome="rejected", why="accuracy fell")
    assert "  full/round-2  rejected: accuracy fell" in sft_dpo("runs", "--store", store.root)
    (run,) = json.loads(sft_dpo("runs", "--store", store.root, "--json"))
    assert [one["reference"] for one in run["rounds"]] == ["full/round-2"]
    shown = json.loads(sft_dpo("show", "full/round-2", "--store", store.root, "--json"))
    assert shown["key"] == "merge-1"


def run_entry(name, config):
    return RunEntry(
        name=name,
        id="0a1b2c",
        finished="2026-11-01T00:00:00+00:00",
        command=f"sft-dpo run {name}.yaml",
        report=f"reports/{name}.html",
        headline="nothing shown",
        config={"name": name, **config},
        steps={},
    )


def _delivery(path):
    return Delivery(digest=file_sha256(path), key=f"batch-{path.stem}", file=path.name)


def test_env_says_what_is_set_and_not_what_it_holds(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted0123")
    monkeypatch.setenv("PREFECT_API_URL", "http://user:planted@here/api")
    shown = sft_dpo("env")
    assert "planted" not in shown + sft_dpo("env", "--json")
    assert "HF_TOKEN, PREFECT_API_URL" in shown
    assert {"sft-dpo", "torch", "machine", "installed in"} <= json.loads(
        sft_dpo("env", "--json")
    ).keys()


def test_a_row_is_found_by_the_id_that_errors_and_reports_name(
    tiny_settings, write_config, tmp_path
):
    settings = load(write_config(line_settings(tiny_settings, tmp_path)), [])
    store = Store(root=settings.store)
    for step, _ in zip(each_step(settings, store), range(2), strict=False):
        record = run_step(store, step)
    lines = (store.folder(record.key) / "held_out.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    (found,) = json.loads(sft_dpo("show", row["id"], "--store", store.root))
    assert found == {"artifact": record.key, "part": "held_out", "line": 4, "row": row}
