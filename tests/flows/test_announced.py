"""Commands that read artifacts are announced to `gc` while they do."""

import pytest

from alignment.config.file import load
from alignment.rounds.ledger import Champion, Delivery
from alignment.rounds.line import RoundLine
from alignment.store.activity import commands
from alignment.store.store import Store
from flows.commands import compare, doctor, line
from tests.alignment.artifacts import put
from tests.faults.simulate import MODEL
from tests.inbox import line_settings


class Seen(Exception):
    """Ends a command where it reads, with what others see of it."""


@pytest.fixture
def store(tmp_path):
    """A line with two champions, the second on one batch."""
    store = Store(root=tmp_path / "store")
    for key in ("merge-0", "merge-1"):
        put(store, key, output=MODEL)
    rounds = RoundLine(store=store, name="main")
    rounds.start(Champion(model="merge-0", evaluation="evaluate-0", label="sft"), rounds=0)
    rounds.open((Delivery(digest="0" * 64, key="batch-0", file="monday.jsonl"),))
    after = Champion(model="merge-1", evaluation="evaluate-1", label="round 1")
    rounds.close(1, after, outcome="kept", why="")
    return store


@pytest.fixture
def seen(store, monkeypatch):
    """A function: the commands that others see when this one reads."""

    def seen(module, name, command):
        def look(*_, **__):
            raise Seen([holder.purpose for holder in commands(store)])

        monkeypatch.setattr(module, name, look)
        with pytest.raises(Seen) as found:
            command()
        assert commands(store) == []
        return found.value.args[0]

    return seen


def test_rollback(store, seen):
    def roll_back():
        line.roll_back(None, store.root, None, "", damaged=False)

    assert seen(line, "check_undamaged", roll_back) == ["sft-dpo rollback"]


def test_revoke(store, seen):
    def revoke():
        line.revoke("monday.jsonl", store.root, None, "", rebuild=None)

    assert seen(line, "containing", revoke) == ["sft-dpo revoke monday.jsonl"]


def test_compare(store, seen):
    def compared():
        compare.compare_runs("merge-0", "merge-1", store.root, as_json=False)

    assert seen(compare, "_side", compared) == ["sft-dpo compare merge-0 merge-1"]


def test_doctor(store, seen, tiny_settings, write_config, tmp_path):
    from alignment.doctor import examine

    config = write_config(line_settings(tiny_settings, tmp_path))
    assert load(config).store == store.root

    def check():
        doctor.run_doctor(config, [], device=None, as_json=False)

    (purpose,) = seen(examine, "examine", check)
    assert purpose.startswith("sft-dpo doctor ")
