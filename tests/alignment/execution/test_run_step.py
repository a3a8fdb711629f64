import contextlib
import json
import shutil
import subprocess
import time

import psutil
import pytest

from alignment.compose.settings import Merge
from alignment.errors import (
    AlignmentError,
    ArtifactError,
    DeviceError,
    Interrupted,
    ModelError,
    StorageError,
)
from alignment.execution.device import device_facts, obstacle
from alignment.execution.run_step import (
    KEEP_FREED_MEMORY,
    Limits,
    build,
    run_step,
)
from alignment.models.sources import FolderModel
from alignment.pipeline.steps import MergeAdapter, OpenBase
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.alignment.elsewhere import Elsewhere, children, family_of, finish

ADAPTER = "adapter/adapter_model.safetensors"
WITH_SECRET = "https://anna@a.test/b?sig=hunter2"


@pytest.fixture
def store(tmp_path):
    return Store(root=tmp_path / "store")


@contextlib.contextmanager
def small_disk(folder, *, kibibytes, inodes=0):
    """A file system of its own with little room; the test is skipped where none can be mounted."""
    folder.mkdir()
    options = f"size={kibibytes}k" + (f",nr_inodes={inodes}" if inodes else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- the device ---------------------------------------------------------------------------------


@pytest.mark.skipif(obstacle(device_facts()) is None, reason="this machine has a usable GPU")
def test_a_step_whose_gpu_is_gone_is_refused_in_its_own_process(store):
    """A run looks once, at its start; a worker may lose the GPU later, or retry elsewhere."""
    step = MergeAdapter(
        name="merge", config=Merge(), policy="base-0", adapter=None, dtype="float32"
    )
    with pytest.raises(DeviceError, match="the config asks for `device: cuda`"):
        run_step(store, step, limits=Limits(device="cuda"))
    with pytest.raises(ArtifactError, match="base-0"):
        run_step(store, step, limits=Limits(device="cpu"))


# --- reuse -------------------------------------------------------------------------------------


def test_two_processes_that_want_one_key_build_it_once(finished, tmp_path):
    """Both wait for the lock, which this test holds; then one builds and both have its record.

    A second build would have another start and another duration.
    """
    elsewhere = Elsewhere(finished, "pairs-1", tmp_path / "store")
    with elsewhere.running() as first, elsewhere.running() as second:
        with elsewhere.store.lock(elsewhere.step.key):
            for process in (first, second):
                assert process.stdout.readline() == "ready\n"
        (code, one), (other_code, other) = finish(first), finish(second)
    assert code == other_code == 0, one + other
    assert json.loads(one) == json.loads(other)
    assert elsewhere.store.open(elsewhere.step.key).model_dump(mode="json") == json.loads(one)


def test_torch_and_malloc_find_their_settings_when_they_are_loaded(finished, tmp_path):
    """They read them once, so the process must begin with them."""
    elsewhere = Elsewhere(finished, "sft", tmp_path / "store")
    with elsewhere.running() as process:
        elsewhere.await_checkpoint(process)
        (server,) = psutil.Process(process.pid).children()
        at_its_start = server.environ()
    assert at_its_start == at_its_start | KEEP_FREED_MEMORY
    assert at_its_start["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert at_its_start["GOMP_SPINCOUNT"] == "5000"


def test_a_damaged_artifact_is_refused_and_built_again_to_the_same_bytes(finished, tmp_path):
    elsewhere = Elsewhere(finished, "sft", tmp_path / "store")
    key, store = elsewhere.step.key, elsewhere.store
    shutil.copytree(finished.store.folder(key), store.folder(key))
    intact = elsewhere.file(ADAPTER)
    damaged = bytearray(intact)
    damaged[len(damaged) // 2] ^= 1
    (store.folder(key) / ADAPTER).write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors does not match"):
        store.open(key)
    rebuilt = build(store, elsewhere.step, Progress())
    assert rebuilt.started > finished.records["sft"].started
    assert elsewhere.file(ADAPTER) == intact
    (aside,) = (store.root / "damaged").iterdir()
    assert (aside / ADAPTER).read_bytes() == damaged


def test_two_stores_give_byte_identical_adapters(finished, tmp_path):
    """A round of DPO in this process and another place, against the one the chain built."""
    elsewhere = Elsewhere(finished, "dpo-2", tmp_path / "store")
    build(elsewhere.store, elsewhere.step, Progress())
    original = finished.store.folder(elsewhere.step.key)
    assert elsewhere.file(ADAPTER) == (original / ADAPTER).read_bytes()


# --- failures ----------------------------------------------------------------------------------


def test_an_error_in_a_child_comes_back_as_it_was_raised(store, tmp_path):
    step = OpenBase(
        name="base", source=FolderModel(path=tmp_path / "none"), quantisation=None, digest="x"
    )
    with pytest.raises(ModelError, match=f"model folder {tmp_path / 'none'} does not exist. Check"):
        run_step(store, step)
    assert store.find(step.key) is None


def test_an_unexpected_error_in_a_child_quotes_its_last_line_and_names_the_log(
    store, tiny_model_folder
):
    """A merge whose policy is no artifact at all is a bug of the caller, and has no kind."""
    source = FolderModel(path=tiny_model_folder)
    base = OpenBase(name="base", source=source, quantisation=None, digest=source.digest())
    record = build(store, base, Progress())
    (store.folder(base.key) / "manifest.json").write_text(
        record.model_copy(update={"output": {"base": WITH_SECRET}}).model_dump_json()
    )
    merge = MergeAdapter(
        name="merge-sft",
        config=Merge(),
        policy=base.key,
        adapter=None,
        dtype="float32",
    )
    log = store.root / "logs" / f"{merge.key}.log"
    with pytest.raises(AlignmentError, match=f"'merge-sft' failed: .*Log: {log}") as caught:
        run_step(store, merge)
    assert caught.value.exit_code == 1
    assert "ValidationError" in log.read_text()
    assert "input_value='https://a.test/b'" in log.read_text()  # quoted, without user and query
    assert not [word for word in ("anna", "hunter2") if word in log.read_text() + str(caught.value)]


@pytest.mark.slow
def test_a_hung_child_is_stopped_and_the_same_command_continues(finished, tmp_path):
    """A suspended child neither progresses nor reacts to SIGTERM: it is killed after its grace."""
    elsewhere = Elsewhere(finished, "sft", tmp_path / "store")
    with elsewhere.running(stall_minutes=0.1) as process:
        elsewhere.await_checkpoint(process)
        (child,) = children(process)
        child.suspend()
        code, words = finish(process)
    assert code == Interrupted.exit_code == 75
    assert "'sft' made no progress for 0.1 minutes and was stopped" in words
    assert not psutil.pid_exists(child.pid)
    assert elsewhere.run()[0] == 0
    original = finished.store.folder(elsewhere.step.key)
    assert elsewhere.file(ADAPTER) == (original / ADAPTER).read_bytes()


def test_a_full_disk_in_a_child_is_a_usage_error_and_the_run_goes_on_when_there_is_room(
    finished, tmp_path
):
    """Checkpoints fill what is left of a disk of 4 MiB; once there is room the step finishes."""
    with small_disk(tmp_path / "disk", kibibytes=4096) as disk:
        elsewhere = Elsewhere(finished, "sft", disk / "store")
        filler = disk / "filler"
        filler.write_bytes(bytes(disk_free(disk) - 200 * 1024))
        code, words = elsewhere.run()
        assert code == StorageError.exit_code == 2
        assert words.startswith("StorageError the disk of ")
        assert "Free some space and run the same command again" in words
        assert elsewhere.store.find(elsewhere.step.key) is None
        filler.unlink()
        build(elsewhere.store, elsewhere.step, Progress())
        original = finished.store.folder(elsewhere.step.key)
        assert elsewhere.file(ADAPTER) == (original / ADAPTER).read_bytes()


def test_a_disk_too_full_for_the_childs_own_report_is_still_named(finished, tmp_path):
    """The last byte of the disk is taken while the fork server starts; nothing can be written."""
    with small_disk(tmp_path / "disk", kibibytes=1024) as disk:
        elsewhere = Elsewhere(finished, "base", disk / "store")
        with elsewhere.running() as process:
            until = time.monotonic() + 300
            while not family_of(process):
                assert time.monotonic() < until, "no fork server within five minutes"
                time.sleep(0.005)
            (disk / "filler").write_bytes(bytes(disk_free(disk)))
            code, words = finish(process)
        assert code == 2, words
        assert words.startswith("StorageError the disk of ")


def test_a_disk_without_inodes_is_not_called_full(tmp_path):
    """The system has one error for both, and the free space would contradict it."""
    with small_disk(tmp_path / "disk", kibibytes=4096, inodes=8) as disk:
        with contextlib.suppress(OSError):
            for number in range(8):
                (disk / str(number)).touch()
        with pytest.raises(StorageError, match=r"has no inodes left\. Remove some files") as caught:
            Store(root=disk).workspace("key")
        assert caught.value.exit_code == 2


def test_a_full_disk_in_this_process_is_a_usage_error(finished, tmp_path):
    with small_disk(tmp_path / "disk", kibibytes=1024) as disk:
        elsewhere = Elsewhere(finished, "pairs-1", disk / "store")
        (disk / "filler").write_bytes(bytes(disk_free(disk) - 12 * 1024))
        with pytest.raises(StorageError, match=r"the disk of .* is full \(\d+ MiB free\)"):
            build(elsewhere.store, elsewhere.step, Progress())
        assert elsewhere.store.find(elsewhere.step.key) is None


def disk_free(folder):
    return shutil.disk_usage(folder).free
