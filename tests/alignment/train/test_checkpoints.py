import os
import random

import pytest

from alignment.train.checkpoints import DIGESTS, commit_checkpoint, newest

FILES = (
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)


@pytest.fixture
def committed(tmp_path):
    """Committed checkpoints of steps 1 and 2, with the files that a trainer writes."""
    for step in (1, 2):
        staged = tmp_path / "trl" / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        for name in FILES:
            (staged / name).write_bytes(f"{name} of step {step}".encode() * 30)
        commit_checkpoint(staged, tmp_path / "checkpoints", step=step)
    return tmp_path / "checkpoints"


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def swap_with_an_older_generation(path):
    older = path.parent.with_name("step-00000001") / path.name
    path.write_bytes(older.read_bytes())


def test_the_newest_committed_checkpoint_is_found(committed):
    assert newest(committed) == committed / "step-00000002"


def test_there_is_no_checkpoint_if_nothing_was_saved(tmp_path):
    assert newest(tmp_path / "checkpoints") is None


def test_committing_moves_the_staged_folder(committed):
    assert not list(committed.parent.joinpath("trl").iterdir())
    assert names(committed / "step-00000002") == sorted([*FILES, DIGESTS])


@pytest.mark.parametrize("damage", [cut, flip, remove, swap_with_an_older_generation])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_checkpoint_is_replaced_by_the_previous_one(
    committed, damage, name, caplog
):
    """A file missing, truncated, with a flipped bit or from another step: TRL accepts half."""
    damage(committed / "step-00000002" / name)
    assert newest(committed) == committed / "step-00000001"
    assert names(committed) == ["step-00000001"], "the damaged one is gone, it cannot be met again"
    assert f"({name} " in caplog.text


def test_truncated_digests_make_a_checkpoint_damaged(committed):
    cut(committed / "step-00000002" / DIGESTS)
    assert newest(committed) == committed / "step-00000001"


def test_a_folder_without_digests_is_not_a_checkpoint(committed):
    (committed / "step-00000002" / DIGESTS).unlink()
    assert newest(committed) == committed / "step-00000001"


def test_two_checkpoints_are_kept(committed, tmp_path):
    staged = tmp_path / "trl" / "checkpoint-10"
    staged.mkdir()
    (staged / "optimizer.pt").write_text("x")
    commit_checkpoint(staged, committed, step=10)
    assert names(committed) == ["step-00000002", "step-00000010"]


def test_a_step_can_be_committed_again(committed, tmp_path):
    staged = tmp_path / "trl" / "checkpoint-2"
    staged.mkdir()
    (staged / "optimizer.pt").write_text("again")
    commit_checkpoint(staged, committed, step=2)
    assert newest(committed) == committed / "step-00000002"
    assert (committed / "step-00000002" / "optimizer.pt").read_text() == "again"
