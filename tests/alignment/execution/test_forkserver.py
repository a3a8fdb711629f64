"""Children of the fork server: how they start, what they inherit, how they end."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
import torch

from alignment.execution.forkserver import MODULES, Default, ForkServer

BLUE = Default("COLOUR", "blue", others=("COLOR",))

PARENT = """
import sys
import time
from pathlib import Path
from alignment.execution.forkserver import ForkServer

forkserver = ForkServer("tests.alignment.execution.started", {})
with Path(sys.argv[1]).open("ab") as log:
    child = forkserver.start(["sleep"], log=log)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def forkserver():
    forkserver = ForkServer("tests.alignment.execution.started", {}, [BLUE])
    yield forkserver
    forkserver.close()


@pytest.fixture
def start_child(forkserver, tmp_path):
    """A function that starts a child with arguments; its output is in `tmp_path / "log"`."""

    def start(*arguments, gpus=None):
        with (tmp_path / "log").open("ab") as log:
            return forkserver.start(list(arguments), log=log, gpus=gpus)

    return start


def test_a_child_has_its_parents_folder_and_environment_and_its_own_log(
    start_child, tmp_path, monkeypatch
):
    start_child("exit", "0").wait(timeout=300)  # so the server already runs, in its own folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "red")
    assert start_child("say", "hello").wait(timeout=300) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == ["aside", f"hello {tmp_path} red"]


def test_a_folder_in_the_working_folder_is_no_package(tmp_path, monkeypatch):
    """TRL imports `trackio` if it finds one, and fails at a user's folder of that name."""
    (tmp_path / "trackio").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    forkserver = ForkServer("tests.alignment.execution.started", {})
    with (tmp_path / "log").open("ab") as log:
        assert forkserver.start(["finds", "trackio"], log=log).wait(timeout=300) == 0
    forkserver.close()
    assert (tmp_path / "log").read_text() == "None"


def test_a_default_of_the_environment_holds_unless_it_is_set(start_child, tmp_path, monkeypatch):
    monkeypatch.delenv("COLOUR", raising=False)
    assert start_child("say", "hello").wait(timeout=300) == 0
    assert f"hello {Path.cwd()} blue" in (tmp_path / "log").read_text()
    monkeypatch.setenv("COLOR", "red")  # an older name, perhaps, of the same
    assert start_child("say", "again").wait(timeout=300) == 0
    assert f"again {Path.cwd()} None" in (tmp_path / "log").read_text()


def test_a_child_sees_the_first_of_the_gpus_that_its_parent_sees(
    start_child, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert start_child("gpus", gpus=2).wait(timeout=300) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,GPU-a")
    for count in (2, 1, 0):
        assert start_child("gpus", gpus=count).wait(timeout=300) == 0
    assert (tmp_path / "log").read_text().split("\n") == ["0,1", "GPU-b,GPU-a", "GPU-b", "", ""]


def test_an_environment_of_a_megabyte_reaches_the_child(start_child, tmp_path, monkeypatch):
    """Kubernetes adds variables for every service of a namespace."""
    for number in range(100):
        monkeypatch.setenv(f"SERVICE_{number}", "x" * 10_000)
    monkeypatch.setenv("COLOUR", "red")
    assert start_child("say", "hello").wait(timeout=300) == 0
    assert f"hello {Path.cwd()} red" in (tmp_path / "log").read_text()


def test_the_heavy_libraries_are_imported_before_a_child_is_forked(start_child, tmp_path):
    """Those that may open a GPU only where none can be."""
    names = ("transformers.models.llama.modeling_llama", "trl.trainer.dpo_trainer")
    assert start_child("loaded", *names).wait(timeout=300) == 0
    assert (tmp_path / "log").read_text() == str([True, torch.version.cuda is None])


def test_a_server_whose_imports_open_a_gpu_starts_again_without_them(tmp_path):
    """Else every child would fail: a process that has opened a GPU must not fork."""
    server = ForkServer("tests.alignment.execution.opens_gpu", {})
    with (tmp_path / "log").open("ab") as log:
        assert server.start([], log=log).wait(timeout=300) == 0
    server.close()
    assert (tmp_path / "log").read_text() == "['bare'] []"


def test_children_run_side_by_side_and_each_reports_its_own_exit(start_child):
    sleeping, leaving = start_child("sleep"), start_child("exit", "3")
    assert leaving.wait(timeout=300) == 3
    assert sleeping.wait(timeout=0.01) is None
    sleeping.send_signal(signal.SIGKILL)
    assert sleeping.wait(timeout=60) == sleeping.wait() == -signal.SIGKILL
    sleeping.send_signal(signal.SIGKILL)  # the child is gone: no error


def test_a_signal_that_comes_before_a_child_is_ready_waits_for_it(start_child):
    """A child unblocks these signals once it has its handlers; this one never does."""
    child = start_child("sleep")
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=0.5) is None
    assert signal.SIGTERM in pending(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=60)


def test_a_killed_server_takes_its_children_along_and_is_restarted(start_child):
    child = start_child("sleep")
    psutil.Process(child.pid).parent().kill()
    assert child.wait(timeout=60) == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(child.pid)] if psutil.pid_exists(child.pid) else [], 60)
    assert not psutil.pid_exists(child.pid)
    assert start_child("exit", "4").wait(timeout=300) == 4


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_no_process_is_left_when_the_parent_is_gone(tmp_path, end):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        family = [child, child.parent()]
        time.sleep(0.5)  # until the child does its work
        if end == "killed":
            parent.kill()
        else:
            parent.communicate()
    _, running = psutil.wait_procs(family, timeout=60)
    assert running == []


def pending(pid):
    """The signals that are pending until a process unblocks them."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in status if line.startswith("ShdPnd:"))
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_what_is_preloaded_of_our_own_exists():
    """A preload that fails is silent: the children import what they need themselves, one by one."""
    ours = [name for name in MODULES if name.startswith("alignment.")]
    assert ours
    assert all(importlib.util.find_spec(name) for name in ours)
