"""Training that is killed, stopped and damaged on its way ends with the weights of one that is not.

Both trainings run on two epochs with dropout, so the order of rows and the state of the random
generator matter, and save a checkpoint at every step.
"""

import json
import signal
from dataclasses import dataclass

import psutil
import pytest

from tests.alignment.elsewhere import Elsewhere, children, finish

ADAPTER = "adapter/adapter_model.safetensors"


@dataclass
class Story:
    """What happened to one training on its way to the end."""

    elsewhere: Elsewhere
    steps: int
    exits: list[tuple[int, str]]
    """Exit code and last words of the process that waited, for each interruption."""
    sealed: list[set[int]]
    """Steps of the whole checkpoints after each interruption."""
    artifacts: list[bool]
    """Whether there was an artifact after each interruption."""
    survivors: list[psutil.Process]
    """Children still there 5 seconds after their parent was killed."""


def begin(finished, name, root):
    steps = int(finished.records[name].metrics["steps"])
    return Story(Elsewhere(finished, name, root), steps, [], [], [], [])


def interrupt(story, disturb):
    """Run until a new checkpoint is whole, then disturb(the waiting process, its child)."""
    before = max(story.elsewhere.sealed(), default=0)
    with story.elsewhere.running() as process:
        story.elsewhere.await_checkpoint(process, after=before)
        (child,) = children(process)
        disturb(process, child)
        story.exits.append(finish(process, timeout=60))
        _, alive = psutil.wait_procs([child], timeout=5)
        story.survivors += alive
    story.sealed.append(story.elsewhere.sealed())
    story.artifacts.append(story.elsewhere.store.find(story.elsewhere.step.key) is not None)


@pytest.fixture(scope="module")
def sft(finished, tmp_path_factory):
    """The child is killed; then its parent; then the newest checkpoint is damaged; then to the end."""
    story = begin(finished, "sft", tmp_path_factory.mktemp("sft"))
    interrupt(story, lambda _, child: child.kill())
    interrupt(story, lambda parent, _: parent.kill())
    newest = story.elsewhere.store.root / "work" / story.elsewhere.step.key / "checkpoints"
    damaged = newest / f"step-{max(story.sealed[-1]):08d}" / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    story.exits.append(story.elsewhere.run())
    return story


@pytest.fixture(scope="module")
def dpo(finished, tmp_path_factory):
    """The child is asked to stop by SIGTERM; then it is killed; then to the end."""
    story = begin(finished, "dpo-1", tmp_path_factory.mktemp("dpo"))
    interrupt(story, lambda _, child: child.send_signal(signal.SIGTERM))
    interrupt(story, lambda _, child: child.kill())
    story.exits.append(story.elsewhere.run())
    return story


@pytest.fixture(params=["sft", "dpo"])
def story(request):
    return request.getfixturevalue(request.param)


def test_there_was_work_left_at_every_interruption(story):
    for sealed, artifact in zip(story.sealed, story.artifacts, strict=True):
        assert 0 < max(sealed) < story.steps
        assert not artifact
    assert max(story.sealed[1]) > max(story.sealed[0]), "the second run went on from the first"


def test_a_disturbed_run_comes_to_its_end(story):
    code, words = story.exits[-1]
    assert code == 0, words
    assert json.loads(words)["metrics"]["steps"] == story.steps


def test_a_disturbed_run_gives_the_same_weights(story, finished):
    """Byte for byte, and in a store of another place."""
    undisturbed = finished.store.folder(story.elsewhere.step.key)
    assert story.elsewhere.store.root != finished.store.root
    assert story.elsewhere.file(ADAPTER) == (undisturbed / ADAPTER).read_bytes()


def test_a_disturbed_run_leaves_the_same_history_and_samples(story, finished):
    """Every loss once, in order, and no sample twice."""
    undisturbed = finished.store.folder(story.elsewhere.step.key)

    def curve(text):
        rows = [json.loads(line) for line in text.splitlines()]
        return [(row["step"], row.get("loss"), row.get("eval_loss")) for row in rows]

    history = story.elsewhere.file("history.jsonl")
    assert curve(history) == curve((undisturbed / "history.jsonl").read_bytes())
    samples = (undisturbed / "samples.jsonl").read_bytes()
    assert story.elsewhere.file("samples.jsonl") == samples


def test_a_killed_child_is_an_interruption_that_says_how_to_go_on(sft, dpo):
    for code, words in (sft.exits[0], dpo.exits[1]):
        assert code == 75
        assert "was ended by SIGKILL" in words
        assert "The same command continues from its last checkpoint" in words


def test_a_child_is_gone_within_five_seconds_of_its_parents_death(sft):
    assert sft.exits[1][0] == -signal.SIGKILL
    assert sft.survivors == []


def test_sigterm_lets_the_child_save_a_checkpoint_and_say_where_it_stands(dpo):
    code, words = dpo.exits[0]
    stopped_at = max(dpo.sealed[0])
    assert code == 75
    assert words == (
        f"Interrupted stopped at step {stopped_at} of {dpo.steps}; "
        "the same command continues from there"
    )


def test_a_damaged_checkpoint_is_left_for_the_one_before(sft):
    log = (sft.elsewhere.store.root / "logs" / f"{sft.elsewhere.step.key}.log").read_text()
    assert "(optimizer.pt has changed); trying the one before" in log
