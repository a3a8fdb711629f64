import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignment.errors import ArtifactError, LaterVersion, StorageError
from alignment.records.manifest import CodeVersion, StageRecord
from alignment.store.errors import storage_errors
from alignment.store.store import MANIFEST, Store

KEY = "sft-0123456789abcdef01234567"

CRASHES = """
import json, os, signal, sys
from pathlib import Path
from alignment.execution.run_step import build
from alignment.store.progress import Progress
from alignment.pipeline.steps import Outcome, Step
from alignment.records.refs import BatchFile
from alignment.store.store import Store

class Writes(Step):
    stage: str = "writes"
    produces = BatchFile

    def build(self, context):
        for name in ("a.txt", "b/c.txt"):
            path = context.workspace.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name * 50)
        return Outcome(output=BatchFile(file="a.txt"))

def crash_at(countdown, root):
    left = [countdown]

    def hook(event, arguments):
        touches = event in ("open", "shutil.rmtree") or event.startswith("os.")
        if touches and any(str(root) in str(argument) for argument in arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

step, results = Writes(name="writes"), []
build(Store(root=Path(sys.argv[1]) / "warm"), step, Progress())  # imports and git, before a fork
for operation in range(1, 500):
    store = Store(root=Path(sys.argv[1]) / f"store-{operation}")
    child = os.fork()
    if child == 0:
        crash_at(operation, store.root)
        build(store, step, Progress())
        os._exit(0)
    died = os.waitpid(child, 0)[1] != 0
    complete = store.find(step.key) is not None
    sound = not complete or store.open(step.key) is not None
    manifests = len(list(store.root.glob("objects/*/manifest.json")))
    rebuilt = len(build(store, step, Progress()).files)
    results.append([died, complete, sound, manifests, rebuilt])
    if not died:
        break
print(json.dumps(results))
"""


def record(key=KEY, **fields):
    defaults = {
        "stage": "sft",
        "version": 1,
        "name": "sft",
        "parents": {},
        "config": {},
        "seed": 0,
        "output": {},
        "metrics": {},
        "files": (),
        "code": CodeVersion(revision="abc"),
        "libraries": {},
        "hardware": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
    }
    return StageRecord(key=key, **{**defaults, **fields})


@pytest.fixture
def store(tmp_path):
    return Store(root=tmp_path / "store")


@pytest.fixture
def committed(store):
    """An artifact of two files."""
    workspace = store.workspace(KEY)
    (workspace.out / "weights.bin").write_bytes(bytes(range(256)) * 16)
    (workspace.out / "logs").mkdir()
    (workspace.out / "logs" / "history.jsonl").write_text('{"loss": 1.0}\n')
    return store.commit(record(), workspace)


def test_a_commit_records_size_and_sha256_of_every_file(store, committed):
    found = {file.path: (file.size, file.sha256) for file in committed.files}
    expected = {
        "weights.bin": bytes(range(256)) * 16,
        "logs/history.jsonl": b'{"loss": 1.0}\n',
    }
    assert found == {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in expected.items()
    }
    assert store.open(KEY) == committed == store.find(KEY)


@pytest.mark.usefixtures("committed")
def test_a_commit_leaves_no_workspace_behind(store):
    assert not (store.root / "work" / KEY).exists()
    assert store.list_keys() == [KEY]


def test_manifest_is_absent_after_a_crash(store):
    """A process that dies during a build leaves files in its workspace, and nothing else."""
    workspace = store.workspace(KEY)
    (workspace.out / "weights.bin").write_bytes(b"half of the wei")
    assert store.find(KEY) is None
    assert store.reuse(KEY) is None
    assert store.list_keys() == []
    assert not list(store.root.rglob(MANIFEST))


def test_a_kill_at_any_file_operation_leaves_an_artifact_complete_or_absent(tmp_path):
    """One process is killed with SIGKILL at its first file operation, the next at its second,

    and so on until one finishes. After each kill the artifact is absent or opens with all digests
    right, and building it again yields both of its files.
    """
    run = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    assert len(results) > 15, "hardly any operation was hit"
    assert all(died for died, *_ in results[:-1])
    for _, complete, sound, manifests, rebuilt in results:
        assert sound
        assert manifests == complete
        assert rebuilt == 2
    assert {complete for _, complete, *_ in results} == {True, False}, (
        "no kill came after the rename"
    )


@pytest.mark.parametrize("name", ["weights.bin", "logs/history.jsonl"])
def test_any_flipped_bit_is_detected(store, committed, name):
    path = store.folder(KEY) / name
    intact = path.read_bytes()
    generator = random.Random(0)
    for _ in range(20):
        bit = generator.randrange(8 * len(intact))
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="does not match the digest in its manifest"):
            store.open(KEY)
    path.write_bytes(intact)
    assert store.open(KEY) == committed


def test_any_flipped_bit_of_a_manifest_is_detected(store, committed):
    path = store.folder(KEY) / MANIFEST
    intact = path.read_bytes()
    for at in range(len(intact)):
        damaged = bytearray(intact)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            store.find(KEY)
    path.write_bytes(intact)
    assert store.find(KEY) == committed


def test_manifest_without_a_digest_of_its_own_can_be_read(store, committed):
    path = store.folder(KEY) / MANIFEST
    path.write_text(committed.model_dump_json(indent=2))
    assert store.open(KEY) == committed


@pytest.mark.usefixtures("committed")
def test_a_truncated_file_is_detected(store):
    os.truncate(store.folder(KEY) / "weights.bin", 100)
    with pytest.raises(ArtifactError, match=r"weights\.bin does not match the digest"):
        store.open(KEY)


@pytest.mark.usefixtures("committed")
def test_a_change_in_the_same_tick_of_the_clock_is_detected(store):
    """The modification time stays the same, as on a file system with coarse timestamps."""
    path = store.folder(KEY) / "weights.bin"
    tick = time.time_ns() + 10**9
    os.utime(path, ns=(tick, tick))
    store.open(KEY)
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(tick, tick))
    with pytest.raises(ArtifactError, match=r"weights\.bin does not match the digest"):
        store.open(KEY)


@pytest.mark.usefixtures("committed")
def test_a_missing_file_is_detected(store):
    (store.folder(KEY) / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin is missing from its artifact"):
        store.open(KEY)


def test_opening_a_missing_artifact_names_key_and_store(store):
    with pytest.raises(ArtifactError, match=f"no artifact '{KEY}' in {store.root}"):
        store.open(KEY)


@pytest.mark.usefixtures("committed")
def test_a_damaged_artifact_is_moved_aside_and_not_reused(store, caplog):
    os.truncate(store.folder(KEY) / "weights.bin", 100)
    assert store.reuse(KEY) is None
    assert not store.folder(KEY).exists()
    (aside,) = (store.root / "damaged").iterdir()
    assert (aside / "weights.bin").stat().st_size == 100
    assert "building it again" in caplog.text


@pytest.mark.usefixtures("committed")
def test_an_unreadable_manifest_is_an_error_that_says_what_to_remove(store):
    (store.folder(KEY) / MANIFEST).write_text('{"key": "sft')
    with pytest.raises(ArtifactError, match=r"is damaged\. `sft-dpo run` or `sft-dpo round`"):
        store.find(KEY)
    assert store.reuse(KEY) is None, "a run continues, and builds the stage again"


@pytest.mark.usefixtures("committed")
def test_an_artifact_of_a_later_version_is_not_called_damaged_and_stays(store):
    later = json.loads(record().model_dump_json()) | {"format": 99, "new_field": {}}
    (store.folder(KEY) / MANIFEST).write_text(json.dumps(later))
    for read in (store.find, store.open, store.reuse):
        with pytest.raises(
            LaterVersion, match=r"a later version .* \(manifest format 99, .*Update"
        ):
            read(KEY)
    assert store.folder(KEY).exists()


@pytest.mark.usefixtures("committed")
def test_a_scan_skips_manifests_that_cannot_be_read_and_names_each_once(store, caplog):
    for name, manifest in (("dpo-1", '{"key": "dpo'), ("dpo-2", '{"format": 99}')):
        store.folder(name).mkdir()
        (store.folder(name) / MANIFEST).write_text(manifest)
    for _ in range(2):
        assert [found.key for found in store.records()] == [KEY]
    first, second = caplog.messages
    assert "dpo-1/manifest.json is damaged" in first
    assert "dpo-2 was written by a later version" in second


def test_files_of_an_earlier_attempt_stay_in_the_workspace(store):
    (store.workspace(KEY).out / "half").write_text("x")
    assert (store.workspace(KEY).out / "half").read_text() == "x"


def test_a_uri_becomes_a_path_on_disk(store):
    assert store.path(f"store:{KEY}/model") == store.root / "objects" / KEY / "model"
    assert str(store.path("folder:/models/qwen")) == "/models/qwen"


def test_a_hub_uri_has_no_path_on_disk(store):
    with pytest.raises(ArtifactError, match=r"'hub:Qwen/Qwen2\.5' is not a path on disk"):
        store.path("hub:Qwen/Qwen2.5")


def test_a_store_below_a_file_names_the_setting_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--set store=FOLDER"):
        Store(root=tmp_path / "file" / "store").workspace(KEY)


def test_a_store_where_no_folder_can_be_made_names_the_setting_to_change():
    with pytest.raises(StorageError, match=r"cannot make a folder /proc/x: .*--set store=FOLDER"):
        Store(root=Path("/proc/x")).workspace(KEY)


def test_errors_that_are_not_about_the_disk_pass_unchanged(tmp_path):
    with pytest.raises(TimeoutError), storage_errors(tmp_path):
        raise TimeoutError


def test_only_a_committed_checkpoint_counts_as_one(store):
    checkpoint = store.workspace(KEY).checkpoints / "step-00000003"
    checkpoint.mkdir(parents=True)
    assert not store.has_checkpoint(KEY)
    (checkpoint / "digests.json").write_text("{}")
    assert store.has_checkpoint(KEY)
