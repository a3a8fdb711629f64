"""Trackers get a stage's numbers, settings and key, and none can disturb the stage."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignment.config.pipeline import PipelineConfig, reference_of
from alignment.execution import tracking
from alignment.execution.tracking import tracked
from alignment.pipeline.chain_builder import chain
from alignment.store.progress import Mark
from alignment.store.store import Store
from alignment.trackers.settings import MLflow, TensorBoard, Trackio, Wandb
from tests.alignment.artifacts import record_of

LOSSES = [0.69, 0.6, 0.5]
STAND_IN = '''
"""A package that notes every call, in the place of trackio."""
import json, os, time

def note(*call):
    with open(os.environ["NOTES"], "a") as stream:
        stream.write(json.dumps(call) + "\\n")

class Run:
    def log(self, numbers, step):
        note("log", numbers, step)

def init(**arguments):
    note("init", arguments)
    return Run()

def finish():
    note("finish")
'''


@pytest.fixture
def step(tiny_settings):
    """A DPO training of a run; nothing is trained here."""
    return chain(PipelineConfig.model_validate(tiny_settings)).rounds[0].train


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that makes a package which the trackers' processes import."""

    def make(name, text):
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / "packages" / f"{name}.py").write_text(text)
        path = f"{tmp_path / 'packages'}{os.pathsep}{Path(__file__).parents[3]}"
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("NOTES", str(tmp_path / "notes"))

    return make


@pytest.fixture
def follow(step, tmp_path):
    """A function that goes through a stage with trackers; returns what was said about them."""
    said: list[str] = []
    tracking._left.clear()

    def follow(*trackers, run="tiny-00aaff", ends=True):
        store, finished = Store(root=tmp_path / "store"), record_of(step.key, metrics=METRICS)
        with tracked(trackers, run=run, store=store, step=step, warn=said.append) as stage:
            for number, loss in enumerate(LOSSES, start=1):
                numbers = {"loss": loss, "rewards/margins": 1 - loss}
                stage.note(Mark(phase="training", done=number, total=3, time=0.0, numbers=numbers))
            if not ends:
                raise KeyboardInterrupt
            stage.end(finished)
        return said

    return follow


METRICS = {"loss": 9.0, "eval_loss": 0.4, "steps": 3.0}


def notes(tmp_path):
    return [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


def test_a_stage_is_a_run_of_its_group_with_settings_key_and_curves(
    follow, package, step, tmp_path
):
    package("trackio", STAND_IN)
    assert follow(Trackio()) == []
    (_, begun), *logged, (last,) = notes(tmp_path)
    assert (begun["name"], begun["group"]) == ("tiny-00aaff/dpo-1", "tiny-00aaff")
    assert begun["config"]["artifact"] == step.key
    assert begun["config"]["config"]["learning_rate"] == step.config.learning_rate
    assert [(call[1]["loss"], call[2]) for call in logged[:3]] == list(
        zip(LOSSES, (1, 2, 3), strict=True)
    )
    assert logged[3][1] == {"eval_loss": 0.4, "steps": 3.0, "finished": 1.0}
    assert last == "finish"


def test_a_stage_that_is_stopped_is_not_finished(follow, package, tmp_path):
    package("trackio", STAND_IN)
    with pytest.raises(KeyboardInterrupt):
        follow(Trackio(), ends=False)
    assert notes(tmp_path)[-2][1] == {"finished": 0.0}


def test_a_reused_stage_starts_nothing(step, tmp_path, package):
    package("trackio", STAND_IN)
    store = Store(root=tmp_path / "store")
    with tracked([Trackio()], run="tiny", store=store, step=step, warn=print) as stage:
        stage.end(record_of(step.key))
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import not_there", "wandb is not installed. Install the extra 'wandb'"),
        ("def init(**_):\n    raise ValueError('http://me:secret@host/x is closed')", "ValueError"),
        ("import os; os.abort()", "it ended with -6"),
        ("import time\ndef init(**_): time.sleep(600)", "it had not finished after 8 s"),
    ],
    ids=["incomplete", "raises", "crashes", "hangs"],
)
def test_a_broken_tracker_is_named_once_and_the_others_go_on(
    follow, package, tmp_path, monkeypatch, text, says
):
    monkeypatch.setattr(tracking, "GRACE_SECONDS", 8.0)
    package("wandb", text + "\nclass Settings:\n    def __init__(self, **_): pass\n")
    package("trackio", STAND_IN)
    began = time.monotonic()
    said = follow(Wandb(), Trackio())
    follow(Wandb(), Trackio())
    assert time.monotonic() - began < 60
    assert len(said) == 1, "not again in the next stage of the run"
    assert said[0].startswith("the tracker wandb is left for the rest of this run: ")
    assert says in said[0]
    assert "secret" not in said[0]
    assert notes(tmp_path).count(["finish"]) == 2


def test_a_tracker_without_its_package_says_how_to_add_it(follow):
    if find_spec("mlflow"):
        pytest.skip("it is installed")
    (said,) = follow(MLflow(uri="sqlite:///x.db"))
    assert "mlflow.tracking is not installed. Install the extra 'mlflow'" in said


def test_a_tracker_ends_when_the_run_is_killed(package, tmp_path):
    package("trackio", STAND_IN)
    program = (
        "import os, signal, sys, time\n"
        "from alignment.execution.tracking import _Follower\n"
        "from alignment.trackers.events import StageBegun, StageLogged\n"
        "from alignment.trackers.settings import Trackio\n"
        "begun = StageBegun(tracker=Trackio(), run='r', step='sft', key='sft-1', folder='f',"
        " settings={}, parents={}, own='o')\n"
        "follower = _Follower(begun)\n"
        "follower.send(StageLogged(step=7, numbers={'loss': 1.0}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while not (tmp_path / "notes").exists() or ["finish"] not in notes(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert notes(tmp_path)[1:3] == [["log", {"loss": 1.0}, 7], ["log", {"finished": 0.0}, 7]]


def test_trackers_are_part_of_no_key_and_of_no_name(tiny_settings):
    plain = PipelineConfig.model_validate(tiny_settings)
    watched = PipelineConfig.model_validate({**tiny_settings, "trackers": [{"name": "wandb"}]})
    assert reference_of(plain) == reference_of(watched)
    assert [s.key for s in chain(plain).steps()] == [s.key for s in chain(watched).steps()]


def test_a_password_in_an_address_is_refused():
    for uri in ("http://me:secret@host", "https://host?token=secret"):
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_TOKEN") as refused:
            MLflow(uri=uri)
        assert "MLFLOW_TRACKING_PASSWORD" in str(refused.value)


# --- with the real packages, which are extras ---------------------------------------------------


@pytest.mark.slow
def test_tensorboard_shows_curves_by_run_and_stage(follow, step, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert follow(TensorBoard(folder=tmp_path / "tb")) == []
    found = accumulator.EventAccumulator(str(tmp_path / "tb/tiny-00aaff/dpo-1"))
    found.Reload()
    assert [round(point.value, 2) for point in found.Scalars("loss")] == LOSSES
    assert [point.step for point in found.Scalars("rewards/margins")] == [1, 2, 3]
    assert found.Scalars("eval_loss")[0].step == 3
    assert step.key in str(found.Tensors("artifact")[0].tensor_proto.string_val[0])


@pytest.mark.slow
def test_mlflow_nests_a_stage_under_its_run_and_continues_it(follow, step, tmp_path, monkeypatch):
    """It takes longer to make its tables than a stopped stage waits for."""
    monkeypatch.setattr(tracking, "STOPPED_SECONDS", 60.0)
    tracking_client = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(KeyboardInterrupt):
        follow(MLflow(uri=uri), ends=False)
    assert follow(MLflow(uri=uri)) == []
    client = tracking_client.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("sft-dpo").experiment_id])
    stage, parent = sorted(runs, key=lambda run: run.info.run_name)
    assert [run.info.run_name for run in (stage, parent)] == ["dpo-1", "tiny-00aaff"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stage.data.tags["sft-dpo.key"] == step.key
    assert stage.data.params["config.learning_rate"] == str(step.config.learning_rate)
    curve = client.get_metric_history(stage.info.run_id, "rewards/margins")
    assert {point.step for point in curve} == {1, 2, 3}
    assert stage.data.metrics["eval_loss"] == 0.4


@pytest.mark.slow
def test_wandb_writes_an_offline_run_named_by_its_key(follow, step, tmp_path):
    pytest.importorskip("wandb")
    assert follow(Wandb()) == []
    (folder,) = (tmp_path / "store/trackers/wandb/wandb").glob("offline-run-*")
    assert folder.name.endswith(step.key)
    (written,) = folder.glob("*.wandb")
    content = written.read_bytes()
    for word in (b"tiny-00aaff", b"rewards/margins", b"eval_loss", step.key.encode()):
        assert word in content


@pytest.mark.slow
def test_trackio_keeps_curves_in_its_database(follow, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert follow(Trackio()) == []
    (database,) = (tmp_path / "trackio").glob("*.db")
    connection = sqlite3.connect(database)
    rows = connection.execute("select run_name, step, metrics from metrics order by id").fetchall()
    connection.close()
    assert {name for name, _, _ in rows} == {"tiny-00aaff/dpo-1"}
    assert [json.loads(text).get("loss") for _, _, text in rows] == [*LOSSES, None]
