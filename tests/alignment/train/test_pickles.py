"""A pickle planted in a checkpoint, with matching digests, is refused and never run.

Pickled weights and adapters, and code shipped with a model: `tests/alignment/models`.
"""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from alignment.store.checksum import file_sha256
from alignment.store.progress import Progress
from alignment.train.checkpoints import DIGESTS, newest
from alignment.train.sft import train_sft


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def train(open_tiny, sft_config, conversations, workspace):
    """A function that trains up to a step, from the newest checkpoint of the workspace."""

    def run(steps):
        return train_sft(
            sft_config.model_copy(update={"max_steps": steps, "save_every": 1, "samples": 0}),
            policy=open_tiny(),
            conversations=conversations,
            held_out=(),
            seed=0,
            workspace=workspace,
            progress=Progress(),
        )

    return run


def test_the_pickle_would_run_if_pickles_were_read(tmp_path):
    import torch

    torch.save(Runs(tmp_path / "ran"), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_refused(train, workspace, tmp_path, name):
    import torch

    train(2)
    last = newest(workspace.checkpoints)
    assert last is not None
    shutil.rmtree(last)  # of a training that has ended, only the adapter would be read
    checkpoint = newest(workspace.checkpoints)
    assert checkpoint is not None
    torch.save(Runs(tmp_path / "ran"), checkpoint / name)
    digests = json.loads((checkpoint / DIGESTS).read_text())
    assert name in digests
    digests[name] = file_sha256(checkpoint / name)
    (checkpoint / DIGESTS).write_text(json.dumps(digests))
    assert newest(workspace.checkpoints) == checkpoint, "its digests hold"
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        train(2)
    assert not (tmp_path / "ran").exists()
