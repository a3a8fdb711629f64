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
def sealed(tmp_path):
    """Checkpoints of steps 1 and 2, sealed, with the files that a trainer writes."""
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


def test_the_newest_sealed_checkpoint_is_found(sealed):
    assert newest(sealed) == sealed / "step-00000002"


def test_there_is_none_where_nothing_was_saved(tmp_path):
    assert newest(tmp_path / "checkpoints") is None


def test_sealing_moves_the_staged_folder(sealed):
    assert not list(sealed.parent.joinpath("trl").iterdir())
    assert names(sealed / "step-00000002") == sorted([*FILES, DIGESTS])


@pytest.mark.parametrize("damage", [cut, flip, remove, swap_with_an_older_generation])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(sealed, damage, name, caplog):
    """Missing, cut, of one bit or of another generation: the library takes half of these."""
    damage(sealed / "step-00000002" / name)
    assert newest(sealed) == sealed / "step-00000001"
    assert names(sealed) == ["step-00000001"], "the damaged one is gone, it cannot be met again"
    assert f"({name} " in caplog.text


def test_digests_that_are_cut_make_a_checkpoint_damaged(sealed):
    cut(sealed / "step-00000002" / DIGESTS)
    assert newest(sealed) == sealed / "step-00000001"


def test_a_folder_without_digests_is_no_checkpoint(sealed):
    (sealed / "step-00000002" / DIGESTS).unlink()
    assert newest(sealed) == sealed / "step-00000001"


def test_two_checkpoints_are_kept(sealed, tmp_path):
    staged = tmp_path / "trl" / "checkpoint-10"
    staged.mkdir()
    (staged / "optimizer.pt").write_text("x")
    commit_checkpoint(staged, sealed, step=10)
    assert names(sealed) == ["step-00000002", "step-00000010"]


def test_a_step_can_be_sealed_again(sealed, tmp_path):
    staged = tmp_path / "trl" / "checkpoint-2"
    staged.mkdir()
    (staged / "optimizer.pt").write_text("again")
    commit_checkpoint(staged, sealed, step=2)
    assert newest(sealed) == sealed / "step-00000002"
    assert (sealed / "step-00000002" / "optimizer.pt").read_text() == "again"
