"""Training that is killed, stopped and damaged ends with the weights of an undisturbed one.

Both trainings run on two epochs with dropout, so the order of rows and the state of the random
generator matter, and save a checkpoint at every step.
"""

import json
import signal
from dataclasses import dataclass, field

import psutil
import pytest

from alignment.execution.run_step import build
from alignment.records.manifest import StageRecord
from alignment.records.training import TRAINED
from alignment.store.progress import Progress
from tests.alignment.elsewhere import Elsewhere, children, finish
from tests.faults.failpoints import Broken, arm

ADAPTER = "adapter/adapter_model.safetensors"


@dataclass
class Story:
    """What happened to one training before it finished."""

    elsewhere: Elsewhere
    steps: int
    exits: list[tuple[int, str]] = field(default_factory=list)
    """Exit code and last output of the waiting process, for each interruption."""
    sealed: list[set[int]] = field(default_factory=list)
    """Steps of the complete checkpoints after each interruption."""
    artifacts: list[bool] = field(default_factory=list)
    """Whether there was an artifact after each interruption."""
    survivors: list[psutil.Process] = field(default_factory=list)
    """Children still alive 5 seconds after their parent was killed."""
    damaged: int = 0
    """Step of the checkpoint that was damaged before the last run."""
    final: StageRecord | None = None


def begin(finished, name, root):
    steps = int(finished.records[name].metrics["steps"])
    return Story(Elsewhere(finished, name, root), steps)


def interrupt(story, disturb):
    """Run until a new checkpoint is complete, then disturb(the waiting process, its child)."""
    before = max(story.elsewhere.sealed(), default=0)
    with story.elsewhere.running() as process:
        story.elsewhere.await_checkpoint(process, after=before)
        (child,) = children(process)
        disturb(process, child)
        story.exits.append(finish(process))
        _, alive = psutil.wait_procs([child], timeout=60)
        story.survivors += alive
        for survivor in alive:
            survivor.kill()
    story.sealed.append(story.elsewhere.sealed())
    story.artifacts.append(story.elsewhere.store.find(story.elsewhere.step.key) is not None)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def end(story):
    """Run the remaining steps undisturbed, in this process."""
    story.final = build(story.elsewhere.store, story.elsewhere.step, Progress())
    return story


@pytest.fixture(scope="module")
def sft(finished, tmp_path_factory):
    """The child is killed, then its parent; the newest checkpoint is damaged; then it finishes."""
    story = begin(finished, "sft", tmp_path_factory.mktemp("sft"))
    interrupt(story, lambda _, child: child.kill())
    interrupt(story, lambda parent, _: parent.kill())
    story.damaged = max(story.sealed[-1])
    flip_a_bit(story.elsewhere.checkpoints / f"step-{story.damaged:08d}" / "optimizer.pt")
    return end(story)


@pytest.fixture(scope="module")
def dpo(finished, tmp_path_factory):
    """The child is stopped with SIGTERM, later killed; then it finishes."""
    story = begin(finished, "dpo-1", tmp_path_factory.mktemp("dpo"))
    interrupt(story, lambda _, child: child.send_signal(signal.SIGTERM))
    interrupt(story, lambda _, child: child.kill())
    return end(story)


@pytest.fixture(params=["sft", "dpo"])
def story(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", ["sft", "dpo-1"])
def test_a_training_that_died_after_its_last_step_takes_no_further_one(finished, name, tmp_path):
    """Three steps of an epoch that has more, at a constant rate, so that a fourth would show."""
    step = next(step for step in finished.chain.steps() if step.name == name)
    changes = {"max_steps": 3, "schedule": "constant", "evaluate_every": 2}
    config = step.config.model_copy(update=changes)
    records, contents = [], []
    for died in (False, True):
        elsewhere = Elsewhere(finished, name, tmp_path / str(died))
        step, store = elsewhere.step.model_copy(update={"config": config}), elsewhere.store
        if died:
            disarm = arm("raise", name="adapter.save:before")
            with pytest.raises(Broken):
                build(store, step, Progress())
            disarm()
        records.append(build(store, step, Progress()))
        folder = store.folder(step.key)
        files = (ADAPTER, "samples.jsonl", TRAINED)
        contents.append([(folder / file).read_bytes() for file in files])
    undisturbed, resumed = records
    assert resumed.metrics["steps"] == 3
    assert contents[0] == contents[1]
    assert "resumed at step 3 of 3" in resumed.notes
    assert (undisturbed.earlier, len(resumed.earlier)) == ((), 1)


def test_a_record_names_every_process_and_where_it_resumed(story):
    """Two processes were interrupted, each after some steps; the third finished."""
    record = story.final
    assert len(record.earlier) == 2
    assert all(attempt.seconds > 0 for attempt in record.earlier)
    assert [attempt.libraries for attempt in record.earlier] == [record.libraries] * 2
    (note,) = (note for note in record.notes if note.startswith("resumed at step "))
    assert note.endswith(f" of {story.steps}")


def test_there_was_work_left_at_every_interruption(story):
    for sealed, artifact in zip(story.sealed, story.artifacts, strict=True):
        assert 0 < max(sealed) < story.steps
        assert not artifact
    assert max(story.sealed[1]) > max(story.sealed[0]), "the second run went on from the first"


def test_a_disturbed_run_finishes(story):
    assert story.final.metrics["steps"] == story.steps
    assert not (story.elsewhere.store.root / "work" / story.elsewhere.step.key).exists()


def test_a_disturbed_run_gives_the_same_weights(story, finished):
    """Byte for byte, even in a store at another path."""
    undisturbed = finished.store.folder(story.elsewhere.step.key)
    assert story.elsewhere.store.root != finished.store.root
    assert story.elsewhere.file(ADAPTER) == (undisturbed / ADAPTER).read_bytes()


def test_a_disturbed_run_leaves_the_same_history_samples_and_rows(story, finished):
    """Every loss once, in order, and no sample and no row of a step twice."""
    undisturbed = finished.store.folder(story.elsewhere.step.key)

    def curve(text):
        rows = [json.loads(line) for line in text.splitlines()]
        names = ("step", "loss", "eval_loss", "num_tokens")
        return [tuple(row.get(name) for name in names) for row in rows]

    history = story.elsewhere.file("history.jsonl")
    assert curve(history) == curve((undisturbed / "history.jsonl").read_bytes())
    for name in ("samples.jsonl", TRAINED):
        assert story.elsewhere.file(name) == (undisturbed / name).read_bytes()


def test_a_killed_child_is_an_interruption_that_says_how_to_continue(sft, dpo):
    for code, words in (sft.exits[0], dpo.exits[1]):
        assert code == 75
        assert "was ended by SIGKILL" in words
        assert "The same command continues from its last checkpoint" in words


def test_a_child_is_gone_within_five_seconds_of_its_parents_death(sft):
    assert sft.exits[1][0] == -signal.SIGKILL
    assert sft.survivors == []


def test_sigterm_lets_the_child_save_a_checkpoint_and_report_its_step(dpo):
    code, words = dpo.exits[0]
    stopped_at = max(dpo.sealed[0])
    assert code == 75
    assert words.startswith(
        f"Interrupted stopped at step {stopped_at} of {dpo.steps}; "
        "the same command continues from there (step dpo-1, log: "
    )


def test_a_damaged_checkpoint_was_replaced_by_the_previous_one(sft):
    assert sft.damaged == max(sft.sealed[1])
    assert len(sft.sealed[1]) == 2, "there was one before it"
