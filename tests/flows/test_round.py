"""Rounds from a shell, as a person or a cron job runs them, on a real model and a real server."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.errors import ModelError
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.records.refs import DataRef
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.steps import batches_step, steps_of
from alignment.store.progress import Progress
from alignment.store.store import Store
from flows.dpo_round import try_champion
from tests.inbox import drop, line_settings, rows


@pytest.fixture
def sft_dpo(server):
    """Run the command against a shared real server, so that no call has to start one."""

    def run(*words):
        code = "from flows.cli import main; main()"
        done = server.run("-c", code, *map(str, words), seconds=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def settings(tiny_settings, tmp_path):
    return line_settings(tiny_settings, tmp_path)


def test_a_config_without_an_inbox_says_what_to_add(server, tiny_settings, write_config):
    config = write_config(tiny_settings)
    done = server.run("-c", "from flows.cli import main; main()", "round", str(config))
    assert done.returncode == 2
    assert "the config has no `inbox`" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_inbox_is_no_new_data_and_builds_nothing(
    sft_dpo, settings, write_config, tmp_path
):
    output = sft_dpo("round", write_config(settings))
    assert output.startswith("no new data: ")
    assert not (tmp_path / "store").exists()


def test_a_round_names_what_it_does_not_use_and_refuses_another_config(server, old_store):
    """On a line that an earlier version began: it records its identity with the first new batch."""

    def sft_dpo(*words):
        code = "from flows.cli import main; main()"
        return server.run("-c", code, *words, seconds=900, cwd=old_store)

    drop(old_store / "inbox" / "colours.jsonl", [{"colour": "\x1b[2Jred"}])
    (old_store / "inbox" / "notes.txt").write_text("hello")
    done = sft_dpo("round", "tiny.yaml")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "colours.jsonl: refused: " in done.stderr
    assert "notes.txt: ignored: " in done.stderr
    assert "\x1b[2J" not in done.stdout + done.stderr
    shown = sft_dpo("show", "--store", "store").stdout
    assert "(colours.jsonl) is refused: " in shown
    assert re.search(r"anchor round 1 stack-\w+: 1 verdict since, 49 left", shown)
    assert "round 2: kept (plain gate): round 2 is kept: " in shown
    assert "notes.txt: ignored: " in shown
    assert "monday.jsonl: used by round 2: " in sft_dpo("inbox", "tiny.yaml").stdout

    other = ("tiny.yaml", "--set", "gate.max_length_ratio=2.5")
    done = sft_dpo("round", *other)
    assert done.returncode == 2
    assert "gate.max_length_ratio: the line has 1.5, the config 2.5" in done.stderr
    assert sft_dpo("line", "adopt", *other).returncode == 0
    assert sft_dpo("round", *other).stdout.startswith("no new data: 0 new pairs in 0 batches")


def test_an_error_in_a_round_comes_with_the_files_that_are_not_used(server, old_store):
    drop(old_store / "inbox" / "tuesday.jsonl", rows(100, 32))
    (old_store / "inbox" / "notes.txt").write_text("hello")
    code = "from flows.cli import main; main()"
    assert server.run("-c", code, "line", "adopt", "tiny.yaml", cwd=old_store).returncode == 0
    other = ("round", "tiny.yaml", "--set", "sft={name: none}")
    done = server.run("-c", code, *other, seconds=900, cwd=old_store)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not used: " in done.stderr
    assert "notes.txt: ignored: " in done.stderr
    assert "the config describes another line" in done.stderr


def test_a_champion_is_tried_on_the_steps_of_a_round(tiny_settings):
    tiny_settings["dpo"]["lora"]["target_modules"] = ["query_proj"]
    steps = chain(PipelineConfig.model_validate(tiny_settings))
    store = Store(root=tiny_settings["store"])
    build(store, steps.base, Progress())
    champion = Champion(model=steps.base.key, evaluation="", label="start")
    with pytest.raises(ModelError, match=r"dpo-1: .* query_proj match no linear layer"):
        try_champion(store, champion, tuple(steps.rounds[0].steps()))


def test_a_round_that_is_set_aside_ends_with_one_and_a_sentence(
    server, settings, write_config, tmp_path
):
    drop(tmp_path / "inbox" / "tuesday.jsonl", rows(100, 16))
    settings["inbox"] |= {"max_failures": 1}
    settings["dpo"] |= {"learning_rate": 1e30}
    code = "from flows.cli import main; main()"
    done = server.run("-c", code, "round", str(write_config(settings)), seconds=900)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "so its batches are set aside: tuesday.jsonl. The next round starts" in done.stderr
    assert "tuesday.jsonl: set aside, because its round failed: sft-dpo inbox" in done.stderr


def test_a_model_with_a_revoked_batch_is_neither_exported_nor_promoted(server, old_store):
    def sft_dpo(*words):
        code = "from flows.cli import main; main()"
        return server.run("-c", code, *words, "--store", "store", cwd=old_store)

    champion = RoundLine(store=Store(root=old_store / "store")).state().champion
    assert champion is not None
    model = champion.model
    assert sft_dpo("revoke", "monday.jsonl").returncode == 0
    for words in (("export", model, "--to", "final"), ("promote", "round 2")):
        done = sft_dpo(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "was trained on a revoked batch (monday.jsonl)" in done.stderr
    assert not (old_store / "final").exists()


@pytest.mark.slow
def test_a_night_of_three_batches(sft_dpo, settings, write_config, tmp_path):
    """Three batches arrive at odd times, the second with swapped labels.

    The first round is kept, the second rejected. The third batch arrives twice, under two names,
    beside an unfinished upload and a file that is not data. Its round starts from the first's.
    """
    config, inbox = write_config(settings), tmp_path / "inbox"
    line = RoundLine(store=Store(root=tmp_path / "store"))

    drop(inbox / "monday.jsonl", rows(0, 32))
    output = sft_dpo("round", config)
    assert "round 1 is kept" in output
    first = line.state().champion
    assert first is not None
    (configured,) = json.loads(sft_dpo("runs", "--store", line.store.root, "--json"))
    assert configured["command"] == f"sft-dpo run {config}", "not the round that continued it"

    drop(inbox / "tuesday.jsonl", rows(100, 32, chosen="no", rejected="yes"))
    output = sft_dpo("round", config)
    assert "round 2 is rejected, round 1 stays: preference accuracy fell by" in output
    assert line.state().champion == first

    assert sft_dpo("round", config).startswith("no new data: 0 new pairs in 0 batches")

    drop(inbox / "wednesday.jsonl", [*rows(200, 24), *rows(0, 4), *rows(9000, 2)])
    drop(inbox / "again.jsonl", [*rows(200, 24), *rows(0, 4), *rows(9000, 2)])
    drop(inbox / "running.jsonl", rows(300, 99), age=1)
    (inbox / "readme.txt").write_text("not data")
    assert "round 3 is kept" in sft_dpo("round", config)
    assert "running.jsonl: it changed " in sft_dpo("round", config)

    state = line.state()
    assert [closed.fate for _, closed in state.history] == ["kept", "rejected", "kept"]
    assert [opened.number for opened, _ in state.lineage] == [1, 3]
    assert state.open is None
    assert len(state.spent) == 3
    third = state.history[-1][0]
    assert third.parent == first
    (batch,) = third.batches
    assert batch.file == "again.jsonl", "the first of two names in order"

    prepared = batches_step(
        config_of(settings), line.store, parent=first, number=3, batches=(batch.key,)
    )
    record = line.store.open(prepared.key)
    assert record.metrics["new"] == 24
    assert DataRef.model_validate(record.output).quarantined == {
        "in_evaluation_set": 2,
        "used_by_earlier_round": 4,
    }

    shown = sft_dpo("show", "champion", "--lineage", "--store", line.store.root)
    for part in ("pairs-1: 32 rows of monday.jsonl", "pairs-3: 24 rows of again.jsonl",
                 "kept against round 1 (plain gate)"):  # fmt: skip
        assert part in shown
    assert "tuesday" not in shown
    assert "line main: champion round 3" in sft_dpo("show", "--store", line.store.root)

    back = sft_dpo("rollback", "--store", line.store.root, "--why", "a test")
    assert first.model in back
    sft_dpo("promote", steps_of(config_of(settings), line.store, third).handover.key,
            "--store", line.store.root)  # fmt: skip
    assert [opened.number for opened, _ in line.state().lineage] == [1, 3]

    output = sft_dpo("revoke", str(inbox / "monday.jsonl"),
                   "--store", line.store.root, "--rebuild", config)  # fmt: skip
    assert "is in 3 models" in output, "the rejected round is one of them"
    state = line.state()
    assert [[b.file for b in opened.batches] for opened, _ in state.lineage] == [[batch.file]]
    assert json.loads(sft_dpo("show", "head", "--store", line.store.root, "--json"))["name"] == (
        "merge-dpo-4"
    )


@pytest.mark.slow
def test_of_two_rounds_at_once_one_changes_the_champion(server, settings, write_config, tmp_path):
    """Both find the batch and join one open round; each step is built once, and one closes it."""
    config = write_config(settings)
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 32))
    code = "from flows.cli import main; main()"
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(server.run, "-c", code, "round", str(config), seconds=900) for _ in range(2)
        ]
    done = [run.result() for run in runs]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    line = RoundLine(store=Store(root=tmp_path / "store"))
    assert [e.event.name for e in line.ledger.read()] == ["started", "opened", "closed"]
    kept = ["round 1 is kept" in one.stdout for one in done]
    assert sorted(kept) == [False, True]
    other = done[kept.index(False)].stdout
    assert "another run" in other or "no new data" in other


def config_of(settings):
    from alignment.config.pipeline import PipelineConfig

    return PipelineConfig.model_validate(settings)
