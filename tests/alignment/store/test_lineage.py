import pytest

from alignment.errors import ArtifactError
from alignment.rounds.references import resolve
from alignment.store.lineage import ancestors, descendants
from alignment.store.store import Store
from tests.alignment.artifacts import put


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


def test_ancestors_come_after_their_own_parents_and_each_once(store):
    assert keys(ancestors(store, "merge-1")) == ["base-1", "sft-1", "merge-1"]


def test_descendants_come_in_the_order_of_their_start(store):
    assert keys(descendants(store, "base-1")) == ["sft-1", "merge-1", "sft-2", "sft-3"]
    assert keys(descendants(store, "sft-1")) == ["merge-1"]
    assert descendants(store, "merge-1") == []


def test_an_ancestor_that_is_gone_is_an_error(store):
    (store.folder("base-1") / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no artifact 'base-1'"):
        ancestors(store, "merge-1")


def test_a_name_stands_for_its_records_newest_first(store):
    assert resolve(store, "sft") == ["sft-2", "sft-1"], "though sft-3 begins so, too"
    assert resolve(store, "merge-sft") == ["merge-1"]


def test_a_key_stands_for_itself_and_its_beginning_for_it(store):
    assert resolve(store, "sft-2") == ["sft-2"]
    assert resolve(store, "mer") == ["merge-1"]
    assert resolve(store, "sft-") == ["sft-1", "sft-2", "sft-3"]
    assert resolve(store, "dpo-3") == []
