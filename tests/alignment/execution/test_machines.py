"""Two machines on one step: two process trees that meet on the loopback and share a folder."""

import json
import socket
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from pydantic import ValidationError

from alignment.config.pipeline import Machines, PipelineConfig
from tests.alignment.elsewhere import Elsewhere, family_of, finish
from tests.alignment.execution.test_devices import assert_equal_trainings


@pytest.fixture
def address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@contextmanager
def second_machine(address):
    """A process that joins the first one there; it and its children are gone afterwards."""
    command = [sys.executable, "-m", "sft_dpo", "join", address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        for member in [*family_of(process), psutil.Process(process.pid)]:
            member.kill()
        process.wait(timeout=60)


@pytest.mark.slow
def test_a_training_on_two_machines_loses_one_and_goes_on(finished, tmp_path, address):
    step = next(step for step in finished.chain.steps() if step.name == "sft")
    lora = step.config.lora.model_copy(update={"dropout": 0.0})
    alone, shared = (
        Elsewhere(finished, "sft", tmp_path / name, lora=lora) for name in ("alone", "shared")
    )
    assert alone.run()[0] == 0
    machines = Machines(count=2, address=address)
    with second_machine(address) as second, shared.running(machines=machines) as first:
        shared.await_checkpoint(first)
        (other,) = [
            child for child in family_of(second) if "spawn_main" in " ".join(child.cmdline())
        ]
        other.kill()
        code, words = finish(first)
        assert code == 75, words
        before = max(shared.sealed())
        code, words = shared.run(machines=machines)
        assert second.poll() is None, "it waits for the next step"
    assert code == 0, words
    record = json.loads(words)
    assert "trained on 2 devices" in record["notes"]
    assert f"resumed at step {before} of" in " ".join(record["notes"])
    assert_equal_trainings(alone, shared)


def test_a_bucket_is_no_folder_that_machines_share(tiny_settings):
    tiny_settings |= {
        "store": "s3://bucket/runs",
        "machines": {"count": 2, "address": "10.0.0.1:29500"},
    }
    with pytest.raises(ValidationError, match="set store to a folder that all see"):
        PipelineConfig.model_validate(tiny_settings)


def test_what_is_no_address_is_refused_at_once():
    done = subprocess.run(
        [sys.executable, "-m", "sft_dpo", "join", "here"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "'here' is no HOST:PORT" in done.stderr) == (2, True), done.stderr
