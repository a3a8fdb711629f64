"""What a store may lose: nothing that a line, a recent run or anything recent is made of."""

import os
import time

import pytest

from alignment.errors import UsageError
from alignment.rounds.ledger import Champion, Delivery
from alignment.rounds.line import RoundLine
from alignment.rounds.tidy import delete, size_of, tidying, usage
from alignment.store.activity import announced
from alignment.store.runs import RunEntry, note_begun, note_run
from alignment.store.store import Store
from tests.alignment.artifacts import put
from tests.faults.simulate import MODEL

LONG_AGO = 1_700_000_000.0


@pytest.fixture
def store(tmp_path):
    return Store(root=tmp_path / "store")


def made(store, key, **parents):
    put(store, key, output=MODEL, parents=parents, files={"weights": "x" * 1000})


def aged(store):
    """Everything in the store was changed long ago."""
    for path in (store.root, *store.root.rglob("*")):
        os.utime(path, (LONG_AGO, LONG_AGO))


def gone(store):
    found = tidying(store, before=time.time() - 86400)
    return {piece.path for piece in found.pieces if piece.kind == "artifact"}


def run(store, name, *keys, id_="0a1b2c", finished="2026-01-01"):
    note_run(
        store,
        RunEntry(
            name=name,
            id=id_,
            finished=finished,
            command="",
            report=f"reports/{name}-{id_}.html",
            headline="",
            config={},
            steps={key: key for key in keys},
        ),
    )


def test_champions_runs_and_all_they_are_made_of_stay(store):
    made(store, "base-1")
    made(store, "dpo-1", base="base-1")
    made(store, "merge-champion", dpo="dpo-1")
    made(store, "merge-run", base="base-1")
    made(store, "merge-older-run", base="base-1")
    made(store, "batch-1")
    made(store, "merge-nobodys", base="base-1")
    run(store, "mine", "merge-run", id_="000002", finished="2026-02-01")
    run(store, "mine", "merge-older-run", id_="000001")
    line = RoundLine(store=store)
    line.start(Champion(model="merge-champion", evaluation="", label="sft"), rounds=0)
    line.open((Delivery(digest="0" * 64, key="batch-1", file="a.jsonl"),))
    aged(store)
    assert gone(store) == {"objects/merge-nobodys", "objects/merge-older-run"}
    made(store, "merge-new", base="merge-nobodys")
    assert gone(store) == {"objects/merge-older-run"}, "the new one is made of the old one"


def test_unfinished_damaged_logs_and_caches_go_once_they_are_old(store):
    made(store, "merge-1")
    (store.workspace("sft-1").checkpoints / "1").mkdir(parents=True)
    store.workspace("sft-2")
    note_begun(store, "mine", {}, "sft-dpo run mine.yaml")
    (begun,) = (path.relative_to(store.root).as_posix() for path in store.root.glob("runs/*.begun"))
    for place in ("damaged/merge-9-17", "lm-eval/a", "objects/.merge-8.gone", "logs/merge-7.log"):
        (store.root / place).parent.mkdir(exist_ok=True)
        (store.root / place).write_text("x")
    recent = {piece.path for piece in tidying(store, before=LONG_AGO).pieces}
    assert recent == {"objects/.merge-8.gone"}
    aged(store)
    with store.lock("sft-2", purpose="sft of a run"):
        found = tidying(store, before=time.time())
    kinds = {piece.path: piece.kind for piece in found.pieces}
    assert kinds == {
        "objects/merge-1": "artifact",
        "work/sft-1": "unfinished",
        begun: "unfinished",
        "damaged/merge-9-17": "damaged",
        "logs/merge-1.log": "log",
        "logs/merge-7.log": "log",
        "lm-eval/a": "cache",
        "objects/.merge-8.gone": "leftover",
    }
    assert delete(store, found) == found.size
    assert [path for path in kinds if (store.root / path).exists()] == []
    assert (store.root / "work" / "sft-2").exists()


def test_nothing_is_removed_while_a_command_works_in_the_store(store):
    made(store, "merge-1")
    aged(store)
    found = tidying(store, before=time.time())
    with (
        announced(store, "sft-dpo run a.yaml"),
        announced(store, "its flow"),
        pytest.raises(UsageError, match=r"nothing was removed: sft-dpo run a\.yaml works in"),
    ):
        delete(store, found)
    with store.lock("sft-1", purpose="sft of a run"):
        store.workspace("sft-1")
        with pytest.raises(UsageError, match="sft of a run works in"):
            delete(store, found)
    assert delete(store, found) == found.size
    assert store.find("merge-1") is None


def test_a_hard_link_frees_nothing_until_its_last_name_goes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    os.link(tmp_path / "a", tmp_path / "b")
    assert size_of([tmp_path / "a"]) == 0
    assert size_of([tmp_path / "a", tmp_path / "b"]) == 100


def test_usage_counts_every_file_of_the_store_once(store):
    made(store, "merge-1")
    made(store, "base-1")
    shares = {share.name: share for share in usage(store)}
    assert shares["artifacts: merge"].count == 1
    assert shares["artifacts: merge"].size > 1000
    whole = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert sum(share.size for share in shares.values()) == whole
