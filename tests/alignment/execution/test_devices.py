"""A training on several devices: processes of one run, killed, stopped, continued by fewer or more.

The devices are processes on this CPU, which exchange gradients by gloo.
"""

import json
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from safetensors.torch import load_file

from alignment.errors import DeviceError, TrainingError
from alignment.execution.device import DeviceFacts, devices_to_use
from alignment.execution.driver import DriverAnswer, Gpu
from alignment.execution.run_step import Limits, build
from alignment.records.training import TRAINED
from alignment.scoring.engine import StepRows, Stock
from alignment.store.progress import Progress
from tests.alignment.elsewhere import Elsewhere, children, finish

ADAPTER = "adapter/adapter_model.safetensors"
CARD = Gpu(name="NVIDIA A100-SXM4-40GB", gib=39.4)
TWO_GPUS = DeviceFacts(
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    kernel_driver="580.65",
    kernel_gpus=2,
    driver=DriverAnswer(cuda=(13, 0), error=0, gpus=(CARD, CARD)),
)


@pytest.fixture(scope="module", params=["sft", "dpo-1"])
def pair(request, finished, tmp_path_factory):
    """The same training twice, without dropout: on one device, and still to be done."""
    step = next(step for step in finished.chain.steps() if step.name == request.param)
    lora = step.config.lora.model_copy(update={"dropout": 0.0})
    root = tmp_path_factory.mktemp(request.param)
    alone = Elsewhere(finished, request.param, root / "alone", lora=lora)
    build(alone.store, alone.step, Progress())
    return alone, Elsewhere(finished, request.param, root / "shared", lora=lora)


@pytest.mark.slow
def test_a_training_killed_on_two_devices_goes_on_on_one_and_ends_on_four(pair):
    alone, shared = pair
    with shared.running(devices=2) as process:
        shared.await_checkpoint(process)
        (child,) = children(process)
        ranks = [rank for rank in child.children() if "spawn_main" in " ".join(rank.cmdline())]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        code, words = finish(process)
    assert code == 75
    assert "also on another number of devices" in words
    assert not any(map(psutil.Process.is_running, ranks)), "no process is left"
    with shared.running() as process:
        shared.await_checkpoint(process, after=max(shared.sealed()))
        children(process)[0].send_signal(signal.SIGTERM)
        assert finish(process)[0] == 75
    code, words = shared.run(devices=4)
    assert code == 0, words
    record = json.loads(words)
    assert "trained on 4 devices" in record["notes"]
    assert len(record["earlier"]) == 2
    assert_equal_trainings(alone, shared)


@pytest.mark.slow
def test_a_training_on_two_devices_stops_when_asked_and_goes_on(pair, finished, tmp_path):
    alone, _ = pair
    settings = {"lora": alone.step.config.lora}
    shared = Elsewhere(finished, alone.step.name, tmp_path, **settings)
    with shared.running(devices=2) as process:
        shared.await_checkpoint(process)
        children(process)[0].send_signal(signal.SIGTERM)
        code, words = finish(process)
    assert (code, "stopped at step" in words) == (75, True), words
    assert shared.run(devices=2)[0] == 0
    assert_equal_trainings(alone, shared)


@pytest.mark.slow
def test_an_error_that_nobody_foresaw_ends_two_devices_as_it_ends_one(finished, tmp_path):
    """NumPy refuses the seed. The same again would end the same, so it is not temporary."""
    broken = Elsewhere(finished, "sft", tmp_path, seed=2**40)
    for devices in (1, 2):
        code, words = broken.run(devices=devices)
        assert code == 1, words
        assert words.startswith("AlignmentError ")
        assert "ValueError: Seed must be between 0 and 2**32 - 1" in words


def assert_equal_trainings(alone, shared):
    """The same adapter, but for the order of sums; the same rows in the same steps, each once."""
    folders = [each.store.folder(each.step.key) for each in (alone, shared)]
    one, several = (load_file(folder / ADAPTER) for folder in folders)
    for name, expected in one.items():
        torch.testing.assert_close(several[name], expected, rtol=1e-3, atol=1e-5)
    steps = [
        [json.loads(line) for line in (folder / TRAINED).read_text().splitlines()]
        for folder in folders
    ]
    assert [(row["step"], row["ids"]) for row in steps[0]] == [
        (row["step"], row["ids"]) for row in steps[1]
    ]
    history = [json.loads(line) for line in (folders[1] / "history.jsonl").read_text().splitlines()]
    numbers = [row["step"] for row in history if "loss" in row]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_cannot_be_shared_out_is_refused_before_anything_starts(finished, tmp_path):
    stock = Elsewhere(finished, "sft", tmp_path / "stock", engine=Stock())
    with pytest.raises(TrainingError, match=r"engine 'stock'.*Set engine.name=packed"):
        build(stock.store, stock.step, Progress(), limits=Limits(devices=2))
    batch = StepRows(per_device=2, accumulation=1)
    few = Elsewhere(finished, "sft", tmp_path / "few", batch=batch)
    with pytest.raises(TrainingError, match="2 rows per step, which 3 devices cannot share"):
        build(few.store, few.step, Progress(), limits=Limits(devices=3))


def test_a_step_sees_no_more_gpus_than_it_uses(finished):
    """transformers' trainer would take them all, and multiply the rows of a step."""
    steps = {step.name: step for step in finished.chain.steps()}
    assert Limits().gpus(steps["sft"]) == 1
    assert Limits(devices=2).gpus(steps["sft"]) == 2
    assert Limits(devices=2).gpus(steps["merge-sft"]) == 1
    assert Limits(devices=2, device="cpu").gpus(steps["sft"]) == 0


MEETS_NOBODY = """
import os
import sys
from pathlib import Path
from torch import distributed
from alignment.execution import rank

def end(error):
    print(error, flush=True)
    os._exit(error.exit_code)

rank.MEETING_SECONDS = 1.0
folder = Path(sys.argv[1])
distributed.FileStore(str(folder / "meeting"), 2).add("here", 1)
rank.meet(0, rank.Meeting(folder, 2, cuda=False), on_late=end)
"""


def test_devices_that_do_not_connect_are_given_up(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEETS_NOBODY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == DeviceError.exit_code, done.stderr
    assert "2 devices did not connect within 1 s. Set devices=1, or see what" in done.stdout


def test_auto_takes_all_gpus_and_more_than_there_are_is_refused():
    assert devices_to_use(TWO_GPUS, "auto", "auto") == 2
    assert devices_to_use(TWO_GPUS, "cpu", "auto") == 1
    with pytest.raises(DeviceError, match=r"may use 2: 2 x NVIDIA A100.*Set devices=2"):
        devices_to_use(TWO_GPUS, "cuda", 4)
