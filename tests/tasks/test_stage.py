import pytest
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from alignment.data.build.settings import ConversationSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.errors import ERRORS, ArtifactError
from alignment.pipeline.steps import PrepareConversations
from tasks.stage import Run, is_transient, run_stage, watching
from tasks.steps import TASKS

EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture
def orphan():
    """A step whose parent is not in the store."""
    return PrepareConversations(
        name="conversations",
        config=ConversationSetConfig(sources=(PracticeSource(),)),
        max_length=256,
        digest="0",
        base="base-missing",
    )


@EVERY_TASK
def test_tasks_leave_reuse_to_the_store(task):
    assert task.cache_policy == NO_CACHE
    assert task.persist_result is False


@EVERY_TASK
def test_tasks_retry_only_transient_errors(task):
    assert task.retries == 2
    assert task.retry_condition_fn is is_transient
    assert task.task_run_name == "{step.name}"


def test_tasks_that_need_the_gpu_are_tagged():
    tagged = {stage for stage, task in TASKS.items() if "gpu" in task.tags}
    trained = {"sft", "adapter", "dpo", "merge", "stack", "evaluate"}
    assert tagged == {*trained, "answers", "rewards", "reference"}


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError(5, "I/O error")])
def test_network_and_disk_errors_are_retried(error):
    assert is_transient(None, None, Failed(data=error))


@pytest.mark.parametrize(
    "error",
    [*(kind("no") for kind in ERRORS.values()), MemoryError(), ValueError(), AssertionError()],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_would_repeat_are_not_retried(error):
    assert not is_transient(None, None, Failed(data=error))


def test_known_error_is_a_failed_state_with_one_line(orphan, tmp_path):
    state = run_stage(orphan, Run(name="run", root=tmp_path))
    assert state.is_failed()
    assert state.message == f"ArtifactError: no artifact 'base-missing' in {tmp_path}"
    assert isinstance(state.data, ArtifactError)


def test_watcher_is_called_only_within_its_block(orphan, tmp_path):
    calls = []
    with watching(lambda step, mark, record: calls.append((step.name, mark, record))):
        run_stage(orphan, Run(name="run", root=tmp_path))
    run_stage(orphan, Run(name="run", root=tmp_path))
    assert calls == [("conversations", None, None)]


def test_state_of_a_finished_step_is_not_transient():
    assert not is_transient(None, None, Completed(data=1))
