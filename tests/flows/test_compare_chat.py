"""Two models compared on a terminal: blind replies, votes, and the pairs they leave."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.config.pipeline import PipelineConfig
from alignment.data.formats import Auto
from alignment.data.read.reading import read_pairs
from alignment.data.read.sources import FileSource
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.records.text import Quarantined
from alignment.store.progress import Progress
from alignment.store.store import Store
from flows.commands.compare_chat import Comparison, Contender, compare_chat
from tests import tiny
from tests.prefect_service import ROOT


def votes(tmp_path, lines):
    """What a session with these lines leaves: the pairs in the inbox."""
    typed = iter(lines)
    first = Contender("A", lambda turns: f"good {len(turns)}")
    second = Contender("B", lambda turns: f"bad {len(turns)}")
    session = Comparison(first, second, tmp_path / "inbox")
    compare_chat(session, lambda _: next(typed, None))
    (file,) = (tmp_path / "inbox").iterdir()
    reading = read_pairs(FileSource(path=str(file), format=Auto()))
    return [row.record for row in reading.items if not isinstance(row, Quarantined)]


def test_the_chat_goes_on_with_the_preferred_reply_and_neither_is_no_pair(tmp_path, capsys):
    pairs = votes(tmp_path, ["Hi", "1", "And?", "", "Well?", "nonsense", "2", "", "Bye", "1"])
    assert [len(pair.prompt) for pair in pairs] == [1, 5, 1]
    assert pairs[1].prompt[1] == pairs[0].chosen[0]
    for pair in pairs:
        texts = {pair.chosen[0].content[:3], pair.rejected[0].content[:3]}
        assert texts == {"goo", "bad"}
    said = capsys.readouterr()
    won = sum(pair.chosen[0].content.startswith("good") for pair in pairs)
    assert f"A: {won}; B: {3 - won}; neither: 1" in said.out
    assert "1, 2 or Enter" in said.err


def test_which_reply_comes_first_is_random(tmp_path):
    lines = [line for number in range(40) for line in (f"Hi {number}", "1", "")]
    won = sum(pair.chosen[0].content.startswith("good") for pair in votes(tmp_path, lines))
    assert 5 < won < 35


@pytest.fixture
def two_models(tiny_model_folder, tmp_path):
    """The keys of two models in a store, which reply differently."""
    other = shutil.copytree(tiny_model_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    noisy = {name: tensor + torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(noisy, other / "model.safetensors", metadata={"format": "pt"})
    keys = []
    for folder in (tiny_model_folder, other):
        config = PipelineConfig.model_validate(tiny.settings(folder, tmp_path / "store"))
        base = chain(config).base
        build(Store(root=config.store), base, Progress())
        keys.append(base.key)
    return keys


@pytest.mark.slow
def test_a_vote_on_a_terminal_is_a_pair_in_the_inbox(two_models, tmp_path):
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "sft_dpo", "chat", "--compare", *two_models, "--tokens", "8",
         "--store", "store", "--inbox", "votes"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = until(ours, "> ")
    os.write(ours, b"Question 5: is the licence granted?\n")
    said += until(ours, "(Enter: neither)? ")
    assert "[1] " in said
    assert "[2] " in said
    assert "base-" not in said
    os.write(ours, b"2\n")
    until(ours, "> ")
    os.write(ours, b"\x04")  # the end of the input
    said = until(ours, ".jsonl")
    assert command.wait(timeout=60) == 0
    os.close(ours)
    assert "neither: 0" in said
    (file,) = (tmp_path / "votes").iterdir()
    (row,) = map(json.loads, file.read_text().splitlines())
    assert row["prompt"][0]["content"] == "Question 5: is the licence granted?"
    assert row["chosen"] != row["rejected"]


def until(terminal, text, seconds=120.0):
    """What is said until this text."""
    said, end = b"", time.monotonic() + seconds
    while text.encode() not in said:
        left = end - time.monotonic()
        assert left > 0, said
        assert select.select([terminal], [], [], left)[0], said
        said += os.read(terminal, 65536)
    return said.decode()
