import pytest

from alignment.errors import ArtifactError, UsageError
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.references import resolve
from alignment.store.lineage import ancestors, descendants
from alignment.store.store import Store
from tests.alignment.artifacts import put, record_of


@pytest.fixture
def store(tmp_path):
    """base -> sft -> merge, a second sft on the same base an hour later, then the control."""
    store = Store(root=tmp_path)
    for hour, (key, name, parents) in enumerate(
        [
            ("base-1", "base", {}),
            ("sft-1", "sft", {"policy": "base-1"}),
            ("merge-1", "merge-sft", {"policy": "base-1", "adapter": "sft-1"}),
            ("sft-2", "sft", {"policy": "base-1"}),
            ("sft-3", "control", {"policy": "base-1"}),
        ]
    ):
        put(store, key, name=name, parents=parents, started=f"2026-01-01T0{hour}:00:00+00:00")
    return store


def keys(records):
    return [record.key for record in records]


def test_ancestors_are_listed_once_and_after_their_parents(store):
    assert keys(ancestors(store, "merge-1")) == ["base-1", "sft-1", "merge-1"]


def test_descendants_are_listed_in_the_order_of_their_start(store):
    assert keys(descendants(store, "base-1")) == ["sft-1", "merge-1", "sft-2", "sft-3"]
    assert keys(descendants(store, "sft-1")) == ["merge-1"]
    assert descendants(store, "merge-1") == []


def test_a_line_of_two_thousand_rounds_has_an_ancestry(tmp_path):
    store = Store(root=tmp_path)
    put(store, "merge-0")
    for number in range(1, 2001):
        folder = store.folder(f"merge-{number}")
        folder.mkdir()
        record = record_of(folder.name, parents={"policy": f"merge-{number - 1}"})
        (folder / "manifest.json").write_text(record.model_dump_json())
    found = [f"merge-{number}" for number in range(2001)]
    assert keys(ancestors(store, "merge-2000")) == found
    assert len(descendants(store, "merge-0")) == 2000


def test_an_ancestor_that_is_gone_is_an_error(store):
    (store.folder("base-1") / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no artifact 'base-1'"):
        ancestors(store, "merge-1")


def test_a_name_matches_its_records_newest_first(store):
    assert resolve(store, "sft") == ["sft-2", "sft-1"], (
        "although the key of the control begins with it, too"
    )
    assert resolve(store, "merge-sft") == ["merge-1"]


def test_a_key_matches_itself_and_a_beginning_matches_all_its_keys(store):
    assert resolve(store, "sft-2") == ["sft-2"]
    assert resolve(store, "mer") == ["merge-1"]
    assert resolve(store, "sft-") == ["sft-1", "sft-2", "sft-3"]
    assert resolve(store, "dpo-3") == []


@pytest.mark.parametrize("word", ["champion", "head"])
def test_champion_and_head_match_the_champion_of_a_line(store, word):
    assert resolve(store, word) == [], "the line has not started"
    start(store, "practice", "merge-1")
    assert resolve(store, word) == resolve(store, f"{word}:practice") == ["merge-1"], (
        "the only line"
    )
    start(store, "other", "sft-2")
    assert resolve(store, f"{word}:practice") == ["merge-1"]
    assert resolve(store, f"{word}:other") == ["sft-2"]
    with pytest.raises(UsageError, match=r"2 lines of rounds \(other, practice\)"):
        resolve(store, word)


def start(store, line, model):
    champion = Champion(model=model, evaluation="evaluate-1", label="any")
    RoundLine(store=store, name=line).start(champion, rounds=0)
