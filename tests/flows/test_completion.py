"""What a shell offers, asked as the shell asks: with the words typed so far in the environment."""

import pytest
from typer.testing import CliRunner

from alignment.store.runs import RunEntry, note_run
from alignment.store.store import Store
from flows.cli import app


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A function from the words on a line to what bash is offered for the last one."""
    monkeypatch.chdir(tmp_path)
    entry = RunEntry(
        name="mine",
        id="0a1b2c",
        finished="2026-11-01",
        command="",
        report="",
        headline="",
        config={},
        steps={"sft": "sft-1", "evaluate-round-1": "evaluate-1"},
    )
    note_run(Store(root=tmp_path / "runs"), entry)

    def run(line):
        words = line.split(" ")
        asked = {
            "_SFT_DPO_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        done = CliRunner().invoke(app, [], env=asked, prog_name="sft-dpo")
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("sft-dpo comp", ["compare"]),
        ("sft-dpo run prac", ["practice"]),
        ("sft-dpo show mi", ["mine", "mine-0a1b2c"]),
        ("sft-dpo export mine/", ["mine/sft", "mine/evaluate-round-1", "mine/round-1"]),
        ("sft-dpo compare mine mine-0a1b2c/r", ["mine-0a1b2c/round-1"]),
        ("sft-dpo run practice --set dpo.loss.be", ["dpo.loss.beta="]),
        ("sft-dpo run practice --set inbox.min", ["inbox.min_new_pairs="]),
    ],
)
def test_the_next_word_is_offered(offered, line, offers):
    assert offered(line) == offers
