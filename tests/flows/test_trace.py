"""`sft-dpo trace`: which rows are behind a step, by run, model or key."""

import json

import pytest
from typer.testing import CliRunner

from alignment.records.text import Conversation, Message
from alignment.store.runs import RunEntry, note_run
from alignment.store.store import Store
from flows.cli import app
from tests.alignment.artifacts import put
from tests.faults.simulate import MODEL

LOSSES = [2.0, 1.9, 1.8, 4.0, 1.7, 1.6, 1.5]


def row(number):
    turns = [
        Message(role=role, content=f"{role} {number} says\nmuch") for role in ("user", "assistant")
    ]
    return Conversation.of(tuple(turns), task_type="chat", source=f"chats/{number % 2}.jsonl")


ROWS = [row(number) for number in range(14)]


@pytest.fixture
def store(tmp_path):
    """A run with one training of seven steps, of which the fourth has a broken row."""
    store = Store(root=tmp_path / "store")
    output = {
        "kind": "conversations",
        **{part: f"store:conversations-a/{part}.jsonl" for part in ("train", "held_out")},
        "quarantine": "store:conversations-a/quarantine.jsonl",
        "kept": 14,
        "held": 0,
    }
    lines = "".join(row.model_dump_json() + "\n" for row in ROWS)
    put(store, "conversations-a", output=output, files={"train.jsonl": lines})
    steps = [
        {"step": n + 1, "measure": "loss", "ids": [ROWS[2 * n].id, ROWS[2 * n + 1].id]}
        | {"values": [loss - 0.5, loss + 0.5 if n != 3 else None]}
        for n, loss in enumerate(LOSSES)
    ]
    log = [{"step": n + 1, "loss": loss} for n, loss in enumerate(LOSSES)]
    files = {"trained.jsonl": _lines(steps), "history.jsonl": _lines(log)}
    put(store, "sft-new", name="sft", parents={"data 1": "conversations-a"}, files=files)
    put(store, "merge-new", name="merge-sft", output=MODEL, parents={"adapter": "sft-new"})
    put(store, "dpo-old", name="dpo-1", files={"history.jsonl": _lines(log)})
    put(store, "sft-control", name="control", parents={"data 1": "conversations-a"}, files=files)
    for name, keys in (("one", ["sft-new"]), ("both", ["sft-new", "dpo-old", "sft-control"])):
        entry = RunEntry(
            name=name,
            id="00aaff",
            finished="2026-11-01T00:00:00+00:00",
            command="",
            report="",
            headline="",
            config={},
            steps={store.open(key).name: key for key in keys},
        )
        note_run(store, entry)
    return store


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def trace(store, *words):
    done = CliRunner().invoke(app, ["trace", *words, "--store", str(store.root)])
    return done.stdout if done.exit_code == 0 else str(done.exception)


@pytest.mark.parametrize("reference", ["one", "one-00aaff", "sft", "merge-new", "sft-n", "one/sft"])
def test_a_step_names_its_rows_with_source_and_text_the_worst_first(store, reference):
    lines = trace(store, reference, "--step", "4").splitlines()
    assert lines[0] == "sft, step 4: loss 4 (1.75 is usual around it), 2 rows"
    broken, other = ROWS[7], ROWS[6]
    assert lines[1] == (f"  loss not finite  {broken.id}  chats/1.jsonl, line 8 of conversations-a")
    assert lines[2:4] == ["    user: user 7 says much", "    assistant: assistant 7 says much"]
    assert lines[4].startswith(f"  loss 3.5  {other.id}  chats/0.jsonl, line 7 of")


def test_spikes_are_steps_above_those_around_them(store):
    found = json.loads(trace(store, "one", "--spikes", "--json"))
    assert found[0]["step"] == 4, "not the first, whose loss is as its neighbours'"
    assert [step["step"] for step in found] == [4, 1, 2]
    assert found[0]["rows"][0]["id"] == ROWS[7].id
    assert trace(store, "one", "--spikes").count("says much") == 3 * 2 * 2


def test_what_cannot_be_traced_says_why(store):
    assert "dpo-1 (dpo-old) was recorded before row ids were kept" in trace(
        store, "dpo-old", "--step", "1"
    )
    assert "choose one with --stage" in trace(store, "both", "--step", "1")
    assert trace(store, "both", "--step", "1", "--stage", "sft").startswith("sft, step 1: loss 2")
    assert trace(store, "both", "--step", "1", "--stage", "control").startswith("control, step 1:")
    assert "has steps 1 to 7, but no step 9" in trace(store, "sft", "--step", "9")
    assert "has no training called 'dpo-7'; it has sft" in trace(
        store, "one", "--step", "1", "--stage", "dpo-7"
    )
    assert "conversations-a has no training; name" in trace(store, "conversations-a", "--spikes")
    assert "nothing called '*'" in trace(store, "*", "--spikes")
    assert "nothing called 'none'" in trace(store, "none", "--spikes")
    assert "either --step N, or --spikes" in trace(store, "one")


def test_a_training_that_is_not_finished_is_traced_by_its_key(store):
    """Its last line is being written, and its rows are looked for in every set."""
    out = store.workspace("sft-halfway").out
    kept = (store.folder("sft-new") / "trained.jsonl").read_bytes()
    (out / "trained.jsonl").write_bytes(kept[: len(kept) // 2])
    lines = trace(store, "sft-half", "--step", "2").splitlines()
    assert lines[0] == "sft-halfway, step 2: loss 1.9 (1.9 is usual around it), 2 rows"
    assert "line 4 of conversations-a" in lines[1]


def test_rows_of_a_set_that_is_gone_keep_their_ids(store):
    (store.folder("conversations-a") / "train.jsonl").unlink()
    assert f"{ROWS[3].id}  in no set now" in trace(store, "sft", "--step", "2")


def test_a_run_of_trainings_old_and_new_shows_what_it_can(store):
    done = CliRunner().invoke(app, ["trace", "both", "--spikes", "--store", str(store.root)])
    shown = done.stdout + done.stderr
    assert "sft, step 4" in shown
    assert "dpo-1 (dpo-old) was recorded before row ids were kept" in shown
