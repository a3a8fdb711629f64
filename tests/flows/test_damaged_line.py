"""A line whose artifacts, batches and rows are not as they were, from a shell on a real model."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from tests import tiny
from tests.inbox import drop, line_settings, rows

pytestmark = pytest.mark.slow
COMMAND = (
    "-c",
    """
import atexit, resource
from flows.cli import main

def say_usage():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak, seconds = max(one.ru_maxrss for one in used), sum(one.ru_utime for one in used)
    print(f"peak {peak} KiB, {seconds:.0f} s")

atexit.register(say_usage)
main()
""",
)


class Shell:
    """A folder with a configuration, an inbox and a store, and what a person types there."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.store = Store(root=folder / "store")
        self.line = RoundLine(store=self.store)

    def __call__(self, *words, code=0):
        """What a command says."""
        where = () if words[0] in ("round", "run", "inbox") else ("--store", "store")
        done = self.server.run(*COMMAND, *words, *where, seconds=900, cwd=self.folder)
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    def round(self, *words, code=0):
        return self("round", "tiny.yaml", *words, code=code)

    @property
    def champion(self):
        found = self.line.state().champion
        assert found is not None
        return found

    def drop(self, name, first):
        drop(self.folder / "inbox" / name, rows(first, 16))

    def manifest(self, key):
        return self.store.folder(key) / "manifest.json"

    def flip_weights(self, key):
        """Flip a bit in the middle of a model's weights."""
        (path,) = self.store.folder(key).rglob("*.safetensors")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.fixture(scope="module")
def begun(server, tiny_model_folder, tmp_path_factory):
    """A folder in which one round was kept."""
    from ruamel.yaml import YAML

    folder = tmp_path_factory.mktemp("begun") / "line"
    shutil.copytree(tiny_model_folder, folder / "model")
    settings = line_settings(tiny.settings("model", "store"), folder)
    settings["inbox"]["path"] = "inbox"
    settings["evaluation"]["data"]["sources"][0]["path"] = "held-out.jsonl"
    YAML().dump(settings, folder / "tiny.yaml")
    shell = Shell(server, folder)
    shell.drop("monday.jsonl", 0)
    assert "round 1 is kept" in shell.round()
    return folder


@pytest.fixture
def shell(server, begun, tmp_path):
    return Shell(server, shutil.copytree(begun, tmp_path / "line"))


def test_a_damaged_champion_is_moved_aside_and_built_again_by_the_next_round(shell):
    champion = shell.champion
    shell.flip_weights(champion.model)
    for words in (["chat"], ["export", "--to", "final"], ["promote"]):
        said = shell(words[0], champion.model, *words[1:], code=1)
        assert said.count("model.safetensors does not match the digest in its manifest. ") == 1
        assert "`sft-dpo round`, with the config that it was made with, moves" in said
    shell.drop("tuesday.jsonl", 100)
    said = shell.round()
    assert "does not match the digest in its manifest" in said
    assert re.search(r"moved \S+ to \S+, building it again", said)
    assert "round 2 is kept" in said
    assert shell.store.open(champion.model).key == champion.model
    assert list(shell.store.root.glob(f"damaged/{champion.model}-*"))
    assert [opened.parent for opened, _ in shell.line.state().history][1] == champion


def test_a_rollback_to_a_damaged_model_is_refused_unless_it_is_asked_for(shell):
    first = shell.champion
    shell.drop("tuesday.jsonl", 100)
    assert "round 2 is kept" in shell.round()
    shell.flip_weights(first.model)
    said = shell("rollback", "round 1", code=1)
    assert "round 1: " in said
    assert "model.safetensors does not match the digest in its manifest. Name another" in said
    assert shell.champion != first
    shell("rollback", "round 1", "--damaged")
    assert shell.champion == first
    shell.drop("wednesday.jsonl", 200)
    assert "building it again" in shell.round()


def test_a_damaged_champion_without_parents_ends_the_round_before_a_batch_is_claimed(shell):
    champion = shell.champion
    shell.flip_weights(champion.model)
    for key in shell.store.list_keys():
        if key.startswith(("dpo-", "intake-", "batch-")):
            shutil.rmtree(shell.store.folder(key))
    (shell.folder / "inbox" / "monday.jsonl").unlink()
    shell.drop("tuesday.jsonl", 100)
    before = shell.line.ledger.read()
    said = shell.round(code=1)
    assert said.count("cannot be built again") == 1
    assert "sft-dpo rollback" in said
    assert shell.line.ledger.read() == before
    shell("rollback")
    assert shell.champion == shell.line.state().history[0][0].parent
    assert "round 2 is kept" in shell.round()


def test_a_batch_revoked_while_its_round_is_open_bars_the_rounds_model(shell):
    shell.drop("tuesday.jsonl", 100)
    running = subprocess.Popen(
        [sys.executable, *COMMAND, "round", "tiny.yaml"],
        cwd=shell.folder,
        env=shell.server.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (made := [one for one in shell.store.records() if one.name == "merge-dpo-2"]):
            assert running.poll() is None, "the round ended before it could be killed"
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert shell.line.state().open is not None
    shell("revoke", "tuesday.jsonl", "--why", "labels swapped")
    said = shell("promote", made[0].key, code=2)
    assert "merge-dpo-2 was trained on a revoked batch (tuesday.jsonl)" in said
    champion = shell.champion
    assert "no new data" in shell.round()
    assert shell.champion == champion
    assert shell.line.state().history[-1][1].fate == "overtaken"


def test_a_batch_refused_under_a_wrong_format_is_used_after_a_retry(shell):
    shell.drop("tuesday.jsonl", 100)
    wrong = ("--set", "inbox.format={name: hh}")
    assert "tuesday.jsonl: refused: " in shell.round(*wrong, code=3)
    assert "tuesday.jsonl: refused" in shell("inbox", "tiny.yaml")
    assert "tuesday.jsonl" in shell("inbox", "tiny.yaml", "--retry")
    assert "round 2 is kept" in shell.round()


def test_a_champion_of_a_later_version_is_named_and_never_called_damaged(shell):
    champion = shell.champion
    shell.manifest(champion.model).write_text('{"format": 99, "of": "tomorrow"}')
    shell.drop("tuesday.jsonl", 100)
    for words in (
        ("round", "tiny.yaml"),
        ("promote", champion.model),
        ("chat", champion.model),
        ("export", champion.model, "--to", "final"),
    ):
        said = shell(*words, code=2)
        assert f"{champion.model} was written by a later version of sft-dpo" in said
        assert "damaged" not in said
    assert "was written by a later version" in shell("show")
    assert shell.manifest(champion.model).exists()
    assert shell.line.state().open is None


def test_a_model_measured_on_other_rows_is_measured_on_the_lines_rows_when_promoted(shell):
    few = drop(shell.folder / "few.jsonl", rows(5000, 5))
    more = drop(shell.folder / "more.jsonl", rows(300, 16))
    sources = f"[{{name: file, path: {few.name}, use: held_out}}]"
    data = f"{{sources: [{{name: file, path: {more.name}}}], held_out_share: 0.0}}"
    shell("run", "tiny.yaml", "--set", f"evaluation.data.sources={sources}",
          "--set", f"rounds=[{{data: {data}}}]")  # fmt: skip
    rows_of_line = shell.store.open(shell.champion.evaluation).parents_as("data")
    (model,) = [
        one.key
        for one in shell.store.records()
        if one.name == "merge-dpo-1" and one.key != shell.champion.model
    ]
    shell("promote", model)
    assert shell.champion.model == model
    assert shell.store.open(shell.champion.evaluation).parents_as("data") == rows_of_line
    shell.drop("tuesday.jsonl", 100)
    assert "round 2 is kept" in shell.round()
    assert shell.store.open(shell.champion.evaluation).parents_as("data") == rows_of_line


def test_a_small_file_with_one_giant_line_is_refused_and_the_others_go_on(shell):
    giant = shell.folder / "inbox" / "giant.jsonl.gz"
    with gzip.open(giant, "wb") as stream:
        for _ in range(2048):
            stream.write(bytes(2**20))
    assert 2**20 < giant.stat().st_size < 2**22
    os.utime(giant, (time.time() - 3600,) * 2)
    said = shell.round()
    assert "giant.jsonl.gz unpacks to more than 455 MiB" in said
    used = re.search(r"peak (\d+) KiB, (\d+) s", said)
    assert used
    assert int(used[1]) < 2**20, "the line has 2**21 KiB"
    assert int(used[2]) < 60
    shell.drop("tuesday.jsonl", 100)
    said = shell.round()
    assert "giant.jsonl.gz: " in said
    assert "round 2 is kept" in said
